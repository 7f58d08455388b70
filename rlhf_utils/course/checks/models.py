"""Exercises of chapters 02 and 03: a language model, and what it is fine-tuned on."""

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

from rlhf_utils.course.checks.checking import check, check_training


# -- 02 -----------------------------------------------------------------------------------------------------
def causal_mask(function: Callable) -> bool:
    """Which positions a token may look at, as rows of True and False."""
    mistakes = {
        "You let each token see the future: row i is token i, and it may look at j ≤ i.": lambda n: [
            [j >= i for j in range(n)] for i in range(n)
        ],
        "A token may look at itself, too: j = i is allowed.": lambda n: [
            [j < i for j in range(n)] for i in range(n)
        ],
        "Each token sees only itself here, and not what came before it.": lambda n: [
            [j == i for j in range(n)] for i in range(n)
        ],
        "Yours says who may not look: True is for those that may.": lambda n: [
            [j > i for j in range(n)] for i in range(n)
        ],
        "Nothing is masked: every token sees all the others.": lambda n: [[True] * n] * n,
    }
    cases = [((1,), [[True]]), ((3,), [[True, False, False], [True, True, False], [True, True, True]])]
    return check(function, cases, mistakes)


def surprise(function: Callable) -> bool:
    """−ln of the probability that softmax gives the token that really came, in nats."""

    def p(logits, token):
        return float(torch.tensor(logits).softmax(0)[token])

    mistakes = {
        "You used the logit as a log-probability: apply softmax, then ln.": lambda z, t: -z[t],
        "That is in bits, with the logarithm to base 2; losses are in nats, with ln.": lambda z, t: (
            -math.log2(p(z, t))
        ),
        "The minus is missing: ln of a probability is negative, a surprise is not.": lambda z, t: math.log(
            p(z, t)
        ),
        "That is the probability; its surprise is −ln of it.": p,
        "That is one minus the probability, which hardly tells an unlikely token from an impossible one.": (
            lambda z, t: 1 - p(z, t)
        ),
    }
    cases = [
        (([0.0, 0.0], 0), math.log(2)),
        (([0.0, 0.0, 0.0, 2.0], 3), 0.340761),
        (([1.0, 3.0], 0), 2.126928),
    ]
    return check(function, cases, mistakes)


def bits_per_byte(function: Callable) -> bool:
    """Of a loss in nats a token, and bytes a token."""
    mistakes = {
        "This is bits per token: divide by the bytes that a token stands for.": lambda loss, size: (
            loss / math.log(2)
        ),
        "This is nats per byte: divide by ln 2 for bits.": lambda loss, size: loss / size,
        "You multiplied by ln 2: one nat is more than one bit.": lambda loss, size: loss * math.log(2) / size,
        "The bytes of a token share its surprise: divide, do not multiply.": lambda loss, size: (
            loss / math.log(2) * size
        ),
    }
    cases = [((math.log(2), 1.0), 1.0), ((2.0, 4.0), 0.721348), ((math.log(256), 1.0), 8.0)]
    return check(function, cases, mistakes)


def at_temperature(function: Callable) -> bool:
    """Probabilities of tokens at a temperature."""

    def soft(logits, divide):
        return (torch.tensor(logits) / divide).softmax(0)

    mistakes = {
        "You multiplied by the temperature: a high one flattens the odds, so divide the logits by it.": (
            lambda z, t: soft(z, 1 / t)
        ),
        "You divided the probabilities, so that they no longer sum to 1: divide the logits.": lambda z, t: (
            soft(z, 1) / t
        ),
        "You divided in the numerator alone: the sum has to be of the divided logits, too.": lambda z, t: (
            [math.exp(x / t) / sum(map(math.exp, z)) for x in z]
        ),
        "Your temperature does nothing: at 2 the odds must be flatter than at 1.": lambda z, t: soft(z, 1),
    }
    cases = [
        (([0.0, math.log(3)], 1.0), [0.25, 0.75]),
        (([0.0, math.log(9)], 2.0), [0.25, 0.75]),
        (([0.0, math.log(2)], 0.5), [0.2, 0.8]),
    ]
    return check(function, cases, mistakes)


