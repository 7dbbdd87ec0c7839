"""Parameter groups of an optimizer, with their learning rates and weight decays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

__all__ = ["FactorByName", "get_default_optimizer_params", "reduce_param_groups"]

_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


class FactorByName:
    """A factor of the learning rate by what is in a parameter's name, for ``lr_factor_func`` of `get_default_optimizer_params`.

    Args:
        factors: by a part of the name, as ``{"backbone": 0.1}``; of several that fit, the first counts. Other names have 1.
    """

    def __init__(self, factors: Mapping[str, float]) -> None:
        self.factors = dict(factors)

    def __call__(self, name: str) -> float:
        """The factor of the parameter with the full name ``name``; 1 if no part fits."""
        return next((factor for part, factor in self.factors.items() if part in name), 1.0)


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: dict[str, dict[str, float]] | None = None,
    *,
    include_frozen: bool = False,
) -> list[dict[str, Any]]:
    """Groups of the parameters that need a gradient, or of all, for any optimizer of torch.

    Args:
        model: each of its parameters is taken once, even if modules share it.
        base_lr: learning rate of every group; None leaves it to the optimizer. Factors multiply it, and need it.
        weight_decay: of every group; None leaves it to the optimizer.
        weight_decay_norm: of the parameters of norm layers, instead of ``weight_decay``.
        bias_lr_factor: factor of the learning rate of biases.
        weight_decay_bias: of biases, instead of ``weight_decay``.
        lr_factor_func: from a parameter's full name to a factor of its learning rate.
        overrides: settings by the last part of a parameter's name, ``{"bias": {"lr": 0.1, "weight_decay": 0}}``; they take
            precedence over all other arguments.
        include_frozen: take parameters that need no gradient too; optimizers do not change them until a hook unfreezes them.

    Returns:
        groups with different settings, in order of first appearance.

    Raises:
        ValueError: a factor without ``base_lr``, or ``overrides["bias"]`` beside another setting of biases.
    """
    settings: dict[str, dict[str, float | None]] = {k: dict(v) for k, v in (overrides or {}).items()}
    bias: dict[str, float | None] = {}
    if bias_lr_factor is not None and bias_lr_factor != 1.0:
        if base_lr is None:
            raise ValueError("bias_lr_factor needs base_lr.")
        bias["lr"] = base_lr * bias_lr_factor
    if weight_decay_bias is not None:
        bias["weight_decay"] = weight_decay_bias
    if bias:
        if "bias" in settings:
            raise ValueError("overrides['bias'] contradicts bias_lr_factor or weight_decay_bias: give one of them.")
        settings["bias"] = bias
    if lr_factor_func is not None and base_lr is None:
        raise ValueError("lr_factor_func needs base_lr.")
    groups: list[dict[str, Any]] = []
    seen = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not (parameter.requires_grad or include_frozen) or parameter in seen:
                continue
            seen.add(parameter)
            group: dict[str, float | None] = {"lr": base_lr, "weight_decay": weight_decay}
            if isinstance(module, _NORMS) and weight_decay_norm is not None:
                group["weight_decay"] = weight_decay_norm
            if lr_factor_func is not None and base_lr is not None:
                group["lr"] = base_lr * lr_factor_func(f"{module_name}.{name}" if module_name else name)
            group.update(settings.get(name, {}))
            groups.append({"params": [parameter], **{k: v for k, v in group.items() if v is not None}})
    return reduce_param_groups(groups)


def reduce_param_groups(params: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Join groups with the same settings, which optimizers step through faster.

    Args:
        params: groups as optimizers take them, ``{"params": [...], "lr": ...}``. If a parameter is in several, the settings
            of later groups are added to, and replace, those of earlier ones.

    Returns:
        groups with different settings and without a common parameter, in order of first appearance.
    """
    reduced: dict[tuple[tuple[str, Any], ...], dict[str, Any]] = {}
    for group in _expand_param_groups(params):
        (parameter,) = group["params"]
        settings = {k: v for k, v in group.items() if k != "params"}
        joined = reduced.setdefault(tuple(sorted(settings.items())), {"params": [], **settings})
        joined["params"].append(parameter)
    return list(reduced.values())


def _expand_param_groups(params: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A group for each parameter, in order of first appearance."""
    expanded: dict[Any, dict[str, Any]] = {}
    for group in params:
        settings = {k: v for k, v in group.items() if k != "params"}
        for parameter in group["params"]:
            expanded.setdefault(parameter, {"params": [parameter]}).update(settings)
    return list(expanded.values())
