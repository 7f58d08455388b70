"""The whole profile `gpu`, once: what it learned, its speed as a share of the card's own, and its memory
against the plan.

    python tests/benchmarks/gpu.py                      # on a machine with a GPU
    python tests/benchmarks/gpu.py --profile tiny       # tries the script itself, on any machine

Each stage is built in this process, after which its peak of GPU memory is read; what was found is written
after each into `runs/gpu.json`, and at the end, for the profile `gpu`, into `data/reference/`. Stages that
are there already are skipped, so a run that was stopped goes on, without the peaks of what was built before.
Gold is that of answers to a quarter of the test prompts; `rlhf run --profile gpu` evaluates all.
"""

import argparse
import json
import shutil
from dataclasses import replace

import torch

from rlhf_utils.artifacts.store import Store
from rlhf_utils.environment import DATA, runs_folder
from rlhf_utils.evaluation.answers import BARE, answer_prompts, judge_answers
from rlhf_utils.language.device import device, use_bf16
from rlhf_utils.pipeline.stages import ensure
from rlhf_utils.profiles import MODELS, POLICIES, load_profile
from rlhf_utils.training.plan import EFFICIENCY, free_bytes, matrix_rate, parameters, plan
from rlhf_utils.world.facts import load_world
from rlhf_utils.world.judge import Judge

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--profile", default="gpu")
wanted = parser.parse_args()
profile = load_profile(wanted.profile)
store = Store(profile)
on_gpu = device().type == "cuda"
if wanted.profile == "gpu" and not on_gpu:
    raise SystemExit("There is no GPU here. --profile tiny tries the script on a CPU.")

path = runs_folder() / "gpu.json"
ensure("tokens", profile)
sized = replace(profile, vocabulary=len(store.tokenizer()))
rate = matrix_rate(profile)
planned = plan(sized, rate, free_bytes())
found = {
    "card": torch.cuda.get_device_name() if on_gpu else "CPU",
    "precision": "bf16" if use_bf16(profile) else "fp32",
    "parameters": parameters(sized),
    "matrix_rate": rate,
    "compiled": profile.compiled,
    "stages": {},
    "gold": {},
}


def keep(part: str, name: str, value: dict) -> None:
    """Into the file at once, so that a run that is stopped leaves what it found."""
    found[part][name] = value
    path.write_text(json.dumps(found, indent=1), "utf-8")
    print(name, value, flush=True)


for stage in planned.index:
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    built = not store.find(stage)
    folder = ensure(stage, profile).folder(stage)
    seconds = json.loads((folder / "manifest.json").read_text("utf-8"))["seconds"]
    row = planned.loc[stage].to_dict()
    measured = {
        "planned": row,
        "seconds": seconds,
        "peak_gb": torch.cuda.max_memory_allocated() / 2**30 if on_gpu and built else None,
        # the plan's minutes are at this share of the rate of plain matrix products
        "tokens_a_second": 1e6 * row["million tokens"] / seconds,
        "of_matrix_rate": EFFICIENCY * 60 * row["minutes"] / seconds,
    }
    keep("stages", stage, measured)

judge, prompts = Judge(load_world()), store.prompts("test")[::4]
for name, forms in {"base": BARE, **dict.fromkeys(POLICIES)}.items():
    model, scores = store.model(MODELS[name].stage), {}
    for kind, temperature, count in (("greedy", 0.0, 1), ("t1", 1.0, 2)):
        answers = answer_prompts(profile, store.tokenizer(), model, prompts, temperature, count, 6, forms)
        scores[kind] = float(judge_answers(judge, prompts, answers)["total"].mean())
    keep("gold", name, scores)
if wanted.profile == "gpu":
    shutil.copy(path, DATA / "reference")
print(f"Kept in {path.parent.name}/{path.name}")
