"""Classifiers with one set of weights per organ.

A head takes ``organ_classes``, makes its classification layers with `organ_classifier` and calls them through `classify`; so one line
of a config makes any head organ-specific::

    model.box_predictor.organ_classes = dict(breast=4, thyroid=2)

The weights of all organs are one parameter, the outputs of one organ after those of another. So each parameter gets a gradient in each step,
which DDP needs: it is zero for an organ that the batch does not have. An optimizer with momentum or weight decay still changes those weights.

The classes of an organ are the first of the head's classes. The logits of the others are `MASKED_LOGIT` for its frames: their score is
exactly 0, they have no gradient, and with a softmax the remaining classes and the background share the whole probability.

Legend: ``B`` frames, ``O`` organs, ``K`` classes of objects of the head, ``D`` width of a token, ``C, h, w`` channels, height, width of a map.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["MASKED_LOGIT", "OrganConv2d", "OrganLayer", "OrganLinear", "classify", "organ_classifier", "organs_of"]

MASKED_LOGIT = -1e4
"""Of a class that an organ does not have; finite in half precision, and far enough for a score of exactly 0."""


class OrganLayer(nn.Module, ABC):
    """A linear layer or a convolution whose weights are chosen by the organ of each frame.

    Args:
        layers: one for each organ, whose weights are joined; the layers themselves are not kept.
        organ_classes: number of classes of each organ, by its name.
        num_classes: ``K``. The layers' outputs are the classes, again for each anchor; with ``background`` the background after them.
        background: whether the last output of each group is the background, which every organ has.
    """

    allowed: Tensor
    output_axis: ClassVar[int]  # of the result
    organ_axis: ClassVar[int]  # once the outputs of all organs are split into organs and outputs

    def __init__(
        self,
        layers: list[nn.Linear] | list[nn.Conv2d],
        organ_classes: Mapping[str, int],
        num_classes: int,
        background: bool,
    ) -> None:
        super().__init__()
        self.organs = tuple(organ_classes)
        self.organ_classes = dict(organ_classes)
        self.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in layers]))
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        self.bias = nn.Parameter(torch.cat(biases)) if biases else None
        place = torch.arange(len(layers[0].weight)) % (num_classes + background)
        numbers = torch.tensor([organ_classes[organ] for organ in self.organs])
        self.register_buffer("allowed", (place < numbers[:, None]) | (place == num_classes), persistent=False)

    def forward(self, x: Tensor, organ: Tensor) -> Tensor:
        """Outputs of ``B`` frames, each by the weights of its organ.

        Args:
            x: ``(B, ...)``.
            organ: ``(B,)`` int64, place in ``organs``.
        """
        by_organ = (len(self.organs), -1)
        if x.shape[0] == 1:  # a stream: the other organs' outputs need not be computed
            weight = self.weight.unflatten(0, by_organ).index_select(0, organ)[0]
            bias = None if self.bias is None else self.bias.unflatten(0, by_organ).index_select(0, organ)[0]
            out = self._apply_weights(x, weight, bias)
        else:
            every = self._apply_weights(x, self.weight, self.bias).unflatten(self.output_axis, by_organ)
            out = every.movedim(self.organ_axis, 1)[torch.arange(len(x), device=x.device), organ]
        shape = [len(x), *(1 for _ in out.shape[1:])]
        shape[self.output_axis] = out.shape[self.output_axis]
        return torch.where(self.allowed.index_select(0, organ).view(shape), out, MASKED_LOGIT)

    @abstractmethod
    def _apply_weights(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer with certain weights."""

    def extra_repr(self) -> str:
        """Organs and their numbers of classes."""
        return ", ".join(f"{organ}: {number}" for organ, number in self.organ_classes.items())


class OrganLinear(OrganLayer):
    """From tokens ``(B, ..., D)`` to ``(B, ..., outputs)``."""

    output_axis = -1
    organ_axis = -2

    def _apply_weights(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


class OrganConv2d(OrganLayer):
    """From maps ``(B, C, h, w)`` to ``(B, outputs, h', w')``.

    Args:
        layers: one convolution for each organ, in the order of ``organ_classes``.
        organ_classes: the number of classes of each organ, by its name.
        num_classes: the number of classes of all organs.
        background: whether the layers have an output for the background, too.

    Raises:
        ValueError: the convolutions have groups, or a padding that is not a number of zeros.
    """

    output_axis = 1
    organ_axis = 1

    def __init__(
        self, layers: list[nn.Conv2d], organ_classes: Mapping[str, int], num_classes: int, background: bool
    ) -> None:
        super().__init__(layers, organ_classes, num_classes, background)
        first = layers[0]
        if first.groups != 1 or isinstance(first.padding, str) or first.padding_mode != "zeros":
            raise ValueError("A classifier of organs is a convolution in one group, with a number of zeros as padding.")
        self.stride, self.padding, self.dilation = first.stride, first.padding, first.dilation

    def _apply_weights(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation)


def organ_classifier(
    make_layer: Callable[[], nn.Linear] | Callable[[], nn.Conv2d],
    organ_classes: Mapping[str, int] | None,
    num_classes: int,
    *,
    background: bool = False,
) -> nn.Linear | nn.Conv2d | OrganLayer:
    """A classification layer, with one set of weights an organ if organs have classes of their own.

    Args:
        make_layer: called once for each organ, so that each has its own initial weights; initialising the ``weight`` and ``bias`` of
            the result afterwards does the same.
        organ_classes: number of classes of each organ, by its name; None: one layer for all organs, which `classify` calls as it is.
        num_classes: ``K``; the layer's outputs are `OrganLayer`'s.
        background: whether the last output is the background.

    Raises:
        ValueError: an organ has no class, or more than the head.
    """
    if not organ_classes:
        return make_layer()
    for organ, number in organ_classes.items():
        if not 1 <= number <= num_classes:
            raise ValueError(f"organ_classes gives {organ!r} {number} classes; the head has num_classes={num_classes}.")
    layers = [make_layer() for _ in organ_classes]
    if isinstance(layers[0], nn.Conv2d):
        return OrganConv2d([m for m in layers if isinstance(m, nn.Conv2d)], organ_classes, num_classes, background)
    return OrganLinear([m for m in layers if isinstance(m, nn.Linear)], organ_classes, num_classes, background)


def classify(layer: nn.Module, x: Tensor, organ: Tensor | None) -> Tensor:
    """The outputs of a layer of `organ_classifier`.

    Args:
        layer: organ-specific or not.
        x: ``(B, ...)``, the layer's input.
        organ: ``(B,)`` int64, place in `VideoDetector.organs`; an organ-specific layer needs it.

    Raises:
        ValueError: it is needed and missing.
    """
    if not isinstance(layer, OrganLayer):
        same: Tensor = layer(x)
        return same
    if organ is None:
        raise ValueError(f"There is a classifier per organ ({', '.join(layer.organs)}), but no organ is given.")
    chosen: Tensor = layer(x, organ)
    return chosen


def organs_of(model: nn.Module) -> tuple[str, ...]:
    """The organs that the layers of a model have a classifier for, in their order; empty without such layers.

    Raises:
        ValueError: two layers have different organs, or another order of them.
    """
    found = {name: module.organs for name, module in model.named_modules() if isinstance(module, OrganLayer)}
    if len(set(found.values())) > 1:
        said = "; ".join(f"{name}: {', '.join(organs)}" for name, organs in found.items())
        raise ValueError(f"Parts of the model have different organs, or in another order: {said}.")
    return next(iter(found.values()), ())
