"""Chapter 11's figures: thirty rankings by scripted tastes steer SmolLM2, and a reward head on real people's.

    rlhf base smollm2 && python tests/benchmarks/real_model.py

Every taste ranks thirty of sixty questions (four answers each), a head is fitted, and RLOO trains for sixteen
updates; once more without a brake (β = 0). A taste has moved if the interval of the change, over questions,
leaves out 0. One run each, of ten minutes on two cores: more SEEDS tell how far runs differ. Settings were
chosen by the log of training with "few words" and "many words" alone.

With hh-rlhf (harmless-base, its test split) and OpenAssistant's trees beside the checkout in `shared/real`, a
head is fitted to four fifths of each, prompts apart; of hh-rlhf also to fewer pairs, and on a model that is
cut off after some of its layers. All is kept in `runs/`; the chapter shows `data/reference/real.json`.
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
from rlhf_utils.language.models import load_scorer, trunk_of
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
SEEDS = (0,)
LAYERS, SHARES = (6, 30), (1 / 16, 1 / 4, 1.0)  # of the model, and of the pairs to learn from


def steered(english: English, taste: str, seeds=SEEDS, **changes) -> dict:
    """A taste from rankings to what came of it; its log and texts are those of the first seed."""
    rankings = english.ranked_by(SCRIPTED[taste])
    name = taste.replace(" ", "-")
    reward = english.reward(name, rankings)
    policies = [english.steer(name, rankings, seed=seed, **changes) for seed in seeds]
    before, after = english.measured(english.folder("base")), english.measured(policies[0])
    asked = [row["messages"][-1]["content"] for row in english.questions(held_out=True)]
    facts = [row["messages"][-1]["content"] for row in english.facts()]
    answers = [
        {"question": q, "before": b[0], "after": a[0]}
        for q, b, a in list(zip(asked, before["greedy"], after["greedy"]))[:8]
        + list(zip(facts, before["facts"], after["facts"]))[:8]
    ]
    return {
        "rankings": len(rankings),
        "head": read_jsonl(reward / "metrics.jsonl")[0]["held_out"],
        "found": english.compare(policies, SCRIPTED[taste]),
        "runs": [english.compare(policy, SCRIPTED[taste]) for policy in policies],
        "log": read_jsonl(policies[0] / "metrics.jsonl"),
        "texts": answers,
    }


def people(english: English, file: Path, layers=LAYERS[-1:], shares=SHARES[-1:]) -> dict:
    """A head on four fifths of real people's rankings: how it orders the pairs of the others, beside whoever
    takes the shorter answer. `by_size`: the same on a model of fewer layers, and from fewer rankings.
    """
    with TemporaryDirectory() as folder:
        import_data(folder, lambda text: None, files=[file])
        rows = to_rankings(read_jsonl(Path(folder) / "comparisons.jsonl"))
    profile = replace(english.profile, prompt_tokens=256, answer_tokens=128, context=512)
    tokenizer = english.tokenizer()
    encoded = encode_rankings(profile, tokenizer, rows)
    train = [i for i, row in enumerate(rows) if row["split"] == "train"]
    held = [i for i, row in enumerate(rows) if row["split"] == "test"]
    # Replies to the later turns of one dialogue are no independent ones.
    groups = [rows[i]["messages"][0]["content"] for i in held]

    def ordered(scores: list[torch.Tensor]) -> dict:
        right, total = np.array([pairs_right(s, rows[i]["ranks"]) for s, i in zip(scores, held)]).T
        return accuracy_of(right, total, groups)

    by_size = []
    for count in layers:
        model = load_scorer(english.folder("base"))
        trunk_of(model).layers = trunk_of(model).layers[:count]
        seen = ranking_features(model, encoded, tokenizer.pad_token_id, profile).cpu()
        parts = seen.split([len(row["ranks"]) for row in rows])
        for share in shares:
            kept = train[: round(share * len(train))]
            head = scaled_head(torch.cat([parts[i] for i in kept]), [rows[i] for i in kept])
            found = ordered([parts[i] @ head for i in held])
            by_size.append({"layers": count, "rankings": len(kept), **found})
    shorter = ordered([torch.tensor([-float(len(a.split())) for a in rows[i]["answers"]]) for i in held])
    return by_size[-1] | {"held_out": len(held), "shorter": shorter, "by_size": by_size}


def main() -> None:
    english = English(load_english(smollm2_folder()))
    target = DATA / "reference" / "real.json"
    known = json.loads(target.read_text("utf-8")) if target.is_file() else {}
    found = {"model": "SmolLM2-135M-Instruct", "tastes": {}, "no brake": {}, "people": {}}
    found |= {name: known.get(name, found[name]) for name in ("no brake", "people")}  # until they are anew
    for last in SEEDS:  # all wishes once, then once more
        for taste in SCRIPTED:
            run = found["tastes"][taste] = steered(english, taste, SEEDS[: last + 1])
            print(taste, last + 1, json.dumps(run["found"]), flush=True)
            write(target, found)
        if last == SEEDS[0]:
            found["no brake"] = steered(english, "few words", SEEDS[:1], kl_coefficient=0.0)
            print("no brake", json.dumps(found["no brake"]["found"]), flush=True)
            for name, file in PEOPLE.items():
                if (REAL / file).is_file():
                    every = (LAYERS, SHARES) if name.startswith("hh") else ()
                    found["people"][name] = people(english, REAL / file, *every)
                    print(name, found["people"][name], flush=True)
            write(target, found)


def write(target: Path, found: dict) -> None:
    target.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
