"""Claim 26: the paper's reward model, a scalar head and nothing else, is enough."""

import numpy as np

from rlhf_utils.evaluation.answers import judge_answers
from rlhf_utils.evaluation.reward_accuracy import pair_marks
from rlhf_utils.evaluation.statistics import accuracy_of, mean_difference
from rlhf_utils.language.models import load_gpt2, load_scorer
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, accuracy_gap, figure, mean_of
from rlhf_utils.pipeline.claims.trained import policy, reward_model
from rlhf_utils.world.prompts import USE_CASES, thing_of

AGREE, GOLD, FACTS, WORDS = (
    "pairs ordered as a labeler does",
    "gold, temperature 1",
    "gold of questions of fact, temperature 1",
    "words of an answer, temperature 1",
)
PLAIN, OWN = "the plain head", "the course's reward model"


def measure(bench: Bench) -> list[dict]:
    prompts = [p for case in USE_CASES for p in bench.prompts(case, 40, seed=66)]
    things, rows, found = np.array([thing_of(p) for p in prompts]), [], {}
    factual = np.array([p["use_case"] == "open_qa" for p in prompts])
    plain = reward_model(bench, bench.store.rankings(), reward_likelihood=0.0, reward_lm=0.0)
    held, agreed = bench.store.rankings("heldout_prompts"), {}
    for name, reward in ((PLAIN, load_scorer(plain)), (OWN, bench.model("reward"))):
        agreed[name] = pair_marks(reward, bench.tokenizer, bench.profile, held)
        rows.append(figure(name, AGREE, accuracy_of(*agreed[name])))
    gap = accuracy_gap(agreed[PLAIN], agreed[OWN], paired=True)
    rows.append(figure(f"{PLAIN} − {OWN}", AGREE, gap))
    models = {PLAIN: load_gpt2(policy(bench, "PPO, plain head", reward=plain)), OWN: bench.model("ppo")}
    for name, model in models.items():
        answers = bench.ask("ppo", prompts, 1.0, bench.count(2), seed=67, model=model)
        gold = judge_answers(bench.judge, prompts, answers)["total"].mean(1)
        words = np.array([np.mean([len(a.text.split()) for a in row]) for row in answers])
        found[name] = {GOLD: (gold, things), FACTS: (gold[factual], things[factual]), WORDS: (words, things)}
        rows += [figure(name, metric, mean_of(*values)) for metric, values in found[name].items()]
    for metric, (values, groups) in found[PLAIN].items():
        change = mean_difference(values, found[OWN][metric][0], groups)
        rows.append(figure(f"{PLAIN} − {OWN}", metric, change))
    return rows


CLAIM = Claim(
    26,
    "A reward model needs a scalar head and nothing else.",
    "InstructGPT, section 3.5: the last layer replaced by one that gives a scalar",
    (Rule(f"{PLAIN} − {OWN}", AGREE, -0.02), Rule(f"{PLAIN} − {OWN}", GOLD, -0.02)),
    ("evaluate",),
    measure,
    "The course's reward model also goes on predicting documents, and its score counts how likely an "
    "answer is. The plain one does neither. Both have the same rankings, base model and PPO.",
)
