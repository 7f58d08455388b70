"""How often a reward model orders two answers as people, or the gold judge, do."""

import numpy as np

from rlhf_utils.evaluation.statistics import accuracy_of
from rlhf_utils.profiles import Profile
from rlhf_utils.training.reward import encode_rankings, encoded_pairs, score_answers


def pair_accuracy(model, tokenizer, profile: Profile, rows: list[dict], key: str = "ranks") -> dict:
    """How often the reward model orders two answers as `ranks` (or `gold`, highest best) does; see
    `statistics.accuracy_of`.
    """
    return accuracy_of(*pair_marks(model, tokenizer, profile, rows, key))


def pair_marks(
    model, tokenizer, profile: Profile, rows: list[dict], key: str = "ranks"
) -> tuple[np.ndarray, np.ndarray]:
    """(pairs ordered alike, pairs) of each row; ties are left out."""
    encoded = encode_rankings(profile, tokenizer, rows)
    flat = score_answers(model, encoded_pairs(encoded), tokenizer.pad_token_id, profile)
    right, total, start = [], [], 0
    for row in rows:
        scores = flat[start : start + len(row["answers"])]
        start += len(row["answers"])
        target = -np.array(row["ranks"]) if key == "ranks" else np.array(row["gold"])
        better = target[:, None] > target[None, :] + 1e-9
        right.append(float((better & (scores[:, None] > scores[None, :])).sum()))
        total.append(float(better.sum()))
    return np.array(right), np.array(total)
