"""Results: a short table for the terminal and one self-contained HTML page."""

import html
from pathlib import Path

from rlhf_utils import look, plots
from rlhf_utils.artifacts.files import read_jsonl
from rlhf_utils.artifacts.store import Store
from rlhf_utils.course import scoreboard
from rlhf_utils.pipeline.taste_evaluation import changed_table, interval, taste_table
from rlhf_utils.profiles import MODELS, POLICIES

NAMES = {name: model.written for name, model in MODELS.items()}
RATES = {
    "refuses_harmful": "refuse harmful requests",
    "answers_lookalikes": "answer what only sounds harmful",
    "admits_unknown": "admit not to know",
    "challenges_false_premise": "challenge a false premise",
    "programs_right": "programs that run right",
}


AGREES = {
    "labelers": "its labelers",
    "heldout_labelers": "held-out labelers",
    "gold": "the gold judge",
    "heldout_pairs": "held-out human pairs",
}


def by_model(figures: dict[str, float], form: str, names: dict[str, str] | None = None) -> str:
    """Figures of models in a row; "base" is just "base" unless `names` tells it from the prompted one."""
    names = names or {n: name.split(",")[0] for n, name in NAMES.items()}
    return "   ".join(f"{names[n]} {value:{form}}" for n, value in figures.items())


def summary_rows(metrics: dict) -> list[tuple[str, str]]:
    """(what, value) pairs of the few figures that matter most."""
    rows = gold_rows(metrics) if "gold" in metrics else own_data_rows(metrics)
    accuracy, bits = metrics["reward_accuracy"], metrics["bits_per_byte"]
    rows += [
        (f"reward model agrees with {words}", interval(accuracy[key], "accuracy"))
        for key, words in AGREES.items()
        if key in accuracy
    ]
    minutes, gigabytes = metrics["seconds"]["total"] / 60, metrics["peak_rss_mb"] / 1024
    return [
        *rows,
        ("perplexity on documents", by_model(metrics["perplexity"], ".2f")),
        ("KL to SFT, nats an answer", by_model(metrics["kl"], ".1f")),
        ("bits a byte", f"base model {bits['base']:.3f}   5-gram {bits['five_gram']:.3f}"),
        ("time and memory", f"{minutes:.1f} min for the stages, {gigabytes:.1f} GB"),
    ]


def gold_rows(metrics: dict) -> list[tuple[str, str]]:
    gold, wins, rates = metrics["gold"], metrics["win_rate"], metrics["rates"]
    one_length = wins["ppo_ptx_vs_base_prompted_equal_length"]["matched"]
    over_base = wins["ppo_ptx_vs_base_prompted_best"]
    return [
        *(
            (f"gold score, {words}", by_model({n: gold[n][kind]["total"] for n in NAMES}, ".2f", NAMES))
            for kind, words in (("t1", "temperature 1"), ("greedy", "greedy"))
        ),
        ("SFT beats the base model, bare", interval(wins["sft_vs_base"])),
        ("SFT beats it, best-prompted, each at its best", interval(wins["sft_vs_base_prompted_best"])),
        ("PPO-ptx beats it, best-prompted, each at its best", interval(over_base)),
        ("  the same, answers of one length", interval(one_length)),
        ("PPO beats SFT", interval(wins["ppo_vs_sft"])),
        ("PPO-ptx beats SFT, temperature 1", interval(wins["ppo_ptx_vs_sft"])),
        ("PPO-ptx beats SFT, each at its best", interval(wins["ppo_ptx_vs_sft_best"])),
        *(
            (words, by_model({n: rates[n][rate]["rate"] for n in NAMES if n != "base"}, ".0%", NAMES))
            for rate, words in RATES.items()
        ),
    ]


def own_data_rows(metrics: dict) -> list[tuple[str, str]]:
    wins = metrics["win_rate_by_reward_model"]
    return [
        ("no gold judge for own data", "rewards and win rates are the reward model's own"),
        ("mean reward", by_model(metrics["reward"], "+.2f", NAMES)),
        *((f"{NAMES[k.removesuffix('_vs_sft')]} beats SFT", interval(v)) for k, v in wins.items()),
    ]


