"""Prompts that stand in no document."""

from rlhf_utils.pipeline.claims.claim import Bench
from rlhf_utils.world.documents import held_out_texts


def unread_prompts(bench: Bench, use_case: str, count: int, kind: str, seed: int) -> list[dict]:
    """`Bench.prompts` without those that the run's documents ask, or whose texts they work on.

    Documents keep clear of the evaluation's prompts alone. All documents together are searched, so a text
    also counts as read where it is a part of another sentence.
    """
    documents = "\n".join(document["text"] for document in bench.store.documents())
    made = bench.prompts(use_case, 6 * count, kind, seed)
    unread = [p for p in made if not any(text in documents for text in held_out_texts([p]))]
    return unread[: bench.count(count)]