def training_step(function: Callable) -> bool:
    """One step of a language model's training; it trains a model of eight tokens."""
    ids = torch.tensor([[1, 2, 3, 1, 2, 3], [4, 5, 4, 5, 4, 5]])

    def loss_of(model, ids, shift: int = 1):
        wanted = ids[:, shift:] if shift else ids
        return F.cross_entropy(model(ids)[:, : wanted.shape[1]].flatten(0, 1), wanted.flatten())

    def step(shift: int = 1, zero: bool = True, back: bool = True, cut: bool = False, after: bool = False):
        def of(model, optimizer, ids):
            loss = loss_of(model, ids, shift)
            if zero:
                optimizer.zero_grad()
            if back:
                loss.backward()
                if cut:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
            return loss_of(model, ids, shift) if after else loss

        return of

    mistakes = {
        "The loss never changes: backward() or step() is missing, or zero_grad() comes between them.": step(
            back=False
        ),
        "Gradients of earlier steps are added up: call optimizer.zero_grad().": step(zero=False),
        "You have each token predict itself: compare position t with token t + 1.": step(shift=0),
        "You look two tokens ahead: compare position t with token t + 1.": step(shift=2),
        "You shortened the gradient: here it is taken as it is.": step(cut=True),
        "That is the loss after the step: return the one from before it.": step(after=True),
    }
    return check_training(function, step(), mistakes, (ids,))


# -- 03 -----------------------------------------------------------------------------------------------------
def completion_labels(function: Callable) -> bool:
    """Labels with -100 on the prompt, and the end-of-text token after the answer."""
    mistakes = {
        "Your loss counts the prompt: its labels should be −100.": lambda p, a, e: p + a + [e],
        "Without the end-of-text token the model never learns to stop.": lambda p, a, e: [-100] * len(p) + a,
        "The end-of-text token must count as well: its label is its own id.": lambda p, a, e: (
            [-100] * len(p) + a + [-100]
        ),
        "The answer does not count in your loss.": lambda p, a, e: [-100] * len(p + a) + [e],
        "You shifted the labels; transformers does that itself.": lambda p, a, e: (
            ([-100] * len(p) + a + [e])[1:] + [-100]
        ),
        "There is one label for each token; the shift is done inside of the loss.": lambda p, a, e: (
            [-100] * len(p) + a + [e]
        )[1:],
    }
    cases = [
        (([5, 6], [7], 0), [-100, -100, 7, 0]),
        (([5], [8, 9], 1), [-100, 8, 9, 1]),
        (([], [3], 0), [3, 0]),
    ]
    return check(function, cases, mistakes)


def merged_weight(function: Callable) -> bool:
    """W + scale · A · B of LoRA, as lists of rows."""

    def of(w, a, b, scale=1.0, keep=1.0):
        return (keep * torch.tensor(w) + scale * torch.tensor(a) @ torch.tensor(b)).tolist()

    mistakes = {
        "The scale is missing.": lambda w, a, b, s: of(w, a, b),
        "The frozen weight is missing: adapters are added to it.": lambda w, a, b, s: of(w, a, b, s, 0.0),
        "You scaled the frozen weight as well.": lambda w, a, b, s: of(w, a, b, s, s),
        "You subtracted the adapters.": lambda w, a, b, s: of(w, a, b, -s),
        "That is W + s · (B · A)ᵀ, as for the file of adapters; here take A · B.": lambda w, a, b, s: (
            torch.tensor(w) + s * (torch.tensor(b) @ torch.tensor(a)).T
        ).tolist(),
        "You multiplied B by A: the order matters.": lambda w, a, b, s: (
            torch.tensor(w) + s * torch.tensor(b) @ torch.tensor(a)
        ).tolist(),
        "`*` multiplies place by place: the product of two matrices is `@`.": lambda w, a, b, s: (
            torch.tensor(w) + s * torch.tensor(a) * torch.tensor(b)
        ).tolist(),
    }
    w, a, b = [[1.0, 0.0], [0.0, 1.0]], [[1.0], [2.0]], [[3.0, -1.0]]
    two = [[1.0, 0.0], [0.0, 2.0]], [[1.0, 1.0], [0.0, 3.0]]  # of rank 2
    cases = [
        ((w, a, b, 2.0), [[7.0, -2.0], [12.0, -3.0]]),
        ((w, *two, 0.5), [[1.5, 0.5], [0.0, 4.0]]),
        ((w, a, [[0.0, 0.0]], 2.0), w),
    ]
    return check(function, cases, mistakes)