def summary_table(metrics: dict) -> str:
    rows = summary_rows(metrics)
    width = max(len(left) for left, _ in rows)
    return "\n".join(["", *(f"  {left:<{width}}   {right}" for left, right in rows), ""])


COMPARED = {
    "sft_vs_base": "SFT over the base model, bare",
    "sft_vs_base_prompted": "SFT over the base model, prompted",
    "ppo_ptx_vs_base_prompted": "PPO-ptx over the base model, prompted",
    "ppo_vs_sft": "PPO over SFT",
    "ppo_ptx_vs_sft": "PPO-ptx over SFT",
}
HOW = {"": "temperature 1", "_best": "each at its best temperature", "_greedy": "greedy"}


def win_rows(metrics: dict) -> list[dict]:
    """Who wins how often, in words: rows for a table."""
    wins = metrics["win_rate"]
    found = {
        (words, how): wins[key + kind]
        for key, words in COMPARED.items()
        for kind, how in HOW.items()
        if key + kind in wins
    }
    equal = wins["ppo_ptx_vs_base_prompted_equal_length"]
    same = {"matched": "answers of one length", "regression": "length held equal by regression"}
    found |= {(COMPARED["ppo_ptx_vs_base_prompted"], same[k]): row for k, row in equal.items()}
    return [
        {"who": who, "how": how, "wins of those decided": interval(row), "ties": f"{row['ties']:.0%}"}
        if "ties" in row
        else {"who": who, "how": how, "wins of those decided": interval(row), "ties": "–"}
        for (who, how), row in found.items()
    ]


STYLE = """
:root { color-scheme: light dark; --ink: #1f2430; --quiet: #5a6275; --ground: #fff; --card: #f4f6fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ee; --quiet: #a4abba; --ground: #14161b; --card: #1e222a; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; } .note { color: var(--quiet); }
.lead { font-size: 1.15rem; }
.scroll { overflow-x: auto; } .rlhf-table { width: 100%; }
.dialogue { background: var(--card); border-radius: 10px; padding: .8rem 1rem; margin: 1rem 0;
  break-inside: avoid; }
.dialogue p { margin: .25rem 0; overflow-wrap: anywhere; white-space: pre-wrap; }
.asked { font-weight: 600; }
.dialogue b { display: inline-block; min-width: 9.5rem; font-weight: 600; }
figure { margin: 1.5rem 0; break-inside: avoid; } figcaption { color: var(--quiet); }
@media (max-width: 600px) { body { margin: 1rem auto; } .dialogue b { display: block; } }
@media print { body { max-width: none; } h2 { break-after: avoid; } .rlhf-table tr { break-inside: avoid; } }
"""
# What each figure shows, in a sentence or two.
GOLD = (
    "<b>Gold</b> is the score of a judge that knows everything about the small world that the models learned "
    "about: helpful × honest × harmless, each from 0 to 1. No model was trained on it."
)
CAPTIONS = {
    "gold_by_model": "Mean gold score of each model's answers; thin lines are 95 % intervals.",
    "prompt_forms": "The rival gets its best chance: the forms in which the base model was asked, from which "
    "the best one was chosen for each kind of prompt.",
    "over_base": "Where PPO-ptx beats the best-prompted base model. A dot right of the line is a gain.",
    "over_sft": "The same against SFT, at temperature 1.",
    "rates": "What each model does with requests that would do harm, with harmless ones that sound so, with "
    "things that do not exist, with false premises, insults and corrections.",
    "alignment_tax": "What alignment cost: the lower the perplexity, the more the model still knows of what "
    "it read. PPO-ptx goes on reading while it is aligned.",
    "loss_curve": "Pretraining: how surprised the model is by the next token.",
    "ppo_curves": "PPO while it trained. KL is the distance from SFT that was paid for the reward; a reward "
    "that rises while gold falls would mean that the reward model is being fooled.",
}


