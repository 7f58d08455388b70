"""The figures of chapters and report, all in plotly and all with the same look (`rlhf_utils.look`)."""

from collections.abc import Iterable
from math import exp

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rlhf_utils.look import COLOURS, GRID, INK, NAMES, smooth

# What PPO logs, in the order of its panels: what it is for, then whether it is well.
PANELS = {
    "reward": "reward",
    "gold": "gold (only watched)",
    "kl_k1": "KL to SFT, nats",
    "length": "length, tokens",
    "clip_fraction": "clip fraction",
    "explained_variance": "explained variance",
    "entropy": "entropy, nats",
    "gradient_norm": "gradient norm",
}
LEARNS, HEALTH = tuple(PANELS)[:4], tuple(PANELS)[4:]


def _figure(title: str, x: str, y: str, **more) -> go.Figure:
    return go.Figure(layout=dict(title=title, xaxis_title=x, yaxis_title=y) | more)


def loss_curve(rows: list[dict], title: str = "Training loss", loss: str = "nats a token") -> go.Figure:
    """A loss over optimizer steps: a running mean, and what was logged, faint. The traces' `meta` lets
    `artifacts.live` move them.
    """
    figure = _figure(title, "step", f"loss ({loss})")
    steps, raw = [r["step"] for r in rows], [r["loss"] for r in rows]
    colour = COLOURS["sft"]
    figure.add_scatter(
        x=steps,
        y=raw,
        name="logged",
        line=dict(color=colour, width=1),
        opacity=0.35,
        meta=("step", "loss", False),
    )
    return figure.add_scatter(
        x=steps, y=smooth(raw), name="running mean", line_color=colour, meta=("step", "loss", True)
    )


