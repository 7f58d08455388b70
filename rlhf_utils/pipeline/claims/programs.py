"""Claim 24: a model that read programs writes them."""

from pathlib import Path

import numpy as np

from rlhf_utils.evaluation.answers import answer_prompts, mark_of
from rlhf_utils.evaluation.statistics import mean_difference, share
from rlhf_utils.language.models import load_gpt2
from rlhf_utils.language.prompting import FORMS
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, figure
from rlhf_utils.pipeline.claims.trained import base_model, corpus, policy, rankings, reward_model, sft_model
from rlhf_utils.world.documents import MIX
from rlhf_utils.world.prompts import thing_of, write_prompts

DRAWN, GREEDY = (
    "programs that print what was asked, temperature 1",
    "programs that print what was asked, greedy",
)
TEMPERATURES = {DRAWN: 1.0, GREEDY: 0.0}
READ, NOT_READ = "programs read", "none read"


def is_no_program(text: str) -> bool:
    """Whether a document holds neither a program nor a table with a function."""
    return "print(" not in text and "def " not in text


def right(bench: Bench, prompts: list[dict], answers: list) -> np.ndarray:
    """1 where a program ran and printed what was asked, (prompts,)."""
    marks = [mark_of(bench.judge, prompt, row[0].text) for prompt, row in zip(prompts, answers)]
    return np.array([float(mark[1]) for mark in marks])


def of_base(bench: Bench, model, prompts: list[dict], temperature: float) -> np.ndarray:
    """The same of a base model, in the form that suits it best on validation prompts."""

    def asked(form: str, some: list[dict]) -> np.ndarray:
        answers = answer_prompts(
            bench.profile, bench.tokenizer, model, some, temperature, 1, 56, {"all": form}
        )
        return right(bench, some, answers)

    tuning = write_prompts(bench.world, "validation", {"program": bench.count(60)}, 55)
    return asked(max(FORMS, key=lambda form: asked(form, tuning).mean()), prompts)


def without_programs(bench: Bench) -> dict[str, Path]:
    """The whole pipeline on a base model that read no program; demonstrations, prompts and labelers are the
    run's own.
    """
    others = {source: share for source, share in MIX.items() if source != "github"}
    windows = corpus(bench, others, is_no_program)
    base = base_model(bench, "no-programs", windows)
    sft = sft_model(bench, bench.store.prompts("demonstrations"), base, windows)
    ranked = rankings(bench, sft, bench.store.prompts("ranked"))
    held = ranked["heldout_prompts"]
    reward = reward_model(bench, ranked["rankings"], base, held, windows=windows)
    return {"base": base, "sft": sft, "ppo": policy(bench, "PPO, no programs read", sft, reward)}


def measure(bench: Bench) -> list[dict]:
    prompts = bench.prompts("program", 300, seed=57)
    things, rows = [thing_of(p) for p in prompts], []
    models = {
        READ: {name: bench.model(name) for name in ("base", "sft", "ppo")},
        NOT_READ: {name: load_gpt2(folder) for name, folder in without_programs(bench).items()},
    }
    for metric, temperature in TEMPERATURES.items():
        found = {}
        for how, trained in models.items():
            for name, model in trained.items():
                if name == "base":
                    found[name, how] = of_base(bench, model, prompts, temperature)
                else:
                    answers = bench.ask(name, prompts, temperature, seed=58, model=model)
                    found[name, how] = right(bench, prompts, answers)
                marks = share(found[name, how], np.ones(len(prompts)), things)
                rows.append(figure(f"{name}, {how}", metric, marks))
        for name in models[READ]:
            gain = mean_difference(found[name, READ], found[name, NOT_READ], things)
            rows.append(figure(f"{name}, {READ} − {NOT_READ}", metric, gain))
    return rows


CLAIM = Claim(
    24,
    "A model that read programs writes them.",
    "Chen et al. (2021), Codex; notes on GPT-3.5 as GPT-3's data and Codex's",
    tuple(Rule(f"{name}, {READ} − {NOT_READ}", DRAWN, 0.0) for name in ("base", "sft", "ppo")),
    ("evaluate",),
    measure,
    "Demonstrations and rankings contain programs in both cases, whether or not the base model has read "
    "any. The base model that read none read as much other text in their place. Each base model is asked "
    "in the form that suits it best.",
)
