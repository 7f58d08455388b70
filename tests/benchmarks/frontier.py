"""Eight ways to use the same rankings, on one plot: what each gains, how far it goes, and what it costs.

    python tests/benchmarks/frontier.py --seeds 0 1 2            # all, then data/reference/frontier.json
    python tests/benchmarks/frontier.py --seeds 0 --only rloo    # one method's variants, kept for later

Each method starts from the run's SFT model and draws as many answers as PPO (rejection sampling: `best_of` to
each prompt, twice as many in all, and it reads some documents, as SFT does; DPO draws none). Of each, a few
variants are trained; which one stands for the method is decided by gold on validation prompts, over all
seeds together. PPO and PPO-ptx are those of the run, which had no such choice. Every result is kept in
`runs/frontier/`, so the command goes on where it was stopped.
"""

import argparse
import json
import os
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from rlhf_utils.environment import DATA, runs_folder
from rlhf_utils.evaluation.answers import answer_prompts, answer_rewards, judge_answers, kl_to_sft, mark_of
from rlhf_utils.evaluation.language import token_losses
from rlhf_utils.evaluation.statistics import equal_length, win_rate
from rlhf_utils.language.models import load_gpt2
from rlhf_utils.language.tokenizer import prompt_ids
from rlhf_utils.pipeline.claims.claim import figure, mean_of, over_seeds
from rlhf_utils.pipeline.stages import ensure, open_store
from rlhf_utils.profiles import load_profile
from rlhf_utils.training.beyond import GRADIENTS, train_dpo, train_rejection
from rlhf_utils.training.ppo_run import train_ppo
from rlhf_utils.world.facts import load_world
from rlhf_utils.world.judge import Judge
from rlhf_utils.world.prompts import thing_of, write_prompts

FILE = DATA / "reference" / "frontier.json"
TIMES = (0.5, 1.0, 2.0)
# method → variants: what differs from the profile, learning rates as multiples
VARIANTS: dict[str, list[dict]] = {
    **{name: [{"ppo_rate": t} for t in TIMES] for name in ("reinforce", "ppo_no_value", "rloo", "grpo")},
    "dpo": [{"dpo_beta": 0.1}, {"dpo_beta": 0.3}],
    "rejection": [{}],
    # On prompts whose answers can be checked: the reward model, or the check itself.
    "grpo, checked": [{}],
    "rloo, checked": [{}],
    "rloo, judged": [{}],
    "ppo": [{}],
    "ppo_ptx": [{}],
    "sft": [{}],
}
GOLD, GREEDY, TUNED = "gold, temperature 1", "gold, greedy", "gold on validation prompts, temperature 1"
REWARD, NATS, WORDS = "reward", "KL to SFT, nats an answer", "words of an answer"
WINS, MATCHED = "wins over SFT of those decided", "the same, where lengths are alike"
LOSS, RUNS, FACTS = (
    "loss of a token of documents, nats",
    "programs that are right",
    "gold of questions of fact",
)


