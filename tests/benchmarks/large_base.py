"""Every stage from a GPT-2 small of 124 million random weights in the Hub's format, at tiny budgets: time and
peak memory.

    python tests/benchmarks/large_base.py          # some minutes on two cores; goal: at most 8 GB

Random weights answer with random words, which all labelers find equally bad. So what is preferred comes
from a data folder: the world's demonstrations, each beside the demonstration of another prompt.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from test_pretrained import hub_folder  # noqa: E402

STAGES = ("tokenizer", "pretrain", "sft", "rank", "reward", "ppo", "ppo_ptx", "evaluate")

with tempfile.TemporaryDirectory() as temporary:
    os.environ.update(RLHF_RUNS=f"{temporary}/runs", RLHF_REFERENCE="0")
    from dataclasses import replace

    from rlhf_utils.artifacts.files import write_jsonl
    from rlhf_utils.pipeline.stages import ensure
    from rlhf_utils.profiles import load_profile

    world, data = ensure("corpus", load_profile("tiny", 0)), Path(temporary) / "data"
    data.mkdir()
    rows = world.prompts("demonstrations")
    others = rows[1:] + rows[:1]
    (data / "pretrain.txt").write_text("\n\n".join(d["text"] for d in world.documents()), "utf-8")
    write_jsonl(
        data / "demonstrations.jsonl",
        [{"prompt": r["messages"], "completion": r["completion"]} for r in rows],
    )
    write_jsonl(
        data / "comparisons.jsonl",
        [
            {"prompt": r["messages"], "chosen": r["completion"], "rejected": o["completion"]}
            for r, o in zip(rows, others)
            if r["completion"] != o["completion"]
        ],
    )
    write_jsonl(data / "prompts.jsonl", [{"prompt": r["messages"]} for r in world.prompts("ppo")])
    base = hub_folder(
        Path(temporary) / "gpt2", layers=12, width=768, heads=12, vocabulary=50257, positions=1024
    )
    print(f"weights: {(base / 'model.safetensors').stat().st_size / 2**20:.0f} MB in float32", flush=True)
    tiny = load_profile("tiny", 0)
    profile = replace(
        load_profile("tiny", 0, data=data, base=base),
        **{k: getattr(tiny, k) for k in ("context", "prompt_tokens", "answer_tokens")},
    )
    store = ensure("evaluate", profile)
    for stage in STAGES:
        manifest = json.loads((store.folder(stage) / "manifest.json").read_text("utf-8"))
        print(
            f"{stage:10} {manifest['seconds']:6.1f} s   peak so far {manifest['peak_rss_mb'] / 1024:.1f} GB"
        )
