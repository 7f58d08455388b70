"""What a claim is: what somebody said, what is measured of it, and the rule that decides, stated before.

A measurement returns tidy rows, `figure`s with an interval over the things that prompts are about; a rule
wants the whole interval, over all seeds, on one side of a limit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from scipy.stats import t as student

from rlhf_utils.artifacts.files import read_jsonl
from rlhf_utils.evaluation.answers import answer_prompts
from rlhf_utils.evaluation.statistics import draw_sums, ratio
from rlhf_utils.language.sampling import Answer
from rlhf_utils.pipeline.stages import ensure
from rlhf_utils.profiles import MODELS, Profile
from rlhf_utils.world.facts import load_world
from rlhf_utils.world.judge import Judge
from rlhf_utils.world.prompts import write_prompts

SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided"
FEW = 12  # of anything, at most, in the profile that tests use


@dataclass(frozen=True)
class Rule:
    """A figure, found by its condition and metric, whose whole interval must lie above `limit`, or below."""

    condition: str
    metric: str
    limit: float
    above: bool = True

    def __str__(self) -> str:
        return f"{self.metric}, {self.condition}: {'above' if self.above else 'below'} {self.limit:g}"

    def verdict(self, low: float, high: float) -> str:
        """What an interval says; nothing, if it is none."""
        if low > self.limit:
            return SUPPORTED if self.above else NOT_SUPPORTED
        if high < self.limit:
            return NOT_SUPPORTED if self.above else SUPPORTED
        return UNDECIDED


@dataclass(frozen=True)
class Claim:
    """What `source` says, and all the rules that must hold for it. `measure` gives the rows of one seed from
    its `stages`; `note` says what it assumes or leaves out.
    """

    number: int
    says: str
    source: str
    rules: tuple[Rule, ...]
    stages: tuple[str, ...]
    measure: Callable[["Bench"], list[dict]]
    note: str = ""


def figure(condition: str, metric: str, found: tuple[float, float, float] | dict) -> dict:
    """A row: a value with its interval, as a tuple or as `statistics` gives it."""
    if isinstance(found, dict):
        value = next(found[k] for k in ("difference", "decided", "accuracy", "rate") if k in found)
        found = value, found["low"], found["high"]
    value, low, high = map(float, found)
    return {"condition": condition, "metric": metric, "value": value, "low": low, "high": high}


def mean_of(values: np.ndarray, things: list[str]) -> tuple[float, float, float]:
    """The mean of one value a row, with its interval."""
    return ratio(np.asarray(values, dtype=float), np.ones(len(values)), things)


Marks = tuple[np.ndarray, np.ndarray]  # (pairs ordered alike, pairs) of each ranking


def accuracy_gap(a: Marks, b: Marks, paired: bool = False) -> dict[str, float]:
    """How much more often pairs are ordered alike in `a` than in `b`, with its interval.

    `paired`, if the rows of both belong together.
    """
    right, pairs, right_b, pairs_b = draw_sums([*a, *b]) if paired else [*draw_sums(a), *draw_sums(b, seed=1)]
    some = (pairs > 0) & (pairs_b > 0)  # of few rankings, all that are drawn may be ties
    drawn = right[some] / pairs[some] - right_b[some] / pairs_b[some]
    low, high = np.quantile(drawn, [0.025, 0.975])
    value = a[0].sum() / a[1].sum() - b[0].sum() / b[1].sum()
    return {"difference": float(value), "low": float(low), "high": float(high)}


def over_seeds(rows: list[dict]) -> dict:
    """One figure of several seeds: their mean, and the wider of two 95 % intervals. Student's over the seeds,
    and that of prompts, which does not shrink with the seeds, since all were asked the same ones.
    """
    value = float(np.mean([r["value"] for r in rows]))
    low, high = (float(np.mean([r[k] for r in rows])) for k in ("low", "high"))
    if len(rows) > 1:
        spread = np.std([r["value"] for r in rows], ddof=1) / len(rows) ** 0.5
        half = float(student.ppf(0.975, len(rows) - 1) * spread)
        low, high = min(low, value - half), max(high, value + half)
    return {"value": value, "low": low, "high": high}


class Bench:
    """The models of one run, on which claims are measured."""

    def __init__(self, profile: Profile, stages: tuple[str, ...]):
        # Prompts and documents are the only parts of a run that do not come with the course.
        self.profile, self.store = profile, ensure(("corpus", "tokens", *stages), profile)
        self.world, self.tokenizer = load_world(), self.store.tokenizer()
        self.judge = Judge(self.world)
        self._models: dict = {}
        self._scratch = TemporaryDirectory(prefix="rlhf-claims-")
        self.scratch = Path(self._scratch.name)  # for models that only a claim needs; goes with the bench

    def count(self, full: int) -> int:
        """So many of something as a claim takes; a few in the profile that tests use."""
        return min(full, FEW) if self.profile.name == "tiny" else full

    def model(self, name: str):
        """A model by its name in `profiles.MODELS`, or of a stage; loaded once."""
        stage = MODELS[name].stage if name in MODELS else name
        if stage not in self._models:
            self._models[stage] = self.store.model(stage)
        return self._models[stage]

    def prompts(self, use_case: str, count: int, kind: str = "", seed: int = 40) -> list[dict]:
        """`count` test prompts of a use case, of one kind if given. The run's evaluation asked others; two
        measurements with one `seed` ask the same.
        """
        count = self.count(count)
        made = write_prompts(self.world, "test", {use_case: count * (4 if kind else 1)}, seed)
        return [p for p in made if not kind or p["kind"] == kind][:count]

    def ask(
        self,
        name: str,
        prompts: list[dict],
        temperature: float = 0.0,
        count: int = 1,
        seed: int = 41,
        model=None,
        whole: bool = False,
    ) -> list[list[Answer]]:
        """Answers of a model by its name, or of another `model` that is asked as that one is.

        The prompted base model is asked as suits it best at this temperature. `whole` is `answer_prompts`'.
        """
        forms = None
        if name == "base":
            forms = {"all": "bare"}
        elif name == "base_prompted":
            forms = self.store.metrics("evaluate")["prompt_form"]["chosen"][str(temperature)]
        model = model or self.model(name)
        asked = self.profile, self.tokenizer, model, prompts
        return answer_prompts(*asked, temperature, count, seed, forms, whole=whole)

    @cached_property
    def rows(self) -> list[dict]:
        """All models' judged answers to the test prompts, as `evaluate` wrote them."""
        return read_jsonl(self.store.folder("evaluate") / "answers.jsonl")

    @cached_property
    def probes(self) -> list[dict]:
        """The same for the prompts that measure one thing each."""
        return read_jsonl(self.store.folder("evaluate") / "probes.jsonl")