def ppo_curves(
    runs: dict[str, list[dict]], title: str = "PPO while it trains", panels: Iterable[str] = PANELS
) -> go.Figure:
    """What PPO logs over its updates, by stage: `panels` of `PANELS`, four in a row."""
    keys = [k for k in panels if all(k in rows[0] for rows in runs.values())]
    lines = -(-len(keys) // 4)
    figure = make_subplots(
        rows=lines,
        cols=4,
        subplot_titles=[PANELS[k] for k in keys],
        vertical_spacing=0.2,
        horizontal_spacing=0.06,
    )
    for i, key in enumerate(keys):
        for stage, rows in runs.items():
            figure.add_scatter(
                x=[r["update"] for r in rows],
                y=[r[key] for r in rows],
                mode="lines",
                line=dict(
                    color=COLOURS.get(stage.split("_ppo")[0], COLOURS["sft"]),
                    dash="dot" if stage == "ppo" and len(runs) > 1 else "solid",
                ),
                name=NAMES.get(stage, stage),
                legendgroup=stage,
                showlegend=i == 0 and len(runs) > 1,
                meta=("update", key, False),
                row=i // 4 + 1,
                col=i % 4 + 1,
            )
    figure.update_annotations(font_size=12)
    figure.update_xaxes(title_text="update", title_standoff=2, row=lines)
    return figure.update_layout(height=90 + 200 * lines, title=title, margin_t=90, legend_y=1.12)


def ppo_cost(rows: list[dict]) -> go.Figure:
    """Time of an episode by answer length and model size;
    `rows` as `tests/benchmarks/speed.py` keeps them.
    """
    figure = _figure("What PPO costs", "tokens of an answer", "milliseconds an episode")
    sizes = sorted({r["parameters"] for r in rows if "parameters" in r})
    for size, colour in zip(sizes, COLOURS.values()):
        found = sorted((r["tokens"], 1000 * r["seconds"]) for r in rows if r.get("parameters") == size)
        figure.add_scatter(
            x=[t for t, _ in found],
            y=[ms for _, ms in found],
            name=f"{size / 1e6:.0f} M parameters",
            mode="lines+markers",
            line_color=colour,
        )
    return figure.update_xaxes(type="log", tickvals=[16, 32, 64]).update_yaxes(
        type="log", tickvals=[5, 10, 20, 50, 100, 200]
    )


def gold_by_model(metrics: dict, beside: dict | None = None) -> go.Figure:
    """Gold scores of all models at temperature 1 and greedy, with intervals where they were measured; as
    lines, those of another run `beside` them.
    """
    figure = _figure("Gold score on held-out prompts", "", "gold score", barmode="group", yaxis_range=[0, 1])
    intervals = metrics.get("gold_interval", {})
    for kind, words, opacity in (("t1", "temperature 1", 0.55), ("greedy", "greedy", 1.0)):
        values = [metrics["gold"][n][kind]["total"] for n in NAMES]
        ranges = [intervals[n][kind] for n in NAMES] if intervals else []
        figure.add_bar(
            x=list(NAMES.values()),
            y=values,
            name=words,
            marker_color=[COLOURS[n] for n in NAMES],
            opacity=opacity,
            text=[f"{v:.2f}" for v in values],
            textposition="outside",
            error_y=_errors(values, ranges),
        )
        if beside:
            figure.add_scatter(
                x=list(NAMES.values()),
                y=[beside["gold"][n][kind]["total"] for n in NAMES],
                name=f"the course's own, {words}",
                mode="markers",
                marker=dict(symbol="line-ew", size=26, line=dict(width=2, color=INK)),
                offsetgroup=kind,
                opacity=opacity,
            )
    return figure


def _errors(values: list[float], ranges: list[dict]) -> dict | None:
    """Error bars from `low` and `high` around values; none if there are no ranges."""
    if not ranges:
        return None
    return dict(
        array=[r["high"] - v for v, r in zip(values, ranges)],
        arrayminus=[v - r["low"] for v, r in zip(values, ranges)],
        color=INK,
    )


def gain_by_use_case(metrics: dict, rival: str = "sft") -> go.Figure:
    """Gold score of PPO-ptx minus that of a rival (`sft`, at temperature 1, or `base_prompted`, each at its
    best), with intervals, by use case.
    """
    gains = {u: r["total"] for u, r in metrics["gain_by_use_case"][rival].items()}
    order = sorted(gains, key=lambda u: gains[u]["difference"])
    how = "temperature 1" if rival == "sft" else "each at its best temperature"
    figure = _figure(
        f"What PPO-ptx gains over {NAMES[rival]}, by use case", f"gold score gained ({how})", "", height=420
    )
    figure.add_scatter(
        x=[gains[u]["difference"] for u in order],
        y=[u.replace("_", " ") for u in order],
        mode="markers",
        marker=dict(size=10, color=COLOURS["ppo_ptx"]),
        error_x=dict(
            array=[gains[u]["high"] - gains[u]["difference"] for u in order],
            arrayminus=[gains[u]["difference"] - gains[u]["low"] for u in order],
        ),
    )
    return figure.add_vline(x=0, line_color=GRID).update_layout(margin_l=130)


def prompt_forms(metrics: dict) -> go.Figure:
    """Gold score of the base model on validation prompts, by the form in which it is asked; the best
    temperature of each.
    """
    tried = metrics["prompt_form"]["tried"]
    best = {form: max(row, key=row.get) for form, row in tried.items()}
    order = sorted(tried, key=lambda form: tried[form][best[form]])
    figure = _figure(
        "How the base model is asked",
        "gold score on validation prompts, at the temperature that suits the form",
        "",
        height=430,
        margin_l=130,
    )
    return figure.add_bar(
        x=[tried[f][best[f]] for f in order],
        y=order,
        orientation="h",
        marker_color=COLOURS["base_prompted"],
        text=[f"{tried[f][best[f]]:.2f}, T = {best[f]}" for f in order],
        textposition="outside",
    ).update_xaxes(range=[0, 1])


def rates(metrics: dict) -> go.Figure:
    """How often each model refuses, admits, corrects and so on, at temperature 1, with intervals."""
    figure = _figure(
        "What each model does when it is put to the test",
        "share of answers at temperature 1",
        "",
        height=560,
        margin_l=190,
    )
    names = [n for n in NAMES if n != "base"]
    for place, name in enumerate(names):
        rows = metrics["rates"][name]
        figure.add_scatter(
            x=[r["rate"] for r in rows.values()],
            y=[i + 0.16 * (1.5 - place) for i in range(len(rows))],
            mode="markers",
            name=NAMES[name],
            marker=dict(
                size=9, color=COLOURS[name], symbol=("circle", "square", "diamond", "triangle-up")[place]
            ),
            error_x=dict(
                array=[r["high"] - r["rate"] for r in rows.values()],
                arrayminus=[r["rate"] - r["low"] for r in rows.values()],
            ),
        )
    labels = [rate.replace("_", " ") for rate in metrics["rates"][names[0]]]
    figure.update_yaxes(tickvals=list(range(len(labels))), ticktext=labels, autorange="reversed")
    return figure.update_xaxes(range=[-0.02, 1.02], tickformat=".0%")


def alignment_tax(metrics: dict) -> go.Figure:
    """Perplexity on held-out documents: what alignment costs, and what PPO-ptx gives back."""
    values = metrics["perplexity"]
    figure = _figure(
        "The alignment tax: perplexity on held-out documents", "", "perplexity (lower is better)"
    )
    return figure.add_bar(
        x=["base" if n == "base" else NAMES[n] for n in values],
        y=list(values.values()),
        marker_color=[COLOURS[n] for n in values],
        text=[f"{v:.2f}" for v in values.values()],
        textposition="outside",
    )


def calibration(margins: list[float], right: list[bool], bins: int = 8) -> go.Figure:
    """How often the reward model is right, by how far apart it puts two answers, and how often it would be
    if its scores were what the loss takes them for: log-odds of being preferred (InstructGPT, eq. 1).
    """
    order = sorted(range(len(margins)), key=lambda i: margins[i])
    size = max(len(order) // bins, 1)
    points = [order[i : i + size] for i in range(0, len(order), size)]
    points = [p for p in points if len(p) >= size // 2]
    x = [sum(margins[i] for i in p) / len(p) for p in points]
    y = [sum(right[i] for i in p) / len(p) for p in points]
    figure = _figure("Is the reward model as sure as it should be?", "difference of two scores", "right")
    ideal = [max(x, default=0) * i / 50 for i in range(51)]
    figure.add_scatter(
        x=ideal,
        y=[1 / (1 + exp(-v)) for v in ideal],
        name="as sure as it should be",
        line=dict(color=INK, dash="dot"),
    )
    figure.add_scatter(x=x, y=y, name="measured", mode="lines+markers", line_color=COLOURS["sft"])
    return figure.update_yaxes(range=[0.4, 1.02], tickformat=".0%")


def accuracies(rows: dict[str, dict]) -> go.Figure:
    """Accuracies (`statistics.accuracy_of`) with their intervals, one line each, the first on top."""
    shown = {k: r for k, r in reversed(rows.items()) if r["pairs"]}
    figure = _figure(
        "Pairs that the reward model orders as gold does", "", "", height=120 + 22 * len(shown), margin_l=190
    )
    figure.add_scatter(
        x=[r["accuracy"] for r in shown.values()],
        y=[f"{k} ({r['pairs']:,} pairs)" for k, r in shown.items()],
        mode="markers",
        marker=dict(size=9, color=COLOURS["sft"]),
        error_x=dict(
            array=[r["high"] - r["accuracy"] for r in shown.values()],
            arrayminus=[r["accuracy"] - r["low"] for r in shown.values()],
        ),
    )
    return figure.add_vline(x=0.5, line_color=GRID, line_dash="dot").update_xaxes(tickformat=".0%")


def own_samples(rows: list[dict]) -> go.Figure:
    """Reward, gold and the reward model's accuracy on a policy's own answers, as
    `tests/benchmarks/reward_model.py` keeps them.
    """
    figure = make_subplots(
        rows=1, cols=2, subplot_titles=["what the policy gets", "reward model against gold there"]
    )
    # By update and not by KL, which also goes back.
    far = [f"{r['kl']:.1f} nats from SFT" for r in rows]
    dots = dict(x=[r["update"] for r in rows], text=far, mode="lines+markers", row=1)
    for key, name, colour in (
        ("reward", "reward (deviations)", COLOURS["sft"]),
        ("gold", "gold score", COLOURS["ppo_ptx"]),
    ):
        figure.add_scatter(y=[r[key] for r in rows], name=name, line_color=colour, col=1, **dots)
    above, below = ([abs(r[end] - r["accuracy"]) for r in rows] for end in ("high", "low"))
    figure.add_scatter(
        y=[r["accuracy"] for r in rows],
        error_y=dict(array=above, arrayminus=below),
        line_color=COLOURS["ppo"],
        showlegend=False,
        col=2,
        **dots,
    )
    figure.update_xaxes(title="update").update_yaxes(tickformat=".0%", row=1, col=2)
    return figure.update_layout(margin_t=90, legend_y=1.1)


def taste_gain(rows: list[dict]) -> go.Figure:
    """What scripted tastes get of how many rankings, and what it costs, with 95 % intervals; `rows` as in
    data/reference/tastes.json.
    """
    titles = ["what was wished for, times as much", "gold, against the default model"]
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles)
    wishes = {"short": "shorter", "polite": "polite", "detailed": "longer"}
    colours = dict(zip(sorted({r["rankings"] for r in rows}), (COLOURS["sft"], COLOURS["ppo_ptx"])))
    for count, colour in colours.items():
        of = {r["taste"]: r for r in rows if r["rankings"] == count}
        found = [of[taste] for taste in wishes if taste in of]
        wished = [dict(r["polite_ratio" if r["taste"] == "polite" else "words_ratio"]) for r in found]
        for r, w in zip(found, wished):
            if r["taste"] == "short":  # times shorter, in place of times as long
                w |= {"ratio": 1 / w["ratio"], "low": 1 / w["high"], "high": 1 / w["low"]}
        lost = [r["gold_difference"]["total"] for r in found]
        # 1 is the default model; on a logarithmic axis a bar has to be told where it begins.
        for column, ranges, key, base in ((1, wished, "ratio", 1), (2, lost, "difference", 0)):
            values = [r[key] for r in ranges]
            figure.add_bar(
                x=[wishes[r["taste"]] for r in found],
                y=[v - base for v in values],
                base=base,
                error_y=_errors(values, ranges),
                name=f"{count} rankings",
                legendgroup=count,
                showlegend=column == 1,
                marker_color=colour,
                row=1,
                col=column,
            )
    figure.update_yaxes(type="log", tickvals=[1, 2, 3, 5, 10, 20, 40], row=1, col=1)
    return figure.update_layout(height=420, title="What a few rankings change", margin_t=110, legend_y=1.12)
