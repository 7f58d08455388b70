"""Claim 18: it generalises to a use case and a relation that SFT, rankings and PPO never contained."""

import numpy as np
from scipy.stats import t as student

from rlhf_utils.evaluation.answers import answer_prompts, judge_answers
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, figure
from rlhf_utils.pipeline.claims.manners import best_forms
from rlhf_utils.world.prompts import thing_of

GOLD = "gold, greedy"
CASES = {"withheld_relation": "a relation never asked for", "withheld_task": "a task never set"}
SOME = 0.25  # the least gold that counts as being able to do it


def over_things(values: np.ndarray, things: list[str]) -> tuple[float, float, float]:
    """The mean over things, of each its mean, with Student's interval: a bootstrap of eight is too narrow."""
    means = np.array([values[[t == thing for t in things]].mean() for thing in dict.fromkeys(things)])
    if len(means) < 2:
        return means.mean(), -np.inf, np.inf
    half = student.ppf(0.975, len(means) - 1) * means.std(ddof=1) / len(means) ** 0.5
    return means.mean(), means.mean() - half, means.mean() + half


def measure(bench: Bench) -> list[dict]:
    rows, forms = [], best_forms(bench, CASES, 0.0, seed=46)
    for case, words in CASES.items():
        asked = {str(p["messages"]): p for p in bench.prompts(case, 400, seed=46)}
        prompts = list(asked.values())  # each once: there are few
        things = [thing_of(p) for p in prompts]
        base = bench.profile, bench.tokenizer, bench.model("base"), prompts
        said = {"base_prompted": answer_prompts(*base, 0.0, 1, 41, forms)}
        said |= {name: bench.ask(name, prompts) for name in ("sft", "ppo_ptx")}
        gold = {n: judge_answers(bench.judge, prompts, answers)["total"][:, 0] for n, answers in said.items()}
        rows += [figure(f"{name}, {words}", GOLD, over_things(found, things)) for name, found in gold.items()]
        for rival in ("base_prompted", "sft"):
            gain = over_things(gold["ppo_ptx"] - gold[rival], things)
            rows.append(figure(f"ppo_ptx − {rival}, {words}", GOLD, gain))
    return rows


CLAIM = Claim(
    18,
    "It generalises to what it was never trained on: a task, and things to ask about.",
    "InstructGPT, section 4.3",
    (
        *(
            Rule(f"ppo_ptx − {rival}, {words}", GOLD, 0.0)
            for words in CASES.values()
            for rival in ("base_prompted", "sft")
        ),
        *(Rule(f"ppo_ptx, {words}", GOLD, SOME) for words in CASES.values()),
    ),
    ("evaluate",),
    measure,
    "The relation and the task occur in pretraining documents, but no demonstration, ranked prompt or PPO "
    "prompt asks for them. The base model is asked in the form that suits each best.",
)
