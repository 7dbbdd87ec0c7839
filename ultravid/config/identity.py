"""The identity of a run: the hash of all values that can change its results."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ultravid.config.errors import ConfigError
from ultravid.config.file_version import BESIDE_THE_RUN
from ultravid.config.kinds import as_config
from ultravid.config.nodes import Node, TupleNode
from ultravid.config.plain_data import to_data
from ultravid.config.project_names import name_definitions, naming_folders
from ultravid.config.resolvers import end_of_reference
from ultravid.config.serialize import resolved
from ultravid.config.tree import Container, key_in_parent, raw_children
from ultravid.config.upgrade import regroup

if TYPE_CHECKING:
    from ultravid.config.cfg_node import CfgNode

__all__ = [
    "LeavesIdentity",
    "check_identity",
    "config_identity",
    "has_no_influence",
    "identity_of_leaves",
    "is_of_the_job",
    "leaf_key",
    "leaves",
    "without_job",
]

_ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\s*:")
_DECODED = re.compile(r"\$\{\s*oc\.decode\s*:")
_IN_A_KEY = re.compile(r"\$\{[^:${}]*\$\{\s*oc\.env\s*:")
_WITHOUT_INFLUENCE = frozenset({"num_workers", "pin_memory", "prefetch_factor"})
"""Last steps of keys that do not change the metrics of a run."""
_OF_THE_JOB = {"train.output_dir": "", "train.wall_time_s": None, "train.num_threads": None}
"""Keys of a job on a machine, with what stands for their values: others refer to them."""


def has_no_influence(key: str) -> bool:
    """Whether a full key does not change the metrics of a run: the output folder, a time limit, threads and processes that load.

    What a job asks of a scheduler (the node ``slurm``) does not either.
    """
    return (
        key in _OF_THE_JOB or key == "slurm" or key.startswith("slurm.") or key.rpartition(".")[2] in _WITHOUT_INFLUENCE
    )


def is_of_the_job(key: str) -> bool:
    """Whether a full key is one of those for which `without_job` has placeholders."""
    return key in _OF_THE_JOB


def config_identity(cfg: Node | CfgNode) -> str:
    """SHA-256 (hex) of the values that can change a run's results, references resolved.

    It is the same in every process and on every machine, for keys in any order, and whatever the output folder, the number of threads,
    the time limit of a job and the environment (``${oc.env:NAME}``) are, and wherever the project's folder is.

    Raises:
        ConfigError: a reference leads nowhere, or something can't be written as data.
    """
    return identity_of_leaves(leaves(resolved(without_job(cfg))))


def identity_of_leaves(values: Mapping[str, str]) -> str:
    """The identity of a config from its `leaves`."""
    return _hash(_line(key, text) for key, text in sorted(values.items()) if not has_no_influence(key))


class LeavesIdentity:
    """The identities of configs that differ in a few of their `leaves`.

    Args:
        values: the leaves of one of them.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)
        self._lines = {key: _line(key, text) for key, text in sorted(values.items()) if not has_no_influence(key)}

    def with_changes(self, changes: Mapping[str, str], deleted: Iterable[str] = ()) -> str:
        """The identity of a config that has these leaves in place of those under the same names.

        Args:
            changes: leaves, new ones among them.
            deleted: names of leaves that it does not have.
        """
        counting = {key: text for key, text in changes.items() if not has_no_influence(key)}
        if deleted or any(key not in self._lines for key in counting):
            gone = set(deleted)
            kept = {key: text for key, text in self._values.items() if key not in gone}
            return identity_of_leaves({**kept, **changes})
        return _hash({**self._lines, **{key: _line(key, text) for key, text in counting.items()}}.values())


def _line(key: str, text: str) -> str:
    return f"{key}\0{text}"


