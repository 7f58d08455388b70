"""Make `data/reference/<profile>/` from a finished run: `python -m rlhf_utils.pipeline.reference`.

With `evidence` it puts what `rlhf evidence` measured into `data/reference/evidence.json`, and writes
`docs/claims.md` of it; claims that were not measured again stay. `example` makes the example reader: forty
rankings by one rule, `data/ranking/example.jsonl`, and the model of that taste. Both stand where a reader has
not ranked anything, and are named so. Weights are rounded to bfloat16 and what chapters do not need is left
out, so that all of it stays below 17 MB. Identities are those of the run, so that the artifacts still fit
together.
"""

import gzip
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file

from rlhf_utils.artifacts.files import file_hash, write_jsonl
from rlhf_utils.artifacts.lineage import TASTE
from rlhf_utils.artifacts.store import Store
from rlhf_utils.environment import DATA, CourseError
from rlhf_utils.pipeline.claims.evidence import REFERENCE, evidence_file, page, read_evidence, seeds_of
from rlhf_utils.pipeline.rank import items_to_rank
from rlhf_utils.pipeline.stages import ensure, open_store
from rlhf_utils.pipeline.taste import EXAMPLE, EXAMPLE_FILE, SCRIPTED, ranks_by
from rlhf_utils.profiles import Profile, load_profile
from rlhf_utils.ranking.session import RankingSession
from rlhf_utils.ranking.store import RankingStore, guidelines

STAGES = ("tokenizer", "pretrain", "sft", "rank", "reward", "ppo", "ppo_ptx", "evaluate")
LEFT_OUT = {"answers.jsonl", "probes.jsonl", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


def make_reference(store: Store, stages: Sequence[str] = STAGES) -> None:
    for stage in stages:
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


def keep_evidence(measured: Path, reference: Path, text: Path) -> None:
    """Put the claims of one file of evidence in the place of another's, but for those that were measured on
    more runs there, and write the page of all of them.
    """
    found, kept = read_evidence(measured), read_evidence(reference)
    claims = {claim["number"]: claim for claim in kept["claims"]}
    new = {
        claim["number"]: claim
        for claim in found["claims"]
        if set(seeds_of(claims.get(claim["number"], claim))) <= set(seeds_of(claim))
    }
    if found["profile"] != kept["profile"]:
        raise CourseError(
            f"{measured} is of the profile {found['profile']}, and {reference} of {kept['profile']}."
        )
    if not new:
        raise CourseError(
            f"{measured} is of seeds {found['seeds']}, and {reference} of more runs. Measure on as many: "
            f"rlhf evidence --seeds {max(len(seeds_of(claim)) for claim in kept['claims'])}"
        )
    claims |= new
    document = kept | {"claims": [claims[number] for number in sorted(claims)]}
    partial = reference.with_suffix(".new")
    partial.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    os.replace(partial, reference)
    text.write_text(page(document), "utf-8")


def make_example(profile: Profile, count: int = 40) -> None:
    """The example reader, who puts polite answers first and minds nothing else."""
    store = open_store(profile)
    rows = items_to_rank(profile, store, store.prompts("ppo")[: 8 * count])
    told = [row for row in rows if len(set(ranks_by(SCRIPTED["polite"], row["answers"]))) > 1][:count]
    with TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/rankings.sqlite"
        session = RankingSession(told, EXAMPLE, RankingStore(url), guideline=guidelines()[0])
        while not session.finished:
            liked: dict[float, set[str]] = {}
            for letter, text in session.answers.items():
                liked.setdefault(SCRIPTED["polite"](text), set()).add(letter)
            session.rank([liked[value] for value in sorted(liked, reverse=True)])
            session.submit()
        keep = ("item", "ranker", "action", "messages", "answers", "ranks", "guideline")
        write_jsonl(EXAMPLE_FILE, [{k: row[k] for k in keep} for row in session.store.ranked()])
        os.environ["RLHF_RANKINGS"] = url
        make_reference(ensure("taste_evaluate", profile), TASTE)


if __name__ == "__main__":
    if sys.argv[1:] == ["example"]:
        make_example(load_profile())
    elif sys.argv[1:] == ["evidence"]:
        keep_evidence(evidence_file(load_profile()), REFERENCE, DATA.parent / "docs" / "claims.md")
    else:
        make_reference(Store(load_profile(), reference=False))
