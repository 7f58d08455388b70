"""Chapter 11's figures: thirty rankings by scripted tastes steer SmolLM2, and a reward head on real people's.

    rlhf base smollm2 && python tests/benchmarks/real_model.py

Every taste ranks thirty of sixty questions (four answers each), a head is fitted, RLOO trains for twelve
updates at most; then the same again without a brake (β = 0, eighteen). With hh-rlhf (harmless-base, its test
split) and OpenAssistant's trees beside the checkout in `shared/real`, a head is fitted to four fifths of
each, prompts apart. All is kept in `runs/`; `data/reference/real.json` holds what the chapter shows.
"""

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from rlhf_utils.artifacts.files import read_jsonl
from rlhf_utils.environment import DATA, ROOT
from rlhf_utils.evaluation.statistics import accuracy_of
from rlhf_utils.language.models import load_scorer
from rlhf_utils.pipeline.english import SCRIPTED, English, load_english
from rlhf_utils.pipeline.from_gguf import smollm2_folder
from rlhf_utils.pipeline.heads import pairs_right, ranking_features, scaled_head
from rlhf_utils.pipeline.importing import import_data
from rlhf_utils.pipeline.own_data import to_rankings
from rlhf_utils.training.reward import encode_rankings

REAL = ROOT.parent / "shared" / "real"
PEOPLE = {
    "hh-rlhf, harmless-base": "hh_rlhf_harmless_base_test.jsonl.gz",
    "OpenAssistant": "oasst_en_100_tree.jsonl.gz",
}
NO_BRAKE = {"kl_coefficient": 0.0, "ppo_updates": 18}


def steered(english: English, taste: str, **changes) -> dict:
    """A taste from rankings to what came of it."""
    rankings = english.ranked_by(SCRIPTED[taste])
    name = taste.replace(" ", "-")
    reward = english.reward(name, rankings)
    policy = english.steer(name, rankings, **changes)
    before, after = english.measured(english.folder("base")), english.measured(policy)
    asked = [row["messages"][-1]["content"] for row in english.questions(held_out=True)]
    return {
        "rankings": len(rankings),
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
    tokenizer = english.tokenizer()
    encoded = encode_rankings(profile, tokenizer, rows)
    model = load_scorer(english.folder("base"))
    seen = ranking_features(model, encoded, tokenizer.pad_token_id, profile).cpu()
    parts = seen.split([len(row["ranks"]) for row in rows])
    kept = [i for i, row in enumerate(rows) if row["split"] == "train"]
    held = [i for i, row in enumerate(rows) if row["split"] == "test"]
    head = scaled_head(torch.cat([parts[i] for i in kept]), [rows[i] for i in kept])
    right, total = np.array([pairs_right(parts[i] @ head, rows[i]["ranks"]) for i in held]).T
    # Replies to the later turns of one dialogue are no independent ones.
    found = accuracy_of(right, total, [rows[i]["messages"][0]["content"] for i in held])
    return found | {"rankings": len(kept), "held_out": len(held)}


def main() -> None:
    english = English(load_english(smollm2_folder()))
    target = DATA / "reference" / "real.json"
    found = {"model": "SmolLM2-135M-Instruct", "tastes": {}, "people": {}}
    for taste in SCRIPTED:
        run = found["tastes"][taste] = steered(english, taste)
        print(taste, json.dumps(run["found"]), flush=True)
        write(target, found)
    found["no brake"] = steered(english, "few words", **NO_BRAKE)
    print("no brake", json.dumps(found["no brake"]["found"]), flush=True)
    for name, file in PEOPLE.items():
        if (REAL / file).is_file():
            found["people"][name] = people(english, REAL / file)
            print(name, found["people"][name], flush=True)
    write(target, found)


def write(target: Path, found: dict) -> None:
    target.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
