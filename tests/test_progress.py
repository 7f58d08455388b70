"""The live picture costs next to nothing, and there is one of it."""

import plotly.graph_objects as go
import pytest

from rlhf_utils.artifacts import progress
from rlhf_utils.artifacts.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when told to."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_pictures_take_under_two_per_cent_of_the_time_and_the_last_one_is_shown(clock, monkeypatch):
    shown = []

    class Handle:
        def update(self, bundle, raw):
            shown.append(bundle)

    def display(bundle, raw, display_id):
        shown.append(bundle)
        return Handle()

    monkeypatch.setattr(progress, "_in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", display)
    spent, drawn = 0.0, []

    def draw():
        nonlocal spent
        clock[0] += 0.2
        spent += 0.2
        drawn.append(bar.done)
        return go.Figure()

    with Progress("ppo", 100) as bar:
        bar.display = Handle()
        for _ in range(100):
            clock[0] += 1.0
            bar.step()
            bar.picture(draw)
    assert drawn[-1] == 100 and len(drawn) > 3
    assert spent / clock[0] < 0.02
    assert [type(b) for b in shown if "application/vnd.plotly.v1+json" in b] == [dict] * len(drawn)


def test_in_a_terminal_nothing_is_drawn(clock):
    with Progress("ppo", 2) as bar:
        bar.step(2)
        bar.picture(lambda: pytest.fail("drawn"))
