"""A pretrained model of real English, steered by a few dozen rankings: chapter 11, from the same parts.

Nothing is pretrained and nothing fine-tuned on demonstrations here: a model that follows instructions
already is the SFT model. Its answers to everyday questions are ranked; a reward head is fitted to the
rankings on the model's own hidden states; RLOO with adapters does the rest.

    english = English(load_english(folder))
    rows = english.to_rank()                     # questions with four answers each, for a RankingSession
    english.reward("mine", rankings)             # a folder with the reward model
    policy = english.steer("mine", rankings)     # … and with the policy
    english.compare(policy, SCRIPTED["few words"])   # before and after, on questions that neither has seen

Everything is kept in `runs/` by what it was made from, so that a second call is at once there.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from rlhf_utils.artifacts.files import read_jsonl, write_jsonl, written_once
from rlhf_utils.artifacts.lineage import RETRY
from rlhf_utils.artifacts.progress import Progress
from rlhf_utils.environment import DATA, CourseError, place, runs_folder
from rlhf_utils.evaluation.statistics import mean_difference
from rlhf_utils.language.base_checks import json_of
from rlhf_utils.language.device import autocast
from rlhf_utils.language.models import load_model, load_scorer, save_model
from rlhf_utils.language.packing import pack
from rlhf_utils.language.pretrained import base_folder, base_tokenizer, write_base
from rlhf_utils.language.sampling import Answer, sample
from rlhf_utils.language.scoring import answer_logprobs, window_loss
from rlhf_utils.language.tokenizer import load_tokenizer, prompt_ids, to_windows
from rlhf_utils.pipeline.export import write_card
from rlhf_utils.pipeline.heads import held_out_accuracy, ranking_features, scaled_head
from rlhf_utils.pipeline.taste import ranks_by
from rlhf_utils.profiles import PROFILES, Profile
from rlhf_utils.training.one_pass import KL_BUDGET, OnePass
from rlhf_utils.training.ppo_run import train_ppo
from rlhf_utils.training.reward import encode_rankings
from rlhf_utils.world.facts import load_world

SYSTEM = "You are a friendly helper. Answer in one sentence."
QUESTIONS = DATA / "english" / "questions.txt"
HELD_OUT = 4  # every fourth question trains nothing
FEWEST = 8  # rankings
# What a scripted reader values in an answer, more is better.
SCRIPTED: dict[str, Callable[[str], float]] = {
    "few words": lambda answer: -len(answer.split()),
    "many words": lambda answer: len(answer.split()),
    "speaks to you": lambda answer: spoken(answer, "you your yours yourself"),
    "speaks of itself": lambda answer: spoken(answer, "i me my mine myself"),
    "impersonal": lambda answer: -spoken(answer, "i me my mine myself you your yours yourself"),
}


def spoken(answer: str, words: str) -> int:
    """How often an answer has one of these words ("I'll" is "I")."""
    return sum(word in words.split() for word in re.findall(r"[a-z]+", answer.lower()))


def load_english(base: str | Path, tiny: bool = False, **changes) -> Profile:
    """Sizes for a model of some hundred million weights: a lunch on two cores, seconds if `tiny`."""
    small = {"episodes": 8, "group": 4, "ppo_updates": 2, "answer_tokens": 16} if tiny else {}
    settings = {
        "prompt_tokens": 96,
        "answer_tokens": 96,
        "context": 192,
        "lora": 8,
        "episodes": 32,
        "group": 4,
        "ppo_updates": 16,
        "ppo_rate": 5e-5,  # ten times as much for adapters
        "kl_coefficient": 0.1,
        "ppo_temperature": 0.7,
        "reward_likelihood": 0.0,
    }
    folder = place("The base", base)
    found = json_of(folder / "config.json")
    room = found.get("n_positions", settings["context"]) if isinstance(found, dict) else settings["context"]
    if room < settings["context"]:  # a model of the course's own
        small |= {
            "context": room,
            "prompt_tokens": room - 48,
            "answer_tokens": min(32, small.get("answer_tokens", 32)),
        }
    return replace(PROFILES["laptop"], base=str(folder), **settings | small | changes)


class English:
    """A model folder, before and after; a Store as far as a chat needs one."""

    hint = "empty_base"  # which of the chat's labels says what to ask about
    guideline = "english, chat"  # under which rankings of what is said there are kept

    def __init__(self, profile: Profile, rankings: int = 60):
        self.profile, self.rankings = profile, rankings
        self.small = profile.answer_tokens < 24
        source = place("The base", profile.base)
        files = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in sorted(source.glob("*.*"))]
        begun = runs_folder() / f"english-{digest([str(source), files])}"
        self.base = begun / "base"
        asked = [profile.prompt_tokens, profile.answer_tokens, profile.ppo_temperature, self.small]
        # All that decides what is asked, and how: what is kept beneath differs in nothing else.
        self.root = begun / digest([*asked, rankings, SYSTEM, FACTS, QUESTIONS.read_text("utf-8")])
        self.policies = {"sft": self.folder("base")}  # and "rloo", once there is one

    # -- where things are -----------------------------------------------------------------------------
    def kept(self, name: str, made_from, make: Callable[[Path], None]) -> Path:
        """A folder that `make` writes, once for everything that it is made from."""
        return written_once(self.root / f"{name}-{digest(made_from)}", make)

    def folder(self, name: str) -> Path:
        if name != "base":
            return self.policies[name]
        if not self.base.is_dir():
            source = base_folder(self.profile)
            written_once(self.base, lambda folder: write_base(source, base_tokenizer(source), folder))
        return self.base

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
        return chosen[: 6 if held_out else 12] if self.small else chosen

    def facts(self) -> list[dict]:
        """Questions about countries, with their right `answers`: what may get lost."""
        countries = [e for e in load_world().entities if e.table == "countries"][: 2 if self.small else None]
        return [
            messages_of(question.format(e.name), e.name) | {"answers": e.values[relation]}
            for relation, question in FACTS.items()
            for e in countries
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

        return read_jsonl(self.kept("items", answers, make) / "items.jsonl")

    def ranked_by(self, value: Callable[[str], float], count: int = 30) -> list[dict]:
        """The first items that somebody ranks who values this in an answer, and finds not all alike."""
        rows = [row | {"ranks": ranks_by(value, row["answers"])} for row in self.to_rank()]
        return [row for row in rows if len(set(row["ranks"])) > 1][:count]

    # -- reward ---------------------------------------------------------------------------------------
    def reward(self, name: str, rankings: list[dict]) -> Path:
        """A reward model: the model's trunk with a scalar head that orders answers as they were ranked."""
        if len(rankings) < FEWEST:
            raise CourseError(
                f"There are {len(rankings)} rankings that prefer one answer to another; at least {FEWEST} "
                "are needed, and 30 work well."
            )
        return self.kept(f"reward-{name}", rankings, partial(self._fit, rankings))

    def _fit(self, rankings: list[dict], folder: Path) -> None:
        profile, tokenizer = self.profile, self.tokenizer()
        model, pad = load_scorer(self.folder("base")), tokenizer.pad_token_id
        seen = ranking_features(model, encode_rankings(profile, tokenizer, rankings), pad, profile)
        held = held_out_accuracy(seen.cpu(), rankings)
        head = scaled_head(seen.cpu(), rankings).to(seen.device)
        with torch.no_grad():
            model.score.weight.copy_(head[None])
        # The unit is the deviation among answers to one question: those are what RLOO compares.
        by_question = (seen @ head).split([len(row["ranks"]) for row in rankings])
        within = torch.cat([scores - scores.mean() for scores in by_question])
        model.config.reward_mean = float(torch.cat(by_question).mean())
        model.config.reward_std = max(float(within.square().mean().sqrt()), 1e-6)
        save_model(model, folder, tokenizer)
        write_jsonl(folder / "metrics.jsonl", [{"rankings": len(rankings), "held_out": held}])

    # -- reinforcement learning -----------------------------------------------------------------------
    def steer(self, name: str, rankings: list[dict], **changes) -> Path:
        """A policy trained on the reward model of the rankings, and from now on the one that answers."""
        profile = replace(self.profile, **changes)
        reward = self.reward(name, rankings)
        settings = {k: v for k, v in asdict(profile).items() if k.startswith(SETTINGS)}
        settings["budget"] = [KL_BUDGET, "taken back"]

        def make(folder: Path) -> None:
            begun = {k: v for k, v in settings.items() if k not in RETRY}
            resume = self.root / f"resume-{name}-{digest([rankings, begun])}"
            resume.mkdir(parents=True, exist_ok=True)
            tries = read_jsonl(resume / "tries.jsonl") if (resume / "tries.jsonl").exists() else []
            tries = [*(t for t in tries if t != profile.ppo_rate), profile.ppo_rate]
            write_jsonl(resume / "tries.jsonl", tries)
            asked = self.ids(self.questions())
            base = self.folder("base")
            tokenizer = self.tokenizer()
            train_ppo(
                profile, tokenizer, base, reward, asked, None, folder, resume, None, "rloo", None, OnePass
            )
            shutil.rmtree(resume, ignore_errors=True)
            log, source = read_jsonl(folder / "metrics.jsonl"), Path(profile.base).name
            how = (
                f"{len(log)} updates of {profile.episodes} answers by RLOO, with LoRA of rank {profile.lora}"
            )
            if len(tries) > 1:  # it diverged or was stopped, and went on from its checkpoints
                how += f", at learning rates of {', then '.join(map(str, tries))}"
            made = [f"begun from {source}", f"{len(rankings)} rankings of answers", how]
            far = [row["kl_k1"] for row in log if not row["taken_back"]][-1:]
            far = [f"KL to the model before: {kl:.1f} nats an answer, when last measured" for kl in far]
            write_card(folder, f"{source}-{name}", False, made, far)

        found = self.kept(f"policy-{name}", [rankings, settings], make)
        self.policies["rloo"] = found
        return found

    # -- measure --------------------------------------------------------------------------------------
    def measured(self, policy: Path) -> dict[str, list]:
        """What a policy says, kept: `sampled` and `greedy` answers to the questions held out, greedy ones to
        those of fact; its `kl` to the model before of each sampled answer (nats, by its own samples), and its
        loss on English `prose`.
        """

        def make(folder: Path) -> None:
            model, held = load_model(policy), self.questions(held_out=True)
            sampled = self.answers(model, held, self.profile.ppo_temperature, 2, seed=1)
            drawn = {
                "sampled": sampled,
                "greedy": self.answers(model, held, 0.0),
                "facts": self.answers(model, self.facts(), 0.0),
            }
            found = {name: [[a.text for a in own] for own in answers] for name, answers in drawn.items()}
            found |= {"kl": self.divergences(model, sampled), "prose": self.prose_loss(model)}
            (folder / "said.json").write_text(json.dumps(found), "utf-8")

        return json.loads((self.kept("said", policy.name, make) / "said.json").read_text("utf-8"))

    @torch.no_grad()
    def divergences(self, model, sampled: list[list[Answer]]) -> list[float]:
        """log π − log π₀ of whole sampled answers, by question: the mean is k1 (chapter 06)."""
        before, pad, found = load_model(self.folder("base")), self.tokenizer().pad_token_id, []
        asked = list(zip(self.ids(self.questions(held_out=True)), sampled))
        for start in range(0, len(asked), 8):
            packed = pack([(p, [list(a.tokens) for a in own]) for p, own in asked[start : start + 8]], pad)
            with autocast(self.profile):
                now, then = (
                    answer_logprobs(m, packed, pad, self.profile.ppo_temperature) for m in (model, before)
                )
            found += (now - then).sum(1).tolist()
        return found

    def prose_loss(self, model) -> float:
        """Mean loss in nats a token on the course's guidelines for rankers, a text that no model has read."""
        text = (DATA / "ranking" / "guidelines.md").read_text("utf-8")
        windows = to_windows(self.tokenizer(), [text], 128)[:8]
        with torch.no_grad(), autocast(self.profile):
            return float(window_loss(model, torch.from_numpy(windows.astype(np.int64)).to(model.device)))

    def compare(self, policies: Path | Sequence[Path], value: Callable[[str], float]) -> dict[str, dict]:
        """Before, after, and the difference with its 95 % interval: what the taste measures, the words of an
        answer, and the share of facts that are right. `kl` is how far the policy has gone; `prose` the loss.

        Of several runs of one kind, `after` is their mean, question by question.
        """
        policies = [policies] if isinstance(policies, Path) else policies
        before, runs = self.measured(self.folder("base")), [self.measured(policy) for policy in policies]

        def of_runs(figures: Callable[[dict], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
            return figures(before), np.mean([figures(run) for run in runs], 0)

        # Two samples of a question are no two questions.
        _, kl = of_runs(lambda said: np.array(said["kl"]).reshape(-1, 2).mean(1))
        found = {"kl": {"after": float(kl.mean()), **mean_difference(kl, np.zeros(len(kl)))}}
        for name, measure in (("taste", value), ("words", lambda text: len(text.split()))):
            means = of_runs(
                lambda said, m=measure: np.array([np.mean(list(map(m, a))) for a in said["sampled"]])
            )
            found[name] = changed(*means)
        countries = [row["id"] for row in self.facts()]
        found["facts"] = changed(*of_runs(lambda said: self.right(said["facts"])), countries)
        prose = of_runs(lambda said: np.array(said["prose"]))
        found["prose"] = dict(zip(("before", "after"), map(float, prose)))
        return found

    def right(self, answers: Sequence[Sequence[str]]) -> np.ndarray:
        """1.0 for each question of fact whose answer names what is right."""
        return np.array(
            [
                float(any(re.search(rf"\b{re.escape(a)}\b", own[0]) for a in row["answers"]))
                for row, own in zip(self.facts(), answers)
            ]
        )


def changed(before: np.ndarray, after: np.ndarray, groups: Sequence | None = None) -> dict[str, float]:
    means = {"before": float(before.mean()), "after": float(after.mean())}
    return means | mean_difference(after, before, groups)


FACTS = {
    "capital": "What is the capital of {}?",
    "continent": "On which continent is {}?",
    "language": "Which language do most people in {} speak?",
}
SETTINGS = ("episodes", "group", "ppo_", "kl_", "lora", "answer_tokens", "seed")  # that decide a policy


def digest(made_from) -> str:
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:10]


def messages_of(question: str, name: str) -> dict:
    said = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    return {"id": name, "messages": said}
