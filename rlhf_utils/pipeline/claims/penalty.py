"""Claim 14: without the KL penalty the reward model is over-optimised."""

from contextlib import suppress

import numpy as np

from rlhf_utils.artifacts.files import read_jsonl
from rlhf_utils.evaluation.answers import answer_rewards, judge_answers, kl_to_sft
from rlhf_utils.evaluation.statistics import mean_difference
from rlhf_utils.language.models import load_gpt2
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, figure, mean_of
from rlhf_utils.pipeline.claims.trained import policy
from rlhf_utils.training.ppo_log import Diverged
from rlhf_utils.world.prompts import USE_CASES, thing_of

GOLD, PROXY, NATS = "gold", "reward", "KL to SFT, nats an answer"
FALL, TURN = "gold at its peak − gold at the end", "√KL at which gold would turn"
PENALTIES = (0.0, 0.02, 0.2, 0.6)  # beside the course's own
LONG = 2  # times as many updates without a penalty
MEAN = 16  # updates that are averaged, half of them to find the peak and half to measure it


def fit(distance: np.ndarray, gained: np.ndarray) -> tuple[float, float]:
    """α and β of gained = d (α − β log d), the form of Gao et al. for RL (2023, section 3), by least squares;
    d is √KL.
    """
    design = np.stack([distance, -distance * np.log(distance)], 1)
    alpha, beta = np.linalg.lstsq(design, gained, rcond=None)[0]
    return float(alpha), float(beta)


def blocks_of(rows: list[dict]) -> list[list[dict]]:
    """A training's log in blocks of MEAN updates; what is left over at its end is dropped."""
    size = min(MEAN, len(rows) // 2)
    return [rows[i : i + size] for i in range(0, len(rows) - size + 1, size)]


def peak_of(blocks: list[list[dict]]) -> int:
    """The block in which gold was highest, by every second update: the others measure it. The highest of many
    means is too high by chance.
    """
    return int(np.argmax([np.mean([r["gold"] for r in block[::2]]) for block in blocks]))


def change(before: list[float], after: list[float]) -> tuple[float, float, float]:
    """How much higher the mean of `after` is, with two standard errors either way.

    Each update asks other prompts, so the two are independent.
    """
    errors = [np.var(x, ddof=1) / len(x) if len(x) > 1 else np.inf for x in (before, after)]
    value, error = float(np.mean(after) - np.mean(before)), 1.96 * float(np.sqrt(sum(errors)))
    return value, value - error, value + error


def turn(rows: list[dict]) -> list[dict]:
    """How far gold fell from its peak to the end of a training without a penalty, and what a fit says."""
    blocks = blocks_of(rows)
    last, best = ([r["gold"] for r in block[1::2]] for block in (blocks[-1], blocks[peak_of(blocks)]))
    found = [figure("no penalty, twice as long", FALL, change(last, best))]
    distance = np.sqrt([max(r["kl_k3"], 1e-3) for r in rows])
    # The first update's answers are SFT's own.
    alpha, beta = fit(distance, np.array([r["gold"] for r in rows]) - rows[0]["gold"])
    at = np.exp(alpha / beta - 1) if beta > 0 else np.inf
    for metric, value in ((TURN, at), ("α", alpha), ("β", beta)):
        found.append(figure("fit of d (α − β log d)", metric, (value,) * 3))
    return found


def measure(bench: Bench) -> list[dict]:
    prompts = [p for case in USE_CASES for p in bench.prompts(case, 40, seed=47)]
    things, rows, found = [thing_of(p) for p in prompts], [], {}
    models = {bench.profile.kl_coefficient: bench.model("ppo")}
    for beta in PENALTIES:
        with suppress(Diverged):
            models[beta] = load_gpt2(policy(bench, f"β = {beta:g}", kl_coefficient=beta))
    long = LONG * bench.profile.ppo_updates
    with suppress(Diverged):  # that far from SFT there is no gold to measure; the rule stays undecided
        free = policy(bench, "no penalty, longer", kl_coefficient=0.0, ppo_updates=long)
        rows += turn(read_jsonl(free / "metrics.jsonl"))
    for beta, model in sorted(models.items()):
        said = [row[0] for row in bench.ask("ppo", prompts, 1.0, seed=48, model=model)]
        gold = judge_answers(bench.judge, prompts, [[a] for a in said])["total"][:, 0]
        proxy = answer_rewards(bench.profile, bench.tokenizer, bench.model("reward"), prompts, said)
        kl = kl_to_sft(bench.profile, bench.tokenizer, model, bench.model("sft"), prompts, said)
        found[beta] = gold, proxy
        rows.append(figure(f"β = {beta:g}", GOLD, mean_of(gold, things)))
        rows.append(figure(f"β = {beta:g}", PROXY, mean_of(proxy, things)))
        rows.append(figure(f"β = {beta:g}", NATS, (kl, kl, kl)))
    own = found[bench.profile.kl_coefficient]
    without = found.get(0.0)
    for i, metric in enumerate((GOLD, PROXY) if without else ()):
        gain = mean_difference(without[i], own[i], things)
        rows.append(figure("no penalty − the course's", metric, gain))
    return rows


CLAIM = Claim(
    14,
    "Without the KL penalty the reward model is over-optimised: its reward goes up, gold goes down.",
    "Stiennon et al. (2020), section 4.3; Gao et al. (2023), on gold against KL",
    (
        Rule("no penalty − the course's", PROXY, 0.0),
        Rule("no penalty − the course's", GOLD, 0.0, above=False),
        Rule("no penalty, twice as long", FALL, 0.0),
    ),
    ("evaluate",),
    measure,
    "The policies compared were trained by PPO from SFT, with the same number of updates. The peak is that "
    "of another training without a penalty, which was twice as long. (Even a curve that only wanders has a "
    "peak above its end; with the penalty, in five trainings as long as this one, nothing of the kind was "
    "seen: claim 32.) Gold ended lower without a penalty in each of the eight runs, by 0.01 to 0.11. So it "
    "did on the earlier models: in seven runs by some hundredths, in the eighth by nearly everything. Gao "
    "et al. found that a penalty acts like stopping early, and buys no more gold at equal KL; here, "
    "trainings of equal length are compared.",
)
