"""Claim 27: rankings of the policy's own answers teach DPO more than as many of SFT's."""

from pathlib import Path
from random import Random
from tempfile import mkdtemp

from rlhf_utils.evaluation.answers import judge_answers, kl_to_sft
from rlhf_utils.evaluation.statistics import mean_difference
from rlhf_utils.language.models import load_gpt2
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, figure, mean_of
from rlhf_utils.pipeline.claims.trained import rankings
from rlhf_utils.training.offline import preference_pairs, train_dpo
from rlhf_utils.world.prompts import USE_CASES, thing_of

GOLD, GREEDY, NATS = "gold, temperature 1", "gold, greedy", "KL to SFT, nats an answer"
PAIRS = "pairs that the second round had"
FIRST, OFFLINE, ONLINE = "the first round", "then SFT's answers", "then the policy's own answers"
ALL = "all of SFT's answers at once"


def dpo_model(bench: Bench, pairs: list[dict], start: Path | None = None) -> Path:
    """The folder of a policy trained by DPO from the run's SFT model, or from the policy in `start`."""
    folder, sft = Path(mkdtemp(dir=bench.scratch)), bench.store.folder("sft")
    (made := folder / "made").mkdir()
    train_dpo(bench.profile, bench.tokenizer, sft, pairs, made, folder / "resume", start=start)
    return made


def measure(bench: Bench) -> list[dict]:
    prompts = [p for case in USE_CASES for p in bench.prompts(case, 40, seed=68)]
    things, rows, gold = [thing_of(p) for p in prompts], [], {}
    # Every second prompt is ranked in the first round, the others in the second.
    asked = bench.store.prompts("ranked")
    early = {p["id"] for p in asked[::2]}
    of_sft = bench.store.rankings()
    each, chance = bench.profile.dpo_pairs, Random(f"online:{bench.profile.seed}")
    first = dpo_model(bench, preference_pairs([r for r in of_sft if r["id"] in early], each))
    nine = bench.profile.nine_answers // 2
    noise = bench.store.metrics("rank")[0]["noise"]  # the labelers are the same people
    own = rankings(bench, first, asked[1::2], noise, nine_answers=nine)["rankings"]
    later = {OFFLINE: [r for r in of_sft if r["id"] not in early], ONLINE: own}
    pairs = {name: preference_pairs(ranked, each) for name, ranked in later.items()}
    fewest = min(map(len, pairs.values()))  # a surer policy repeats itself, so there are fewer of its own
    folders = {ALL: bench.store.folder("dpo"), FIRST: first}
    for name, found in pairs.items():
        rows.append(figure(name, PAIRS, (len(found),) * 3))
        folders[name] = dpo_model(bench, chance.sample(found, fewest), first)
    for name, folder in folders.items():
        model = load_gpt2(folder)
        for metric, temperature, count in ((GOLD, 1.0, bench.count(2)), (GREEDY, 0.0, 1)):
            drawn = bench.ask("sft", prompts, temperature, count, seed=69, model=model)
            gold[name, metric] = judge_answers(bench.judge, prompts, drawn)["total"].mean(1)
            rows.append(figure(name, metric, mean_of(gold[name, metric], things)))
            if metric == GOLD:
                one = [row[0] for row in drawn]
                sft = bench.model("sft")
                nats = kl_to_sft(bench.profile, bench.tokenizer, model, sft, prompts, one)
                rows.append(figure(name, NATS, (nats, nats, nats)))
    for metric in (GOLD, GREEDY):
        gain = mean_difference(gold[ONLINE, metric], gold[OFFLINE, metric], things)
        rows.append(figure("the policy's own − SFT's", metric, gain))
    return rows


CLAIM = Claim(
    27,
    "Preferences between a policy's own answers teach DPO more than as many between SFT's.",
    "Guo et al. (2024), Direct Language Model Alignment from Online AI Feedback",
    tuple(Rule("the policy's own − SFT's", metric, 0.0) for metric in (GOLD, GREEDY)),
    ("evaluate", "dpo"),
    measure,
    "DPO first learns from half of the rankings of SFT's answers. Then it learns from more rankings, on "
    "the other prompts: either of SFT's answers, or of the answers of the policy that it has become, "
    "ranked by labelers with the same noise. Both second rounds have as many pairs as the smaller of the "
    "two. SFT is the reference throughout, at the course's β. There is one new round here, whereas Guo et "
    "al. draw new answers at each step.",
)
