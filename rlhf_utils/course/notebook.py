"""What the first cell of every chapter does."""

import logging
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pandas as pd
import plotly.graph_objects as go
import plotly.io

from rlhf_utils.language.device import use_bf16
from rlhf_utils.look import Table
from rlhf_utils.pipeline.stages import open_store
from rlhf_utils.profiles import Profile, load_profile


def start() -> Profile:
    """Choose the profile, give figures and tables the course's look, and say what is going to run."""
    load_nbformat()
    # Small to save; PLOTLY_RENDERER may ask for a static image beside the figure.
    drawn = plotly.io.renderers.default in ("plotly_mimetype+svg", "plotly_mimetype+png")
    if drawn:
        # `keep_browser` has given what they say.
        warnings.filterwarnings("ignore", "The kopts argument is ignored")
    else:
        plotly.io.renderers.default = "plotly_mimetype"
    show_tables_whole()
    # Loading it takes a second, which would be missing when the first picture of a stage is due.
    Thread(target=lambda: (go.FigureWidget, drawn and keep_browser()), daemon=True).start()
    profile = load_profile()
    store = open_store(profile)
    model = (
        f"the pretrained {Path(profile.base).name}"
        if profile.base
        else f"GPT-2 with {profile.layers} layers of width {profile.width}"
    )
    print(
        f"Profile {profile.name}, seed {profile.seed}: {model}, "
        f"context {profile.context}, {'bfloat16' if use_bf16(profile) else 'float32'}. Artifacts: "
        f"{store.root.parent.name}/{store.root.name}"
    )
    return profile


def load_nbformat() -> None:
    """Load nbformat, which plotly looks for, without the grammar of web addresses: to compile it takes more
    than a second at each chapter's start, and only a check of addresses that nobody asks for needs it.
    """
    grammar = "rfc3987_syntax"
    if grammar in sys.modules:
        return
    sys.modules[grammar] = None  # so that jsonschema does without
    try:
        import nbformat  # noqa: F401
    finally:
        del sys.modules[grammar]


def draw_image() -> None:
    """Draw an empty figure as a static image; raises whatever is missing, a browser or kaleido."""
    import kaleido

    # Of what a browser still says while it is closed it logs a traceback; what matters is raised.
    logging.getLogger("choreographer").setLevel(logging.CRITICAL)
    # Without MathJax, which its page would fetch from a network, and wait for where there is none.
    kaleido.calc_fig_sync(go.Figure(), opts={"format": "svg"}, kopts={"mathjax": False})


def keep_browser() -> None:
    """One browser for all static images of a notebook: to start one takes seven times as long as to draw one.

    A browser that cannot draw the first image gets no second one, so that figures say why, and do not wait.
    """
    with suppress(Exception):
        draw_image()
        import kaleido

        draw = kaleido.calc_fig_sync

        def drawn(*arguments, **named):
            try:
                return draw(*arguments, **named)
            except BaseException:  # an interrupt, too
                # Its queues would give the next figure this one's picture, or wait for a browser that is
                # gone. From here on each figure starts a browser of its own.
                kaleido._global_server._initialized = False
                raise

        kaleido.calc_fig_sync = drawn
        kaleido.start_sync_server(plotlyjs=plotly.io.defaults.plotlyjs, mathjax=False, silence_warnings=True)


def show_tables_whole() -> None:
    """Data frames as `look.Table` shows them: whole answers, at the left, in HTML and in letters."""
    with suppress(ImportError, AttributeError):  # not in a notebook
        from IPython import get_ipython

        formatters = get_ipython().display_formatter.formatters
        formatters["text/html"].for_type(pd.DataFrame, lambda frame: Table(frame)._repr_html_())
        formatters["text/plain"].for_type(
            pd.DataFrame, lambda frame, printer, cycle: printer.text(repr(Table(frame)))
        )
