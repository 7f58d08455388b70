"""Results: a short table for the terminal and one self-contained HTML page."""

import html
from pathlib import Path

from rlhf_utils import plots
from rlhf_utils.artifacts.files import read_jsonl
from rlhf_utils.artifacts.store import Store
from rlhf_utils.pipeline.taste import taste_table
from rlhf_utils.profiles import MODELS

NAMES = {name: model.written for name, model in MODELS.items()}
RATES = {
    "refuses_harmful": "refuse harmful requests",
    "answers_lookalikes": "answer what only sounds harmful",
    "admits_unknown": "admit not to know",
    "challenges_false_premise": "challenge a false premise",
    "programs_right": "programs that run right",
}


def interval(row: dict, key: str = "decided") -> str:
    if row[key] != row[key]:  # no answer was better than the other
        return "nothing was decided"
    return f"{row[key]:.0%} ({row['low']:.0%} to {row['high']:.0%})"


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


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2430; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; width: 100%; }
td, th { border-bottom: 1px solid #d8dce5; padding: .4rem .6rem; text-align: left; vertical-align: top; }
th { font-weight: 600; } h1, h2 { line-height: 1.2; } .note { color: #5a6275; }
.good { color: #13703a; } .bad { color: #a3262a; } pre { white-space: pre-wrap; margin: 0; font: inherit; }
"""


def _table(head: list[str], rows: list[list[str]]) -> str:
    cells = "".join(f"<th>{html.escape(h)}</th>" for h in head)
    body = "".join(
        "<tr>" + "".join(f"<td><pre>{html.escape(str(c))}</pre></td>" for c in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def write_report(store: Store) -> Path:
    """Write `report.html` into the run's folder: no file, font or script is loaded from elsewhere."""
    metrics = store.metrics("evaluate")
    parts = [
        f"<h1>Your own ChatGPT</h1><p class=note>Profile {metrics['profile']}, seed {metrics['seed']}. "
        "All figures are measured on prompts that, greetings apart, no model was trained on; ranges are "
        "95 % bootstrap intervals.</p>",
        _table(["", "measured"], [list(row) for row in summary_rows(metrics)]),
        *_figures(store, metrics),
        "<h2>Answers to the same prompts</h2><p class=note>At temperature 1, drawn once, chosen by position "
        "and not by quality.</p>",
        _answers(store, metrics),
    ]
    if store.path("taste_evaluate").is_dir():
        parts += _taste(store.metrics("taste_evaluate"))
    head = f"<meta charset=utf-8><title>Your own ChatGPT</title><style>{STYLE}</style>"
    page = f"<!doctype html><html lang=en>{head}<body>{''.join(parts)}</body></html>"
    store.root.mkdir(parents=True, exist_ok=True)
    path = store.root / "report.html"
    path.write_text(page, "utf-8")
    return path


def _figures(store: Store, metrics: dict) -> list[str]:
    figures = []
    if "gold" in metrics:
        figures += [
            plots.gold_by_model(metrics),
            plots.prompt_forms(metrics),
            plots.gain_by_use_case(metrics, "base_prompted"),
            plots.gain_by_use_case(metrics),
            plots.rates(metrics),
            plots.alignment_tax(metrics),
        ]
    trained = {s: store.metrics(s) for s in ("pretrain", "ppo", "ppo_ptx") if store.find(s)}
    if "pretrain" in trained:
        figures.append(plots.loss_curve(trained.pop("pretrain")))
    if trained:
        figures.append(plots.ppo_curves(trained))
    bar = {"displaylogo": False}
    return [f.to_html(full_html=False, include_plotlyjs=i == 0, config=bar) for i, f in enumerate(figures)]


def _answers(store: Store, metrics: dict) -> str:
    """One prompt a use case with every model's answer."""
    if "gold" not in metrics:
        rows = [[e["prompt"], e["sft"], e["ppo"], e["ppo_ptx"]] for e in metrics["examples"]]
        return _table(["prompt", "SFT", "PPO", "PPO-ptx"], rows)
    file = store.folder("evaluate") / "answers.jsonl"
    if not file.exists():
        return (
            "<p>The models that come with the course come without their answers. <code>rlhf run</code> "
            "trains yours and shows them here.</p>"
        )
    first = {}
    for row in read_jsonl(file):
        first.setdefault(row["use_case"], row)
    rows = []
    for row in first.values():
        prompt = "\n".join(m["content"] for m in row["messages"])
        rows.append([prompt, *(row["answers"][n]["t1"][0] for n in NAMES)])
    return _table(["prompt", *NAMES.values()], rows)


def _taste(taste: dict) -> list[str]:
    table, count = taste_table(taste), taste["rankings"]
    return [
        f"<h2>Your taste</h2><p class=note>{count['rankings']} rankings of your own, weight "
        f"{taste['own_weight']:g}; {count['heldout']} were held out. {taste['changed_share']:.0%} of the "
        "greedy answers differ.</p>",
        _table(["", *table.columns], [[i, *row] for i, row in zip(table.index, table.values.tolist())]),
        "<p class=note>The answers that your reward model finds most improved:</p>",
        _table(
            ["prompt", "default model", "your model"],
            [[r["prompt"], r["default"], r["taste"]] for r in taste["changed"]],
        ),
    ]
