"""Make `data/reference/<profile>/` from a finished run: `python -m rlhf_utils.pipeline.reference`.

Weights are rounded to bfloat16 and what chapters do not need is left out, so that all of it stays
below 12 MB. Identities are those of the run, so that the artifacts still fit together.
"""

import gzip
import json
import shutil

import torch
from safetensors.torch import load_file, save_file

from rlhf_utils.artifacts.files import file_hash
from rlhf_utils.artifacts.store import Store
from rlhf_utils.environment import DATA
from rlhf_utils.profiles import load_profile

STAGES = ("tokenizer", "pretrain", "sft", "rank", "reward", "ppo", "ppo_ptx", "evaluate")
LEFT_OUT = {"answers.jsonl", "probes.jsonl", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


def make_reference(store: Store) -> None:
    for stage in STAGES:
        source = store.folder(stage)
        target = DATA / "reference" / store.root.name / stage
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for file in source.iterdir():
            if file.suffix == ".safetensors":
                save_file(
                    {k: v.to(torch.bfloat16) for k, v in load_file(file).items()},
                    target / file.name,
                    metadata={"format": "pt"},
                )
            elif stage == "rank" and file.name != "manifest.json":
                (target / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes(), mtime=0))
            elif stage == "tokenizer" or file.name not in LEFT_OUT:
                shutil.copy(file, target)
        manifest = json.loads((source / "manifest.json").read_text("utf-8"))
        manifest["files"] = {
            f.name: file_hash(f) for f in sorted(target.iterdir()) if f.name != "manifest.json"
        }
        (target / "manifest.json").write_text(json.dumps(manifest, indent=1), "utf-8")
        print(f"{stage:10} {sum(f.stat().st_size for f in target.iterdir()) / 2**20:6.2f} MB")


if __name__ == "__main__":
    make_reference(Store(load_profile(), reference=False))
