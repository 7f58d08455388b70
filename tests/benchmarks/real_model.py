"""Chapter 11's figures: thirty rankings by scripted tastes steer SmolLM2, and a reward head on real people's.

    rlhf base smollm2 && python tests/benchmarks/real_model.py

Every taste ranks thirty of sixty questions (four answers each), a head is fitted, RLOO trains for twelve
updates at most; then the same again without a brake (β = 0, eighteen). With hh-rlhf (harmless-base, its test
split) and OpenAssistant's trees beside the checkout in `shared/real`, a head is fitted to four fifths of
each, prompts apart. All is kept in `runs/`; `data/reference/real.json` holds what the chapter shows.
"""

import json
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from rlhf_utils.artifacts.files import peak_memory, read_jsonl
from rlhf_utils.environment import DATA, ROOT
from rlhf_utils.evaluation.statistics import accuracy_of
from rlhf_utils.language.models import load_scorer
from rlhf_utils.pipeline.data_rows import split_of_prompt
from rlhf_utils.pipeline.english import SCRIPTED, English, load_english
from rlhf_utils.pipeline.from_gguf import smollm2_folder
from rlhf_utils.pipeline.heads import DECAY, ranking_features
from rlhf_utils.pipeline.importing import import_data
from rlhf_utils.pipeline.own_data import to_rankings
from rlhf_utils.pipeline.taste import fit_head
from rlhf_utils.training.reward import encode_rankings

REAL = ROOT.parent / "shared" / "real"
PEOPLE = {
    "hh-rlhf, harmless-base": "hh_rlhf_harmless_base_test.jsonl.gz",
    "OpenAssistant": "oasst_en_100_tree.jsonl.gz",
}
NO_BRAKE = {"kl_coefficient": 0.0, "ppo_updates": 18}


def steered(english: English, taste: str, **changes) -> dict:
    """A taste from rankings to what came of it; the seconds are of what was not kept from before."""
    started, rankings = time.perf_counter(), english.ranked_by(SCRIPTED[taste])
    name = taste.replace(" ", "-")
    reward = english.reward(name, rankings)
    policy = english.steer(name, rankings, **changes)
    seconds = time.perf_counter() - started
    before, after = english.measured(english.folder("base")), english.measured(policy)
    asked = [row["messages"][-1]["content"] for row in english.questions(held_out=True)]
    return {
        "rankings": len(rankings),
        "seconds": round(seconds),
        "peak_mb": peak_memory(),
        "head": read_jsonl(reward / "metrics.jsonl")[0]["held_out"],
        "found": english.compare(policy, SCRIPTED[taste]),
        "log": read_jsonl(policy / "metrics.jsonl"),
        "texts": [
            {"question": q, "before": b[0], "after": a[0]}
            for q, b, a in list(zip(asked, before["greedy"], after["greedy"]))[:8]
        ],
    }


def people(english: English, file: Path) -> dict:
    """A head on four fifths of real people's rankings: how it orders the pairs of the others."""
    with TemporaryDirectory() as folder:
        import_data(folder, lambda text: None, files=[file])
        rows = to_rankings(read_jsonl(Path(folder) / "comparisons.jsonl"))
    profile = replace(english.profile, prompt_tokens=256, answer_tokens=128, context=512)
    tokenizer, started = english.tokenizer(), time.perf_counter()
    encoded = encode_rankings(profile, tokenizer, rows)
    model = load_scorer(english.folder("base"))
    seen = ranking_features(model, encoded, tokenizer.pad_token_id, profile).cpu()
    scaled = (seen - seen.mean(0)) / seen.std(0).clamp(min=1e-3)
    parts = dict(zip(range(len(rows)), scaled.split([len(row["ranks"]) for row in rows])))
    held = [i for i, row in enumerate(rows) if split_of_prompt(row["messages"]) == "test"]
    kept = [i for i in parts if i not in set(held)]
    head = fit_head(torch.cat([parts[i] for i in kept]), [rows[i] for i in kept], DECAY)
    right, total = [], []
    for i in held:
        scores, ranks = (parts[i] @ head).numpy(), np.array(rows[i]["ranks"])
        above = ranks[:, None] < ranks[None]
        right.append(float((above & (scores[:, None] > scores[None])).sum()))
        total.append(float(above.sum()))
    found = accuracy_of(np.array(right), np.array(total))
    return found | {
        "rankings": len(kept),
        "held_out": len(held),
        "seconds": round(time.perf_counter() - started),
    }


def main() -> None:
    english = English(load_english(smollm2_folder()))
    target = DATA / "reference" / "real.json"
    found = {"model": "SmolLM2-135M-Instruct", "tastes": {}, "people": {}}
    for taste in SCRIPTED:
        found["tastes"][taste] = steered(english, taste)
        print(taste, json.dumps(found["tastes"][taste]["found"]), flush=True)
    found["no brake"] = steered(english, "few words", **NO_BRAKE)
    print("no brake", json.dumps(found["no brake"]["found"]), flush=True)
    for name, file in PEOPLE.items():
        if (REAL / file).is_file():
            found["people"][name] = people(english, REAL / file)
            print(name, found["people"][name], flush=True)
    target.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
