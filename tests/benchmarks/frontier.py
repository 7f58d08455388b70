"""Eight ways to use the same rankings, on one plot: what each gains, how far it goes, and what it costs.

    python tests/benchmarks/frontier.py --costs                  # time and memory of each, one run
    python tests/benchmarks/frontier.py --seeds 0 1 2            # all, then data/reference/frontier.json
    python tests/benchmarks/frontier.py --seeds 0 --only rloo    # one method's variants, kept for later
    python tests/benchmarks/frontier.py --choices                # rates and more, for three methods

Each method starts from the run's SFT model and draws as many answers as PPO (rejection sampling: `best_of` to
each prompt, twice as many in all, and it reads some documents, as SFT does; DPO draws none). Of each, a few
variants are trained; which one stands for the method is decided by gold on validation prompts, over all
seeds together. PPO and PPO-ptx are those of the run, which had no such choice. `…, as long` is that variant,
trained for as many seconds as PPO, by `LENGTHS`, which come from what `--costs` found: more updates, fewer
pairs of each ranking (DPO), more samples to choose from (rejection sampling). A method is above or below PPO
if the interval over seeds of its gold less PPO's in the same run says so. Every result is kept in
`runs/frontier/`, so the command goes on where it was stopped; what was measured on other runs than the rest
of the file is written beside it, as "later".
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import numpy as np

from rlhf_utils.artifacts.files import peak_memory, read_jsonl
from rlhf_utils.environment import DATA, runs_folder
from rlhf_utils.evaluation.answers import answer_prompts, answer_rewards, judge_answers, kl_to_sft, mark_of
from rlhf_utils.evaluation.language import token_losses
from rlhf_utils.evaluation.statistics import equal_length, mean_difference, win_rate
from rlhf_utils.language.models import load_gpt2
from rlhf_utils.language.tokenizer import prompt_ids
from rlhf_utils.pipeline.claims.claim import Bench as Claims
from rlhf_utils.pipeline.claims.claim import figure, mean_of, over_seeds
from rlhf_utils.pipeline.claims.evidence import CLAIMS
from rlhf_utils.pipeline.claims.kept import keep, kept
from rlhf_utils.pipeline.stages import ensure, open_store
from rlhf_utils.profiles import load_profile
from rlhf_utils.training.beyond import GRADIENTS
from rlhf_utils.training.offline import preference_pairs, train_dpo, train_rejection
from rlhf_utils.training.ppo import PPO
from rlhf_utils.training.ppo_run import train_ppo
from rlhf_utils.world.facts import load_world
from rlhf_utils.world.judge import Judge
from rlhf_utils.world.prompts import thing_of, write_prompts

FILE = DATA / "reference" / "frontier.json"
TIMES = (0.5, 1.0, 2.0)
MULTIPLES = ("ppo_rate", "dpo_rate", "sft_rate", "kl_coefficient")  # given as multiples of the profile's
# method → variants: what differs from the profile
VARIANTS: dict[str, list[dict]] = {
    **{name: [{"ppo_rate": t} for t in TIMES] for name in ("reinforce", "ppo_no_value", "rloo", "grpo")},
    "dpo": [{"dpo_beta": 0.1}, {"dpo_beta": 0.3}],
    "rejection": [{}],
    # On prompts whose answers can be checked: the reward model, or the check itself.
    "grpo, checked": [{}],
    "rloo, checked": [{}],
    "rloo, judged": [{}],
    "grpo, judged": [{}],
    "ppo": [{}],
    "ppo_ptx": [{}],
    "sft": [{}],
    # The rates that the others could choose from; 1 is the run's own.
    "ppo, half the rate": [{"ppo_rate": 0.5}],
    "ppo, twice the rate": [{"ppo_rate": 2.0}],
}
# The chosen variants, for about as many seconds as PPO takes, by the costs in FILE: multiples of updates,
# pairs of a ranking, samples to choose from.
LENGTHS: dict[str, dict] = {
    "reinforce": {"ppo_rate": 0.5, "ppo_updates": 2.3},
    "ppo_no_value": {"ppo_updates": 1.6},
    "rloo": {"ppo_updates": 1.9},
    "grpo": {"ppo_updates": 1.7},
    "grpo, checked": {"ppo_updates": 1.7},
    "dpo": {"dpo_beta": 0.3, "dpo_pairs": 2},
    "rejection": {"best_of": 16},
}
VARIANTS |= {f"{name}, as long": [settings] for name, settings in LENGTHS.items()}
# What the first measurement did not try, in as many seconds: learning rates, groups of sixteen, and another β
# for GRPO, whose rewards have another unit. On the first seed, gold on validation prompts says which of a
# method's variants is best; if that is not the one above, it is measured like all others, on all seeds.
# (DPO's rate × 8 and GRPO's β × 4 were added because the best was the last of its row, before any of them was
# measured.)
CHOICES: dict[str, list[dict]] = {
    "dpo": [LENGTHS["dpo"] | {"dpo_rate": t} for t in (*TIMES, 4.0, 8.0)],
    "rejection": [LENGTHS["rejection"] | {"sft_rate": t} for t in TIMES],
    "grpo": [LENGTHS["grpo"] | {"group": g, "kl_coefficient": b} for g in (4, 16) for b in (1.0, 2.0)]
    + [LENGTHS["grpo"] | {"group": 16, "kl_coefficient": 4.0}],
}
PRICED = ("ppo", "ppo_ptx", *GRADIENTS, "rejection", "dpo")  # methods whose costs are measured
SHARES = (1 / 48, 1 / 8)  # of the training: what lies between the two is timed, so loading is not
GOLD, GREEDY, TUNED = "gold, temperature 1", "gold, greedy", "gold on validation prompts, temperature 1"
REWARD, NATS, WORDS = "reward", "KL to SFT, nats an answer", "words of an answer"
GAIN = "gold over PPO-ptx's, temperature 1"
WINS, MATCHED = "wins over SFT of those decided", "the same, where lengths are alike"
LOSS, RUNS, FACTS = (
    "loss of a token of documents, nats",
    "programs that are right",
    "gold of questions of fact",
)


class Bench:
    """What all methods are trained from and asked, of one run."""

    def __init__(self, profile):
        self.profile, self.world = profile, load_world()
        self.store = ensure(
            ("corpus", "tokenizer", "tokens", "sft", "rank", "reward", "ppo", "ppo_ptx"), profile
        )
        self.tokenizer, self.judge = self.store.tokenizer(), Judge(self.world)
        few = profile.name == "tiny"
        self.test = self.store.prompts("test")[: 8 if few else None]
        self.validation = self.store.prompts("validation")[: 8 if few else None]
        self.things = [thing_of(p) for p in self.test]
        self.programs, self.facts = (
            write_prompts(self.world, "test", {case: 8 if few else 300}, 71)
            for case in ("program", "open_qa")
        )
        checkable = {"program": 8 if few else 1500, "open_qa": 8 if few else 1500}
        self.checkable = write_prompts(self.world, "train", checkable, 72 + profile.seed)

    def ids(self, rows: list[dict]) -> list[list[int]]:
        return [prompt_ids(self.tokenizer, p["messages"], self.profile.prompt_tokens) for p in rows]

    def trained(self, method: str, settings: dict, folder: Path, share: float = 1.0) -> Path:
        """The folder of a variant's model, trained whole or only for a share of its updates or rows."""
        kind, *how = method.split(", ")
        if method in ("sft", "ppo", "ppo_ptx") and share == 1:
            return self.store.folder(method)
        store, own = self.store, {"ppo_updates": 1.0} | settings
        own["ppo_updates"] = max(round(self.profile.ppo_updates * own["ppo_updates"] * share), 1)
        for name in {*own} & {*MULTIPLES}:
            own[name] *= getattr(self.profile, name)
        profile = replace(self.profile, **own)
        sft, reward, resume = store.folder("sft"), store.folder("reward"), folder / "resume"
        made = folder / "made"
        made.mkdir()
        if kind == "dpo":
            pairs = preference_pairs(store.rankings(), profile.dpo_pairs, profile.seed)
            pairs = Random(0).sample(pairs, round(share * len(pairs)))
            train_dpo(profile, self.tokenizer, sft, pairs, made, resume)
        elif kind == "rejection":
            prompts, windows = store.prompts("ppo"), store.windows()
            prompts = prompts[: round(share * len(prompts))]
            train_rejection(profile, self.tokenizer, sft, reward, prompts, windows, made, resume)
        else:
            rows = self.checkable if {"checked", "judged"} & {*how} else store.prompts("ppo")
            learner = GRADIENTS.get(kind, PPO)
            if "checked" in how:
                learner = partial(learner, verify=self.verify(rows))

            def gold(chosen: list[int], answers: list[str]) -> float:
                return float(np.mean([self.judge.total(rows[i], a.strip()) for i, a in zip(chosen, answers)]))

            train_ppo(
                profile,
                self.tokenizer,
                sft,
                reward,
                self.ids(rows),
                store.windows() if kind == "ppo_ptx" else None,
                made,
                resume,
                name=method,
                gold=gold if share == 1 else None,
                method=learner,
            )
        return made

    def verify(self, rows: list[dict]):
        """1 for an answer that is wholly right, else 0: programs are run, facts are looked up."""
        row_of = {tuple(ids): row for ids, row in zip(self.ids(rows), rows)}

        def right(prompts: list[list[int]], answers: list[str]) -> list[float]:
            asked = (row_of[tuple(p)] for p in prompts)
            return [float(self.judge.total(row, a) > 0.99) for row, a in zip(asked, answers)]

        return right

    def drawn(self, model) -> list:
        """Two answers to each test prompt."""
        return answer_prompts(self.profile, self.tokenizer, model, self.test, 1.0, 2, 74)

    @cached_property
    def gold_of_ptx(self) -> np.ndarray:
        drawn = self.drawn(load_gpt2(self.store.folder("ppo_ptx")))
        return judge_answers(self.judge, self.test, drawn)["total"].mean(1)

    def tuned(self, model) -> tuple[float, float, float]:
        """Gold of two answers to each validation prompt, by which variants are chosen."""
        asked = self.profile, self.tokenizer, model, self.validation
        gold = judge_answers(self.judge, self.validation, answer_prompts(*asked, 1.0, 2, 73))["total"]
        return mean_of(gold.mean(1), [thing_of(p) for p in self.validation])

    def measured(self, model) -> list[dict]:
        """Figures of a model on test prompts, and `TUNED` on validation prompts."""

        def ask(prompts, temperature, count, seed):
            return answer_prompts(self.profile, self.tokenizer, model, prompts, temperature, count, seed)

        def gold(prompts, answers):
            return judge_answers(self.judge, prompts, answers)["total"]

        rows, sft = [], load_gpt2(self.store.folder("sft"))
        rows.append(figure("", TUNED, self.tuned(model)))
        drawn = self.drawn(model)
        scores = gold(self.test, drawn)
        rows.append(figure("", GOLD, mean_of(scores.mean(1), self.things)))
        rows.append(figure("", GAIN, mean_difference(scores.mean(1), self.gold_of_ptx, self.things)))
        greedy = gold(self.test, ask(self.test, 0.0, 1, 0))[:, 0]
        rows.append(figure("", GREEDY, mean_of(greedy, self.things)))
        one = [row[0] for row in drawn]
        reward = answer_rewards(self.profile, self.tokenizer, self.store.model("reward"), self.test, one)
        rows.append(figure("", REWARD, mean_of(reward, self.things)))
        nats = kl_to_sft(self.profile, self.tokenizer, model, sft, self.test, one)
        rows.append(figure("", NATS, (nats,) * 3))
        words = np.array([[len(a.text.split()) for a in row] for row in drawn])
        rows.append(figure("", WORDS, mean_of(words.mean(1), self.things)))
        of_sft = answer_prompts(self.profile, self.tokenizer, sft, self.test, 1.0, 2, 75)
        scores_sft = gold(self.test, of_sft)
        rows.append(figure("", WINS, win_rate(scores, scores_sft, self.things)))
        words_sft = np.array([[len(a.text.split()) for a in row] for row in of_sft])
        alike = equal_length(scores, scores_sft, words, words_sft, self.things)["matched"]
        rows.append(figure("", MATCHED, alike))
        held = self.store.windows("heldout")
        rows.append(figure("", LOSS, mean_of(token_losses(model, held, self.profile).mean(1), None)))
        said = ask(self.programs, 1.0, 1, 76)
        right = [float(mark_of(self.judge, p, row[0].text)[1]) for p, row in zip(self.programs, said)]
        rows.append(figure("", RUNS, mean_of(right, [thing_of(p) for p in self.programs])))
        facts = gold(self.facts, ask(self.facts, 1.0, 1, 77))[:, 0]
        rows.append(figure("", FACTS, mean_of(facts, [thing_of(p) for p in self.facts])))
        return rows


