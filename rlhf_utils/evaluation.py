"""Is it better, by how much, and at what cost: every figure on held-out prompts, with an interval.

Intervals are 95 % bootstrap intervals over prompts. Answers to the same prompt are never treated as
independent of each other.
"""

import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from rlhf_utils.artifacts import STAGES, Store, peak_memory, read_jsonl, write_jsonl
from rlhf_utils.models import answer_logprobs, autocast, load_gpt2, load_scorer, pack
from rlhf_utils.pretraining import bytes_per_token, cloze_accuracy, ngram_bits, token_losses
from rlhf_utils.profiles import Profile
from rlhf_utils.progress import Progress
from rlhf_utils.reward import accuracy_of, pair_accuracy, pair_marks, rewards, scored_ids
from rlhf_utils.sampling import sample_texts
from rlhf_utils.tokenizer import load_tokenizer, prompt_ids
from rlhf_utils.world.facts import load_world
from rlhf_utils.world.judge import Judge
from rlhf_utils.world.prompts import USE_CASES

MODELS = {"base": "pretrain", "sft": "sft", "ppo": "ppo", "ppo_ptx": "ppo_ptx"}
POLICIES = ("sft", "ppo", "ppo_ptx")
TEMPERATURES = (0.0, 0.4, 0.7, 1.0)
BEST_OF = 9
ASPECTS = ("total", "helpful", "honest", "harmless")


