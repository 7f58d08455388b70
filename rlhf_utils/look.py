"""The look of figures and tables: one theme that is legible on light and dark pages and in print.

Figures have no ground of their own and grey letters, so that they sit on whatever page they are shown on; so
do tables. The models' colours (`profiles.MODELS`) can be told apart by colour-blind readers as well.
"""

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from html import escape
from numbers import Integral, Real

import pandas as pd
import plotly.graph_objects as go
import plotly.io

from rlhf_utils.profiles import MODELS, TASTE, YOURS

COLOURS = {name: model.colour for name, model in (MODELS | {TASTE: YOURS}).items()}
NAMES = {name: model.written for name, model in MODELS.items()}
INK, GRID, CLEAR = "#7a808c", "rgba(128,132,142,0.25)", "rgba(0,0,0,0)"
MOST = 60  # rows of a table
GOOD, BAD = 0.75, 0.25  # gold scores from which, and up to which, an answer is marked


def _theme() -> go.layout.Template:
    axis = dict(gridcolor=GRID, zerolinecolor=GRID, linecolor=GRID, automargin=True)
    layout = dict(
        paper_bgcolor=CLEAR,
        plot_bgcolor=CLEAR,
        font=dict(color=INK, size=13, family="system-ui, sans-serif"),
        title=dict(x=0, xref="paper", font_size=16),
        colorway=list(COLOURS.values())[2:] + list(COLOURS.values())[:2],
        xaxis=axis,
        yaxis=axis,
        legend=dict(orientation="h", y=1.02, yanchor="bottom", x=0, bgcolor=CLEAR),
        margin=dict(l=60, r=20, t=70, b=50),
        height=380,
        modebar=dict(bgcolor=CLEAR, color=INK),
    )
    return go.layout.Template(layout=layout)


plotly.io.templates["rlhf"] = _theme()
plotly.io.templates.default = "rlhf"  # for the figures that chapters draw themselves, too


@dataclass(frozen=True)
class Answer:
    """An answer in a table: its gold score, if it is known, and the answer that it is compared with."""

    text: str
    gold: float | None = None
    before: str | None = None

    @property
    def mark(self) -> str:
        if self.gold is None or BAD < self.gold < GOOD:
            return ""
        return "✓" if self.gold >= GOOD else "✗"

    def __str__(self) -> str:
        return f"{self.mark} {self.text}".strip()

    def html(self) -> str:
        """The text, escaped, with the words that `before` does not have in the same place marked."""
        if not self.text.strip():
            shown = "<i>(empty)</i>"
        elif self.before is None:
            shown = escape(self.text)
        else:
            shown = " ".join(f"<mark>{escape(w)}</mark>" if new else escape(w) for w, new in self.words())
        kind = {"✓": "good", "✗": "bad"}.get(self.mark)
        return f'<span class="rlhf-{kind}">{self.mark}</span> {shown}' if kind else shown

    def words(self) -> list[tuple[str, bool]]:
        """Its words, and whether each is new beside `before`."""
        old, new = ([w.strip(".,;:!?").lower() for w in t.split()] for t in (self.before, self.text))
        kept = set()
        for block in SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks():
            kept |= set(range(block.b, block.b + block.size))
        return [(word, i not in kept) for i, word in enumerate(self.text.split())]


# Named twice, so that it outweighs the notebook's own rules for tables.
STYLE = """
.rlhf-table { border-collapse: collapse; margin: .6em 0; max-width: 100%; }
.rlhf-table.rlhf-table :is(th, td) { text-align: left; vertical-align: top; padding: .35em .8em .35em 0;
  border-bottom: 1px solid rgba(128,132,142,.35); white-space: pre-wrap; overflow-wrap: anywhere; }
.rlhf-table.rlhf-table th { font-weight: 600; overflow-wrap: normal; }
.rlhf-table.rlhf-table td.rlhf-number { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.rlhf-table mark { background: rgba(240,180,40,.4); color: inherit; border-radius: 3px; padding: 0 1px; }
.rlhf-good, .rlhf-bad { font-weight: 700; padding: 0 .3em; border-radius: 3px; }
.rlhf-good { background: rgba(0,158,115,.3); } .rlhf-bad { background: rgba(213,94,0,.3); }
"""


def written(value, digits: int = 2) -> str:
    """A value as people read it: 2 digits, thousands apart, "–" for what is missing."""
    if value is None or value is pd.NA or (isinstance(value, Real) and value != value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{value:,}"
    if isinstance(value, Real):
        return f"{value:.{digits}f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {written(v, digits)}" for k, v in value.items())
    return str(value)


class Table:
    """Rows with names of columns, in whole cells: HTML in a notebook, wrapped to `width` letters elsewhere.

    Of more than `most` rows the first are shown, and how many there are.

    rows: dictionaries, or a data frame, whose index comes first where it says something. Cells may be
    `Answer`s.
    """

    def __init__(
        self, rows: pd.DataFrame | Iterable[Mapping], digits: int = 2, width: int = 108, most: int = MOST
    ):
        frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
        if not isinstance(frame.index, pd.RangeIndex) or frame.index.name is not None:
            named = ["" if name is None else name for name in frame.index.names]
            columns = list(frame.columns)
            frame = frame.reset_index(allow_duplicates=True)  # a column may be the index as well
            frame.columns = [*named, *columns]
        self.columns = [str(c).replace("_", " ") for c in frame.columns]
        self.cells = [list(row) for row in frame.head(most).itertuples(index=False, name=None)]
        self.more = f"… and {len(frame) - most:,} more rows" if len(frame) > most else ""
        self.digits, self.width = digits, width

    def _repr_html_(self) -> str:
        # `align` beside the style, since GitHub keeps the one and drops the other.
        head = "".join(f'<th align="left">{escape(c)}</th>' for c in self.columns)
        body = "".join(f"<tr>{''.join(map(self._cell, row))}</tr>" for row in self.cells)
        table = f"<table class=rlhf-table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f"<style>{STYLE}</style>{table}" + (f"<p>{self.more}</p>" if self.more else "")

    def _cell(self, value) -> str:
        if isinstance(value, Answer):
            return f'<td align="left">{value.html()}</td>'
        number = isinstance(value, Real) and not isinstance(value, bool)
        kind = ' class=rlhf-number align="right"' if number else ' align="left"'
        return f"<td{kind}>{escape(written(value, self.digits))}</td>"

    def __repr__(self) -> str:
        texts = [self.columns] + [[written(v, self.digits) for v in row] for row in self.cells]
        wanted = [max(max(map(len, str(c).split("\n"))) for c in column) for column in zip(*texts)]
        room = self.width - 2 * (len(wanted) - 1)
        limit = max(wanted, default=0)
        while sum(min(w, limit) for w in wanted) > room and limit > 8:
            limit -= 1  # the widest columns give way
        widths = [max(min(w, limit), 1) for w in wanted]
        lines = []
        for row in texts:
            parts = [
                [piece for line in text.split("\n") for piece in textwrap.wrap(line, width) or [""]]
                for text, width in zip(row, widths)
            ]
            for i in range(max(map(len, parts), default=0)):
                cells = [(p[i] if i < len(p) else "").ljust(w) for p, w in zip(parts, widths)]
                lines.append("  ".join(cells).rstrip())
        return "\n".join([*lines, self.more] if self.more else lines)


def smooth(values: list[float], share: float = 0.04) -> list[float]:
    """A running mean whose memory is a `share` of the values; starts without a lag, as Adam's does."""
    keep, mean, weight, made = 1 - 1 / max(share * len(values), 1), 0.0, 0.0, []
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        made.append(mean / weight)
    return made
