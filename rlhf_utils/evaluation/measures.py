"""Is it better, by how much, and at what cost: every figure on held-out prompts, with an interval.

The rival of every aligned model is the base model that is asked well (`base_prompted`, see `prompting`), at
each temperature in the form that suits it. What is measured is what was said: answers keep their tokens and
whether they ended. Intervals: see `statistics`.
"""

import json
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from rlhf_utils.artifacts.files import peak_memory, write_jsonl
from rlhf_utils.artifacts.lineage import STAGES
from rlhf_utils.artifacts.progress import Progress
from rlhf_utils.artifacts.store import Store
from rlhf_utils.evaluation.answers import (
    BARE,
    answer_prompts,
    answer_rewards,
    judge_answers,
    kl_to_sft,
    try_forms,
)
from rlhf_utils.evaluation.comparisons import compare, judged_rows, subset, untouched
from rlhf_utils.evaluation.language import (
    bytes_per_token,
    cloze_accuracy,
    ngram_bits,
    profession_skew,
    token_losses,
)
from rlhf_utils.evaluation.reward_accuracy import pair_accuracy, pair_marks
from rlhf_utils.evaluation.statistics import accuracy_of, win_rate
from rlhf_utils.language.prompting import FORMS, choose_forms
from rlhf_utils.language.sampling import Answer
from rlhf_utils.profiles import MODELS, POLICIES, Profile
from rlhf_utils.world.facts import load_world
from rlhf_utils.world.judge import Judge
from rlhf_utils.world.prompts import USE_CASES, thing_of

TEMPERATURES = (0.0, 0.4, 0.7, 1.0)
BEST_OF = 9
OTHER_WORK = 11  # parts of an evaluation besides the answers, for its progress bar
ByKind = dict[str, list[list[Answer]]]  # answers by kind ("t1", "greedy", "best"), to each prompt


def evaluate(profile: Profile, store: Store, folder: Path) -> dict:
    """Every figure of `rlhf report`; writes `answers.jsonl` and `probes.jsonl`, judged, into `folder`."""
    if profile.data:
        return evaluate_own_data(profile, store)
    return Evaluation(profile, store).run(folder)


