"""Several answers to one prompt in one line of tokens, and several such lines in one batch.

Two prompts, "P" with the answers "a b" and "c", and "Q" with the answer "d e", share a line of width 8:

    ids          P   a   b   c   Q   d   e   ·      · is padding
    positions    0   1   2   1   0   1   2   0      each answer goes on from its prompt's end
    owner        1   1   1   1   2   2   2   0      which prompt a token belongs to
    part         0   1   1   2   0   1   1   0      0 is the prompt, k its k-th answer

    who sees whom (x), a row for each token that looks:

           P   a   b   c   Q   d   e   ·
      P    x
      a    x   x
      b    x   x   x                               "b" sees its prompt and its own answer
      c    x           x                           "c" sees its prompt, but not the answer beside it
      Q                    x
      d                    x   x                   nobody sees another prompt's tokens
      e                    x   x   x
      ·                                x

So every number is that of a sequence on its own; only the work saved is different. To read an answer's
probabilities one needs the hidden states of its tokens and of the one before them: `read_positions`.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlhf_utils.language.device import device

# Attention over so many tokens costs about as much as all else that a layer does with them.
ATTENTION_COSTS_AS_MUCH = 350
LINE_WIDTHS = (1, 1.25, 1.5, 2, 2.5)  # that are tried, in lengths of the longest sequence
Sequence = tuple[list[int], list[list[int]]]  # a prompt and its answers, as token ids


@dataclass
class Packed:
    """Prompts and their answers laid end to end in lines of one width, so that hardly anything is padding.

    Answers keep their order: `rows` and `columns` place what belongs to answer tokens in an
    (answers, longest answer) table. `read_positions`, `before` and `answer_ids` are filled up with zeros to a
    multiple of 64: oneDNN compiles a bfloat16 product anew for each size that it has not met, which takes as
    long as ten products.
    """

    ids: Tensor  # (lines, width)
    positions: Tensor  # (lines, width)
    attention_bias: (
        Tensor  # (lines, 1, width, width): 0 where a token may look, else the lowest number there is
    )
    read_positions: Tensor  # (read,): places in the flattened lines whose hidden states are read
    before: Tensor  # (answer tokens,): place among the read ones of the token before each
    answer_ids: Tensor  # (answer tokens,)
    rows: Tensor  # (answer tokens,): which answer each belongs to …
    columns: Tensor  # (answer tokens,): … and where in it
    ends: Tensor  # (answers,): place among the read ones of the last token of each
    starts: Tensor  # (prompts,): place of the first token of each prompt in the flattened lines
    mask: Tensor  # (answers, longest): 1 on an answer's tokens, the end-of-text token included

    def answers(self) -> list[list[int]]:
        """The answers' token ids, as they were packed."""
        table, lengths = self.table(self.answer_ids), self.mask.sum(1).long()
        return [row[:length].tolist() for row, length in zip(table, lengths)]

    def table(self, values: Tensor) -> Tensor:
        """(answer tokens,) → (answers, longest), 0 elsewhere."""
        empty = torch.zeros(self.mask.shape, device=values.device, dtype=values.dtype)
        return empty.index_put((self.rows, self.columns), values[: len(self.rows)])


def pack(sequences: list[Sequence], pad: int) -> Packed:
    """Lay out (prompt, answers) token lists; a prompt has at least one token."""
    lengths = [len(prompt) + sum(map(len, answers)) for prompt, answers in sequences]
    width, places = choose_places(lengths)
    return to_tensors(index_tokens(sequences, places, width, pad))


def side_by_side(pairs: list[tuple[list[int], list[int]]]) -> list[Sequence]:
    """(prompt, answer) pairs in their order; answers that follow each other to one prompt share it, so that
    it is read once for all of them.

    No sequence gets longer than two of the longest pair: wider lines would cost more in attention than the
    prompts save.
    """
    most = 2 * max((len(prompt) + len(answer) for prompt, answer in pairs), default=0)
    made: list[Sequence] = []
    length = 0
    for prompt, answer in pairs:
        if made and made[-1][0] == prompt and length + len(answer) <= most:
            made[-1][1].append(answer)
            length += len(answer)
        else:
            made.append((prompt, [answer]))
            length = len(prompt) + len(answer)
    return made


