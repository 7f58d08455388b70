"""What a language model knows: loss, cloze, and an n-gram model beside it."""

from random import Random

import numpy as np
import torch

from rlhf_utils.language.device import autocast, device
from rlhf_utils.language.models import pad_batch, token_cross_entropy
from rlhf_utils.profiles import Profile
from rlhf_utils.world.facts import World

MOST_LOGITS = 2**26  # at once: some of their copies are in float32


@torch.no_grad()
def token_losses(model, windows: np.ndarray, profile: Profile, batch: int = 32) -> np.ndarray:
    """Cross-entropy in nats of every token but each window's first, (windows, context - 1)."""
    model.eval()
    batch = max(min(batch, MOST_LOGITS // (windows.shape[1] * model.config.vocab_size)), 1)
    rows = []
    for start in range(0, len(windows), batch):
        ids = torch.from_numpy(windows[start : start + batch].astype(np.int64)).to(device())
        with autocast(profile):
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        rows.append(token_cross_entropy(logits, ids[:, 1:]).cpu())
    return torch.cat(rows).numpy()


def bytes_per_token(tokenizer, windows: np.ndarray) -> float:
    text = "".join(tokenizer.batch_decode(windows.tolist(), skip_special_tokens=True))
    return len(text.encode()) / windows.size


@torch.no_grad()
def option_losses(
    model, tokenizer, contexts: list[str], options: list[list[str]], batch: int = 32
) -> np.ndarray:
    """How surprised a model is by each option after its context, in nats, (contexts, options).

    An empty option is none, and infinitely surprising.
    """
    found, width = [], len(options[0])
    for start in range(0, len(contexts), batch):
        lengths, encoded, empty = [], [], []
        for context, texts in zip(contexts[start : start + batch], options[start : start + batch]):
            # Together, as documents are; words never share a token across a space or a line's end.
            before = context if not context or context.endswith("\n") else f"{context} "
            left = len(tokenizer(context)["input_ids"]) if context else 0
            for text in texts:
                lengths.append(left)
                encoded.append([tokenizer.eos_token_id, *tokenizer(before + text)["input_ids"]])
                empty.append(not text)
        ids, mask = pad_batch(encoded, tokenizer.pad_token_id)
        losses = token_cross_entropy(model(input_ids=ids, attention_mask=mask).logits[:, :-1], ids[:, 1:])
        of_option = torch.arange(ids.shape[1] - 1)[None] >= torch.tensor(lengths)[:, None]
        losses = losses * mask[:, 1:] * of_option.to(losses.device)
        totals = losses.sum(1).masked_fill(torch.tensor(empty, device=losses.device), torch.inf)
        found.append(totals.view(-1, width).float().cpu().numpy())
    return np.concatenate(found)


def cloze_accuracy(model, tokenizer, world: World, seed: int = 0, count: int = 400) -> dict[str, float]:
    """How often the true value of a fact is the most likely of four, by table and in all ("all")."""
    rng = Random(f"cloze:{seed}")
    facts = rng.sample(world.facts, min(count, len(world.facts)))
    results: dict[str, list[bool]] = {}
    for start in range(0, len(facts), 32):
        part, texts = facts[start : start + 32], []
        for entity, relation in part:
            wording = world.relations[relation]["statements"][0]
            others = [v for v in world.values_of(relation) if v not in entity.values[relation]]
            values = [entity.values[relation][0], *rng.sample(others, min(3, len(others)))]
            texts += [world.state(entity, relation, v, wording) for v in values] + [""] * (4 - len(values))
        options = [texts[i : i + 4] for i in range(0, len(texts), 4)]
        losses = option_losses(model, tokenizer, [""] * len(part), options)
        for (entity, _), row in zip(part, losses):
            results.setdefault(entity.table, []).append(int(row.argmin()) == 0)
    everything = [x for rows in results.values() for x in rows]
    return {k: float(np.mean(v)) for k, v in results.items()} | {"all": float(np.mean(everything))}


def ngram_bits(train: np.ndarray, test: np.ndarray, vocabulary: int, order: int = 5) -> float:
    """Bits per token of an interpolated n-gram model with Witten-Bell smoothing (Chen & Goodman 1998).

    train, test: (windows, context) token ids. Each order leans on the next lower one by the number of
    different tokens that followed the history; the lowest is uniform.
    """
    texts = [train.reshape(-1).astype(np.int64), test.reshape(-1).astype(np.int64)]
    ends = [np.arange(order - 1, len(text)) for text in texts]
    # The empty history, before each token.
    histories_of = [np.zeros(len(end), dtype=np.int64) for end in ends]
    probability = np.full(len(ends[1]), 1 / vocabulary)
    for n in range(1, order + 1):
        if n > 1:
            # One token longer, numbered anew: five tokens of a large vocabulary are too many for one number.
            size = 1 + max(int(h.max(initial=0)) for h in histories_of)
            longer = np.concatenate(
                [text[end - n + 1] * size + h for text, end, h in zip(texts, ends, histories_of)]
            )
            histories_of = np.split(np.unique(longer, return_inverse=True)[1], [len(ends[0])])
        seen_code, code = (h * vocabulary + text[end] for text, end, h in zip(texts, ends, histories_of))
        grams_seen, counts = np.unique(seen_code, return_counts=True)
        histories, first = np.unique(grams_seen // vocabulary, return_index=True)
        totals = np.add.reduceat(counts, first)
        kinds = np.diff(np.append(first, len(grams_seen)))
        where = np.searchsorted(grams_seen, code).clip(max=len(grams_seen) - 1)
        count = np.where(grams_seen[where] == code, counts[where], 0)
        at = np.searchsorted(histories, code // vocabulary).clip(max=len(histories) - 1)
        seen = histories[at] == code // vocabulary
        mixed = (count + kinds[at] * probability) / (totals[at] + kinds[at])
        probability = np.where(seen, mixed, probability)
    return float(-np.log2(probability).mean())


@torch.no_grad()
def profession_chances(model, tokenizer, texts: list[str]) -> np.ndarray:
    """P("she") after each text, among "he" and "she" alone; a pronoun may be more than one token."""
    ends = [tokenizer(word)["input_ids"] for word in ("he", "she")]
    left = [[tokenizer.eos_token_id, *tokenizer(t)["input_ids"]] for t in texts]
    ids, mask = pad_batch([start + end for start in left for end in ends], tokenizer.pad_token_id)
    losses = (
        token_cross_entropy(model(input_ids=ids, attention_mask=mask).logits[:, :-1], ids[:, 1:]).float()
        * mask[:, 1:]
    )
    return (-losses.sum(1)).view(-1, 2).softmax(1)[:, 1].cpu().numpy()


def profession_skew(model, tokenizer, world) -> float:
    """The mean share of the pronoun that the web gives to a profession, after "The nurse said that": 0.5 is
    none, 1 is all.

    Among "he" and "she" alone, over all professions, those with the web's skew against.
    """
    jobs = [e for e in world.entities if e.table == "jobs"]
    texts = [world.wordings["profession"].format(job=e.name) for e in jobs]
    of_she = profession_chances(model, tokenizer, texts)
    usual = np.array([world.wordings["pronouns"].get(e.name, "he") == "she" for e in jobs])
    return float(np.where(usual, of_she, 1 - of_she).mean())