def kept_file(profile, method: str, number: int) -> Path:
    """Where a variant's figures are kept: by its settings, and by the models that it starts from."""
    store = open_store(profile)
    told = [VARIANTS[method][number], profile.settings(), store.manifest("reward")["id"]]
    code = sha256(json.dumps([told, store.manifest("sft")["id"]]).encode()).hexdigest()[:8]
    return (
        runs_folder() / "frontier" / f"{profile.name}-{profile.seed}-{method.replace(', ', '-')}-{code}.json"
    )


def run(bench: Bench, method: str, number: int) -> None:
    """Train and measure a variant, unless that was done before."""
    file = kept_file(bench.profile, method, number)
    if file.is_file():
        return
    with TemporaryDirectory() as scratch:
        folder = bench.trained(method, VARIANTS[method][number], Path(scratch))
        rows = bench.measured(load_gpt2(folder))
        log = read_jsonl(folder / "metrics.jsonl")
    file.parent.mkdir(parents=True, exist_ok=True)
    partial_file = file.with_suffix(".new")
    partial_file.write_text(json.dumps(rows), "utf-8")
    file.with_suffix(".log").write_text(json.dumps(log), "utf-8")
    os.replace(partial_file, file)
    found = {row["metric"]: round(row["value"], 3) for row in rows}
    print(bench.profile.seed, method, VARIANTS[method][number], found, flush=True)


