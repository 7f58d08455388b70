"""Own data as a corpus and as rankings.

A folder holds `pretrain.txt`: UTF-8 text; `demonstrations.jsonl`: `prompt`, `completion`;
`comparisons.jsonl`: `prompt`, `chosen`, `rejected`, or `prompt`, `answers`, `ranks` (1 is best);
`prompts.jsonl`: `prompt`. A prompt is a text or a list of messages (`role`, `content`), as in TRL.
`importing` makes such a folder, `data_rows` checks it.
"""

from pathlib import Path

from rlhf_utils.artifacts.files import read_jsonl, text_of, write_jsonl
from rlhf_utils.environment import CourseError
from rlhf_utils.pipeline.data_rows import answer_text, check_data, side_of, to_messages
from rlhf_utils.profiles import Profile


def write_own_corpus(profile: Profile, folder: Path) -> None:
    """The corpus stage for own data: documents, demonstrations and prompts, split by prompt."""
    source = Path(profile.data)
    problems = check_data(source)
    if problems:
        shown = "\n".join(problems[:20])
        raise CourseError(f"The data in {source} cannot be used ({len(problems)} problems):\n{shown}")
    text = text_of(source / "pretrain.txt")
    pieces = [text[i : i + 2000] for i in range(0, len(text), 2000)]
    write_jsonl(folder / "documents_heldout.jsonl", [{"source": "own", "text": t} for t in pieces[::20]])
    write_jsonl(
        folder / "documents_train.jsonl",
        [{"source": "own", "text": t} for i, t in enumerate(pieces) if i % 20],
    )
    rows = [
        {"messages": to_messages(r["prompt"]), "completion": answer_text(r["completion"])}
        for r in read_jsonl(source / "demonstrations.jsonl")
        if side_of(r) == "train"
    ]
    write_jsonl(folder / "demonstrations.jsonl", rows[: 2 * profile.demonstrations])
    prompts = read_jsonl(source / "prompts.jsonl")
    asked, held = (
        [{"messages": to_messages(r["prompt"])} for r in prompts if side_of(r) == part]
        for part in ("train", "test")
    )
    for name, part, share in (
        ("demonstrations", rows, "train"),
        ("prompts", asked, "train"),
        ("prompts", held, "test"),
    ):
        if not part:  # never filled from the other side: what trains would be measured on
            raise CourseError(
                f"{source / name}.jsonl: no rows are left to {share} on after the split by prompt (a fifth "
                "of all different prompts is held out). Add rows with other prompts."
            )
    write_jsonl(folder / "ppo.jsonl", asked[: profile.ppo_prompts])
    write_jsonl(folder / "test.jsonl", held[: 2 * profile.test_prompts])


def to_rankings(rows: list[dict]) -> list[dict]:
    """Rows of `comparisons.jsonl` as rankings: `messages`, `answers`, their `ranks` and `split`."""
    return [
        {
            "messages": to_messages(r["prompt"]),
            "answers": [text.strip() for text in r["answers"]]
            if "answers" in r
            else [answer_text(r["chosen"]), answer_text(r["rejected"])],
            "ranks": r.get("ranks", [1, 2]),
            "labeler": "human",
            "split": side_of(r),
        }
        for r in rows
    ]


def write_own_rankings(profile: Profile, folder: Path) -> None:
    """The rank stage for own data: human comparisons as rankings of two, rankings as they are."""
    rows = to_rankings(read_jsonl(Path(profile.data) / "comparisons.jsonl"))
    train = [r for r in rows if r["split"] == "train"]
    held = [r for r in rows if r["split"] == "test"]
    if not train or not held:
        raise CourseError(
            f"{profile.data}/comparisons.jsonl: too few different prompts to hold some out; add more."
        )
    write_jsonl(folder / "rankings.jsonl", train[: profile.ranked_prompts])
    write_jsonl(folder / "heldout_prompts.jsonl", held)
    write_jsonl(folder / "metrics.jsonl", [{"comparisons": len(train), "heldout": len(held)}])
