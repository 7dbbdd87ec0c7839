"""Loads weights whose names may differ from the model's: those of this package, of torchvision, of detectron2, or of a part of a model."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ultravid.checkpoint.reading import CheckpointError
from ultravid.utils.text import visible

__all__ = [
    "WeightsError",
    "WeightsMatch",
    "align_and_update_state_dicts",
    "current_weights",
    "load_weights",
    "match_by_suffix",
    "match_weights",
    "without_wrapper",
]

logger = logging.getLogger(__name__)

_WRAPPERS = ("module.", "_orig_mod.")
"""What DDP and torch.compile put before each name of the module that they wrap."""


class WeightsError(CheckpointError):
    """Weights that don't fit a model.

    Attributes:
        num_fitting: number of those that do.
        num_expected: number of weights of the model.
    """

    def __init__(self, message: str, num_fitting: int, num_expected: int) -> None:
        super().__init__(message)
        self.num_fitting = num_fitting
        self.num_expected = num_expected


@dataclass
class WeightsMatch:
    """Weights of a file by the model's names, and what is left over.

    Attributes:
        weights: those of the file, by the model's names; some may have no place in the model, or another shape there.
        missing: names of the model that must be in the file and are not.
        unexpected: names of the file that are not the model's.
        by_suffix: names were matched by their ends.
    """

    weights: dict[str, Tensor]
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    by_suffix: bool = False

    def fitting(self, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those that have a place in the model, and its shape."""
        return {k: v for k, v in self.weights.items() if k in expected and v.shape == expected[k].shape}

    def other_shapes(self, expected: Mapping[str, Tensor]) -> list[str]:
        """One line for each weight of another shape than the model's."""
        return [
            f"{k} is {tuple(self.weights[k].shape)}, the model's {tuple(expected[k].shape)}"
            for k in expected
            if k in self.weights and self.weights[k].shape != expected[k].shape
        ]


def load_weights(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    path: str | Path,
    *,
    by_suffix: bool = False,
    strict: bool = True,
) -> int:
    """Give weights to a model.

    Names must be the model's, or what they were before a module was renamed (`current_weights`); constants that follow from the
    model's config (``computed_names`` of a `VideoDetector`) may be missing. There are three exceptions:
    torchvision's ResNets; files in which all names begin with ``backbone.``; and files whose names match by their ends
    (`match_by_suffix`), which is tried if not one name is the model's. Such a file may hold a part of the model. The rest starts
    from scratch, and the log lists it.

    Args:
        model: changed only if no error is raised.
        weights: by name.
        path: the file that they come from, for messages.
        by_suffix: match names by their ends even if some are equal; files of detectron2's model zoo ask for it. Weights of
            another shape are then left out with a warning, so that a head for other classes starts from scratch.
        strict: raise if weights are missing, unknown or of another shape; else these are left out with a warning.

    Returns:
        the number of the model's weights that the file does not have.

    Raises:
        CheckpointError: there is something else than tensors.
        WeightsError: weights don't fit (see ``strict``), or not one of them belongs to the model.
    """
    expected = model.state_dict()
    match = match_weights(model, weights, path, by_suffix=by_suffix)
    computed: Callable[[], set[str]] | None = getattr(model, "computed_names", None)
    constants = computed() if computed is not None else set()
    match.missing = [name for name in match.missing if name not in constants]
    shapes, fitting = match.other_shapes(expected), match.fitting(expected)
    faults = (
        ("keys of the model are missing in it", match.missing),
        ("of its keys are unknown to the model", [] if match.by_suffix else match.unexpected),
        ("shapes differ", shapes),
    )
    message = "; ".join(f"{len(rows)} {what} ({_first(rows)})" for what, rows in faults if rows)
    if message:
        lenient = not strict or by_suffix
        if not lenient or (expected and not fitting):
            none = "" if fitting or not expected else " Not one of its weights fits: it is of another architecture."
            raise WeightsError(f"{path} doesn't fit the model: {message}.{none}", len(fitting), len(expected))
        logger.warning(
            "Some weights of %s don't fit the model: %s. The model keeps its own values for these.", path, message
        )
    model.load_state_dict(fitting, strict=False)
    _log_parts(path, match, [k for k in expected if k not in fitting and k not in match.missing])
    return len(expected) - len(fitting)


