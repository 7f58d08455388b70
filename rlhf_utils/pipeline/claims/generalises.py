"""Claim 18: it generalises to a use case and a relation that SFT, rankings and PPO never contained."""

from rlhf_utils.evaluation.answers import judge_answers
from rlhf_utils.evaluation.statistics import mean_difference
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, figure, mean_of
from rlhf_utils.world.prompts import thing_of

GOLD = "gold, greedy"
CASES = {"withheld_relation": "a relation never asked for", "withheld_task": "a task never set"}


def measure(bench: Bench) -> list[dict]:
    rows = []
    for case, words in CASES.items():
        prompts = bench.prompts(case, 200, seed=46)
        things = [thing_of(p) for p in prompts]
        gold = {
            name: judge_answers(bench.judge, prompts, bench.ask(name, prompts))["total"][:, 0]
            for name in ("base_prompted", "sft", "ppo_ptx")
        }
        rows += [figure(f"{name}, {words}", GOLD, mean_of(found, things)) for name, found in gold.items()]
        for rival in ("base_prompted", "sft"):
            gain = mean_difference(gold["ppo_ptx"], gold[rival], things)
            rows.append(figure(f"ppo_ptx − {rival}, {words}", GOLD, gain))
    return rows


CLAIM = Claim(
    18,
    "It generalises to what it was never trained on: a task, and things to ask about.",
    "InstructGPT, section 4.3",
    tuple(
        Rule(f"ppo_ptx − {rival}, {words}", GOLD, 0.0)
        for words in CASES.values()
        for rival in ("base_prompted", "sft")
    ),
    ("evaluate",),
    measure,
    "The relation and the task stand in pretraining documents; no demonstration, ranking or PPO "
    "prompt has them.",
)
