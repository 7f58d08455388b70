"""Results: a short table for the terminal and one self-contained HTML page."""

import html
import json
from pathlib import Path

from rlhf_utils.artifacts.files import read_jsonl
from rlhf_utils.artifacts.store import Store
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
    return f"{row[key]:.0%} ({row['low']:.0%} to {row['high']:.0%})"


def summary_rows(metrics: dict) -> list[tuple[str, str]]:
    """(what, value) pairs of the few figures that matter most."""
    rows = []
    if "gold" in metrics:
        for kind, words in (("t1", "temperature 1"), ("greedy", "greedy")):
            rows.append(
                (
                    f"gold score, {words}",
                    "   ".join(f"{NAMES[n]} {metrics['gold'][n][kind]['total']:.2f}" for n in NAMES),
                )
            )
        wins = metrics["win_rate"]
        rows += [
            ("SFT beats the base model, bare", interval(wins["sft_vs_base"])),
            ("SFT beats it, best-prompted, each at its best", interval(wins["sft_vs_base_prompted_best"])),
            (
                "PPO-ptx beats it, best-prompted, each at its best",
                interval(wins["ppo_ptx_vs_base_prompted_best"]),
            ),
            (
                "  the same, answers of one length",
                interval(wins["ppo_ptx_vs_base_prompted_equal_length"]["matched"]),
            ),
            ("PPO beats SFT", interval(wins["ppo_vs_sft"])),
            ("PPO-ptx beats SFT, temperature 1", interval(wins["ppo_ptx_vs_sft"])),
            ("PPO-ptx beats SFT, each at its best", interval(wins["ppo_ptx_vs_sft_best"])),
        ]
        rates = metrics["rates"]
        rows += [
            (words, "   ".join(f"{NAMES[n]} {rates[n][rate]['rate']:.0%}" for n in NAMES if n != "base"))
            for rate, words in RATES.items()
        ]
    else:
        rows.append(("no gold judge for own data", "rewards and win rates are the reward model's own"))
        rows.append(("mean reward", "   ".join(f"{NAMES[n]} {v:+.2f}" for n, v in metrics["reward"].items())))
        rows += [
            (f"{NAMES[k[:-7]]} beats SFT", interval(v))
            for k, v in metrics["win_rate_by_reward_model"].items()
        ]
    for key, words in (
        ("labelers", "its labelers"),
        ("heldout_labelers", "held-out labelers"),
        ("gold", "the gold judge"),
        ("heldout_pairs", "held-out human pairs"),
    ):
        if key in metrics["reward_accuracy"]:
            rows.append(
                (f"reward model agrees with {words}", interval(metrics["reward_accuracy"][key], "accuracy"))
            )
    rows.append(
        (
            "perplexity on documents",
            "   ".join(f"{NAMES[n].split(',')[0]} {v:.2f}" for n, v in metrics["perplexity"].items()),
        )
    )
    rows.append(
        ("KL to SFT, nats an answer", "   ".join(f"{NAMES[n]} {v:.1f}" for n, v in metrics["kl"].items()))
    )
    bits = metrics["bits_per_byte"]
    rows.append(("bits a byte", f"base model {bits['base']:.3f}   5-gram {bits['five_gram']:.3f}"))
    rows.append(
        (
            "time and memory",
            f"{metrics['seconds']['total'] / 60:.1f} min for the stages, "
            f"{metrics['peak_rss_mb'] / 1024:.1f} GB",
        )
    )
    return rows


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
    from rlhf_utils import plots

    folder = store.folder("evaluate")
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    parts = [
        f"<h1>Your own ChatGPT</h1><p class=note>Profile {metrics['profile']}, seed {metrics['seed']}. "
        "All figures are measured on prompts that, greetings apart, no model was trained on; ranges are 95 "
        "% bootstrap intervals.</p>",
        _table(["", "measured"], [list(row) for row in summary_rows(metrics)]),
    ]
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
    trained = {
        s: read_jsonl(store.find(s) / "metrics.jsonl")
        for s in ("pretrain", "ppo", "ppo_ptx")
        if store.find(s)
    }
    if "pretrain" in trained:
        figures.append(plots.loss_curve(trained.pop("pretrain")))
    if trained:
        figures.append(plots.ppo_curves(trained))
    for i, figure in enumerate(figures):
        parts.append(figure.to_html(full_html=False, include_plotlyjs=i == 0, config={"displaylogo": False}))
    parts.append(
        "<h2>Answers to the same prompts</h2><p class=note>At temperature 1, drawn once, chosen by "
        "position and not by quality.</p>"
    )
    if "gold" in metrics and not (folder / "answers.jsonl").exists():
        parts.append(
            "<p>The models that come with the course come without their answers. <code>rlhf run</code> "
            "trains yours and shows them here.</p>"
        )
    elif "gold" in metrics:
        rows = read_jsonl(folder / "answers.jsonl")
        shown = [
            next(r for r in rows if r["use_case"] == u) for u in dict.fromkeys(r["use_case"] for r in rows)
        ]
        parts.append(
            _table(
                ["prompt", *NAMES.values()],
                [
                    [
                        "\n".join(m["content"] for m in r["messages"]),
                        *(r["answers"][n]["t1"][0] for n in NAMES),
                    ]
                    for r in shown
                ],
            )
        )
    else:
        parts.append(
            _table(
                ["prompt", "SFT", "PPO", "PPO-ptx"],
                [[e["prompt"], e["sft"], e["ppo"], e["ppo_ptx"]] for e in metrics["examples"]],
            )
        )
    if store.path("taste_evaluate").is_dir():
        from rlhf_utils.pipeline.taste import taste_table

        taste = store.metrics("taste_evaluate")
        table = taste_table(taste)
        parts.append(
            f"<h2>Your taste</h2><p class=note>{taste['rankings']['rankings']} rankings of your own, weight "
            f"{taste['own_weight']:g}; "
            f"{taste['rankings']['heldout']} were held out. {taste['changed_share']:.0%} of the greedy "
            "answers differ.</p>"
        )
        parts.append(
            _table(["", *table.columns], [[i, *row] for i, row in zip(table.index, table.values.tolist())])
        )
        parts.append("<p class=note>The answers that your reward model finds most improved:</p>")
        parts.append(
            _table(
                ["prompt", "default model", "your model"],
                [[r["prompt"], r["default"], r["taste"]] for r in taste["changed"]],
            )
        )
    head = f"<meta charset=utf-8><title>Your own ChatGPT</title><style>{STYLE}</style>"
    page = f"<!doctype html><html lang=en>{head}<body>{''.join(parts)}</body></html>"
    store.root.mkdir(parents=True, exist_ok=True)
    path = store.root / "report.html"
    path.write_text(page, "utf-8")
    return path
