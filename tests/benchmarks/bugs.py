"""Six ways to break PPO, what each does to the log, and what policies find in a reward model.

    python tests/benchmarks/bugs.py        # about nine minutes on two cores; or some of its parts: `logs`,
    `"no brake"`, `"plain head"`

For chapter 07. Each bug is the smallest change to the package's own PPO, trained for a quarter of the
profile's updates from the same models as a healthy run; which log is which bug is in
`rlhf_utils.course.checks.policies.BUGS`. Two policies are trained for all updates: one without a KL penalty,
and one, as the course does it, on InstructGPT's reward model, a scalar head and rankings alone. Of their
answers to validation prompts those are kept that the reward model likes and the gold judge does not, with
what SFT says there. Writes `data/reference/bugs.json`.
"""

import json
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from rlhf_utils.artifacts.store import Store
from rlhf_utils.course.checks.policies import BUGS
from rlhf_utils.environment import DATA
from rlhf_utils.evaluation.answers import answer_prompts, judge_answers
from rlhf_utils.language.tokenizer import prompt_ids
from rlhf_utils.pipeline.claims.claim import Bench
from rlhf_utils.pipeline.claims.trained import reward_model
from rlhf_utils.pipeline.stages import ensure
from rlhf_utils.profiles import Profile, load_profile
from rlhf_utils.training.ppo import PPO
from rlhf_utils.training.reward import reward_of
from rlhf_utils.world.facts import load_world
from rlhf_utils.world.judge import Judge

KEPT = ("reward", "kl_k1", "length", "explained_variance", "clip_fraction", "steps")
LIKED, BAD, SHOWN = 0.5, 0.25, 8  # reward from which, and gold up to which, an answer was a find
FREE, ON_HEAD = "without a brake", "on the plain head"  # what policies say


class WithDropout(PPO):
    """Dropout in the passes that the ratio compares; drawing, which comes before, switches it off."""

    def rollout(self, prompts, answers):
        for part in self.policy.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.1
        self.policy.train()
        return super().rollout(prompts, answers)


class Downhill(PPO):
    """The objective is made small instead of large."""

    def rollout(self, prompts, answers):
        minibatches = super().rollout(prompts, answers)
        for part in (part for minibatch in minibatches for part in minibatch):
            part.advantages = -part.advantages
        return minibatches


def broken(bug: str, profile: Profile, *models) -> PPO:
    """The package's PPO with one thing wrong."""
    if bug == "toll":
        profile = replace(profile, kl_coefficient=-profile.kl_coefficient)
    ppo = {"dropout": WithDropout, "sign": Downhill}.get(bug, PPO)(profile, *models)
    if bug == "reference":
        ppo.reference = partial(nullcontext, ppo.policy)
    if bug == "value":
        ppo.value_optimizer.step = lambda: None
    return ppo


def train(ppo: PPO, asked: list[list[int]], updates: int, rate: float, name: str) -> list[dict]:
    rows = []
    for update in range(updates):
        draw = np.random.default_rng([ppo.profile.seed, update])
        chosen = draw.choice(len(asked), ppo.profile.episodes, replace=len(asked) < ppo.profile.episodes)
        row, _ = ppo.update([asked[i] for i in chosen], rate * (1 - 0.9 * update / updates))
        rows.append({"update": update} | {k: round(float(row[k]), 4) for k in KEPT})
        print(
            f"{name}: {update + 1} of {updates}, reward {row['reward']:+.2f}, KL {row['kl_k1']:.1f}",
            flush=True,
        )
        if not abs(row["kl_k1"]) < 50:
            break
    return rows


def finds(ppo: PPO, profile: Profile, store: Store, called: str) -> dict:
    """Answers of the policy that the reward model likes and the gold judge does not; where it was not trained
    on the course's reward model, with what that one gives.
    """
    course = store.model("reward") if called != FREE else None
    judge, prompts, tokenizer = Judge(load_world()), store.prompts("validation"), store.tokenizer()
    said = {
        name: answer_prompts(profile, tokenizer, model, prompts, 1.0, 1, seed=71)
        for name, model in (("sft", store.model("sft")), ("policy", ppo.policy))
    }
    gold = {name: judge_answers(judge, prompts, rows)["total"][:, 0] for name, rows in said.items()}
    found = []
    for p, before, now, score in zip(prompts, said["sft"], said["policy"], gold["policy"]):
        texts = [before[0].text, now[0].text]
        rewards = reward_of(ppo.reward, tokenizer, profile, p["messages"], texts)
        found.append(
            {
                "prompt": "\n".join(m["content"] for m in p["messages"]),
                "sft": texts[0],
                called: texts[1],
                "reward of it": round(float(rewards[1]), 2),
                "gold of it": round(float(score), 2),
            }
        )
        if course:
            others = reward_of(course, tokenizer, profile, p["messages"], texts)
            found[-1]["the course's reward of it"] = round(float(others[1]), 2)
    fooled = [f for f in found if f["reward of it"] >= LIKED and f["gold of it"] <= BAD]
    liked = [f for f in found if f["reward of it"] >= LIKED]
    shown = sorted(fooled, key=lambda f: -f["reward of it"])[:SHOWN]
    means = {name: round(float(g.mean()), 3) for name, g in gold.items()}
    return {"gold": means, "answers": len(found), "liked": len(liked), "fooled": len(fooled), "shown": shown}


def main() -> None:
    profile = load_profile()
    parts = sys.argv[1:] or ("logs", "no brake", "plain head")
    store = ensure(("corpus", "tokens", "tokenizer", "sft", "reward"), profile)
    tokenizer = store.tokenizer()
    asked = [prompt_ids(tokenizer, p["messages"], profile.prompt_tokens) for p in store.prompts("ppo")]
    models, told = (tokenizer, store.folder("sft"), store.folder("reward")), (asked, profile.ppo_updates)
    file = DATA / "reference" / "bugs.json"
    made = json.loads(file.read_text("utf-8")) if file.exists() else {}
    if "logs" in parts:
        quarter, made["logs"] = max(profile.ppo_updates // 4, 2), {}
        for log, bug in {"healthy": "", **BUGS}.items():
            rate = profile.ppo_rate * (30 if bug == "rate" else 1)
            trained = train(broken(bug, profile, *models), asked, quarter, rate, bug or "healthy")
            made["logs"][log] = trained
    if "no brake" in parts:
        free = broken("", replace(profile, kl_coefficient=0.0), *models)
        train(free, *told, profile.ppo_rate, "no brake")
        made["no brake"] = finds(free, profile, store, FREE)
    if "plain head" in parts:
        bench = Bench(profile, ("sft", "reward"))
        head = reward_model(bench, store.rankings(), reward_likelihood=0.0, reward_lm=0.0)
        ppo = PPO(profile, *models[:2], head)
        train(ppo, *told, profile.ppo_rate, "plain head")
        made["plain head"] = finds(ppo, profile, store, ON_HEAD)
    file.write_text(json.dumps(made, ensure_ascii=False, indent=1) + "\n", "utf-8")
    for name in [part for part in parts if part != "logs"]:
        print(f"{name}: fooled by {made[name]['fooled']} of {made[name]['answers']} answers")


if __name__ == "__main__":
    main()
