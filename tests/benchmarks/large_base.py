"""Every stage from a GPT-2 small of 124 million random weights in the Hub's format, at tiny budgets: time and peak memory.

    python tests/benchmarks/large_base.py          # some minutes on two cores; goal: at most 8 GB
"""

import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from test_pretrained import hub_folder  # noqa: E402

with tempfile.TemporaryDirectory() as temporary:
    os.environ.update(RLHF_RUNS=f"{temporary}/runs", RLHF_REFERENCE="0")
    from rlhf_utils.artifacts import peak_memory
    from rlhf_utils.profiles import load_profile
    from rlhf_utils.stages import ensure

    base = hub_folder(Path(temporary) / "gpt2", layers=12, width=768, heads=12, vocabulary=50257, positions=1024)
    print(f"weights: {(base / 'model.safetensors').stat().st_size / 2**20:.0f} MB in float32", flush=True)
    store = ensure("evaluate", load_profile("tiny", 0, base=base))
    for stage in ("tokenizer", "pretrain", "sft", "rank", "reward", "ppo", "ppo_ptx", "evaluate"):
        manifest = json.loads((store.folder(stage) / "manifest.json").read_text("utf-8"))
        print(f"{stage:10} {manifest['seconds']:6.1f} s   peak so far {manifest['peak_rss_mb'] / 1024:.1f} GB")
    print(f"peak memory {peak_memory() / 1024:.1f} GB")
