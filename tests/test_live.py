"""The live picture moves often, costs next to nothing, and one plain figure is left of it."""

import sys

import plotly.graph_objects as go
import pytest

from rlhf_utils import plots
from rlhf_utils.artifacts import live
from rlhf_utils.artifacts.live import LivePicture, fill
from rlhf_utils.course.notebook import load_nbformat
from rlhf_utils.look import Table


class Handle:
    """A display that keeps what was shown in it."""

    def __init__(self, first):
        self.shown = [first]

    def update(self, bundle, raw=False):
        self.shown.append(bundle)


@pytest.fixture
def stage(monkeypatch):
    """A clock that moves when told to, displays that are kept, and a notebook around them."""
    now, displays = [100.0], []

    def display(thing, display_id, raw=False):
        displays.append(Handle(thing))
        return displays[-1]

    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(live, "in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", display)
    return now, displays


def row(step: int) -> dict:
    return {"step": step, "loss": 5 - step / 100}


def test_curves_move_every_three_seconds_and_answers_take_one_per_cent(stage, monkeypatch):
    now, displays = stage
    drawn, answered = [], []

    def slow_fill(figure, rows):
        now[0] += 0.02
        drawn.append(now[0])
        fill(figure, rows)

    def answers():
        now[0] += 0.2
        answered.append(now[0])
        return Table([{"prompt": "What do cows eat?", "now": f"{len(answered)} grass"}])

    monkeypatch.setattr(live, "fill", slow_fill)
    rows, began = [], now[0]
    with LivePicture(lambda rows: plots.loss_curve(rows, "a"), answers) as picture:
        assert not displays  # nothing to see yet
        for step in range(400):
            now[0] += 0.5
            rows.append(row(step))
            picture.update(rows)
            if step == 0:
                assert len(displays) == 2  # the curve and the answers, at once
    steps = [b - a for a, b in zip(drawn, drawn[1:])]
    assert max(steps) <= 3.3 and len(drawn) > 60
    assert picture.spent / (now[0] - began) < 0.02 and len(answered) > 5
    curves, texts = displays
    assert isinstance(picture.widget, go.FigureWidget) and len(curves.shown) == 2
    moving = curves.shown[0]
    assert moving["application/vnd.jupyter.widget-view+json"]["model_id"] and len(moving["text/plain"]) < 120
    plain = curves.shown[-1]["application/vnd.plotly.v1+json"]
    assert len(plain["data"][0]["x"]) == 400 or "bdata" in plain["data"][0]["x"]
    assert f"{len(answered)} grass" in repr(texts.shown[-1])


def test_what_was_reached_stays_after_an_error(stage):
    now, displays = stage
    with pytest.raises(KeyboardInterrupt), LivePicture(lambda rows: plots.loss_curve(rows, "a")) as picture:
        picture.update([row(0)])
        picture.update([row(0), row(1)])  # too early to be drawn
        raise KeyboardInterrupt
    assert len(displays[0].shown) == 2
    assert "1" in str(displays[0].shown[-1]["application/vnd.plotly.v1+json"]["data"][0]["x"])


def test_points_are_those_of_a_figure_made_anew():
    rows = [row(step) for step in range(50)]
    moved = plots.loss_curve(rows[:2])
    fill(moved, rows)
    fresh = plots.loss_curve(rows)
    assert [list(t.y) for t in moved.data] == [list(t.y) for t in fresh.data]
    ppo = [{"update": i, **{k: float(i) for k in plots.PANELS}} for i in range(9)]
    moved = plots.ppo_curves({"ppo": ppo[:1]}, panels=plots.LEARNS)
    fill(moved, ppo)
    assert len(moved.data) == 4 and [list(t.x) for t in moved.data] == [list(range(9))] * 4


def test_in_a_terminal_nothing_is_drawn(monkeypatch):
    with LivePicture(lambda rows: pytest.fail("drawn"), lambda: pytest.fail("asked")) as picture:
        picture.update([row(0)])


def test_a_chapter_starts_without_the_grammar_of_addresses(monkeypatch):
    """jsonschema would compile it, for a second; whoever wants it later still gets it."""
    for name in [n for n in sys.modules if n.split(".")[0] in ("nbformat", "jsonschema", "rfc3987_syntax")]:
        monkeypatch.delitem(sys.modules, name)
    load_nbformat()
    assert "nbformat" in sys.modules and "rfc3987_syntax" not in sys.modules
