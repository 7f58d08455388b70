"""Reward model: a scalar head on the base model, trained on rankings with InstructGPT's K-wise loss.

It starts from the base model, which knows more facts than the SFT model (the paper found both alike,
appendix C.2). Beyond the paper, since a model this small would otherwise reward style alone:

- a language-model loss on pretraining windows beside the ranking loss, so that it keeps its facts;
- a score that also counts how likely the model's own language model finds the answer. A scalar head of
  this size hardly learns to compare what an answer says with what is true; a language model does so with
  every token it predicts. `tests/benchmarks/reward_model.py` measures what each of them brings.
"""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments

from rlhf_utils.artifacts import processes
from rlhf_utils.artifacts.files import write_jsonl
from rlhf_utils.environment import CourseError
from rlhf_utils.language.device import autocast, device, give_back_memory
from rlhf_utils.language.models import load_scorer, save_model, token_cross_entropy, trunk_of
from rlhf_utils.language.packing import pack, side_by_side
from rlhf_utils.language.recomputing import recompute
from rlhf_utils.language.scoring import answer_scores, next_logits
from rlhf_utils.language.tokenizer import answer_ids, prompt_ids
from rlhf_utils.look import Table
from rlhf_utils.profiles import Profile
from rlhf_utils.training.plan import Room, room_here
from rlhf_utils.training.sharding import put_together, share_out
from rlhf_utils.training.trainer import WholeBatches, run_trainer, training_arguments

# Reward, in standard deviations, of an answer that never ends, or ends before its first word.
NO_ANSWER = -3.0


def ranking_loss(
    scores: Tensor, ranks: Tensor, mask: Tensor | None = None, tie_threshold: float = 0.0
) -> Tensor:
    """How surprised the reward model is by labelers' rankings (InstructGPT, eq. 1).

    scores, ranks: (prompts, answers); rank 1 is best, equal ranks are ties. mask: same shape, False where a
    prompt has fewer answers. Each prompt's C(K, 2) comparisons come from K scores and are averaged; prompts
    without a comparison do not count. Equal scores cost log 2 = 0.693 a comparison, so an untrained model
    starts there.

    Ties count for nothing, as in the paper, unless there is a `tie_threshold` η > 0: then P(i beats j) =
    σ(s_i − s_j − η), and what is left is the probability of a tie (Rao and Kupper, 1967).
    """
    losses, compared = ranking_losses(scores, ranks, mask, tie_threshold)
    return (losses * compared).sum() / compared.sum().clamp(min=1e-6)


