"""A pretrained model of real English, steered by a few dozen rankings: chapter 11, from the same parts.

Nothing is pretrained and nothing fine-tuned on demonstrations here: a model that follows instructions
already is the SFT model. Its answers to everyday questions are ranked; a reward head is fitted to the
rankings on the model's own hidden states; RLOO with adapters does the rest.

    english = English(load_english(folder))
    rows = english.to_rank()                     # questions with four answers each, for a RankingSession
    english.reward("mine", rankings)             # a folder with the reward model
    english.steer("mine", rankings)              # … and with the policy
    english.compare("mine", SCRIPTED["short"])   # before and after, on questions that neither has seen

Everything is kept in `runs/` by what it was made from, so that a second call is at once there.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from rlhf_utils.artifacts.files import read_jsonl, write_jsonl
from rlhf_utils.artifacts.progress import Progress
from rlhf_utils.environment import DATA, CourseError, place, runs_folder
from rlhf_utils.evaluation.statistics import mean_difference, share
from rlhf_utils.language.device import autocast
from rlhf_utils.language.models import load_model, load_scorer, save_model
from rlhf_utils.language.pretrained import base_folder, base_tokenizer, write_base
from rlhf_utils.language.sampling import Answer, sample
from rlhf_utils.language.scoring import window_loss
from rlhf_utils.language.tokenizer import load_tokenizer, prompt_ids, to_windows
from rlhf_utils.pipeline.taste import answer_features, fit_head, ranks_by
from rlhf_utils.profiles import PROFILES, Profile
from rlhf_utils.training.beyond import RLOO
from rlhf_utils.training.ppo_run import train_ppo
from rlhf_utils.training.reward import encode_rankings, encoded_pairs, score_answers
from rlhf_utils.world.facts import load_world

SYSTEM = "Answer in one or two short sentences."
QUESTIONS = DATA / "english" / "questions.txt"
HELD_OUT = 4  # every fourth question trains nothing
FEWEST = 8  # rankings
# What a scripted reader values in an answer, more is better.
SCRIPTED: dict[str, Callable[[str], float]] = {
    "few words": lambda answer: -len(answer.split()),
    "speaks to you": lambda answer: sum(
        word.strip(".,;:!?'’") in ("you", "your", "yourself", "you're", "you'll")
        for word in answer.lower().split()
    ),
    "plain words": lambda answer: -float(np.mean([len(word) for word in answer.split()] or [20])),
}


class OnePass(RLOO):
    """RLOO whose answers are used once, in two steps: a pass costs more here than new answers do."""

    passes, minibatches = 1, 2


def load_english(base: str | Path, tiny: bool = False, **changes) -> Profile:
    """Sizes for a model of some hundred million weights: a lunch on two cores, seconds if `tiny`."""
    small = {"episodes": 8, "group": 4, "ppo_updates": 2, "answer_tokens": 16} if tiny else {}
    settings = {
        "prompt_tokens": 96,
        "answer_tokens": 48,
        "context": 192,
        "lora": 8,
        "episodes": 32,
        "group": 4,
        "ppo_updates": 8,
        "ppo_rate": 8e-5,  # ten times as much for adapters
        "kl_coefficient": 0.1,
        "ppo_temperature": 0.7,
        "reward_likelihood": 0.0,
    }
    return replace(PROFILES["laptop"], base=str(place("The base", base)), **settings | small | changes)


class English:
    """A model folder, before and after; a Store as far as a chat needs one."""

    def __init__(self, profile: Profile, rankings: int = 40):
        self.profile, self.rankings = profile, rankings
        self.small = profile.ppo_updates < 4
        self.root = runs_folder() / f"english-{digest(profile.base)}"
        self.policies = {"sft": self.folder("base")}  # and "rloo", once there is one

    # -- where things are -----------------------------------------------------------------------------
    def kept(self, name: str, made_from, make: Callable[[Path], None]) -> Path:
        """A folder that `make` writes, once for everything that it is made from."""
        target = self.root / f"{name}-{digest(made_from)}"
        if not target.is_dir():
            partial_folder = target.with_name(f"{target.name}.partial")
            shutil.rmtree(partial_folder, ignore_errors=True)
            partial_folder.mkdir(parents=True)
            make(partial_folder)
            partial_folder.rename(target)
        return target

    def folder(self, name: str) -> Path:
        if name != "base":
            return self.policies[name]
        source = base_folder(self.profile)
        return self.kept("base", "", lambda f: write_base(source, base_tokenizer(source), f))

    def find(self, stage: str) -> Path | None:
        return self.policies.get(stage)

    def tokenizer(self):
        return load_tokenizer(self.folder("base"))

    def model(self, stage: str):
        return load_model(self.policies[stage])

    # -- what is asked --------------------------------------------------------------------------------
    def questions(self, held_out: bool = False) -> list[dict]:
        """Everyday questions as `id` and `messages`; those held out are never ranked or trained on."""
        lines = QUESTIONS.read_text("utf-8").split("\n")
        rows = [messages_of(line, f"english:{i}") for i, line in enumerate(lines) if line]
        chosen = [row for i, row in enumerate(rows) if (i % HELD_OUT == 0) == held_out]
        return chosen[:8] if self.small else chosen

    def facts(self) -> list[dict]:
        """Capitals, as questions with their `answer`: what may get lost."""
        known = [e for e, relation in load_world().facts() if relation == "capital"][
            : 8 if self.small else 60
        ]
        return [
            messages_of(f"What is the capital of {e.name}?", e.name) | {"answer": e.values["capital"]}
            for e in known
        ]

    def ids(self, rows: list[dict]) -> list[list[int]]:
        tokenizer = self.tokenizer()
        return [prompt_ids(tokenizer, row["messages"], self.profile.prompt_tokens) for row in rows]

    def answers(self, model, rows: list[dict], temperature: float, count: int = 1, seed: int = 0):
        """`count` answers to each question, by question; with a progress bar."""
        asked = [ids for ids in self.ids(rows) for _ in range(count)]
        limit, tokenizer = self.profile.answer_tokens, self.tokenizer()
        with Progress("sample answers", len(asked)) as progress, autocast(self.profile):
            drawn = sample(model, tokenizer, asked, limit, temperature, seed, batch=32, progress=progress)
        return [drawn[i : i + count] for i in range(0, len(drawn), count)]

    # -- rank -----------------------------------------------------------------------------------------
    def to_rank(self, answers: int = 4) -> list[dict]:
        """Questions with sampled answers, for a RankingSession."""

        def make(folder: Path) -> None:
            rows = self.questions()[: self.rankings]
            drawn = self.answers(load_model(self.folder("base")), rows, self.profile.ppo_temperature, answers)
            made = [
                row | {"answers": [a.text for a in own], "ended": [a.ended for a in own]}
                for row, own in zip(rows, drawn)
            ]
            write_jsonl(folder / "items.jsonl", made)

        made_from = [self.rankings, answers, self.profile.answer_tokens]
        return read_jsonl(self.kept("items", made_from, make) / "items.jsonl")

    def ranked_by(self, value: Callable[[str], float]) -> list[dict]:
        """Those items as somebody would rank them who values this in an answer."""
        rows = [row | {"ranks": ranks_by(value, row["answers"])} for row in self.to_rank()]
        return [row for row in rows if len(set(row["ranks"])) > 1]

    # -- reward ---------------------------------------------------------------------------------------
    def reward(self, name: str, rankings: list[dict]) -> Path:
        """A reward model: the model's trunk with a scalar head that orders answers as they were ranked."""
        if len(rankings) < FEWEST:
            raise CourseError(
                f"There are {len(rankings)} rankings that prefer something; at least {FEWEST} are needed, "
                "and 30 are good."
            )
        return self.kept(f"reward-{name}", rankings, partial(self._fit, rankings))

    def _fit(self, rankings: list[dict], folder: Path) -> None:
        profile, tokenizer = self.profile, self.tokenizer()
        model, pad = load_scorer(self.folder("base")), tokenizer.pad_token_id
        pairs = encoded_pairs(encode_rankings(profile, tokenizer, rankings))
        with Progress("reward: read the answers", len(pairs)) as progress:
            parts = []
            for start in range(0, len(pairs), 16):
                parts.append(answer_features(model, pairs[start : start + 16], pad, profile))
                progress.step(len(parts[-1]))
        seen = torch.cat(parts)
        mean, deviation = seen.mean(0), seen.std(0).clamp(min=1e-3)
        scaled = ((seen - mean) / deviation).cpu()
        held = held_out_accuracy(scaled, rankings)
        head = fit_head(scaled, rankings, DECAY).to(seen.device) / deviation
        with torch.no_grad():
            model.score.weight.copy_(head[None])
        scores = seen @ head
        model.config.reward_mean, model.config.reward_std = float(scores.mean()), float(scores.std())
        save_model(model, folder, tokenizer)
        write_jsonl(folder / "metrics.jsonl", [{"rankings": len(rankings), "held_out": held}])

    # -- reinforcement learning -----------------------------------------------------------------------
    def steer(self, name: str, rankings: list[dict], **changes) -> Path:
        """A policy trained on the reward model of the rankings, and from now on the one that answers."""
        profile = replace(self.profile, **changes)
        reward = self.reward(name, rankings)
        settings = {k: v for k, v in asdict(profile).items() if k.startswith(SETTINGS)}

        def make(folder: Path) -> None:
            resume = self.root / f"resume-{name}-{digest([rankings, settings])}"
            asked = self.ids(self.questions())
            base = self.folder("base")
            tokenizer = self.tokenizer()
            train_ppo(
                profile, tokenizer, base, reward, asked, None, folder, resume, None, "rloo", None, OnePass
            )
            shutil.rmtree(resume, ignore_errors=True)

        found = self.kept(f"policy-{name}", [rankings, settings], make)
        self.policies["rloo"] = found
        return found

    # -- measure --------------------------------------------------------------------------------------
    def said(self, policy: Path, samples: int = 2) -> dict[str, list[list[Answer]]]:
        """What a policy says to the questions held out, sampled and greedy, and to those of fact, greedy."""
        model, held = load_model(policy), self.questions(held_out=True)
        return {
            "sampled": self.answers(model, held, self.profile.ppo_temperature, samples, seed=1),
            "greedy": self.answers(model, held, 0.0),
            "facts": self.answers(model, self.facts(), 0.0),
        }

    def measured(self, policy: Path) -> dict[str, list]:
        """Texts of `said`, and how surprised the policy is by English prose (nats a token); kept."""

        def make(folder: Path) -> None:
            found = {
                name: [[a.text for a in own] for own in drawn] for name, drawn in self.said(policy).items()
            }
            found["prose"] = self.prose_loss(policy)
            (folder / "said.json").write_text(json.dumps(found), "utf-8")

        made_from = [policy.name, self.profile.answer_tokens]
        return json.loads((self.kept("said", made_from, make) / "said.json").read_text("utf-8"))

    def prose_loss(self, policy: Path) -> float:
        """Mean loss in nats a token on the course's guidelines for rankers, a text that no model has read."""
        text = (DATA / "ranking" / "guidelines.md").read_text("utf-8")
        windows = to_windows(self.tokenizer(), [text], 128)[:8]
        with torch.no_grad(), autocast(self.profile):
            return float(window_loss(load_model(policy), torch.from_numpy(windows.astype(np.int64))))

    def compare(self, policy: Path, value: Callable[[str], float]) -> dict:
        """Before and after: the taste's own measure and the words of an answer on questions held out, facts
        right and the loss on prose, with 95 % intervals.
        """
        before, after = self.measured(self.folder("base")), self.measured(policy)
        right = [self.right(found["facts"]) for found in (before, after)]
        rows = [row for row in (policy / "metrics.jsonl").read_text("utf-8").split("\n") if row]
        found = {"kl": json.loads(rows[-1])["kl_k1"], "prose": after["prose"] - before["prose"]}
        for name, measure in (("taste", value), ("words", lambda text: len(text.split()))):
            means = [
                np.array([np.mean([measure(a) for a in own]) for own in said["sampled"]])
                for said in (before, after)
            ]
            change = mean_difference(means[1], means[0])
            found[name] = {"before": float(means[0].mean()), "after": float(means[1].mean()), **change}
        found["facts"] = {
            "before": float(right[0].mean()),
            "after": float(right[1].mean()),
            **mean_difference(right[1], right[0]),
        }
        return found

    def right(self, answers: Sequence[Sequence[str]]) -> np.ndarray:
        """1.0 for each question of fact whose answer has the capital's name in it."""
        return np.array([float(row["answer"] in own[0]) for row, own in zip(self.facts(), answers)])


