"""Claim 22: ranking is cheaper than writing."""

from math import ceil

import numpy as np

from rlhf_utils.evaluation.answers import judge_answers
from rlhf_utils.evaluation.statistics import mean_difference
from rlhf_utils.language.models import load_gpt2
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, figure, mean_of
from rlhf_utils.pipeline.claims.trained import policy, rankings, reward_model, sft_model
from rlhf_utils.world.prompts import USE_CASES, thing_of

GOLD, GREEDY = "gold, temperature 1", "gold, greedy"
START = 200  # demonstrations that both begin with
WRITING, RANKING = 5.0, 0.5  # minutes that a demonstration takes, and a ranking of four: assumptions
BUDGETS = (250, 1000)  # minutes more
STEPS = 60  # of SFT, at least


def fine_tuned(bench: Bench, count: int):
    """The folder of an SFT model of so many demonstrations."""
    epochs = max(bench.profile.sft_epochs, ceil(bench.count(STEPS) * bench.profile.sft_batch / count))
    return sft_model(bench, bench.store.prompts("demonstrations")[:count], sft_epochs=epochs)


def measure(bench: Bench) -> list[dict]:
    prompts = [p for case in USE_CASES for p in bench.prompts(case, 40, seed=53)]
    things, rows = [thing_of(p) for p in prompts], []

    def asked(condition: str, folder) -> dict[str, np.ndarray]:
        model, found = load_gpt2(folder), {}
        for metric, temperature, count in ((GOLD, 1.0, 2), (GREEDY, 0.0, 1)):
            drawn = bench.ask("sft", prompts, temperature, count, seed=54, model=model)
            found[metric] = judge_answers(bench.judge, prompts, drawn)["total"].mean(1)
            rows.append(figure(condition, metric, mean_of(found[metric], things)))
        return found

    begun = bench.count(START)
    sft = fine_tuned(bench, begun)
    asked(f"{START} demonstrations", sft)
    most = bench.count(int(max(BUDGETS) / RANKING))
    ranked = rankings(bench, sft, bench.store.prompts("ranked")[:most], nine_answers=0)
    for minutes in BUDGETS:
        more = bench.count(int(minutes / WRITING))
        written = asked(f"{minutes} minutes of demonstrations", fine_tuned(bench, begun + more))
        given = ranked["rankings"][: bench.count(int(minutes / RANKING))]
        shown = bench.store.prompts("demonstrations")[:begun]
        reward = reward_model(bench, given, held=ranked["heldout_prompts"], demonstrations=shown)
        trained = policy(bench, f"PPO, {minutes} minutes of rankings", sft, reward)
        compared = asked(f"{minutes} minutes of rankings", trained)
        for metric in (GOLD, GREEDY):
            gain = mean_difference(compared[metric], written[metric], things)
            rows.append(figure(f"rankings − demonstrations, {minutes} minutes", metric, gain))
    return rows


CLAIM = Claim(
    22,
    "Ranking is cheaper than writing: of equal labeler time, rankings make the better model.",
    "Karpathy, State of GPT (2023), on why RLHF; the times are assumptions",
    tuple(Rule("rankings − demonstrations, 1000 minutes", metric, 0.0) for metric in (GOLD, GREEDY)),
    ("evaluate",),
    measure,
    "A demonstration is taken to cost five minutes, and a ranking of four answers half a minute. All this "
    "comes on top of two hundred demonstrations: a thousand minutes buy as many again, or two thousand "
    "rankings of answers by the model that learned from the first two hundred. PPO's own prompts cost no "
    "labeler any time.",
)
