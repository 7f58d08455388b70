"""What the first cell of every chapter does."""

from pathlib import Path

import plotly.io

from rlhf_utils.language.device import use_bf16
from rlhf_utils.pipeline.stages import open_store
from rlhf_utils.profiles import Profile, load_profile


def start() -> Profile:
    """Choose the profile, make plotly figures small to save, and say what is going to run."""
    # Set by PLOTLY_RENDERER.
    if plotly.io.renderers.default not in ("plotly_mimetype+svg", "plotly_mimetype+png"):
        plotly.io.renderers.default = "plotly_mimetype"
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