class Evaluation:
    """All models of a run, asked the held-out prompts of the small world."""

    def __init__(self, profile: Profile, store: Store):
        self.profile, self.store, self.tokenizer, self.world = profile, store, store.tokenizer(), load_world()
        self.judge = Judge(self.world)
        names = ("validation", "test", "probes", "withheld")
        self.validation, self.test, self.probes, self.withheld = map(store.prompts, names)
        loaded = {stage: store.model(stage) for stage in dict.fromkeys(m.stage for m in MODELS.values())}
        self.models = {name: loaded[model.stage] for name, model in MODELS.items()}
        self.reward = store.model("reward")

    def run(self, folder: Path) -> dict:
        answers_in_all = (
            len(self.validation) * len(TEMPERATURES) * (len(FORMS) + 1 + len(POLICIES))
            + len(self.test) * (2 + 4 * (self.profile.samples + 2) + BEST_OF)
            + len(MODELS) * (2 * len(self.probes) + len(self.withheld))
        )
        part = answers_in_all // 20  # all else takes about as long as so many answers, `OTHER_WORK` times
        with Progress("evaluate", answers_in_all + OTHER_WORK * part, self.store.root) as self.progress:
            return self.figures(folder, partial(self.progress.through, count=part))

    def figures(self, folder: Path, each) -> dict:
        """All figures; `each` goes through rows and shows progress."""
        tried = self.choose_forms()
        best = self.choose_temperatures()
        answers, probed = self.ask_all(best)
        rows, extra = (
            judged_rows(self.judge, self.test, answers),
            judged_rows(self.judge, self.probes, probed),
        )
        nine, nine_gold = self.best_of_nine(rows)
        write_jsonl(folder / "answers.jsonl", rows)
        write_jsonl(folder / "probes.jsonl", extra)
        accuracy = self.reward_accuracy(nine, nine_gold)
        first = {name: [row[0] for row in kinds["t1"]] for name, kinds in answers.items()}
        score = {name: self.rewards(self.test, first[name]) for name in each(POLICIES)}
        return {
            **without_a_judge(
                self.profile, self.store, self.tokenizer, self.models, self.test, first, score, each
            ),
            **compare(rows, extra),
            "best_temperature": best,
            "prompt_form": {
                "chosen": {str(t): self.forms[t] for t in TEMPERATURES},
                "temperature": best["base_prompted"],
                "tried": {
                    form: {str(t): float(tried[t][form].mean()) for t in TEMPERATURES} for form in FORMS
                },
            },
            "untouched": subset(rows, untouched(self.test, self.store)),
            "withheld": self.ask_withheld(),
            "reward_accuracy": accuracy,
            "labelers": self.store.metrics("rank")[0],
            "length": {name: self.mean_tokens(answers[name]["t1"]) for name in MODELS},
            "ended": {
                name: float(np.mean([a.ended for row in answers[name]["t1"] for a in row])) for name in MODELS
            },
            "cloze": cloze_accuracy(self.models["base"], self.tokenizer, self.world),
            "profession_skew": {
                name: profession_skew(self.models[name], self.tokenizer, self.world)
                for name in MODELS
                if name != "base_prompted"
            },
        }

    # -- asking ------------------------------------------------------------------------------------------
    def ask(
        self, name: str, prompts: list[dict], temperature: float, count: int, seed: int
    ) -> list[list[Answer]]:
        """Answers of a model, asked as it is asked at this temperature."""
        forms = {"base": BARE, "base_prompted": self.forms[temperature]}.get(name)
        model, progress = self.models[name], self.progress
        return answer_prompts(
            self.profile, self.tokenizer, model, prompts, temperature, count, seed, forms, progress
        )

    def choose_forms(self) -> dict[float, dict[str, np.ndarray]]:
        """Finds `forms`, those that suit the base model at each temperature; returns gold scores of all."""
        tried = {
            t: try_forms(
                self.profile,
                self.tokenizer,
                self.models["base"],
                self.validation,
                t,
                self.judge,
                progress=self.progress,
            )
            for t in TEMPERATURES
        }
        self.forms = {t: choose_forms(gold, self.validation) for t, gold in tried.items()}
        return tried

    def choose_temperatures(self) -> dict[str, float]:
        """The best temperature of each model on validation prompts.

        They are asked anew: the scores that chose the forms are too good to choose the temperature as well.
        """
        best = {}
        for name in ("base_prompted", *POLICIES):
            asked = [self.ask(name, self.validation, t, 1, 18) for t in TEMPERATURES]
            means = [judge_answers(self.judge, self.validation, a)["total"].mean() for a in asked]
            best[name] = TEMPERATURES[int(np.argmax(means))]
        return best

    def ask_all(self, best: dict[str, float]) -> tuple[dict[str, ByKind], dict[str, ByKind]]:
        """Every model's answers to test prompts and to probes."""
        answers: dict[str, ByKind] = {}
        probed: dict[str, ByKind] = {}
        for name in MODELS:
            count = 1 if name == "base" else self.profile.samples
            answers[name] = {
                "t1": self.ask(name, self.test, 1.0, count, 13),
                "greedy": self.ask(name, self.test, 0.0, 1, 0),
            }
            if name != "base":
                answers[name]["best"] = self.ask(name, self.test, best[name], 1, 14)
            probed[name] = {
                "t1": self.ask(name, self.probes, 1.0, 1, 17),
                "greedy": self.ask(name, self.probes, 0.0, 1, 0),
            }
        return answers, probed

    def ask_withheld(self) -> dict[str, dict[str, float]]:
        """Mean gold scores on what no training prompt asked: a relation, and a task."""
        cases = np.array([p["use_case"] for p in self.withheld])
        found = {}
        for name in MODELS:
            answers = self.ask(name, self.withheld, 0.0, 1, 16)
            gold = judge_answers(self.judge, self.withheld, answers)["total"]
            found[name] = {k: float(gold[cases == k].mean()) for k in ("withheld_relation", "withheld_task")}
        return found

    # -- the reward model --------------------------------------------------------------------------------
    def rewards(self, prompts: list[dict], answers: list[Answer]) -> np.ndarray:
        return answer_rewards(self.profile, self.tokenizer, self.reward, prompts, answers)

    def best_of_nine(self, rows: list[dict]) -> tuple[list[list[Answer]], np.ndarray]:
        """Nine samples of SFT to each test prompt and their gold scores; adds the best's to the rows."""
        nine = self.ask("sft", self.test, 1.0, BEST_OF, 15)
        gold = judge_answers(self.judge, self.test, nine)["total"]
        asked = [p for p in self.test for _ in range(BEST_OF)]
        picked = self.rewards(asked, [a for row in nine for a in row]).reshape(gold.shape).argmax(1)
        for i, row in enumerate(rows):
            row["best_of_9_by_gold"] = round(float(gold[i].max()), 3)
            row["best_of_9_by_reward"] = round(float(gold[i, picked[i]]), 3)
        return nine, gold

    def reward_accuracy(self, nine: list[list[Answer]], nine_gold: np.ndarray) -> dict:
        """Against its labelers, others, and gold on nine samples of SFT; the last by use case, too."""
        rows = []
        for prompt, answers, gold in zip(self.test, nine, nine_gold):
            unique = {a.text: g for a, g in zip(answers, gold.tolist())}
            rows.append(
                {
                    "messages": prompt["messages"],
                    "answers": list(unique),
                    "gold": list(unique.values()),
                    "ranks": [],
                }
            )
        right, total = pair_marks(self.reward, self.tokenizer, self.profile, rows, "gold")
        cases, things = np.array([p["use_case"] for p in self.test]), [thing_of(p) for p in self.test]

        def against(name: str) -> dict:
            return pair_accuracy(self.reward, self.tokenizer, self.profile, self.store.rankings(name))

        return {
            "labelers": against("heldout_prompts"),
            "heldout_labelers": against("heldout_labelers"),
            "gold": accuracy_of(right, total, things),
            "gold_by_use_case": {
                u: accuracy_of(right[cases == u], total[cases == u])["accuracy"] for u in USE_CASES
            },
        }

    def mean_tokens(self, answers: list[list[Answer]]) -> float:
        """Mean length of answers' texts, without the end-of-text token."""
        texts = [a.text for row in answers for a in row]
        return float(np.mean([len(self.tokenizer(text)["input_ids"]) if text else 0 for text in texts]))