def match_weights(
    model: nn.Module, weights: Mapping[str, Tensor], path: str | Path, *, by_suffix: bool = False
) -> WeightsMatch:
    """The weights of a file by the names of a model, as `load_weights` matches them; the model is not changed.

    Raises:
        CheckpointError: there is something else than tensors.
    """
    foreign = next((name for name, value in weights.items() if not isinstance(value, Tensor)), None)
    if foreign is not None:
        kind = type(weights[foreign]).__name__
        raise CheckpointError(f"{path} holds no state dict: its {foreign!r} is a {kind}, not a tensor.")
    return _match_names(model.state_dict(), current_weights(weights, model, path), by_suffix=by_suffix)


def without_wrapper(weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Weights that were saved from a wrapper of DDP or torch.compile, by the names of the module inside; others as they are.

    Args:
        weights: by name. A prefix goes if all names have it.
    """
    while prefix := next((p for p in _WRAPPERS if weights and all(name.startswith(p) for name in weights)), ""):
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def current_weights(weights: Mapping[str, Tensor], model: nn.Module, path: str | Path) -> Mapping[str, Tensor]:
    """Weights of an earlier version, of a published model or of a wrapper, under the names that the model has for them.

    The model says which the old names are: a `VideoDetector` has a method ``current_names``. A weight that differs from the model's
    by axes of length 1 alone, as that of a 1x1 convolution from that of a linear layer, is reshaped.

    Args:
        weights: by name.
        model: a module without ``current_names`` takes the names as they are.
        path: the file that the weights come from, for the note in the log.
    """
    expected = model.state_dict()
    if not weights.keys() & expected.keys():
        weights = without_wrapper(weights)
    ask: Callable[[Iterable[str]], dict[str, str]] | None = getattr(model, "current_names", None)
    names = ask(weights) if ask is not None else {}
    if not names:
        return weights
    renamed = {name: value for name, value in weights.items() if name not in names}
    for name, new in names.items():
        if new and new not in renamed:
            renamed[new] = _reshaped(weights[name], expected[new])
    changed = {old: new for old, new in names.items() if new}
    if changed:
        old, new = next(iter(changed.items()))
        logger.info("%s: %d weights have other names now, as %s for %s.", path, len(changed), new, old)
    return renamed


def _reshaped(value: Tensor, like: Tensor) -> Tensor:
    """The value in the other's shape if the two differ by axes of length 1 alone, else as it is."""
    same = [n for n in value.shape if n != 1] == [n for n in like.shape if n != 1]
    return value.reshape(like.shape) if same else value


def _log_parts(path: str | Path, match: WeightsMatch, from_scratch: list[str]) -> None:
    """Say what of a file was used if it was matched by suffix, and what the model doesn't get from it."""
    if match.by_suffix:
        unused = _some("not used", sorted(match.unexpected))
        logger.info("%s: %d weights matched by the ends of their names%s.", path, len(match.weights), unused)
    if from_scratch:
        logger.info("%s holds a part of the model%s.", path, _some("from scratch", sorted(from_scratch)))


def _match_names(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], *, by_suffix: bool) -> WeightsMatch:
    """Bring a file's weights under the model's names, as `load_weights` says."""
    exact = max((weights, _from_torchvision_resnet(weights, expected)), key=lambda given: len(given.keys() & expected))
    partial = bool(exact) and all(k.startswith("backbone.") for k in exact)
    # A counter of batch norm that old files lack.
    needed = [k for k in expected if not k.endswith("num_batches_tracked")]
    missing = [k for k in needed if k not in exact and not (partial and not k.startswith("backbone."))]
    unexpected = [k for k in exact if k not in expected]
    if (by_suffix and (missing or unexpected)) or not exact.keys() & expected:
        choices = [(given, match_by_suffix(expected, given)) for given in (weights, _renamed_resnet(weights))]
        given, pairs = max(choices, key=lambda choice: len(choice[1]))
        if pairs:
            unused = [name for name in given if name not in set(pairs.values())]
            return WeightsMatch({k: given[v] for k, v in pairs.items()}, unexpected=unused, by_suffix=True)
    return WeightsMatch(dict(exact), missing, unexpected)