# -- statistics ------------------------------------------------------------------------------------------
def bootstrap(function, rows: int, blocks: np.ndarray | None = None, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of `function(index)`, drawing rows with replacement (within each block, if given)."""
    rng = np.random.default_rng(seed)
    if blocks is None:
        blocks = np.zeros(rows, dtype=int)
    groups = [np.flatnonzero(blocks == b) for b in np.unique(blocks)]
    values = [function(np.concatenate([rng.choice(g, len(g)) for g in groups])) for _ in range(draws)]
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def mean_difference(a: np.ndarray, b: np.ndarray, blocks: np.ndarray | None = None) -> dict[str, float]:
    """mean(a − b) with its interval; a, b: one value a prompt."""
    difference = a - b
    low, high = bootstrap(lambda i: difference[i].mean(), len(difference), blocks)
    return {"difference": float(difference.mean()), "low": low, "high": high}


def win_rate(a: np.ndarray, b: np.ndarray, blocks: np.ndarray | None = None) -> dict[str, float]:
    """How often `a` beats `b`; both (prompts, answers), compared answer by answer.

    `decided` leaves ties out, `ties_half` counts them as half a win each.
    """
    wins, losses = (a > b + 1e-9).sum(1).astype(float), (b > a + 1e-9).sum(1).astype(float)
    n = a.size

    def decided(i):
        return wins[i].sum() / max(wins[i].sum() + losses[i].sum(), 1)

    low, high = bootstrap(decided, len(a), blocks)
    ties = n - wins.sum() - losses.sum()
    return {
        "decided": float(decided(np.arange(len(a)))), "low": low, "high": high,
        "ties_half": float((wins.sum() + ties / 2) / n), "ties": float(ties / n), "n": int(n),
    }  # fmt: skip


# -- answers ---------------------------------------------------------------------------------------------
def plain_ids(tokenizer, messages: list[dict]) -> list[int]:
    """A prompt for a base model: the plain text of the conversation, one turn a line."""
    return [tokenizer.eos_token_id, *tokenizer("\n".join(m["content"] for m in messages))["input_ids"]]


def first_paragraph(text: str) -> str:
    """What a base model says until its first line break, which is where an answer would end."""
    return next((line.strip() for line in text.split("\n") if line.strip()), "")


def answer_prompts(
    profile: Profile, tokenizer, model, prompts: list[dict], temperature: float, count: int, seed: int, base: bool = False, progress=None
) -> list[list[str]]:  # fmt: skip
    """`count` answers to each prompt; a base model gets plain text and is cut at the first paragraph."""
    encode = plain_ids if base else lambda t, m: prompt_ids(t, m, profile.prompt_tokens)
    ids = [tokens for p in prompts for tokens in [encode(tokenizer, p["messages"])] * count]
    with autocast(profile):
        texts, _ = sample_texts(model, tokenizer, ids, profile.answer_tokens, temperature, seed, progress=progress)
    if base:
        texts = [first_paragraph(t) for t in texts]
    return [texts[i : i + count] for i in range(0, len(texts), count)]


def judge_answers(judge: Judge, prompts: list[dict], answers: list[list[str]]) -> dict[str, np.ndarray]:
    """Gold scores by aspect, each (prompts, answers)."""
    scores = [[judge.score(p, a) for a in row] for p, row in zip(prompts, answers)]
    return {aspect: np.array([[getattr(s, aspect) for s in row] for row in scores]) for aspect in ASPECTS}


def kl_to_sft(profile: Profile, tokenizer, model, sft, prompts: list[dict], answers: list[str]) -> float:
    """KL(model ‖ SFT) in nats an answer, estimated (k1) on the model's own answers at temperature 1."""
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    total = 0.0
    with torch.no_grad(), autocast(profile):
        for start in range(0, len(prompts), 128):
            part = slice(start, start + 128)
            left = [prompt_ids(tokenizer, p["messages"], profile.prompt_tokens) for p in prompts[part]]
            right = [[*(tokenizer(a)["input_ids"] if a else []), end][: profile.answer_tokens] for a in answers[part]]
            packed = pack([(prompt, [answer]) for prompt, answer in zip(left, right)], pad)
            total += float((answer_logprobs(model, packed, pad) - answer_logprobs(sft, packed, pad)).sum())
    return total / len(prompts)


def untouched(prompts: list[dict], store: Store) -> np.ndarray:
    """Which test prompts ask for an (entity, value) pair that nothing after pretraining contained."""
    texts = [r["completion"] for r in read_jsonl(store.folder("corpus") / "demonstrations.jsonl")]
    for name in ("demonstrations", "ranked", "ppo"):
        texts += [m["content"] for r in read_jsonl(store.folder("corpus") / f"{name}.jsonl") for m in r["messages"]]
    for row in read_jsonl(store.folder("rank") / "rankings.jsonl"):
        texts += row["answers"]
    world = load_world()
    lower = [t.lower() for t in texts]
    result = []
    for prompt in prompts:
        spec = prompt["spec"]
        if spec["type"] != "fact":
            result.append(False)
            continue
        entity = world.by_name[spec["table"], spec["entity"]]
        value = entity.values[spec["relation"]][0].lower()
        result.append(not any(entity.subject.lower() in t and value in t for t in lower))
    return np.array(result)


# -- the whole evaluation ------------------------------------------------------------------------------------
def evaluate(profile: Profile, store: Store, folder: Path) -> dict:
    """Every figure of `rlhf report`; also writes the judged answers to `answers.jsonl` in `folder`."""
    if profile.data:
        return evaluate_own_data(profile, store)
    tokenizer = load_tokenizer(store.folder("tokenizer"))
    world = load_world()
    judge = Judge(world)
    corpus = store.folder("corpus")
    validation, test = read_jsonl(corpus / "validation.jsonl"), read_jsonl(corpus / "test.jsonl")
    withheld = read_jsonl(corpus / "withheld.jsonl")
    models = {name: load_gpt2(store.folder(stage)) for name, stage in MODELS.items()}
    answers: dict[str, dict[str, list[list[str]]]] = {}
    best_temperature = {}
    work = len(test) * (1 + 1 + 3 * (profile.samples + 2) + BEST_OF) + len(validation) * 3 * len(TEMPERATURES) + 3 * len(withheld)
    part = work // 20  # what else there is to do, in 14 parts, takes about as long as so many answers
    with Progress("evaluate", work + 14 * part, store.root) as progress:
        each = partial(progress.through, count=part)

        def ask(name, prompts, temperature, count, seed):
            return answer_prompts(profile, tokenizer, models[name], prompts, temperature, count, seed, name == "base", progress)

        for name in MODELS:
            if name == "base":
                answers[name] = {"t1": ask(name, test, 1.0, 1, 11), "greedy": ask(name, test, 0.0, 1, 0)}
                continue
            means = [judge_answers(judge, validation, ask(name, validation, t, 1, 12))["total"].mean() for t in TEMPERATURES]
            best_temperature[name] = TEMPERATURES[int(np.argmax(means))]
            answers[name] = {
                "t1": ask(name, test, 1.0, profile.samples, 13),
                "greedy": ask(name, test, 0.0, 1, 0),
                "best": ask(name, test, best_temperature[name], 1, 14),
            }
        nine = ask("sft", test, 1.0, BEST_OF, 15)
        other = {name: ask(name, withheld, 0.0, 1, 16) for name in POLICIES}
        gold = {n: {k: judge_answers(judge, test, a) for k, a in kinds.items()} for n, kinds in each(answers.items())}
        nine_gold = judge_answers(judge, test, nine)["total"]
        write_jsonl(folder / "answers.jsonl", [
            {"id": p["id"], "use_case": p["use_case"], "kind": p["kind"], "messages": p["messages"],
             "best_of": round(float(nine_gold[i].max()), 3),
             "answers": {n: {k: a[i] for k, a in kinds.items()} for n, kinds in answers.items()},
             "gold": {n: {k: {x: np.round(g[x][i], 3).tolist() for x in ASPECTS} for k, g in kinds.items()} for n, kinds in gold.items()}}
            for i, p in enumerate(test)
        ])  # fmt: skip
        reward = load_scorer(store.folder("reward"))
        ranked = store.folder("rank")
        nine_rows = [
            {"messages": p["messages"], "answers": list(dict(zip(a, g))), "gold": list(dict(zip(a, g.tolist())).values()), "ranks": []}
            for p, a, g in zip(test, nine, nine_gold)
        ]
        right, total = pair_marks(reward, tokenizer, profile, nine_rows, "gold")
        cases = np.array([p["use_case"] for p in test])
        by_case = {u: accuracy_of(right[cases == u], total[cases == u])["accuracy"] for u in USE_CASES}
        first = {n: [row[0] for row in kinds["t1"]] for n, kinds in answers.items()}
        score = {n: answer_rewards(profile, tokenizer, reward, test, first[n]) for n in each(POLICIES)}
        result = {
            **without_a_judge(profile, store, tokenizer, models, test, first, score, each),
            "gold": {n: {k: {x: float(g[x].mean()) for x in ASPECTS} for k, g in kinds.items()} for n, kinds in gold.items()},
            "best_temperature": best_temperature,
            "best_of_9_sft": float(nine_gold.max(1).mean()),
            **comparisons(gold, cases),
            "untouched": _subset(gold, untouched(test, store)),
            "withheld": {
                n: {k: float(judge_answers(judge, withheld, a)["total"][[p["use_case"] == k for p in withheld]].mean())
                    for k in ("withheld_relation", "withheld_task")}
                for n, a in other.items()
            },
            "reward_accuracy": {
                "labelers": pair_accuracy(reward, tokenizer, profile, read_jsonl(ranked / "heldout_prompts.jsonl")),
                "heldout_labelers": pair_accuracy(reward, tokenizer, profile, read_jsonl(ranked / "heldout_labelers.jsonl")),
                "gold": accuracy_of(right, total), "gold_by_use_case": by_case,
            },
            "labelers": read_jsonl(ranked / "metrics.jsonl")[0],
            "length": {n: float(np.mean([len(tokenizer(a)["input_ids"]) if a else 0 for row in answers[n]["t1"] for a in row])) for n in MODELS},
            "cloze": cloze_accuracy(models["base"], tokenizer, world),
        }  # fmt: skip
    return result


def comparisons(gold: dict, cases: np.ndarray, blocks: np.ndarray | None = None) -> dict:
    """Win rates, differences and the gain by use case, from gold[model][kind][aspect] of (prompts, answers)."""

    def first(name, kind, aspect="total"):
        return gold[name][kind][aspect]

    def mean(name, kind, aspect="total"):
        return first(name, kind, aspect).mean(1)

    gains = {}
    for case in USE_CASES:
        where = cases == case
        if where.any():
            inside = None if blocks is None else blocks[where]
            gains[case] = {
                x: mean_difference(mean("ppo_ptx", "t1", x)[where], mean("sft", "t1", x)[where], inside) for x in ASPECTS
            }
    return {
        "win_rate": {
            "sft_vs_base": win_rate(first("sft", "t1")[:, :1], first("base", "t1"), blocks),
            "ppo_vs_sft": win_rate(first("ppo", "t1"), first("sft", "t1"), blocks),
            "ppo_ptx_vs_sft": win_rate(first("ppo_ptx", "t1"), first("sft", "t1"), blocks),
            "ppo_ptx_vs_sft_best": win_rate(first("ppo_ptx", "best"), first("sft", "best"), blocks),
            "ppo_ptx_vs_sft_greedy": win_rate(first("ppo_ptx", "greedy"), first("sft", "greedy"), blocks),
        },
        "difference": {
            f"{name}_{kind}_{x}": mean_difference(mean(name, kind, x), mean("sft", kind, x), blocks)
            for name in ("ppo", "ppo_ptx") for kind in ("t1", "greedy") for x in ASPECTS
        },
        "gain_by_use_case": gains,
    }  # fmt: skip


def pool(folders: list[Path]) -> dict:
    """The comparisons of several seeds' evaluations together: bootstrap by prompt with seeds as blocks."""
    runs = [read_jsonl(folder / "answers.jsonl") for folder in folders]
    rows = [row for run in runs for row in run]
    blocks = np.repeat(np.arange(len(runs)), [len(run) for run in runs])
    gold = {
        n: {k: {x: np.array([r["gold"][n][k][x] for r in rows]) for x in ASPECTS} for k in kinds}
        for n, kinds in rows[0]["gold"].items()
    }
    best = np.array([r["best_of"] for r in rows])
    return {
        "seeds": len(runs), "prompts": len(rows),
        "gold": {n: {k: {x: float(g[x].mean()) for x in ASPECTS} for k, g in kinds.items()} for n, kinds in gold.items()},
        "best_of_9_minus_t1": mean_difference(best, gold["sft"]["t1"]["total"].mean(1), blocks),
        **comparisons(gold, np.array([r["use_case"] for r in rows]), blocks),
        "each_seed": [
            {k: win_rate(gold["ppo_ptx"][k]["total"][blocks == b], gold["sft"][k]["total"][blocks == b]) for k in ("t1", "best", "greedy")}
            for b in range(len(runs))
        ],
    }  # fmt: skip


def evaluate_own_data(profile: Profile, store: Store) -> dict:
    """Own data has no gold judge: reward model, KL and perplexity, and the accuracy on held-out pairs."""
    tokenizer = load_tokenizer(store.folder("tokenizer"))
    reward = load_scorer(store.folder("reward"))
    models = {name: load_gpt2(store.folder(stage)) for name, stage in MODELS.items()}
    prompts = read_jsonl(store.folder("corpus") / "test.jsonl")
    part = len(prompts) // 2
    with Progress("evaluate", 3 * len(prompts) + 10 * part, store.root) as progress:
        each = partial(progress.through, count=part)
        answers = {
            n: [a[0] for a in answer_prompts(profile, tokenizer, models[n], prompts, 1.0, 1, 13, progress=progress)] for n in POLICIES
        }
        score = {n: answer_rewards(profile, tokenizer, reward, prompts, answers[n]) for n in each(POLICIES)}
        pairs = pair_accuracy(reward, tokenizer, profile, read_jsonl(store.folder("rank") / "heldout_prompts.jsonl"))
        return {
            "data": Path(profile.data).name,
            "judge": "none: own data has no gold judge; win rates are by the reward model that PPO was trained on",
            **without_a_judge(profile, store, tokenizer, models, prompts, answers, score, each),
            "win_rate_by_reward_model": {f"{n}_vs_sft": win_rate(score[n][:, None], score["sft"][:, None]) for n in ("ppo", "ppo_ptx")},
            "reward_accuracy": {"heldout_pairs": pairs},
            "examples": [{"prompt": p["messages"][-1]["content"][:300], **{n: a[i] for n, a in answers.items()}} for i, p in enumerate(prompts[:8])],
        }


def answer_rewards(profile: Profile, tokenizer, reward, prompts: list[dict], answers: list[str]) -> np.ndarray:
    """What the reward model thinks of an answer to each prompt, (prompts,)."""
    ids = [scored_ids(profile, tokenizer, p["messages"], a) for p, a in zip(prompts, answers)]
    return rewards(reward, ids, tokenizer.pad_token_id, profile)


def without_a_judge(
    profile: Profile, store: Store, tokenizer, models: dict, prompts: list[dict], answers: dict[str, list[str]], score: dict, each
) -> dict:  # fmt: skip
    """The figures that any data has. answers, score: by model, one a prompt; `each` goes through rows and shows progress."""
    windows = load_file(store.folder("tokens") / "tokens.safetensors")
    train, heldout = windows["train"], windows["heldout"]
    per_byte = bytes_per_token(tokenizer, heldout)
    manifests = [json.loads((found / "manifest.json").read_text("utf-8")) for s in STAGES if s != "evaluate" and (found := store.find(s))]
    seconds = {m["stage"]: m["seconds"] for m in manifests}
    loss = {n: float(token_losses(m, heldout, profile).mean()) for n, m in each(models.items())}
    return {
        "profile": profile.name, "seed": profile.seed, "seconds": seconds | {"total": round(sum(seconds.values()), 1)},
        "perplexity": {n: float(np.exp(x)) for n, x in loss.items()},
        "bits_per_byte": {"base": loss["base"] / np.log(2) / per_byte, "five_gram": ngram_bits(train, heldout, len(tokenizer)) / per_byte},
        "kl": {n: 0.0 if n == "sft" else kl_to_sft(profile, tokenizer, models[n], models["sft"], prompts, answers[n]) for n in each(POLICIES)},
        "reward": {n: float(s.mean()) for n, s in score.items()},
        "peak_rss_mb": max(peak_memory(), *(m["peak_rss_mb"] for m in manifests)),  # when all else is done
    }  # fmt: skip


def _subset(gold: dict, where: np.ndarray) -> dict:
    if not where.any():
        return {"prompts": 0}
    return {"prompts": int(where.sum())} | {
        n: {k: float(g["total"][where].mean()) for k, g in kinds.items()} for n, kinds in gold.items()
    } | {"ppo_ptx_vs_sft": win_rate(gold["ppo_ptx"]["t1"]["total"][where], gold["sft"]["t1"]["total"][where])}  # fmt: skip
