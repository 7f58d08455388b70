"""Your taste: people's own rankings steer a reward model and a policy of their own, beside the default ones.

Forty rankings are far too few to train a network: fine-tuned on them, it learns them by heart and hardly
anything else. So only a second head is trained, a hundred numbers or so that read what the crowd's reward
model sees in an answer. Your reward is the crowd's plus `own_weight` times the probability that you would
prefer this answer to a middling one, both in standard deviations: nothing that the crowd taught is lost. A
probability, since it has an end: with the head's bare number a taste for short answers ended in no answers
at all. The policy is then trained from the SFT model as the default one was, with this reward model in
place of the crowd's. The paper has no such step: its labelers were one crowd.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from rlhf_utils.artifacts.files import write_jsonl
from rlhf_utils.artifacts.store import Store
from rlhf_utils.environment import DATA, CourseError
from rlhf_utils.evaluation.reward_accuracy import pair_accuracy
from rlhf_utils.language.device import autocast
from rlhf_utils.language.models import load_scorer, save_model
from rlhf_utils.language.packing import pack, side_by_side
from rlhf_utils.language.scoring import hidden_states
from rlhf_utils.profiles import PROFILES, Profile
from rlhf_utils.ranking.store import own_rankings
from rlhf_utils.training.reward import encode_rankings, encoded_pairs, ranking_loss, score_answers, scored_ids

FEWEST = 8  # rankings with at least one comparison
# Deviation of the head's log-odds over sampled answers: few rankings can be told apart perfectly, and would
# make it a step
SHARPNESS = 2.0
HELD_OUT = 5  # one of so many prompts never trains
# Who stands in where nobody has ranked: forty rankings that put polite answers first (pipeline/reference.py).
EXAMPLE, EXAMPLE_FILE = "example reader", DATA / "ranking" / "example.jsonl"

# Readers whom a program plays: what they value in an answer, more is better. Used to measure how far a taste
# steers.
SCRIPTED: dict[str, Callable[[str], float]] = {
    "short": lambda answer: -len(answer.split()),
    "polite": lambda answer: any(
        w in answer.lower() for w in ("i hope", "please", "thank", "glad to", "sorry")
    ),
    "detailed": lambda answer: len(answer.split()),
}


def example_store() -> Store:
    """The models that come with the course, the example reader's among them."""
    store = Store(PROFILES["laptop"], reference=True)
    store.root = store.reference
    return store


def has_own_taste(store: Store, stage: str = "taste_ppo") -> bool:
    """Whether there is a model of the reader's own rankings, not the example reader's alone."""
    found = store.find(stage)
    return found is not None and found.parent in (store.root, store.plain) and found.parent != store.reference


def ranks_by(value: Callable[[str], float], answers: Sequence[str]) -> list[int]:
    """Ranks of answers by a value, highest first; equal values are ties. ("a bb", "a", "a") by length
    → [1, 2, 2].
    """
    values = [value(a) for a in answers]
    return [1 + sum(v > own for v in values) for own in values]


def usable_rankings(guideline: str = "") -> list[dict]:
    """People's rankings that prefer something: from one where all is tied there is nothing to learn."""
    return [r for r in own_rankings(guideline) if len(set(r["ranks"])) > 1]