class Bench:
    """What all methods are trained from and asked, of one run."""

    def __init__(self, profile):
        self.profile, self.world = profile, load_world()
        self.store = ensure(
            ("corpus", "tokenizer", "tokens", "sft", "rank", "reward", "ppo", "ppo_ptx"), profile
        )
        self.tokenizer, self.judge = self.store.tokenizer(), Judge(self.world)
        few = profile.name == "tiny"
        self.test = self.store.prompts("test")[: 8 if few else None]
        self.validation = self.store.prompts("validation")[: 8 if few else None]
        self.things = [thing_of(p) for p in self.test]
        self.programs, self.facts = (
            write_prompts(self.world, "test", {case: 8 if few else 300}, 71)
            for case in ("program", "open_qa")
        )
        checkable = {"program": 8 if few else 1500, "open_qa": 8 if few else 1500}
        self.checkable = write_prompts(self.world, "train", checkable, 72 + profile.seed)

    def ids(self, rows: list[dict]) -> list[list[int]]:
        return [prompt_ids(self.tokenizer, p["messages"], self.profile.prompt_tokens) for p in rows]

    def trained(self, method: str, settings: dict, folder: Path) -> Path:
        """The folder of a variant's model."""
        kind, _, checked = method.partition(", ")
        if kind in ("sft", "ppo", "ppo_ptx"):
            return self.store.folder(kind)
        times = {k: getattr(self.profile, k) * v for k, v in settings.items() if k.endswith("rate")}
        profile, store = replace(self.profile, **(settings | times)), self.store
        sft, reward, resume = store.folder("sft"), store.folder("reward"), folder / "resume"
        made = folder / "made"
        made.mkdir()
        if kind == "dpo":
            train_dpo(profile, self.tokenizer, sft, store.rankings(), made, resume)
        elif kind == "rejection":
            prompts, windows = store.prompts("ppo"), store.windows()
            train_rejection(profile, self.tokenizer, sft, reward, prompts, windows, made, resume)
        else:
            rows = self.checkable if checked else store.prompts("ppo")
            learner = GRADIENTS[kind]
            if checked == "checked":
                learner = partial(learner, verify=self.verify(rows))
            train_ppo(
                profile,
                self.tokenizer,
                sft,
                reward,
                self.ids(rows),
                None,
                made,
                resume,
                name=method,
                method=learner,
            )
        return made

    def verify(self, rows: list[dict]):
        """1 for an answer that is wholly right, else 0: programs are run, facts are looked up."""
        row_of = {tuple(ids): row for ids, row in zip(self.ids(rows), rows)}

        def right(prompts: list[list[int]], answers: list[str]) -> list[float]:
            asked = (row_of[tuple(p)] for p in prompts)
            return [float(self.judge.total(row, a) > 0.99) for row, a in zip(asked, answers)]

        return right

    def measured(self, model) -> list[dict]:
        """Figures of a model on test prompts, and `TUNED` on validation prompts."""

        def ask(prompts, temperature, count, seed):
            return answer_prompts(self.profile, self.tokenizer, model, prompts, temperature, count, seed)

        def gold(prompts, answers):
            return judge_answers(self.judge, prompts, answers)["total"]

        rows, sft = [], load_gpt2(self.store.folder("sft"))
        tuned = gold(self.validation, ask(self.validation, 1.0, 2, 73)).mean(1)
        rows.append(figure("", TUNED, mean_of(tuned, [thing_of(p) for p in self.validation])))
        drawn = ask(self.test, 1.0, 2, 74)
        scores = gold(self.test, drawn)
        rows.append(figure("", GOLD, mean_of(scores.mean(1), self.things)))
        greedy = gold(self.test, ask(self.test, 0.0, 1, 0))[:, 0]
        rows.append(figure("", GREEDY, mean_of(greedy, self.things)))
        one = [row[0] for row in drawn]
        reward = answer_rewards(self.profile, self.tokenizer, self.store.model("reward"), self.test, one)
        rows.append(figure("", REWARD, mean_of(reward, self.things)))
        nats = kl_to_sft(self.profile, self.tokenizer, model, sft, self.test, one)
        rows.append(figure("", NATS, (nats,) * 3))
        words = np.array([[len(a.text.split()) for a in row] for row in drawn])
        rows.append(figure("", WORDS, mean_of(words.mean(1), self.things)))
        of_sft = answer_prompts(self.profile, self.tokenizer, sft, self.test, 1.0, 2, 75)
        scores_sft = gold(self.test, of_sft)
        rows.append(figure("", WINS, win_rate(scores, scores_sft, self.things)))
        words_sft = np.array([[len(a.text.split()) for a in row] for row in of_sft])
        alike = equal_length(scores, scores_sft, words, words_sft, self.things)["matched"]
        rows.append(figure("", MATCHED, alike))
        held = self.store.windows("heldout")
        rows.append(figure("", LOSS, mean_of(token_losses(model, held, self.profile).mean(1), None)))
        said = ask(self.programs, 1.0, 1, 76)
        right = [float(mark_of(self.judge, p, row[0].text)[1]) for p, row in zip(self.programs, said)]
        rows.append(figure("", RUNS, mean_of(right, [thing_of(p) for p in self.programs])))
        facts = gold(self.facts, ask(self.facts, 1.0, 1, 77))[:, 0]
        rows.append(figure("", FACTS, mean_of(facts, [thing_of(p) for p in self.facts])))
        return rows


