"""Claim 9: a larger reward model is not a more stable one."""

import numpy as np

from rlhf_utils.evaluation.answers import judge_answers
from rlhf_utils.evaluation.reward_accuracy import pair_marks
from rlhf_utils.evaluation.statistics import accuracy_of, draw_sums
from rlhf_utils.language.models import load_gpt2, load_scorer
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, figure, mean_of
from rlhf_utils.pipeline.claims.trained import base_model, policy, reward_model
from rlhf_utils.profiles import Profile
from rlhf_utils.world.prompts import USE_CASES, thing_of

AGREE, RANGE, GOLD = (
    "pairs ordered as a labeler does",
    "accuracy at the best of three learning rates − at the worst",
    "gold of a short PPO, temperature 1",
)
QUARTER, OWN, TWICE = "a quarter", "the course's", "twice"
RATES = (0.5, 1.0, 2.0)  # times the course's
RANKINGS, UPDATES = 1200, 3  # of all updates, a third


def sizes(profile: Profile) -> dict[str, dict]:
    """Name → what differs from the profile; the learning rate goes with one over the width."""
    return {
        QUARTER: {
            "layers": profile.layers // 2,
            "width": profile.width // 2,
            "pretrain_rate": profile.pretrain_rate * 2,
            "reward_rate": profile.reward_rate * 2,
        },
        OWN: {},
        TWICE: {
            "layers": profile.layers + 2,
            "width": profile.width * 5 // 4,
            "pretrain_rate": profile.pretrain_rate * 4 / 5,
            "reward_rate": profile.reward_rate * 4 / 5,
        },
    }


def spread(columns: list[np.ndarray], seed: int = 0) -> tuple[float, np.ndarray]:
    """(best accuracy − worst, the same in each drawing) of [right, pairs, right, pairs, …].

    Which they are is decided once, on all rankings: the range of many drawings is too wide by chance.
    """
    accuracies = [columns[i].sum() / columns[i + 1].sum() for i in range(0, len(columns), 2)]
    drawn = draw_sums(columns, seed=seed)
    best, worst = (2 * int(pick(accuracies)) for pick in (np.argmax, np.argmin))
    change = drawn[best] / drawn[best + 1] - drawn[worst] / drawn[worst + 1]
    return float(max(accuracies) - min(accuracies)), change


def measure(bench: Bench) -> list[dict]:
    held = bench.store.rankings("heldout_prompts")
    ranked = bench.store.rankings()[: bench.count(RANKINGS)]
    prompts = [p for case in USE_CASES for p in bench.prompts(case, 40, seed=61)]
    things, rows, columns = [thing_of(p) for p in prompts], [], {}
    updates = max(bench.profile.ppo_updates // UPDATES, 1)
    for size, changes in sizes(bench.profile).items():
        base = None
        if changes:
            name = f"{size.replace(' ', '-')}-of-the-size"
            base = base_model(bench, name, bench.store.windows(), **changes)
        columns[size] = []
        for times in RATES:
            rate = times * changes.get("reward_rate", bench.profile.reward_rate)
            reward = reward_model(bench, ranked, base, reward_rate=rate)
            marks = pair_marks(load_scorer(reward), bench.tokenizer, bench.profile, held)
            columns[size] += marks
            rows.append(figure(f"{size}, learning rate × {times:g}", AGREE, accuracy_of(*marks)))
            if times == 1:
                trained = policy(bench, f"PPO, {size}", reward=reward, ppo_updates=updates)
                answers = bench.ask("ppo", prompts, 1.0, seed=62, model=load_gpt2(trained))
                gold = judge_answers(bench.judge, prompts, answers)["total"][:, 0]
                rows.append(figure(size, GOLD, mean_of(gold, things)))
    found = {size: spread(given) for size, given in columns.items()}
    for size, (value, drawn) in found.items():
        rows.append(figure(size, RANGE, (value, *np.quantile(drawn, [0.025, 0.975]))))
    (least, of_least), (most, of_most) = found[QUARTER], found[TWICE]
    change = np.quantile(of_most - of_least, [0.025, 0.975])
    rows.append(figure(f"{TWICE} − {QUARTER}", RANGE, (most - least, *change)))
    return rows


CLAIM = Claim(
    9,
    "A larger reward model is not a more stable one.",
    "InstructGPT, section 3.5 and appendix C.2",
    (Rule(f"{TWICE} − {QUARTER}", RANGE, -0.01),),
    ("evaluate",),
    measure,
    "The models have a quarter of the course's number of weights, that number, and twice that number. "
    "Each was pretrained on the same documents, and learned from twelve hundred rankings. A model counts "
    "as stable if its accuracy hardly depends on the learning rate, and a larger one as more stable if "
    "the range of its accuracy is smaller by a point. The paper compares 6 billion weights with 175 "
    "billion.",
)