def write_taste(profile: Profile, folder: Path) -> None:
    """The `taste` stage: people's rankings, a fifth of the prompts held out (all rankings of a prompt on one
    side).
    """
    rows = usable_rankings(profile.guideline)
    if len(rows) < FEWEST:
        which = f" by guideline {profile.guideline!r}" if profile.guideline else ""
        raise CourseError(
            f"There are {len(rows)} rankings{which} that prefer one answer to another; at least {FEWEST} are "
            "needed, and about 40 work well. Rank some in chapters/04_collect_rankings.ipynb."
        )
    prompts: dict[str, str] = {}  # what was asked, however often → the first item that asked it
    for row in rows:
        asked = json.dumps(row["messages"])
        prompts[asked] = min(row["item"], prompts.get(asked, row["item"]))
    if len(prompts) < 2:
        raise CourseError(
            "All your rankings are of one prompt, so none is left to measure with. Rank answers to other "
            "prompts, too."
        )
    mixed = sorted(prompts, key=lambda asked: hashlib.sha256(prompts[asked].encode()).hexdigest())
    held = set(mixed[: max(len(mixed) // HELD_OUT, 1)])
    made = [
        {k: r[k] for k in ("item", "ranker", "messages", "answers", "ranks", "seconds", "guideline")}
        for r in rows
    ]
    write_jsonl(folder / "rankings.jsonl", [r for r in made if json.dumps(r["messages"]) not in held])
    write_jsonl(folder / "heldout.jsonl", [r for r in made if json.dumps(r["messages"]) in held])


def answer_features(
    model, pairs: list[tuple[list[int], list[int]]], pad: int, profile: Profile, batch: int = 256
) -> Tensor:
    """What the reward model's head reads of each (prompt, answer): the hidden state at the end, (answers,
    width).
    """
    made = []
    for start in range(0, len(pairs), batch):
        packed = pack(side_by_side(pairs[start : start + batch]), pad)
        with torch.no_grad(), autocast(profile):
            made.append(hidden_states(model, packed)[packed.ends].float())
    return torch.cat(made)


def fit_head(features: Tensor, rows: list[dict], decay: float = 0.01) -> Tensor:
    """A head that orders answers as `rows` rank them: logistic regression on differences, (width,).

    features: (answers, width), those of all rows one after the other. Each ranking counts the same; ties
    count for nothing.
    """
    ranks = torch.nn.utils.rnn.pad_sequence([torch.tensor(r["ranks"]) for r in rows], batch_first=True)
    sizes = torch.tensor([len(r["ranks"]) for r in rows])
    mask = torch.arange(ranks.shape[1]) < sizes[:, None]
    head = torch.zeros(features.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([head], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        scores = torch.zeros(mask.shape).masked_scatter(mask, features @ head)
        value = ranking_loss(scores, ranks, mask) + decay * (head @ head)
        value.backward()
        return value

    optimizer.step(loss)
    return head.detach()


def train_taste(
    profile: Profile,
    tokenizer,
    crowd: Path,
    own: list[dict],
    sampled: list[dict],
    demonstrations: list[dict],
    folder: Path,
) -> None:
    """Write the crowd's reward model with a second head, for your taste, into `folder`.

    `sampled` are rankings whose answers set the units: over them a reward of the crowd's and one of yours
    both have a standard deviation of 1, and the middling answer lies at their mean.
    """
    model, pad = load_scorer(crowd), tokenizer.pad_token_id
    before = pair_accuracy(model, tokenizer, profile, own)["accuracy"]
    seen = answer_features(model, encoded_pairs(encode_rankings(profile, tokenizer, sampled)), pad, profile)
    mean, deviation = seen.mean(0), seen.std(0).clamp(min=1e-3)
    mine = answer_features(model, encoded_pairs(encode_rankings(profile, tokenizer, own)), pad, profile)
    head = fit_head(((mine - mean) / deviation).cpu(), own).to(seen.device) / deviation
    head = SHARPNESS * head / (seen @ head).std().clamp(min=1e-6)
    middle = float((seen @ head).mean())
    spread = float(torch.sigmoid(seen @ head - middle).std())
    heads = torch.nn.Linear(model.score.weight.shape[1], 2, bias=False, device=seen.device)
    with torch.no_grad():
        heads.weight.copy_(torch.stack([model.score.weight[0], head]))
    model.score, model.num_labels = heads, 2
    model.config.taste = {"scale": profile.own_weight * model.config.reward_std / spread, "middle": middle}
    shown = [scored_ids(profile, tokenizer, r["messages"], r["completion"]) for r in demonstrations]
    model.config.reward_mean = float(score_answers(model, shown, pad, profile).mean())
    save_model(model, folder, tokenizer)
    after = pair_accuracy(model, tokenizer, profile, own)["accuracy"]
    write_jsonl(
        folder / "metrics.jsonl",
        [
            {
                "rankings": len(own),
                "own_weight": profile.own_weight,
                "accuracy_before": before,
                "accuracy": after,
            }
        ],
    )