def pooled(profile, seeds: list[int], method: str, number: int) -> dict[str, dict]:
    """metric → value and interval over the seeds."""
    found = [values(replace(profile, seed=seed), method, number) for seed in seeds]
    return {metric: over_seeds([rows[metric] for rows in found]) for metric in found[0]}


def values(profile, method: str, number: int) -> dict[str, dict]:
    """metric → what was measured of a variant in one run."""
    rows = json.loads(kept_file(profile, method, number).read_text("utf-8"))
    return {row["metric"]: row for row in rows}


def summary(profile, seeds: list[int], methods: list[str]) -> dict:
    """All variants of these methods, and of each method the one that is best on validation prompts. What is
    kept of other methods on the same runs stays.
    """
    stores = [open_store(replace(profile, seed=seed)) for seed in seeds]
    runs = [[store.manifest(stage)["id"] for stage in ("sft", "reward", "ppo_ptx")] for store in stores]
    kept = json.loads(FILE.read_text("utf-8")) if FILE.is_file() else {}
    blocks = [kept, kept.get("later", {})] if kept.get("profile") == profile.name else []
    known = next((block["methods"] for block in blocks if block.get("runs") == runs), {})
    for method in methods:
        variants = VARIANTS[method]
        found = [pooled(profile, seeds, method, number) for number in range(len(variants))]
        best = max(range(len(variants)), key=lambda number: found[number][TUNED]["value"])
        by_seed = [values(replace(profile, seed=seed), method, best) for seed in seeds]
        known[method] = {
            "settings": variants[best],
            "gold by seed": [round(rows[GOLD]["value"], 4) for rows in by_seed],
            "programs by seed": [round(rows[RUNS]["value"], 2) for rows in by_seed],
            "figures": {metric: rounded(row) for metric, row in found[best].items()},
            "variants": [
                {"settings": settings, "gold": rounded(row[TUNED])} for settings, row in zip(variants, found)
            ],
            "log": log_of(replace(profile, seed=seeds[0]), method, best),
        }
    in_order = {method: known[method] for method in VARIANTS if method in known}
    return {"seeds": seeds, "runs": runs, "methods": in_order, "best of n": best_of_n(profile, seeds)}


