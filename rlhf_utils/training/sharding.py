"""Weights that processes share (FSDP, Zhao et al., 2023), for a base whose training fits no single card.

Each process keeps its part of every weight, of its gradient and of Adam's moments: with N processes, an N-th.
A layer is whole only while it is computed (of its weights in bfloat16, autograd keeps a copy). The passes and
the loss are those of a single process.
"""

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from rlhf_utils.artifacts import processes
from rlhf_utils.language.device import device


def share_out(whole: nn.Module, model: PreTrainedModel | None = None) -> None:
    """Share out the weights of `whole`, which a Trainer is about to train: a `model` of transformers, or one
    with a loss around it.
    """
    model = whole if model is None else model
    processes.state()
    mesh = init_device_mesh(device().type, (processes.COUNT,))
    for part in model.modules():
        if isinstance(part, GradientCheckpointingLayer):
            fully_shard(part, mesh=mesh, reshard_after_forward=True)
    fully_shard(whole, mesh=mesh)
    model.shared_out = True
    # So a Trainer leaves placement and the sum of gradients to the model.
    model._is_distributed_loading_by_transformers = True
    if whole is not model:
        whole.is_distributed_loading_by_transformers = True
    whole._is_fsdp_managed_module = True


@torch.no_grad()
def put_together(shared: nn.Module, fresh: PreTrainedModel) -> PreTrainedModel:
    """The weights of all processes, in a fresh model of the same kind, in each of them."""
    fresh.config = shared.config
    weights = dict(fresh.named_parameters())
    for name, weight in shared.named_parameters():  # one at a time: whole, they may not fit a card
        weights[name].copy_(weight.full_tensor() if isinstance(weight, DTensor) else weight)
    return fresh
