"""Gradient checkpointing: activations that the backward pass computes anew instead of keeping them.

It takes a third more arithmetic, and of each layer only what goes into it has to be kept (Chen et al., 2016,
"Training Deep Nets with Sublinear Memory Cost").
"""

from contextlib import contextmanager

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from rlhf_utils.environment import CourseError
from rlhf_utils.language.models import bare


def recompute(*models: nn.Module | None, wanted: bool = True) -> None:
    """From now on, if it is `wanted`, in every pass that a gradient goes back through."""
    for model in map(bare, filter(None, models if wanted else ())):
        layers = [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]
        if not layers or not model.supports_gradient_checkpointing:
            raise CourseError(
                f"Memory is short, and {type(model).__name__} cannot recompute its activations. "
                "Close other programs that use memory, or choose a smaller model."
            )
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.recomputed = layers


@contextmanager
def recomputing(model: nn.Module):
    """Lets those layers do so, which transformers allows in training alone: their dropout stays off."""
    layers = getattr(bare(model), "recomputed", ()) if torch.is_grad_enabled() else ()
    before = [layer.training for layer in layers]
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer, was in zip(layers, before):
            layer.training = was


def by_layers(model: nn.Module) -> bool:
    """Whether each layer has to be called as a module of its own: it is computed anew, or shared out among
    processes.
    """
    inner = bare(model)
    return hasattr(inner, "recomputed") or getattr(inner, "shared_out", False)