def evaluate_own_data(profile: Profile, store: Store) -> dict:
    """Own data has no gold judge: reward model, KL and perplexity, and the accuracy on held-out pairs."""
    tokenizer = store.tokenizer()
    reward = store.model("reward")
    models = {name: store.model(name) for name in MODELS if name != "base_prompted"}
    prompts = store.prompts("test")
    part = len(prompts) // 2
    with Progress("evaluate", 3 * len(prompts) + 10 * part, store.root) as progress:
        each = partial(progress.through, count=part)
        answers = {
            n: [
                a[0]
                for a in answer_prompts(profile, tokenizer, models[n], prompts, 1.0, 1, 13, progress=progress)
            ]
            for n in POLICIES
        }
        score = {n: answer_rewards(profile, tokenizer, reward, prompts, answers[n]) for n in each(POLICIES)}
        pairs = pair_accuracy(reward, tokenizer, profile, store.rankings("heldout_prompts"))
        return {
            "data": Path(profile.data).name,
            "judge": "none: own data has no gold judge; win rates are by the reward model that PPO was "
            "trained on",
            **without_a_judge(profile, store, tokenizer, models, prompts, answers, score, each),
            "win_rate_by_reward_model": {
                f"{n}_vs_sft": win_rate(score[n][:, None], score["sft"][:, None]) for n in ("ppo", "ppo_ptx")
            },
            "reward_accuracy": {"heldout_pairs": pairs},
            "examples": [
                {"prompt": p["messages"][-1]["content"][:300], **{n: a[i].text for n, a in answers.items()}}
                for i, p in enumerate(prompts[:8])
            ],
        }


def without_a_judge(
    profile: Profile,
    store: Store,
    tokenizer,
    models: dict,
    prompts: list[dict],
    answers: dict[str, list[Answer]],
    score: dict,
    each,
) -> dict:
    """The figures that any data has. answers, score: by model, one a prompt; `each` goes through rows and
    shows progress.
    """
    windows = load_file(store.folder("tokens") / "tokens.safetensors")
    train, heldout = windows["train"], windows["heldout"]
    per_byte = bytes_per_token(tokenizer, heldout)
    manifests = [
        json.loads((found / "manifest.json").read_text("utf-8"))
        for s in STAGES
        if s != "evaluate" and (found := store.find(s))
    ]
    seconds = {m["stage"]: m["seconds"] for m in manifests}
    loss = {
        n: float(token_losses(m, heldout, profile).mean())
        for n, m in each(models.items())
        if n != "base_prompted"
    }
    return {
        "profile": profile.name,
        "seed": profile.seed,
        "seconds": seconds | {"total": round(sum(seconds.values()), 1)},
        "perplexity": {n: float(np.exp(x)) for n, x in loss.items()},
        "bits_per_byte": {
            "base": loss["base"] / np.log(2) / per_byte,
            "five_gram": ngram_bits(train, heldout, len(tokenizer)) / per_byte,
        },
        "kl": {
            n: 0.0
            if n == "sft"
            else kl_to_sft(profile, tokenizer, models[n], models["sft"], prompts, answers[n])
            for n in each(POLICIES)
        },
        "reward": {n: float(s.mean()) for n, s in score.items()},
        "peak_rss_mb": max(peak_memory(), *(m["peak_rss_mb"] for m in manifests)),  # when all else is done
    }