def kept_file(profile, method: str, number: int) -> Path:
    """Where a variant's figures are kept: by its settings, and by the models that it starts from."""
    store = open_store(profile)
    told = [VARIANTS[method][number], profile.settings(), store.manifest("reward")["id"]]
    code = sha256(json.dumps([told, store.manifest("sft")["id"]]).encode()).hexdigest()[:8]
    return (
        runs_folder() / "frontier" / f"{profile.name}-{profile.seed}-{method.replace(', ', '-')}-{code}.json"
    )


def run(bench: Bench, method: str, number: int) -> None:
    """Train and measure a variant, unless that was done before."""
    file = kept_file(bench.profile, method, number)
    if file.is_file():
        return
    with TemporaryDirectory() as scratch:
        folder = bench.trained(method, VARIANTS[method][number], Path(scratch))
        rows = bench.measured(load_gpt2(folder))
    file.parent.mkdir(parents=True, exist_ok=True)
    partial_file = file.with_suffix(".new")
    partial_file.write_text(json.dumps(rows), "utf-8")
    os.replace(partial_file, file)
    found = {row["metric"]: round(row["value"], 3) for row in rows}
    print(bench.profile.seed, method, VARIANTS[method][number], found, flush=True)


def pooled(profile, seeds: list[int], method: str, number: int) -> dict[str, dict]:
    """metric → value and interval over the seeds."""
    found = [values(replace(profile, seed=seed), method, number) for seed in seeds]
    return {metric: over_seeds([rows[metric] for rows in found]) for metric in found[0]}


def values(profile, method: str, number: int) -> dict[str, dict]:
    """metric → what was measured of a variant in one run."""
    rows = json.loads(kept_file(profile, method, number).read_text("utf-8"))
    return {row["metric"]: row for row in rows}


def summary(profile, seeds: list[int]) -> dict:
    """All variants, and of each method the one that is best on validation prompts."""
    methods = {}
    for method, variants in VARIANTS.items():
        found = [pooled(profile, seeds, method, number) for number in range(len(variants))]
        best = max(range(len(variants)), key=lambda number: found[number][TUNED]["value"])
        by_seed = [values(replace(profile, seed=seed), method, best)[GOLD] for seed in seeds]
        methods[method] = {
            "settings": variants[best],
            "gold by seed": [round(row["value"], 4) for row in by_seed],
            "figures": {metric: rounded(row) for metric, row in found[best].items()},
            "variants": [
                {"settings": settings, "gold": rounded(row[TUNED])} for settings, row in zip(variants, found)
            ],
        }
    return {"profile": profile.name, "seeds": seeds, "methods": methods}


def rounded(row: dict) -> dict:
    return {key: round(value, 4) for key, value in row.items()}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="METHOD")
    arguments = parser.parse_args(words)
    for seed in arguments.seeds:
        bench = Bench(load_profile(arguments.profile, seed))
        for method in arguments.only:
            for number in range(len(VARIANTS[method])):
                run(bench, method, number)
    if len(arguments.only) == len(VARIANTS):
        found = summary(load_profile(arguments.profile), arguments.seeds)
        if arguments.profile == "laptop":
            FILE.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        print(json.dumps(found["methods"], indent=1))


if __name__ == "__main__":
    main()