def learning_rate(function: Callable) -> bool:
    """A linear warm-up to the peak, then a cosine down to 0."""

    def cosine(step, steps, warm, peak):
        return peak / 2 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))

    mistakes = {
        "There is no warm-up: the rate should begin at 0 and reach the peak at step `warm`.": cosine,
        "Yours falls in a straight line; a cosine starts and ends flat.": lambda step, steps, warm, peak: (
            peak * (step / warm if step < warm else (steps - step) / (steps - warm))
        ),
        "Your cosine falls from the first step on: count from the end of the warm-up.": (
            lambda step, steps, warm, peak: (
                peak * step / warm if step < warm else peak / 2 * (1 + math.cos(math.pi * step / steps))
            )
        ),
        "x must be 1 at the last step: divide by the steps after `warm`.": lambda step, steps, warm, peak: (
            peak * step / warm if step < warm else peak / 2 * (1 + math.cos(math.pi * (step - warm) / steps))
        ),
        "There is no warm-up in yours, and its cosine begins at step 0.": lambda step, steps, warm, peak: (
            peak / 2 * (1 + math.cos(math.pi * step / steps))
        ),
        "The peak is missing: that is a share of it.": lambda step, steps, warm, peak: (
            step / warm if step < warm else cosine(step, steps, warm, 1.0)
        ),
        "Yours stays at the peak: after the warm-up it should fall to 0.": lambda step, steps, warm, peak: (
            peak * min(step / warm, 1)
        ),
    }
    cases = [
        ((0, 100, 20, 1.0), 0.0),
        ((10, 100, 20, 1.0), 0.5),
        ((20, 100, 20, 3.0), 3.0),
        ((40, 100, 20, 2.0), 1.707107),
        ((100, 100, 20, 2.0), 0.0),
    ]
    return check(function, cases, mistakes)


def sft_step(function: Callable) -> bool:
    """One step of fine-tuning, whose loss counts the answers' tokens alone; it trains a small model."""
    ids = torch.tensor([[1, 2, 3, 4, 0], [5, 6, 7, 0, 0]])
    counts = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, 1, 0]])  # the second answer is its end alone

    def step(prompt=False, of_rows=False, shift=True, zero=True, of_places=False, back=True):
        def of(model, optimizer, ids, counts):
            logits = model(ids)[:, :-1]
            losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
            losses = losses.view(len(ids), -1)
            mask = (counts[:, 1:] if shift else counts[:, :-1]).float()
            mask = torch.ones_like(mask) if prompt else mask
            rows = (losses * mask).sum(1)
            counted = mask.numel() if of_places else mask.sum()
            loss = (rows / mask.sum(1)).mean() if of_rows else rows.sum() / counted
            if zero:
                optimizer.zero_grad()
            if back:
                loss.backward()
                optimizer.step()
            return loss

        return of

    mistakes = {
        "The prompts' tokens count in your loss.": step(prompt=True),
        "You took the mean of each answer first: tokens of short ones then count more.": step(of_rows=True),
        "The mask belongs to the tokens that are predicted: shift it with them.": step(shift=False),
        "You divided by all places: divide by the number of those that count.": step(of_places=True),
        "The loss never changes: backward() or step() is missing, or zero_grad() comes between them.": step(
            back=False
        ),
        "Gradients of earlier steps are added up: call optimizer.zero_grad().": step(zero=False),
    }
    return check_training(function, step(), mistakes, (ids, counts))