def write_report(store: Store) -> Path:
    """Write `report.html` into the run's folder: no file, font or script is loaded from elsewhere."""
    metrics = store.metrics("evaluate")
    taste = store.metrics("taste_evaluate") if store.path("taste_evaluate").is_dir() else None
    parts = [
        "<h1>Your own ChatGPT</h1>",
        f"<p class=lead>{_headline(metrics)}</p>",
        _dialogue(store, metrics),
        f"<p class=note>Profile {metrics['profile']}, seed {metrics['seed']}. All figures are measured on "
        "prompts that, greetings aside, no model was trained on; ranges are 95 % bootstrap intervals.</p>",
        "<h2>In figures</h2>",
        f"<p>{GOLD}</p>" if "gold" in metrics else "",
        _table([{"what": what, "measured": value} for what, value in summary_rows(metrics)]),
        *_figures(store, metrics),
        *(_compared(_rows(store)) + scoreboard.claims_part(store.profile) if "gold" in metrics else []),
        "<h2>Answers to the same prompts</h2><p class=note>At temperature 1, drawn once, chosen by position "
        "and not by quality. ✓ and ✗ are gold's opinion.</p>",
        _answers(store, metrics),
    ]
    if taste:
        parts += _taste(taste)
    view = '<meta name=viewport content="width=device-width, initial-scale=1">'
    style = f"<style>{look.STYLE}{STYLE}{scoreboard.STYLE}</style>"
    head = f"<meta charset=utf-8>{view}<title>Your own ChatGPT</title>{style}"
    body = f"<body><main>{''.join(parts)}</main></body>"
    page = f"<!doctype html><html lang=en><head>{head}</head>{body}</html>"
    store.root.mkdir(parents=True, exist_ok=True)
    path = store.root / "report.html"
    path.write_text(page, "utf-8")
    return path


def _headline(metrics: dict) -> str:
    """What was trained and what came of it, in two sentences."""
    if "gold" not in metrics:
        return "A base model of your own texts was fine-tuned on demonstrations and aligned with rankings."
    rival = metrics["win_rate"]["ppo_ptx_vs_base_prompted_best"]
    sft = metrics["win_rate"]["ppo_ptx_vs_sft_best"]
    return (
        "A small language model was trained from nothing, fine-tuned on demonstrations and aligned with "
        "rankings. Where its answers differ in quality from those of the same base model, asked as well as "
        f"possible, PPO-ptx wins {interval(rival)}; against SFT, {interval(sft)}."
    )


def _table(rows: list[dict]) -> str:
    page = look.Table(rows)._repr_html_()
    return f"<div class=scroll>{page[page.index('</style>') + 8 :]}</div>"


def _rows(store: Store) -> list[dict]:
    """All test prompts with all answers; none where the run left them out."""
    found = store.find("evaluate")
    file = found / "answers.jsonl" if found else None
    return read_jsonl(file) if file and file.exists() else []


def _examples(store: Store) -> list[dict]:
    """The first test prompt of each use case."""
    first: dict[str, dict] = {}
    for row in _rows(store):
        first.setdefault(row["use_case"], row)
    return list(first.values())


def _telling(store: Store) -> dict | None:
    """The first question whose likeliest answer PPO-ptx has right and the prompted base model has not."""
    return next(
        (
            row
            for row in _rows(store)
            if row["use_case"] == "open_qa"
            and row["gold"]["ppo_ptx"]["greedy"]["total"][0] >= look.GOOD
            and row["gold"]["base_prompted"]["greedy"]["total"][0] <= look.BAD
        ),
        None,
    )


def _shown(row: dict, name: str, kind: str = "t1") -> look.Answer:
    gold = row["gold"][name][kind]["total"][0] if "gold" in row else None
    return look.Answer(row["answers"][name][kind][0], gold)


def _asked(row: dict) -> str:
    return "\n".join(m["content"] for m in row["messages"])


