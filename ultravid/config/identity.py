"""What makes two runs the same: the hash of all values that can change a run's results."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ultravid.config.errors import ConfigError
from ultravid.config.kinds import as_config
from ultravid.config.nodes import Node, TupleNode
from ultravid.config.plain_data import to_data
from ultravid.config.resolvers import end_of_reference
from ultravid.config.serialize import resolved
from ultravid.config.tree import Container, raw_children
from ultravid.config.upgrade import regroup

if TYPE_CHECKING:
    from ultravid.config.cfg_node import CfgNode

__all__ = ["check_identity", "config_identity", "has_no_influence", "identity_of_leaves", "leaves", "without_job"]

_ENVIRONMENT = "${oc.env:"
_WITHOUT_INFLUENCE = frozenset({"num_workers", "pin_memory", "prefetch_factor"})
"""Last steps of keys that do not change the metrics of a run."""
_OF_THE_JOB = {"train.output_dir": "", "train.wall_time_s": None, "train.num_threads": None}
"""Keys of a job on a machine, with what stands for their values: others refer to them."""


def has_no_influence(key: str) -> bool:
    """Whether a full key does not change the metrics of a run: the output folder, a time limit, threads and processes that load."""
    return key in _OF_THE_JOB or key.rpartition(".")[2] in _WITHOUT_INFLUENCE


def config_identity(cfg: Node | CfgNode) -> str:
    """SHA-256 (hex) of the values that can change a run's results, references resolved.

    It is the same in every process and on every machine, for keys in any order, and whatever the output folder, the number of threads,
    the time limit of a job and the environment (``${oc.env:NAME}``) are.

    Raises:
        ConfigError: a reference leads nowhere, or something can't be written as data.
    """
    return identity_of_leaves(leaves(resolved(without_job(cfg)), ""))


def identity_of_leaves(values: Mapping[str, str]) -> str:
    """The identity of a config from its `leaves`."""
    lines = "\n".join(f"{key}\0{text}" for key, text in sorted(values.items()) if not has_no_influence(key))
    return hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()


def without_job(cfg: Node | CfgNode) -> Node:
    """A copy in which placeholders stand for the keys of the job and for the environment, which others may refer to."""
    new = copy.deepcopy(as_config(cfg))
    regroup(new)
    for key, value in _OF_THE_JOB.items():
        if isinstance(train := new.get("train"), Node) and (name := key.removeprefix("train.")) in train:
            dict.__setitem__(train, name, value)
    _name_environment(new)
    return new


def leaves(value: Any, key: str) -> dict[str, str]:
    """The values below a key as text, by full key; an empty dict or list counts as a value.

    Raises:
        ConfigError: something can't be written as data.
    """
    return dict(_leaves(to_data(value) if isinstance(value, Container) else value, key))


def _leaves(data: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(data, dict) and data:
        for name, value in data.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    elif isinstance(data, list) and data:
        for index, value in enumerate(data):
            yield from _leaves(value, f"{key}.{index}")
    else:
        yield key, repr(data)


def check_identity(cfg: Node | CfgNode, expected: str) -> None:
    """Refuse a config that is not the one that was planned.

    Args:
        cfg: the config of the run that is about to start.
        expected: its identity, or the beginning of it.

    Raises:
        ConfigError: the identities differ.
    """
    identity = config_identity(cfg)
    if not identity.startswith(expected):
        raise ConfigError(
            f"This config's identity is {identity[: max(12, len(expected))]}, where {expected} was planned: a config file or what it "
            "imports was changed since. Run the experiment's command again: it names the keys that differ."
        )


def _name_environment(container: Container) -> None:
    """Replace every reference to the environment by the name of the variable, in place."""
    for key, value in list(raw_children(container)):
        if isinstance(value, Container):
            _name_environment(value)
        elif isinstance(value, str) and _ENVIRONMENT in value and not isinstance(container, TupleNode):
            if isinstance(container, Node):
                dict.__setitem__(container, key, _without_environment(value))
            else:
                list.__setitem__(container, key, _without_environment(value))  # type: ignore[call-overload]


def _without_environment(text: str) -> str:
    while (start := text.rfind(_ENVIRONMENT)) >= 0 and (end := end_of_reference(text, start)) >= 0:
        name = text[start + len(_ENVIRONMENT) : end].partition(",")[0].strip()
        text = f"{text[:start]}<variable {name}>{text[end + 1 :]}"
    return text