DECAY = 0.1  # of the head's weights: it has more numbers than there are comparisons
SETTINGS = ("episodes", "group", "ppo_", "kl_", "lora", "answer_tokens", "seed")  # that decide a policy


def digest(made_from) -> str:
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:10]


def messages_of(question: str, name: str) -> dict:
    said = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    return {"id": name, "messages": said}


def held_out_accuracy(features: torch.Tensor, rankings: list[dict], folds: int = 5) -> dict:
    """The share of pairs that a head fitted to the other four fifths of the prompts orders as they were
    ranked, with its interval.
    """
    starts = np.cumsum([0, *(len(row["ranks"]) for row in rankings)])
    right, total = [], []
    for fold in range(folds):
        kept = [i for i in range(len(rankings)) if i % folds != fold]
        rows = torch.cat([features[starts[i] : starts[i + 1]] for i in kept])
        head = fit_head(rows, [rankings[i] for i in kept], DECAY)
        for i in range(fold, len(rankings), folds):
            scores = (features[starts[i] : starts[i + 1]] @ head).numpy()
            ranks = np.array(rankings[i]["ranks"])
            above = ranks[:, None] < ranks[None]
            right.append(float((above & (scores[:, None] > scores[None])).sum()))
            total.append(float(above.sum()))
    return dict(zip(("accuracy", "low", "high"), share(np.array(right), np.array(total))))
