"""Weights under the names of this package, of torchvision, or of a part of the model: brought to a model, or refused."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ultravid.checkpoint.reading import CheckpointError

__all__ = ["load_weights", "match_by_suffix"]

logger = logging.getLogger(__name__)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: str | Path, *, by_suffix: bool = False) -> None:
    """Give weights to a model.

    Names must be the model's. Three kinds of files hold a part of it under other names: torchvision's ResNets, files whose
    names all begin with ``backbone.``, and those whose names match by their ends (`match_by_suffix`), which is tried where
    not one name is the model's. What the file lacks then starts from scratch, and the log says what that is.

    Args:
        model: changed only if all fits.
        weights: by name.
        path: the file that they come from, for messages.
        by_suffix: names match by their ends even where some are equal; detectron2's files ask for it.

    Raises:
        CheckpointError: names are missing or unknown, or shapes differ: which.
    """
    expected = model.state_dict()
    exact = max((weights, _from_torchvision_resnet(weights, expected)), key=lambda given: len(given.keys() & expected))
    partial = bool(exact) and all(k.startswith("backbone.") for k in exact)
    missing = [k for k in expected if k not in exact and not (partial and not k.startswith("backbone."))]
    unexpected = [k for k in exact if k not in expected]
    if (by_suffix and (missing or unexpected)) or not exact.keys() & expected:
        choices = [(given, match_by_suffix(expected, given)) for given in (weights, _renamed_resnet(weights))]
        given, pairs = max(choices, key=lambda choice: len(choice[1]))
        if pairs:
            partial, missing = len(pairs) < len(expected), []
            unused = sorted(set(given) - set(pairs.values()))
            exact, unexpected = {k: given[v] for k, v in pairs.items()}, []
            logger.info(
                "%s: %d weights matched by the ends of their names%s.", path, len(pairs), _some("not used", unused)
            )
    weights = exact
    shapes = [
        f"{k} is {tuple(weights[k].shape)}, the model wants {tuple(expected[k].shape)}"
        for k in expected
        if k in weights and weights[k].shape != expected[k].shape
    ]
    if missing or unexpected or shapes:
        faults = (
            ("keys of the model are missing in it", missing),
            ("of its keys are unknown to the model", unexpected),
            ("shapes differ", shapes),
        )
        parts = [f"{len(rows)} {what} ({_first(rows)})" for what, rows in faults if rows]
        raise CheckpointError(f"{path} doesn't fit the model: {'; '.join(parts)}.")
    model.load_state_dict(dict(weights), strict=False)
    if partial:
        scratch = sorted(k for k in expected if k not in weights)
        logger.info("%s holds a part of the model%s.", path, _some("from scratch", scratch))


def match_by_suffix(model_keys: Iterable[str], file_keys: Iterable[str]) -> dict[str, str]:
    """The file's name for each of the model's, where one is the end of the other at a dot.

    ``stem.conv1.weight`` of a file is ``backbone.stem.conv1.weight`` of a model, and ``module.head.weight`` its
    ``head.weight``. Of several names the longest wins. A name of the file that could be several of the model's, as
    ``conv1.weight``, is none.

    Returns:
        from the model's name to the file's.
    """
    by_end: dict[str, list[str]] = {}
    for key in file_keys:
        steps = key.split(".")
        for i in range(len(steps)):
            by_end.setdefault(".".join(steps[i:]), []).append(key)
    exact = set(file_keys)
    pairs: dict[str, str] = {}
    for key in model_keys:
        steps = key.split(".")
        shorter = next((end for i in range(len(steps)) if (end := ".".join(steps[i:])) in exact), None)
        longer = by_end.get(key, [])
        if shorter is not None:
            pairs[key] = shorter
        elif len(longer) == 1:
            pairs[key] = longer[0]
    uses = Counter(pairs.values())
    return {key: name for key, name in pairs.items() if uses[name] == 1}


def _from_torchvision_resnet(weights: Mapping[str, Tensor], expected: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Torchvision's names of a ResNet as this package's, below ``backbone.``; the classifier and stages that the model lacks are left out."""
    renamed = {f"backbone.{name}": value for name, value in _renamed_resnet(weights).items()}
    stages = {k.split(".")[1] for k in expected if k.startswith("backbone.")}
    kept = {k: v for k, v in renamed.items() if k.split(".")[1] in stages}
    frozen = "num_batches_tracked"  # which frozen batch norm does not count
    return {k: v for k, v in kept.items() if not k.endswith(frozen) or k in expected}


def _renamed_resnet(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Torchvision's names of a ResNet's stem and stages as this package's; nothing of another file."""
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
    return f"{', '.join(rows[:3])}{', ...' if len(rows) > 3 else ''}"


def _some(what: str, rows: list[str]) -> str:
    return f"; {len(rows)} {what} ({_first(rows)})" if rows else ""