def best_of_n(profile, seeds: list[int]) -> dict:
    """n → gold and KL of choosing among n answers of the same runs' SFT, as claim 15 measures it."""
    claim, found = CLAIMS[15], {}
    for seed in seeds:
        own = replace(profile, seed=seed)
        for row in kept(open_store(own), claim) or keep(Claims(own, claim.stages), claim):
            if re.fullmatch(r"best of \d+", row["condition"]):
                number = row["condition"].removeprefix("best of ")
                found.setdefault(number, {}).setdefault(row["metric"], []).append(row)
    return {n: {m: rounded(over_seeds(rows)) for m, rows in of.items()} for n, of in found.items()}


def put(found: dict) -> None:
    """Write what was found into FILE: in the place of all that it holds if no method lacks, else beside it,
    as "later". What other runs measured there before stays, and so does FILE.
    """
    kept = json.loads(FILE.read_text("utf-8")) if FILE.is_file() else {}
    if set(found["methods"]) == set(VARIANTS):
        kept.pop("later", None)
        return write(kept | found)
    if kept.get("runs") == found["runs"]:
        return write(kept | found)
    if kept.get("later", found)["runs"] == found["runs"]:
        return write(kept | {"later": found})
    print(f"{FILE.name} stays as it is: it has the figures of other runs, and these are not of all methods.")