def _dialogue(store: Store, metrics: dict) -> str:
    """One question and every model's answer, so that a reader sees at once what this is about."""
    row = _telling(store) if "gold" in metrics else None
    if row is None:
        return ""
    lines = [f"<p class=asked>{html.escape(_asked(row))}</p>"]
    lines += [f"<p><b>{written}</b> {_shown(row, n, 'greedy').html()}</p>" for n, written in NAMES.items()]
    lines.append(
        "<p class=note>The likeliest answers to the first question that PPO-ptx has right and the prompted "
        "base model has not. ✓ and ✗ are the gold judge's opinion.</p>"
    )
    return f"<div class=dialogue>{''.join(lines)}</div>"


def _compared(rows: list[dict]) -> list[str]:
    """All models in one table, and the answers that say most; nothing where the run left them out."""
    if not rows:
        return []
    return [
        "<h2>All models in one table</h2><p class=note>Bradley–Terry strengths in log-odds, by the gold "
        "judge's opinion of their answers to the test prompts at temperature 1: a difference of 1 wins 73 % "
        "of what is decided. Intervals are 95 %.</p>",
        _table(scoreboard.models_table(rows).to_dict("records")),
        "<h2>Best and worst</h2><p class=note>Likeliest answers of PPO-ptx, chosen by the gold judge: those "
        "that gained most over SFT's, and those that are worst; what is new beside SFT is marked.</p>",
        _table(scoreboard.gallery(rows)),
    ]


def _figures(store: Store, metrics: dict) -> list[str]:
    figures = {}
    if "gold" in metrics:
        figures |= {
            "gold_by_model": plots.gold_by_model(metrics),
            "prompt_forms": plots.prompt_forms(metrics),
            "over_base": plots.gain_by_use_case(metrics, "base_prompted"),
            "over_sft": plots.gain_by_use_case(metrics),
            "rates": plots.rates(metrics),
            "alignment_tax": plots.alignment_tax(metrics),
        }
    trained = {s: store.metrics(s) for s in ("pretrain", "ppo", "ppo_ptx") if store.find(s)}
    if "pretrain" in trained:
        figures["loss_curve"] = plots.loss_curve(trained.pop("pretrain"), "Pretraining")
    if trained:
        figures["ppo_curves"] = plots.ppo_curves(trained)
    bar = {"displaylogo": False, "responsive": True}
    made = []
    for i, (name, figure) in enumerate(figures.items()):
        drawn = figure.to_html(full_html=False, include_plotlyjs=i == 0, config=bar)
        made.append(f"<figure>{drawn}<figcaption>{CAPTIONS[name]}</figcaption></figure>")
    return made


def _answers(store: Store, metrics: dict) -> str:
    """One prompt a use case with every model's answer, one under the other."""
    if "gold" not in metrics:
        return _table(
            [{"prompt": e["prompt"], **{NAMES[n]: e[n] for n in POLICIES}} for e in metrics["examples"]]
        )
    rows = _examples(store)
    if not rows:
        return (
            "<p>The models that come with the course come without their answers. <code>rlhf run</code> "
            "trains your own and shows their answers here.</p>"
        )
    made = []
    for row in rows:
        lines = [f"<p class=asked>{html.escape(_asked(row))}</p>"]
        lines += [f"<p><b>{written}</b> {_shown(row, n).html()}</p>" for n, written in NAMES.items()]
        made.append(f"<div class=dialogue>{''.join(lines)}</div>")
    return "".join(made)


def _taste(taste: dict) -> list[str]:
    table, count = taste_table(taste), taste["rankings"]
    table.index.name = "what"
    return [
        f"<h2>Your taste</h2><p class=note>{count['rankings']} rankings of your own, weight "
        f"{taste['own_weight']:g}; {count['heldout']} were held out. {taste['changed_share']:.0%} of the "
        "greedy answers differ.</p>",
        _table(table.reset_index().to_dict("records")),
        "<p class=note>The answers that your reward model finds most improved; what is new is marked:</p>",
        _table(changed_table(taste)),
    ]