def by_length(lengths: list[int], count: int) -> list[np.ndarray]:
    """The numbers of sequences in at most `count` groups of like length, which pack best."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    return np.array_split(order, min(count, len(order)))


# -- 1. placing: which line and column each sequence gets ------------------------------------------------
def choose_places(lengths: list[int]) -> tuple[int, list[tuple[int, int]]]:
    """The width of lines that costs least, and (line, column) of each sequence.

    Wider lines waste less on padding and more on attention. A CPU's products like multiples of 16.
    """
    widths = sorted({16 * math.ceil(k * max(lengths) / 16) for k in LINE_WIDTHS})
    tries = [(width, fit(lengths, width)) for width in widths]

    def cost(width: int, places: list[tuple[int, int]]) -> float:
        lines = 1 + max(places)[0]
        return lines * width * (1 + width / ATTENTION_COSTS_AS_MUCH)

    return min(tries, key=lambda found: cost(*found))


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


# -- 2. indexing: what stands where, and what is read ----------------------------------------------------
@dataclass
class Layout:
    """Lines as arrays of (lines, width), and lists with an entry for each answer token, answer or prompt.

    `owner` numbers prompts from 1, 0 is padding; `part` is 0 in a prompt and k in its k-th answer.
    `before` and `ends` are places in the flattened lines.
    """

    ids: np.ndarray
    positions: np.ndarray
    owner: np.ndarray
    part: np.ndarray
    before: list[int]
    answer_ids: list[int]
    rows: list[int]
    columns: list[int]
    ends: list[int]
    starts: list[int]


def index_tokens(sequences: list[Sequence], places: list[tuple[int, int]], width: int, pad: int) -> Layout:
    """Write every sequence at its place."""
    shape = (1 + max(places)[0], width)
    ids = np.full(shape[0] * width, pad)
    positions, owner, part = (np.zeros(len(ids), dtype=np.int64) for _ in range(3))
    starts = [line * width + column for line, column in places]
    made = Layout(ids, positions, owner, part, [], [], [], [], [], starts)
    for number, ((prompt, answers), start) in enumerate(zip(sequences, starts), 1):
        answer_start = prompt_end = start + len(prompt)
        ids[start:prompt_end], positions[start:prompt_end] = prompt, np.arange(len(prompt))
        for k, answer in enumerate(answers, 1):
            stop = answer_start + len(answer)
            ids[answer_start:stop], part[answer_start:stop] = answer, k
            positions[answer_start:stop] = np.arange(len(prompt), len(prompt) + len(answer))
            made.before += [prompt_end - 1, *range(answer_start, stop - 1)][: len(answer)]
            made.answer_ids += answer
            made.rows += [len(made.ends)] * len(answer)
            made.columns += range(len(answer))
            made.ends.append(stop - 1 if answer else prompt_end - 1)
            answer_start = stop
        owner[start:answer_start] = number
    for name in ("ids", "positions", "owner", "part"):
        setattr(made, name, getattr(made, name).reshape(shape))
    return made


# -- 3. tensors ------------------------------------------------------------------------------------------
def to_tensors(layout: Layout) -> Packed:
    """The layout on the device, with the mask of who sees whom."""

    def whole(values) -> Tensor:
        return torch.as_tensor(values, device=device(), dtype=torch.long)

    def filled(values) -> Tensor:
        return whole(np.pad(np.array(values, dtype=np.int64), (0, -len(values) % 64)))

    read, found = np.unique(layout.before + layout.ends, return_inverse=True)
    before, ends = found[: len(layout.before)], found[len(layout.before) :]
    rows, columns = whole(layout.rows), whole(layout.columns)
    longest = int(columns.max()) + 1 if len(columns) else 1
    mask = torch.zeros(len(ends), longest, device=device())
    mask[rows, columns] = 1
    return Packed(
        ids=whole(layout.ids),
        positions=whole(layout.positions),
        attention_bias=attention_bias(whole(layout.owner), whole(layout.part)),
        read_positions=filled(read),
        before=filled(before),
        answer_ids=filled(layout.answer_ids),
        rows=rows,
        columns=columns,
        ends=whole(ends),
        starts=whole(layout.starts),
        mask=mask,
    )


def attention_bias(owner: Tensor, part: Tensor) -> Tensor:
    """0 where a token may look, else the lowest number, (lines, 1, width, width); see the drawing above."""
    width = owner.shape[1]
    same_prompt = owner[:, :, None] == owner[:, None, :]
    same_part = part[:, :, None] == part[:, None, :]
    in_prompt = part[:, None, :] == 0
    sees = same_prompt & (same_part | in_prompt)
    sees &= torch.ones(width, width, dtype=torch.bool, device=owner.device).tril()
    lowest = torch.finfo(torch.bfloat16).min
    return torch.zeros(sees.shape, device=owner.device).masked_fill(~sees, lowest)[:, None]
