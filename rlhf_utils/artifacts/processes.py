"""Several processes of one run, as `torchrun` starts them: who leads, and what they share.

The processes train together, each on its part of every batch, and hold the same weights. What is not
training is done by the leading process while the others wait. With one process nothing here does anything.
"""

from functools import lru_cache

import torch
from accelerate import PartialState
from torch import Tensor, distributed

from rlhf_utils.environment import CourseError, process
from rlhf_utils.language.device import device

NUMBER, COUNT = process()
LEADS = NUMBER == 0


@lru_cache
def state() -> PartialState:
    """Joins the others; on a CPU they talk by gloo."""
    return PartialState(cpu=device().type == "cpu")


def wait() -> None:
    """Until all processes are here."""
    if COUNT > 1:
        state().wait_for_everyone()


def from_leader(value):
    """What the leading process has, in all of them."""
    if COUNT == 1:
        return value
    state()
    held = [value]
    distributed.broadcast_object_list(held, src=0)
    return held[0]


def gathered(rows: list) -> list:
    """The rows of all processes, each of which has every COUNT-th, in their order."""
    if COUNT == 1:
        return rows
    state()
    held: list[list] = [[] for _ in range(COUNT)]
    distributed.all_gather_object(held, rows)
    return [held[i % COUNT][i // COUNT] for i in range(sum(map(len, held)))]


def mine(rows):
    """This process's part of rows: every COUNT-th."""
    return rows[NUMBER::COUNT]


def add_up(*tensors: Tensor) -> None:
    """Replace each tensor by its sum over all processes."""
    if COUNT == 1:
        return
    state()
    flat = torch.cat([t.reshape(-1) for t in tensors])
    distributed.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors])):
        tensor.copy_(part.view_as(tensor))


def totals(*tensors: Tensor) -> list[Tensor]:
    """The sum of each tensor over all processes; the tensors themselves stay as they are."""
    if COUNT == 1:
        return list(tensors)
    copies = [t.clone() for t in tensors]
    add_up(*copies)
    return copies


def per_process(rows: int, what: str) -> int:
    """How many of the rows of a batch each process takes."""
    if rows % COUNT:
        raise CourseError(
            f"{what} is {rows}, which {COUNT} processes cannot share evenly. Start one process, or a number "
            "that divides it."
        )
    return rows // COUNT
