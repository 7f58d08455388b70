"""The whole profile `gpu`, once: what it learned, its speed as a share of the card's own, and its memory
against the plan.

    python tests/benchmarks/gpu.py                      # on a machine with a GPU; kept in
    data/reference/gpu.json
    python tests/benchmarks/gpu.py --profile tiny       # tries the script itself, on any machine; kept in
    runs/

Each stage is built in this process, after which its peak of GPU memory is read. Stages that are there
already are skipped, so a run that was stopped goes on; its figures are then of what was left.
"""

import argparse
import json
from dataclasses import replace

import torch

from rlhf_utils.artifacts.store import Store
from rlhf_utils.environment import DATA, runs_folder
from rlhf_utils.language.device import device, use_bf16
from rlhf_utils.pipeline.stages import ensure
from rlhf_utils.profiles import load_profile
from rlhf_utils.training.plan import EFFICIENCY, free_bytes, matrix_rate, parameters, plan

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--profile", default="gpu")
wanted = parser.parse_args()
profile = load_profile(wanted.profile)
store = Store(profile)
on_gpu = device().type == "cuda"
if wanted.profile == "gpu" and not on_gpu:
    raise SystemExit("There is no GPU here. --profile tiny tries the script on a CPU.")

ensure("tokens", profile)
sized = replace(profile, vocabulary=len(store.tokenizer()))
rate = matrix_rate(profile)
planned = plan(sized, rate, free_bytes())
stages = {}
for stage in planned.index:
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    folder = ensure(stage, profile).folder(stage)
    seconds = json.loads((folder / "manifest.json").read_text("utf-8"))["seconds"]
    row = planned.loc[stage].to_dict()
    stages[stage] = {
        "planned": row,
        "seconds": seconds,
        "peak_gb": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None,
        # the plan's minutes are at this share of the rate of plain matrix products
        "tokens_a_second": 1e6 * row["million tokens"] / seconds,
        "of_matrix_rate": EFFICIENCY * 60 * row["minutes"] / seconds,
    }
    print(stage, stages[stage], flush=True)
metrics = json.loads((ensure("evaluate", profile).folder("evaluate") / "metrics.json").read_text("utf-8"))
found = {
    "card": torch.cuda.get_device_name() if on_gpu else "CPU",
    "precision": "bf16" if use_bf16(profile) else "fp32",
    "parameters": parameters(sized),
    "matrix_rate": rate,
    "compiled": profile.compiled,
    "stages": stages,
    "metrics": metrics,
}
path = (DATA / "reference" if wanted.profile == "gpu" else runs_folder()) / "gpu.json"
path.write_text(json.dumps(found, indent=1), "utf-8")
print(f"Kept in {path.parent.name}/{path.name}")