def ranking_losses(
    scores: Tensor, ranks: Tensor, mask: Tensor | None = None, tie_threshold: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Each prompt's mean over its comparisons, (prompts,), and 1.0 where it has any; see `ranking_loss`."""
    gap = scores[:, :, None] - scores[:, None, :]
    better = ranks[:, :, None] < ranks[:, None, :]
    losses = -F.logsigmoid(gap - tie_threshold)
    if tie_threshold:
        tied = (ranks[:, :, None] == ranks[:, None, :]).triu(1)
        losses = torch.where(
            tied,
            losses - F.logsigmoid(-gap - tie_threshold) - math.log(math.expm1(2 * tie_threshold)),
            losses,
        )
        better = better | tied
    if mask is not None:
        better = better & mask[:, :, None] & mask[:, None, :]
    counts = better.sum((1, 2))
    return losses.masked_fill(~better, 0).sum((1, 2)) / counts.clamp(min=1), (counts > 0).to(scores.dtype)


def scored_ids(profile: Profile, tokenizer, messages: list[dict], answer: str) -> tuple[list[int], list[int]]:
    """Token ids of a prompt, and of an answer with its end-of-text token: what the reward model reads."""
    return prompt_ids(tokenizer, messages, profile.prompt_tokens), answer_ids(
        tokenizer, answer, profile.answer_tokens
    )


class RankingModel(torch.nn.Module):
    """A reward model whose forward pass is its loss: ranking loss, plus `lm` times the language-model loss on
    windows.
    """

    def __init__(self, scorer, pad: int, lm: float, tie_threshold: float):
        super().__init__()
        self.scorer, self.pad, self.lm, self.tie_threshold = scorer, pad, lm, tie_threshold

    def activation_checkpointing_enable(self, **_) -> None:
        """What a Trainer asks for where memory is short."""
        recompute(self.scorer)

    def forward(
        self, rows: list[dict], windows: Tensor | None = None, all_windows: int = 0
    ) -> dict[str, Tensor]:
        flat = answer_scores(self.scorer, pack([(row["prompt"], row["answers"]) for row in rows], self.pad))
        scores, ranks, mask = collate_scores(flat, [row["ranks"] for row in rows])
        losses, compared = ranking_losses(scores, ranks, mask, self.tie_threshold)
        # A mean over the rankings of all processes; the gradients of processes are averaged afterwards.
        total = compared.sum()
        processes.add_up(total)
        loss = processes.COUNT * (losses * compared).sum() / total.clamp(min=1e-6)
        if windows is not None:
            share = processes.COUNT * len(windows) / all_windows
            if not len(windows):  # of many processes some may have none: the same passes, without weight
                windows = windows.new_zeros(1, windows.shape[1])
            trunk = trunk_of(self.scorer)(input_ids=windows, use_cache=False)
            logits = next_logits(self.scorer, trunk.last_hidden_state[:, :-1])
            loss = loss + self.lm * share * token_cross_entropy(logits, windows[:, 1:]).mean()
        return {"loss": loss}


class RankingTrainer(WholeBatches, Trainer):
    """transformers' Trainer with the ranking loss and a language-model loss on windows."""

    def __init__(
        self,
        model,
        *args,
        pad: int,
        windows: np.ndarray,
        profile: Profile,
        tie_threshold: float = 0.0,
        shared_out: bool = False,
        **kwargs,
    ):
        whole = RankingModel(model, pad, profile.reward_lm, tie_threshold)
        if shared_out:
            share_out(whole, model)
        super().__init__(whole, *args, **kwargs)
        self.windows, self.profile, self.draw = windows, profile, np.random.default_rng(profile.seed)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if not self.profile.reward_lm:
            return model(inputs["rows"])["loss"]
        count = max(self.profile.reward_batch // 2 // self.args.gradient_accumulation_steps, 1)
        chosen = processes.mine(self.draw.integers(len(self.windows), size=count))
        windows = torch.from_numpy(self.windows[chosen].astype(np.int64)).to(self.args.device)
        return model(inputs["rows"], windows, count)["loss"]


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
    encoded = []
    for row in rows:
        pairs = [scored_ids(profile, tokenizer, row["messages"], answer) for answer in row["answers"]]
        prompt, answers = pairs[0][0], [answer for _, answer in pairs]
        encoded.append(
            {
                "prompt": prompt,
                "answers": answers,
                "ranks": row["ranks"],
                "length": len(prompt) + sum(map(len, answers)),
            }
        )
    return encoded


def encoded_pairs(encoded: list[dict]) -> list[tuple[list[int], list[int]]]:
    return [(row["prompt"], answer) for row in encoded for answer in row["answers"]]


def train_reward(
    profile: Profile,
    tokenizer,
    base: Path,
    rankings: list[dict],
    demonstrations: list[dict],
    validation: list[dict],
    windows: np.ndarray,
    folder: Path,
    resume: Path,
    live: Path | None = None,
    tie_threshold: float = 0.0,
) -> None:
    """Train a reward model and write it, with the scale of its rewards, into `folder`.

    `tie_threshold` is `ranking_loss`'s. Progress is shown in `live`.
    """
    encoded = encode_rankings(profile, tokenizer, rankings)
    if not any(len(set(row["ranks"])) > 1 or (tie_threshold and len(row["ranks"]) > 1) for row in encoded):
        raise CourseError(
            f"None of the {len(encoded)} rankings prefers one answer to another: a single answer, or ties "
            "alone, teach nothing."
        )
    torch.manual_seed(profile.seed)
    rows = processes.per_process(profile.reward_batch, "The batch")
    longest = profile.prompt_tokens + max(len(row["ranks"]) for row in encoded) * profile.answer_tokens
    room = room_here(profile, rows, longest, alone=False)
    model = load_scorer(base, room.place).train()
    if not getattr(model.config, "tie_word_embeddings", True):
        # Without an output of its own a trunk predicts nothing: the scalar head is all, as in the paper.
        profile = replace(profile, reward_lm=0.0, reward_likelihood=0.0)
    torch.nn.init.normal_(model.score.weight, std=1 / (model.score.weight.shape[1] + 1) ** 0.5)
    model.config.likelihood = profile.reward_likelihood
    shown = None if room.shared_out else partial(scores_now, model, tokenizer, profile, validation[:2])
    trainer = ranking_trainer(
        profile, tokenizer.pad_token_id, model, encoded, windows, resume, room, tie_threshold
    )
    rows = run_trainer(trainer, "reward", live, answers=shown if validation else None)
    del trainer
    model = put_together(model, load_scorer(base, room.place)) if room.shared_out else model
    give_back_memory()  # and only then onto the card, where parts of it have been
    set_scale(profile, tokenizer, model.to(device()).eval(), demonstrations, validation)
    save_model(model, folder, tokenizer)
    write_jsonl(folder / "metrics.jsonl", rows)


def ranking_trainer(
    profile: Profile, pad: int, model, encoded: list[dict], windows, resume: Path, room: Room, tie: float
) -> RankingTrainer:
    arguments = training_arguments(
        profile,
        resume,
        rows=profile.reward_batch,
        room=room,
        num_train_epochs=profile.reward_epochs,
        learning_rate=profile.reward_rate,
        remove_unused_columns=False,
        # Prompts of like length share a batch: a quarter of a random one would be padding.
        train_sampling_strategy="group_by_length",
        length_column_name="length",
    )
    return RankingTrainer(
        model,
        TrainingArguments(**arguments),
        train_dataset=Dataset.from_list(encoded),
        data_collator=lambda rows: {"rows": rows},
        pad=pad,
        windows=windows,
        profile=profile,
        tie_threshold=tie,
        shared_out=room.shared_out,
    )


def scores_now(model, tokenizer, profile: Profile, rankings: list[dict]) -> Table:
    """How a model in training scores the answers of a few rankings that it does not learn from."""
    encoded = encode_rankings(profile, tokenizer, rankings)
    model.eval()
    scores = iter(score_answers(model, encoded_pairs(encoded), tokenizer.pad_token_id, profile))
    model.train()
    rows = []
    for ranking in rankings:
        asked = ranking["messages"][-1]["content"]
        made = [
            {"prompt": asked, "answer": answer, "rank by a labeler": rank, "score now": float(next(scores))}
            for answer, rank in zip(ranking["answers"], ranking["ranks"])
        ]
        rows += sorted(made, key=lambda row: row["rank by a labeler"])
    return Table(rows)


def set_scale(profile: Profile, tokenizer, model, demonstrations: list[dict], validation: list[dict]) -> None:
    """Gives rewards their unit: (score − mean over demonstrations) / deviation over answers of the SFT model.

    The paper only shifts, so that demonstrations have mean 0; with a unit, β has one as well.
    """
    shown = [scored_ids(profile, tokenizer, r["messages"], r["completion"]) for r in demonstrations]
    sampled = encoded_pairs(encode_rankings(profile, tokenizer, validation))
    mean = float(score_answers(model, shown, tokenizer.pad_token_id, profile).mean())
    deviation = float(score_answers(model, sampled, tokenizer.pad_token_id, profile).std())
    if not math.isfinite(mean + deviation):
        raise CourseError(
            "The reward model's scores are not finite numbers: training ran away. Try half the reward_rate "
            f"({profile.reward_rate:g})."
        )
    model.config.reward_mean, model.config.reward_std = mean, max(deviation, 1e-6)


@torch.no_grad()
def score_answers(
    model, pairs: list[tuple[list[int], list[int]]], pad: int, profile: Profile, batch: int = 256
) -> np.ndarray:
    """Raw scores of (prompt, answer) token lists, in their order."""
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    scores = np.empty(len(pairs))
    for start in range(0, len(order), batch):
        part = sorted(order[start : start + batch])
        with autocast(profile):
            values = answer_scores(model, pack(side_by_side([pairs[i] for i in part]), pad))
        scores[part] = values.float().cpu().numpy()
    return scores


def rewards(model, pairs: list[tuple[list[int], list[int]]], pad: int, profile: Profile) -> np.ndarray:
    """Normalised rewards; see `set_scale`."""
    return (score_answers(model, pairs, pad, profile) - model.config.reward_mean) / model.config.reward_std


def reward_of(
    model, tokenizer, profile: Profile, messages: list[dict], answers: list[str], likelihood: bool = True
) -> np.ndarray:
    """Normalised rewards of answers, as text, to one prompt; without `likelihood` the scalar head's alone.

    What is left of the reward is the part of the answer's log-probability.
    """
    pairs = [scored_ids(profile, tokenizer, messages, answer) for answer in answers]
    weight = getattr(model.config, "likelihood", 0.0)
    model.config.likelihood = weight if likelihood else 0.0
    try:
        return rewards(model, pairs, tokenizer.pad_token_id, profile)
    finally:
        model.config.likelihood = weight


def normalised(model, scores: Tensor, ended: Tensor, lengths: Tensor) -> Tensor:
    """Rewards of answers from their raw scores; all (answers,), `lengths` in tokens, the end's included.

    In standard deviations over SFT's answers; 0 is the mean demonstration. An answer that never ended, or
    ended before its first word, gets `NO_ANSWER`. Raises CourseError if one is not a finite number.
    """
    rewards = (scores - model.config.reward_mean) / model.config.reward_std
    rewards = torch.where(ended & (lengths > 1), rewards, NO_ANSWER)
    if not torch.isfinite(rewards).all():
        raise CourseError(
            "The reward model gave a reward that is not a finite number. Train it again with a lower "
            "reward_rate."
        )
    return rewards
