"""The picture of a stage while it trains: curves and answers that move in a notebook, and stay as one figure.

JupyterLab does not paint a plotly figure again that it has shown, so what moves is a `FigureWidget`, whose
points alone are sent. At the end a plain figure takes its place, which a saved notebook and GitHub show.
In a terminal there is no picture.
"""

import json
import time
from collections.abc import Callable

import plotly.graph_objects as go

from rlhf_utils.artifacts.progress import in_notebook
from rlhf_utils.environment import process
from rlhf_utils.look import Table, smooth

WITHOUT_WIDGETS = "Where no curve moves here, it is drawn when training ends."
CURVES, ANSWERS = 2.5, 5.0  # seconds between two pictures, at least
SHARE = 0.01  # of the training time that each of the two may take


def fill(figure: go.Figure, rows: list[dict]) -> None:
    """Give traces that say in `meta` what they show, (x, y, smoothed), the points that `rows` hold."""
    with figure.batch_update():
        for trace in figure.data:
            if trace.meta:
                x, y, smoothed = trace.meta
                values = [row[y] for row in rows]
                trace.x, trace.y = [row[x] for row in rows], smooth(values) if smoothed else values


class LivePicture:
    """`with LivePicture(figure, answers) as picture: … picture.update(rows)`, as often as one likes.

    figure: rows → a figure for `fill`. answers: → a Table of what the model says now.
    """

    def __init__(self, figure: Callable[[list[dict]], go.Figure], answers: Callable[[], Table] | None = None):
        self.figure, self.answers = figure, answers
        self.shown = in_notebook() and process()[0] == 0
        self.widget = None
        self.rows: list[dict] = []
        self.next_curves = self.next_answers = 0.0
        self.spent = 0.0  # seconds

    def __enter__(self):
        return self

    def update(self, rows: list[dict]) -> None:
        """Show the rows of the log so far, if it is time."""
        self.rows, now = rows, time.monotonic()
        if not self.shown or not rows or now < self.next_curves:
            return
        if self.widget is None:
            self._begin()
            self.next_curves, self.next_answers = now + CURVES, now + ANSWERS
        else:
            fill(self.widget, rows)
            self.next_curves = now + max(CURVES, (time.monotonic() - now) / SHARE)
            if self.answers and now > self.next_answers:
                started = time.monotonic()
                self.texts.update(self.answers())
                self.next_answers = now + max(ANSWERS, (time.monotonic() - started) / SHARE)
        self.spent += time.monotonic() - now

    def _begin(self) -> None:
        from IPython.display import display

        self.widget = go.FigureWidget(self.figure(self.rows))
        # In words for what shows no widgets, where plotly would write down every point.
        bundle = self.widget._repr_mimebundle_() | {"text/plain": WITHOUT_WIDGETS}
        self.curves = display(bundle, raw=True, display_id=True)
        if self.answers:
            self.texts = display(self.answers(), display_id=True)

    def __exit__(self, kind, *_):
        """Put a plain figure of what was reached, by whatever end, in place of the one that moved."""
        if self.widget is None:
            return
        plain = self.figure(self.rows)
        bundle = plain._repr_mimebundle_() or {"application/vnd.plotly.v1+json": json.loads(plain.to_json())}
        self.curves.update(bundle, raw=True)
        if self.answers and kind is None:  # a model that failed is not asked again
            self.texts.update(self.answers())
        self.widget.close()