def align_and_update_state_dicts(
    model_state_dict: Mapping[str, Tensor], ckpt_state_dict: Mapping[str, Tensor], c2_conversion: bool = True
) -> dict[str, Tensor]:
    """Weights of a file by the names of a model, by detectron2's rule.

    A weight of the model gets the one whose name is its own name or the end of it after a dot; of several, the longest.
    One of another shape is left out with a warning.

    Args:
        model_state_dict: the model's.
        ckpt_state_dict: the file's.
        c2_conversion: accepted for detectron2's signature. Names of Caffe2 (``conv1_w``) are not converted.

    Returns:
        a copy of each weight that was found, by the model's name.

    Raises:
        ValueError: one weight of the file matches two of the model.
    """
    del c2_conversion
    found: dict[str, Tensor] = {}
    used: dict[str, str] = {}
    for key, value in model_state_dict.items():
        name = _longest_end(key, ckpt_state_dict)
        if name is None:
            continue
        weight = torch.as_tensor(ckpt_state_dict[name])
        if weight.shape != value.shape:
            logger.warning("%s is %s, the model's %s is %s: left out.", *(name, weight.shape, key, value.shape))
            continue
        if name in used:
            raise ValueError(f"The weight {name} matches two of the model: {used[name]} and {key}.")
        used[name] = key
        found[key] = weight.clone()
    missing = _some("of the model not found", [key for key in model_state_dict if key not in found])
    unused = _some("of the file not used", [name for name in ckpt_state_dict if name not in used])
    logger.info("%d weights matched by the ends of their names%s%s.", len(found), missing, unused)
    return found


def _longest_end(key: str, names: Container[str]) -> str | None:
    """The longest of some names that is a key or its end after a dot."""
    steps = key.split(".")
    return next((end for i in range(len(steps)) if (end := ".".join(steps[i:])) in names), None)


def match_by_suffix(model_keys: Iterable[str], file_keys: Iterable[str]) -> dict[str, str]:
    """Match names of which one is the end of the other after a dot.

    ``stem.conv1.weight`` of a file is ``backbone.stem.conv1.weight`` of a model, and ``module.head.weight`` its
    ``head.weight``. Of several names the longest wins. A name of the file that fits several of the model's, as
    ``conv1.weight`` may, is not matched.

    Returns:
        the file's name for each of the model's that has one.
    """
    by_end: dict[str, list[str]] = {}
    for key in file_keys:
        steps = key.split(".")
        for i in range(len(steps)):
            by_end.setdefault(".".join(steps[i:]), []).append(key)
    exact = set(file_keys)
    pairs: dict[str, str] = {}
    for key in model_keys:
        shorter = _longest_end(key, exact)
        longer = by_end.get(key, [])
        if shorter is not None:
            pairs[key] = shorter
        elif len(longer) == 1:
            pairs[key] = longer[0]
    uses = Counter(pairs.values())
    return {key: name for key, name in pairs.items() if uses[name] == 1}


def _from_torchvision_resnet(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Torchvision's names of a ResNet as this package's, below ``backbone.``; without the classifier, and stages that the model lacks."""
    renamed = {f"backbone.{name}": value for name, value in _renamed_resnet(weights).items()}
    stages = {k.split(".")[1] for k in expected if k.startswith("backbone.")}
    kept = {k: v for k, v in renamed.items() if k.split(".")[1] in stages}
    frozen = "num_batches_tracked"  # frozen batch norm has no such buffer
    return {k: v for k, v in kept.items() if not k.endswith(frozen) or k in expected}


def _renamed_resnet(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Torchvision's names of a ResNet's stem and stages as this package's; empty for any other file."""
    if "layer1.0.conv1.weight" not in weights:
        return {}
    renamed = {}
    for name, value in weights.items():
        if name.startswith("fc."):
            continue
        name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
        name = re.sub(r"^layer(\d)\.", lambda m: f"res{int(m[1]) + 1}.", name)
        name = re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name)
        renamed[name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")] = value
    return renamed


def _first(rows: list[str]) -> str:
    return visible(f"{', '.join(rows[:3])}{', ...' if len(rows) > 3 else ''}")


def _some(what: str, rows: list[str]) -> str:
    return f"; {len(rows)} {what} ({_first(rows)})" if rows else ""