def log_of(profile, method: str, number: int) -> list[dict]:
    """What was logged while a policy learned, for the plots of a chapter; nothing of other methods."""
    rows = json.loads(kept_file(profile, method, number).with_suffix(".log").read_text("utf-8"))
    names = {"kl_k1": "KL", "reward": "reward", "gold": "gold"}
    return [
        {written: round(row[name], 3) for name, written in names.items()} for row in rows if "gold" in row
    ]


def rounded(row: dict) -> dict:
    return {key: round(value, 4) for key, value in row.items()}


# -- what a method costs ---------------------------------------------------------------------------------
def by_turns(bench: Bench, rounds: int) -> dict[str, float]:
    """Seconds of an update of each policy gradient as a multiple of PPO's, the median over `rounds`: all take
    turns, since a busy machine may take twice as long a minute later.
    """
    profile, store, prompts = bench.profile, bench.store, bench.ids(bench.store.prompts("ppo"))
    parts = profile, bench.tokenizer, store.folder("sft"), store.folder("reward")
    learners = {"ppo": PPO(*parts), "ppo_ptx": PPO(*parts, store.windows())}
    learners |= {name: learner(*parts) for name, learner in GRADIENTS.items()}
    seconds, rng = {name: [] for name in learners}, np.random.default_rng(0)
    for _ in range(rounds + 1):  # the first is for what a process does once
        chosen = rng.permutation(len(prompts))[: profile.episodes]
        for name, learner in learners.items():
            few = chosen[: profile.episodes // learner.group]
            asked = [prompts[i] for i in few for _ in range(learner.group)]
            started = time.perf_counter()
            learner.update(asked, profile.ppo_rate)
            seconds[name].append(time.perf_counter() - started)
    return {name: float(np.median(np.divide(own, seconds["ppo"])[1:])) for name, own in seconds.items()}


def cost(bench: Bench, method: str, rounds: int) -> dict[str, float]:
    """Seconds of a method's training as a multiple of PPO's, the median over `rounds` in which both take
    turns: from what lies between two shares of it, so that loading does not count. And the process's peak
    of memory, before PPO takes its turn.
    """

    def seconds(name: str) -> float:
        taken = []
        for share in SHARES:
            with TemporaryDirectory() as scratch:
                started = time.perf_counter()
                bench.trained(name, VARIANTS[name][0], Path(scratch), share)
                taken.append(time.perf_counter() - started)
        return taken[1] - taken[0]

    seconds(method)  # the first time is for what a process does once
    found = {"peak MB": round(peak_memory())}
    if rounds:
        seconds("ppo")
    ratios = [seconds(method) / seconds("ppo") for _ in range(rounds)]
    return found | ({"times PPO's": float(np.median(ratios))} if ratios else {})


def costs(profile) -> dict[str, dict[str, float]]:
    """method → seconds as a multiple of PPO's, and memory, each in a process of its own."""
    found = {}
    for method in PRICED:
        told = [__file__, "--profile", profile.name, "--seeds", str(profile.seed), "--cost", method]
        told += ["--rounds", "3" if method in ("rejection", "dpo") else "0"]
        said = subprocess.run([sys.executable, *told], stdout=subprocess.PIPE, text=True, check=True)
        found[method] = json.loads(said.stdout.splitlines()[-1])
        print(method, found[method], flush=True)
    # Not before: a process that is started inherits its parent's peak of memory.
    for method, ratio in by_turns(Bench(profile), 12).items():
        found[method]["times PPO's"] = ratio
    return {method: row | {"times PPO's": round(row["times PPO's"], 2)} for method, row in found.items()}


def choices(bench: Bench) -> dict:
    """Gold on validation prompts of all `CHOICES` and of the run's PPO, on one run; each is kept."""
    file = runs_folder() / "frontier" / f"choices-{bench.profile.name}-{bench.profile.seed}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    for method, variants in ({"ppo": [{}]} | CHOICES).items():
        for settings in variants:
            key = json.dumps([method, settings])
            if key not in known:
                with TemporaryDirectory() as scratch:
                    model = load_gpt2(bench.trained(method, settings, Path(scratch)))
                    value, low, high = bench.tuned(model)
                known[key] = {"value": value, "low": low, "high": high}
                file.write_text(json.dumps(known, indent=1), "utf-8")
            print(method, settings, {k: round(v, 3) for k, v in known[key].items()}, flush=True)
    rows = [[*json.loads(key), rounded(gold)] for key, gold in known.items()]
    return {
        method: [{"settings": settings, "gold": gold} for name, settings, gold in rows if name == method]
        for method in ("ppo", *CHOICES)
    }


def chosen(tried: dict) -> list[str]:
    """The best variant of each method becomes one of `VARIANTS`, unless it is the one that was there before.
    The names of all that are to be compared: PPO, these, and what they were before.
    """
    names = ["ppo"]
    for method in CHOICES:
        best = max(tried[method], key=lambda row: row["gold"]["value"])["settings"]
        plain = {"dpo_rate": 1.0, "sft_rate": 1.0, "group": 4, "kl_coefficient": 1.0}
        if {k: v for k, v in best.items() if plain.get(k) != v} != LENGTHS[method]:
            VARIANTS[f"{method}, chosen"] = [best]
            names += [f"{method}, as long", f"{method}, chosen"]
    return names


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="METHOD")
    parser.add_argument("--choices", action="store_true", help="try these on the first seed, and measure")
    parser.add_argument("--costs", action="store_true", help="only time and memory, on the first seed")
    parser.add_argument("--cost", choices=PRICED, metavar="METHOD", help="of one method, in this process")
    parser.add_argument("--rounds", type=int, default=3, help="in which it takes turns with PPO")
    arguments = parser.parse_args(words)
    profile = load_profile(arguments.profile, arguments.seeds[0])
    if arguments.cost:
        return print(json.dumps(cost(Bench(profile), arguments.cost, arguments.rounds)))
    if arguments.costs:
        found = costs(profile)
        print(json.dumps(found, indent=1))
        return write(json.loads(FILE.read_text("utf-8")) | {"costs": found})
    if arguments.choices:
        found = {"seed": profile.seed, "methods": choices(Bench(profile))}
        arguments.only = chosen(found["methods"])
    for seed in arguments.seeds:
        bench = Bench(load_profile(arguments.profile, seed))
        for method in arguments.only:
            for number in range(len(VARIANTS[method])):
                run(bench, method, number)
    if arguments.choices:
        found["measured"] = summary(profile, arguments.seeds, arguments.only)
        return write(json.loads(FILE.read_text("utf-8")) | {"choices": found})
    found = summary(profile, arguments.seeds, arguments.only)
    print(json.dumps({name: row["figures"] for name, row in found["methods"].items()}, indent=1))
    if arguments.profile == "laptop":
        put(found)


def write(found: dict) -> None:
    partial_file = FILE.with_suffix(".new")
    partial_file.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    os.replace(partial_file, FILE)


if __name__ == "__main__":
    main()
