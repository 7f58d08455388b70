"""Claim 25: a reward model goes stale, and rankings of the new policy's answers refresh it."""

import numpy as np

from rlhf_utils.evaluation.answers import judge_answers
from rlhf_utils.evaluation.reward_accuracy import pair_marks
from rlhf_utils.evaluation.statistics import accuracy_of, mean_difference
from rlhf_utils.language.models import load_gpt2, load_scorer
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, accuracy_gap, figure, mean_of
from rlhf_utils.pipeline.claims.rules import marks
from rlhf_utils.pipeline.claims.trained import policy, rankings, reward_model
from rlhf_utils.world.prompts import USE_CASES, thing_of

AGREE, GOLD = "pairs ordered as a labeler does", "gold, temperature 1"
ONE, TWO, FIRST = "one round", "two rounds", "the first of two rounds"
OF_SFT, OF_POLICY = "on SFT's answers", "on the policy's answers"


def measure(bench: Bench) -> list[dict]:
    prompts = [p for case in USE_CASES for p in bench.prompts(case, 40, seed=64)]
    things, rows = [thing_of(p) for p in prompts], []
    # Every second prompt is ranked in the first round, as the run's own labelers did, the others later.
    asked = bench.store.prompts("ranked")
    early = {p["id"] for p in asked[::2]}
    begun = [r for r in bench.store.rankings() if r["id"] in early]
    first = reward_model(bench, begun)
    policy_of_first = policy(bench, "PPO, first round", reward=first)
    nine = bench.profile.nine_answers // 2
    noise = bench.store.metrics("rank")[0]["noise"]  # the labelers are the same people
    more = rankings(bench, policy_of_first, asked[1::2], noise, nine_answers=nine)
    second = reward_model(bench, begun + more["rankings"])
    rewards = {ONE: bench.model("reward"), FIRST: load_scorer(first), TWO: load_scorer(second)}
    models = {
        ONE: bench.model("ppo"),
        FIRST: load_gpt2(policy_of_first),
        TWO: load_gpt2(policy(bench, "PPO, second round", reward=second)),
    }
    held = {OF_SFT: bench.store.rankings("heldout_prompts"), OF_POLICY: more["heldout_prompts"]}
    found, gold = {}, {}
    for where, given in held.items():
        of_gold = marks(given, np.array([g for row in given for g in row["gold"]]))
        rows.append(figure(f"gold, {where}", AGREE, accuracy_of(*of_gold)))
        for name, reward in rewards.items():
            found[name, where] = pair_marks(reward, bench.tokenizer, bench.profile, given)
            rows.append(figure(f"{name}, {where}", AGREE, accuracy_of(*found[name, where])))
    for name, model in models.items():
        answers = bench.ask("ppo", prompts, 1.0, bench.count(2), seed=65, model=model)
        gold[name] = judge_answers(bench.judge, prompts, answers)["total"].mean(1)
        rows.append(figure(name, GOLD, mean_of(gold[name], things)))
    gap = accuracy_gap(found[TWO, OF_POLICY], found[ONE, OF_POLICY], paired=True)
    rows.append(figure(f"{TWO} − {ONE}, {OF_POLICY}", AGREE, gap))
    return [*rows, figure(f"{TWO} − {ONE}", GOLD, mean_difference(gold[TWO], gold[ONE], things))]


CLAIM = Claim(
    25,
    "A reward model goes stale: of equally many rankings, those of a new policy's answers are worth more.",
    "InstructGPT, section 3.1: its second and third step go on in turn; Stiennon et al. (2020)",
    (Rule(f"{TWO} − {ONE}, {OF_POLICY}", AGREE, 0.0), Rule(f"{TWO} − {ONE}", GOLD, 0.0)),
    ("evaluate",),
    measure,
    "One round: all rankings are of SFT's answers. Two rounds: half of the rankings are of SFT's answers, "
    "and half are of the answers of a policy that was trained by means of the first half. The second half "
    "covers as many prompts as the first, and its labelers have the same noise; where answers are alike, "
    "there is less to rank. Each policy starts from SFT and gets the same number of updates.",
)
