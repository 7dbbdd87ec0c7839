"""Optimizer and schedule of a config, under detectron2's names; for your own training loop.

A config in Python names the objects themselves, and a trainer builds and clips by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from torch import Tensor, nn
from torch.optim import Optimizer

from ultravid.config.instantiate import Builder
from ultravid.config.kinds import as_config
from ultravid.config.nodes import Node
from ultravid.solver.param_groups import _expand_param_groups, get_default_optimizer_params, reduce_param_groups
from ultravid.solver.schedules import LRMultiplier

if TYPE_CHECKING:
    from ultravid.config.cfg_node import CfgNode

__all__ = [
    "_expand_param_groups",  # detectron2's own tests import it
    "build_lr_scheduler",
    "build_optimizer",
    "get_default_optimizer_params",
    "maybe_add_gradient_clipping",
    "reduce_param_groups",
]

T = TypeVar("T", Optimizer, type[Optimizer])


def build_optimizer(cfg: CfgNode | Node, model: nn.Module) -> Optimizer:
    """The optimizer of a config for a model's parameters; each step clips the gradients as the config says.

    Args:
        cfg: with the keys of ``SOLVER``; or a config in Python, with ``optimizer`` and ``trainer.clip_grad``.
        model: on its device.

    Raises:
        ConfigError: a value of the config is wrong.
    """
    tree = as_config(cfg)
    builder = Builder(tree)
    for key in ("model", "prepared_model"):
        if key in tree:
            builder.provide(key, model)
    return maybe_add_gradient_clipping(tree, cast(Optimizer, builder.build("optimizer")))


def build_lr_scheduler(cfg: CfgNode | Node, optimizer: Optimizer) -> LRMultiplier:
    """The learning-rate schedule of a config.

    Args:
        cfg: with the keys of ``SOLVER``; or a config in Python, with ``lr_multiplier`` and ``train.max_iter``.
        optimizer: the current learning rates of its groups are the base ones.

    Raises:
        ConfigError: a value of the config is wrong.
    """
    tree = as_config(cfg)
    return LRMultiplier(optimizer, Builder(tree).build("lr_multiplier"), max_iter=tree.train.max_iter)


def maybe_add_gradient_clipping(cfg: CfgNode | Node, optimizer: T) -> T:
    """Let each step of an optimizer clip the gradients first, if the config says so.

    Not for an optimizer that a trainer steps which clips by itself, and not for one that computes gradients in a closure.

    Args:
        cfg: with ``SOLVER.CLIP_GRADIENTS``; or a config in Python, with ``trainer.clip_grad``.
        optimizer: an optimizer, or a class of them.

    Returns:
        the optimizer itself; of a class a subclass, or the class itself if nothing is clipped.
    """
    clip: Callable[[list[Tensor]], Any] | None = Builder(as_config(cfg)).build("trainer.clip_grad")
    if clip is None:
        return optimizer

    def clip_gradients(stepping: Optimizer, args: Any, kwargs: Any) -> None:
        del args, kwargs
        if parameters := [p for group in stepping.param_groups for p in group["params"] if p.grad is not None]:
            clip(parameters)

    if isinstance(optimizer, Optimizer):
        optimizer.register_step_pre_hook(clip_gradients)
        return optimizer

    class Clipping(optimizer):  # type: ignore[misc, valid-type]  # a base class that is chosen while the program runs
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.register_step_pre_hook(clip_gradients)

    Clipping.__name__ = Clipping.__qualname__ = f"{optimizer.__name__}WithGradientClip"
    return Clipping