def _hash(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def without_job(cfg: Node | CfgNode) -> Node:
    """A copy in which placeholders stand for the keys of the job and for the environment, which others may refer to.

    What a file of the project defines is named by the file's path in the project.
    """
    config = as_config(cfg)
    new = copy.deepcopy(config)
    name_definitions(new, naming_folders(config))
    for key in BESIDE_THE_RUN:
        dict.pop(new, key, None)
    regroup(new)
    for key, value in _OF_THE_JOB.items():
        if isinstance(train := new.get("train"), Node) and (name := key.removeprefix("train.")) in train:
            dict.__setitem__(train, name, value)
    _name_environment(new)
    return new


def leaves(value: Any, owner: Container | None = None, key: Any = None) -> dict[str, str]:
    """The values of a config, or below a key of it, as text; an empty dict or list counts as a value.

    Args:
        value: a container or a plain value, references resolved.
        owner: the container that holds it under ``key``; None: it is a whole config.
        key: see ``owner``.

    Returns:
        by names such as `leaf_key` gives.

    Raises:
        ConfigError: something can't be written as data.
    """
    place = "" if owner is None else leaf_key(owner, key)
    return dict(_leaves(to_data(value), place))


def leaf_key(owner: Container, key: Any) -> str:
    """The name among `leaves` of what a container holds under a key: the steps of its data, with dots between them."""
    above = owner._up
    place = leaf_key(above, key_in_parent(owner)) if above is not None else ""
    if isinstance(owner, dict):
        return _joined(place, key)
    return f"{_joined(place, '_tuple_') if isinstance(owner, tuple) else place}[{key}]"


def _leaves(data: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(data, dict) and data:
        for name, value in data.items():
            yield from _leaves(value, _joined(place, name))
    elif isinstance(data, list) and data:
        for index, value in enumerate(data):
            yield from _leaves(value, f"{place}[{index}]")
    else:
        yield place, repr(data)


def _joined(place: str, name: Any) -> str:
    """A step further; two different steps never look the same, as the key 0 and the key "0"."""
    step = name if isinstance(name, str) and _WORD.fullmatch(name) else repr(name)
    return f"{place}.{step}" if place else step


_WORD = re.compile(r"[A-Za-z_][\w-]*")


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
            f"This config has the identity {identity[: max(12, len(expected))]}, but {expected} was planned: a config file or a file that "
            "it imports was changed since. Run the experiment's command again: it names the keys that differ."
        )


def _name_environment(container: Container) -> None:
    """Replace every reference to the environment by the name of the variable, in place."""
    for key, value in list(raw_children(container)):
        if isinstance(container, TupleNode):  # can't be changed: replaced as a whole, where it stands
            new = value
        elif isinstance(value, TupleNode) and any(map(_is_of_environment, tuple.__iter__(value))):
            new = TupleNode(_without_environment(v) if _is_of_environment(v) else v for v in tuple.__iter__(value))
            new._up = container
        else:
            new = _without_environment(value) if _is_of_environment(value) else value
        if new is not value:
            kind: Any = dict if isinstance(container, dict) else list
            kind.__setitem__(container, key, new)
        if isinstance(new, Container):
            _name_environment(new)


def _is_of_environment(value: Any) -> bool:
    """Whether a value refers to the environment; a reference to a key that a variable names is left, as it leads somewhere."""
    return isinstance(value, str) and _ENVIRONMENT.search(value) is not None and _IN_A_KEY.search(value) is None


def _without_environment(text: str) -> str:
    for pattern in (_ENVIRONMENT, _DECODED):
        for match in reversed(list(pattern.finditer(text))):
            end = end_of_reference(text, match.start())
            inner = text[match.end() : end]
            if end < 0 or (pattern is _DECODED and _NAMED not in inner):
                continue
            name = inner if pattern is _DECODED else f"{_NAMED}{inner.partition(',')[0].strip()}>"
            text = f"{text[: match.start()]}{name}{text[end + 1 :]}"
    return text


_NAMED = "<variable "
