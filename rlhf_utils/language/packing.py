"""Several answers to one prompt in one line of tokens, and several such lines in one batch."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlhf_utils.language.device import device


@dataclass
class Packed:
    """Prompts and their answers laid end to end in lines of one width, so that hardly anything is padding.

    A prompt stands once, its answers follow one after the other. Each answer's positions go on from the
    prompt's end, and its tokens see the prompt and themselves, never another answer or another prompt. So
    every number is that of a sequence on its own; only the work saved is different. Answers keep their
    order: `rows` and `columns` place what belongs to answer tokens in an (answers, longest answer) table.
    """

    ids: Tensor  # (lines, width)
    positions: Tensor  # (lines, width)
    sees: Tensor  # (lines, 1, width, width): 0 where a token may look, else the lowest number there is
    # `kept`, `before` and `said` are filled up with zeros to a multiple of 64.
    # (kept,): places in the flattened lines whose hidden states are read: an answer's and the one before it
    kept: Tensor
    before: Tensor  # (answer tokens,): place among the kept of the token before each
    said: Tensor  # (answer tokens,): their ids
    rows: Tensor  # (answer tokens,): which answer each belongs to …
    columns: Tensor  # (answer tokens,): … and where in it
    ends: Tensor  # (answers,): place among the kept of the last token of each
    starts: Tensor  # (prompts,): place of the first token of each prompt in the flattened lines
    mask: Tensor  # (answers, longest): 1 on an answer's tokens, the end-of-text token included

    def table(self, values: Tensor) -> Tensor:
        """(answer tokens,) → (answers, longest), 0 elsewhere."""
        return torch.zeros(self.mask.shape, device=values.device, dtype=values.dtype).index_put(
            (self.rows, self.columns), values[: len(self.rows)]
        )


def fit(lengths: list[int], width: int) -> list[tuple[int, int]]:
    """Line and column of each sequence in lines of one width: first fit, the longest first."""
    free: list[int] = []
    places = [(0, 0)] * len(lengths)
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        line = next((k for k, left in enumerate(free) if left >= lengths[i]), len(free))
        if line == len(free):
            free.append(width)
        places[i] = line, width - free[line]
        free[line] -= lengths[i]
    return places


def pack(rows: list[tuple[list[int], list[list[int]]]], pad: int) -> Packed:
    """Lay out (prompt, answers) token lists; a prompt has at least one token."""
    lengths = [len(prompt) + sum(map(len, answers)) for prompt, answers in rows]
    # Wider lines waste less on padding and more on attention, which costs as much as all else at about 350
    # tokens. A CPU's matrix products and softmax like multiples of 16.
    widths = sorted({16 * math.ceil(k * max(lengths) / 16) for k in (1, 1.25, 1.5, 2, 2.5)})
    tries = [(width, fit(lengths, width)) for width in widths]
    width, found = min(tries, key=lambda t: (1 + max(t[1])[0]) * t[0] * (1 + t[0] / 350))
    places, shape = [line * width + column for line, column in found], (1 + max(found)[0], width)
    ids = np.full(shape[0] * width, pad)
    position, owner, part = (np.zeros(len(ids), dtype=np.int64) for _ in range(3))  # part: 0 is the prompt
    before, said, row_of, columns, ends = [], [], [], [], []
    for number, ((prompt, answers), place) in enumerate(zip(rows, places), 1):
        start = place + len(prompt)
        ids[place:start], position[place:start] = prompt, np.arange(len(prompt))
        owner[place : place + lengths[number - 1]] = number
        for k, answer in enumerate(answers, 1):
            stop = start + len(answer)
            ids[start:stop], part[start:stop] = answer, k
            position[start:stop] = np.arange(len(prompt), len(prompt) + len(answer))
            before += [place + len(prompt) - 1, *range(start, stop - 1)][: len(answer)]
            said += answer
            row_of += [len(ends)] * len(answer)
            columns += range(len(answer))
            ends.append(stop - 1 if answer else place + len(prompt) - 1)
            start = stop
    owner, part = (torch.from_numpy(x.reshape(shape)).to(device()) for x in (owner, part))
    sees = (owner[:, :, None] == owner[:, None, :]) & (
        (part[:, :, None] == part[:, None, :]) | (part[:, None, :] == 0)
    )
    sees &= torch.ones(width, width, dtype=torch.bool, device=device()).tril()
    bias = torch.zeros(sees.shape, device=device()).masked_fill(~sees, torch.finfo(torch.bfloat16).min)[
        :, None
    ]
    ids, position = (torch.from_numpy(x.reshape(shape)).to(device()) for x in (ids, position))
    kept, where = np.unique(before + ends, return_inverse=True)
    before, ends = where[: len(before)], where[len(before) :]
    # oneDNN compiles a bfloat16 product anew for each size it has not met, which takes as long as ten
    # products: so few sizes.
    kept, before, said = (
        np.pad(np.array(x, dtype=np.int64), (0, -len(x) % 64)) for x in (kept, before, said)
    )
    kept, before, said, row_of, columns, ends, starts = (
        torch.as_tensor(x, device=device(), dtype=torch.long)
        for x in (kept, before, said, row_of, columns, ends, places)
    )
    mask = torch.zeros(len(ends), int(columns.max()) + 1 if len(columns) else 1, device=device())
    mask[row_of, columns] = 1
    return Packed(ids, position, bias, kept, before, said, row_of, columns, ends, starts, mask)
