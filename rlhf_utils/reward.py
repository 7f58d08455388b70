"""Reward model: a scalar head on the SFT model, trained on rankings with InstructGPT's K-wise loss.

Beyond the paper: a language-model loss on pretraining windows beside the ranking loss. A model this
small otherwise forgets its facts while it learns to score, and then rewards style alone.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments

from rlhf_utils.artifacts import Store, write_jsonl
from rlhf_utils.models import autocast, hidden_states, last_scores, load_scorer, pad_batch, save_model
from rlhf_utils.pretraining import run_trainer, training_arguments
from rlhf_utils.profiles import Profile
from rlhf_utils.tokenizer import prompt_ids


def ranking_loss(scores: Tensor, ranks: Tensor, mask: Tensor | None = None) -> Tensor:
    """How surprised the reward model is by labelers' rankings (InstructGPT, eq. 1).

    scores, ranks: (prompts, answers); rank 1 is best, equal ranks are ties and count for nothing.
    mask: same shape, False where a prompt has fewer answers. Each prompt's C(K, 2) comparisons come
    from K scores and are averaged; prompts without a comparison do not count. Equal scores cost
    log 2 = 0.693 a comparison, so an untrained model starts there.
    """
    better = ranks[:, :, None] < ranks[:, None, :]
    if mask is not None:
        better &= mask[:, :, None] & mask[:, None, :]
    losses = -F.logsigmoid(scores[:, :, None] - scores[:, None, :])
    counts = better.sum((1, 2))
    per_prompt = losses.masked_fill(~better, 0).sum((1, 2)) / counts.clamp(min=1)
    return per_prompt.sum() / (counts > 0).sum().clamp(min=1)


def scored_ids(profile: Profile, tokenizer, messages: list[dict], answer: str) -> list[int]:
    """Token ids of prompt, answer and end-of-text token: what the reward model reads."""
    tokens = tokenizer(answer)["input_ids"][: profile.answer_tokens - 1] if answer else []
    return prompt_ids(tokenizer, messages, profile.prompt_tokens) + tokens + [tokenizer.eos_token_id]


class RankingTrainer(Trainer):
    """transformers' Trainer with the ranking loss and a language-model loss on windows."""

    def __init__(self, *args, pad: int, windows: np.ndarray, profile: Profile, **kwargs):
        super().__init__(*args, **kwargs)
        self.pad, self.windows, self.profile = pad, windows, profile
        self.draw = np.random.default_rng(profile.seed)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        rows = inputs["rows"]
        sequences = [ids for row in rows for ids in row["sequences"]]
        flat = last_scores(model, *pad_batch(sequences, self.pad)).float()
        scores, ranks, mask = collate_scores(flat, [row["ranks"] for row in rows])
        loss = ranking_loss(scores, ranks, mask)
        if self.profile.reward_lm:
            chosen = self.draw.integers(len(self.windows), size=self.profile.reward_batch // 2)
            ids = torch.from_numpy(self.windows[chosen].astype(np.int64)).to(flat.device)
            hidden = hidden_states(model, ids, torch.ones_like(ids))[:, :-1]
            logits = hidden @ model.transformer.wte.weight.T.to(hidden.dtype)
            loss = loss + self.profile.reward_lm * F.cross_entropy(logits.float().transpose(1, 2), ids[:, 1:])
        return (loss, {"scores": scores}) if return_outputs else loss


def collate_scores(flat: Tensor, ranks: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of all answers in a row → (prompts, answers) scores, ranks and mask, for any mix of K."""
    width = max(map(len, ranks))
    mask = torch.zeros(len(ranks), width, dtype=torch.bool, device=flat.device)
    table = torch.zeros(len(ranks), width, dtype=torch.long, device=flat.device)
    for i, row in enumerate(ranks):
        mask[i, : len(row)] = True
        table[i, : len(row)] = torch.tensor(row)
    scores = torch.zeros(mask.shape, device=flat.device).masked_scatter(mask, flat)
    return scores, table, mask


def encode_rankings(profile: Profile, tokenizer, rows: list[dict]) -> list[dict]:
    return [
        {"sequences": [scored_ids(profile, tokenizer, r["messages"], a) for a in r["answers"]], "ranks": r["ranks"]} for r in rows
    ]


def train_reward(
    profile: Profile, tokenizer, sft: Path, rankings: list[dict], demonstrations: list[dict], validation: list[dict],
    windows: np.ndarray, store: Store, folder: Path,
) -> None:  # fmt: skip
    """Train a reward model and write it, with the scale of its rewards, into `folder`."""
    torch.manual_seed(profile.seed)
    model = load_scorer(sft).train()
    torch.nn.init.normal_(model.score.weight, std=1 / (profile.width + 1) ** 0.5)
    arguments = TrainingArguments(**training_arguments(
        profile, store.resume_folder("reward"), num_train_epochs=profile.reward_epochs,
        per_device_train_batch_size=profile.reward_batch, learning_rate=profile.reward_rate, remove_unused_columns=False,
    ))  # fmt: skip
    trainer = RankingTrainer(
        model, arguments, train_dataset=encode_rankings(profile, tokenizer, rankings), data_collator=lambda rows: {"rows": rows},
        pad=tokenizer.pad_token_id, windows=windows, profile=profile,
    )  # fmt: skip
    rows = run_trainer(trainer, "reward", store)
    model.eval()
    # Reward = (score - mean over demonstrations) / deviation over SFT samples: so β has a unit.
    # The paper only shifts, so that demonstrations have mean 0.
    shown = [scored_ids(profile, tokenizer, r["messages"], r["completion"]) for r in demonstrations]
    sampled = [s for r in encode_rankings(profile, tokenizer, validation) for s in r["sequences"]]
    mean = float(score_sequences(model, shown, tokenizer.pad_token_id, profile).mean())
    deviation = float(score_sequences(model, sampled, tokenizer.pad_token_id, profile).std())
    model.config.reward_mean, model.config.reward_std = mean, max(deviation, 1e-6)
    save_model(model, folder, tokenizer)
    write_jsonl(folder / "metrics.jsonl", rows)


@torch.no_grad()
def score_sequences(model, sequences: list[list[int]], pad: int, profile: Profile, batch: int = 256) -> np.ndarray:
    """Raw scores of token lists, in their order."""
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    scores = np.empty(len(sequences))
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        with autocast(profile):
            values = last_scores(model, *pad_batch([sequences[i] for i in part], pad))
        scores[part] = values.float().cpu().numpy()
    return scores


def rewards(model, sequences: list[list[int]], pad: int, profile: Profile) -> np.ndarray:
    """Normalised rewards; see `train_reward`."""
    return (score_sequences(model, sequences, pad, profile) - model.config.reward_mean) / model.config.reward_std


def pair_accuracy(model, tokenizer, profile: Profile, rows: list[dict], key: str = "ranks") -> dict:
    """How often the reward model orders two answers as `ranks` (or `gold`, highest best) does.

    Returns `accuracy`, its 95 % interval `low`, `high` (bootstrap by prompt) and `pairs`; ties are left out.
    """
    encoded = encode_rankings(profile, tokenizer, rows)
    flat = score_sequences(model, [s for r in encoded for s in r["sequences"]], tokenizer.pad_token_id, profile)
    right, total, start = [], [], 0
    for row in rows:
        scores = flat[start : start + len(row["answers"])]
        start += len(row["answers"])
        target = -np.array(row["ranks"]) if key == "ranks" else np.array(row["gold"])
        better = target[:, None] > target[None, :] + 1e-9
        right.append(float((better & (scores[:, None] > scores[None, :])).sum()))
        total.append(float(better.sum()))
    right, total = np.array(right), np.array(total)
    if not total.sum():
        return {"accuracy": float("nan"), "low": float("nan"), "high": float("nan"), "pairs": 0}
    draws = np.random.default_rng(0).integers(len(rows), size=(2000, len(rows)))
    samples = right[draws].sum(1) / np.maximum(total[draws].sum(1), 1)
    low, high = np.quantile(samples, [0.025, 0.975])
    return {"accuracy": float(right.sum() / total.sum()), "low": float(low), "high": float(high), "pairs": int(total.sum())}


