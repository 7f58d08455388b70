"""Train Your Own ChatGPT: the package behind the chapters."""

import os

# Set before any of these libraries is imported: nothing is reported to anyone.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
