"""The objects of one image as a table whose columns are attributes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

__all__ = ["Instances"]


class Instances:
    """A table of ``N`` objects of one image.

    A column (a *field*) is a tensor, `Boxes`, a list or anything else that has a length and can be indexed by a tensor:
    ``instances.gt_boxes = Boxes(...)``. The fields that ultravid uses are ``gt_boxes``, ``gt_classes`` and ``gt_ids`` (the
    lesion's track) of annotations; ``proposal_boxes`` and ``objectness_logits`` of proposals; ``pred_boxes``, ``scores``
    and ``pred_classes`` of detections.

    Args:
        image_size: height and width of the image in pixels.
        kwargs: the fields by name, all of one length.

    Raises:
        ValueError: two fields differ in length.
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any) -> None:
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._image_size

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self.set(name, value)

    def __getattr__(self, name: str) -> Any:
        if name == "_fields" or name not in self._fields:
            raise AttributeError(
                f"Instances have no field {name!r}; they have {sorted(self.__dict__.get('_fields', {}))}."
            )
        return self._fields[name]

    def set(self, name: str, value: Any) -> None:
        """Set a field.

        Args:
            name: the name of the field.
            value: a value with one row for each object; it replaces the field of that name.

        Raises:
            ValueError: it has another length than the other fields.
        """
        if self._fields and len(value) != len(self):
            raise ValueError(f"Field {name!r} has {len(value)} rows, the other fields have {len(self)}.")
        self._fields[name] = value

    def has(self, name: str) -> bool:
        """Whether there is a field of that name."""
        return name in self._fields

    def remove(self, name: str) -> None:
        """Remove a field.

        Args:
            name: the name of the field.

        Raises:
            KeyError: there is no such field.
        """
        del self._fields[name]

    def get(self, name: str) -> Any:
        """The field of that name.

        Args:
            name: the name of the field.

        Raises:
            KeyError: there is no such field.
        """
        return self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """The fields by name; changing the dict changes the instances."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> Instances:
        """A table whose fields were moved by their own ``to``; fields without one are shared."""
        moved = Instances(self._image_size)
        for name, value in self._fields.items():
            moved.set(name, value.to(*args, **kwargs) if hasattr(value, "to") else value)
        return moved

    def __getitem__(self, item: int | slice | torch.Tensor) -> Instances:
        """The rows that ``item`` (an int, a slice, indices or a bool mask) chooses, as `Instances`; an int gives a table of one row."""
        if isinstance(item, int):
            if not -len(self) <= item < len(self):
                raise IndexError(f"There is no row {item} in {len(self)} instances.")
            item = slice(item, item + 1 or None)
        chosen = Instances(self._image_size)
        for name, value in self._fields.items():
            if isinstance(value, list) and isinstance(item, torch.Tensor):
                value = list(itertools.compress(value, item)) if item.dtype == torch.bool else [value[i] for i in item]
                chosen.set(name, value)
            else:
                chosen.set(name, value[item])
        return chosen

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("Instances without a field have no length.")

    def __iter__(self) -> Any:
        raise NotImplementedError("Instances are a table, not a sequence: iterate over one of its fields.")

    @staticmethod
    def cat(instance_lists: Sequence[Instances]) -> Instances:
        """The rows of several tables in order, as a table with the first one's image size.

        Args:
            instance_lists: at least one table.

        Raises:
            ValueError: there is no table, or they do not all have the same fields.
        """
        if not instance_lists:
            raise ValueError("Instances.cat needs at least one table.")
        first = instance_lists[0]
        for other in instance_lists[1:]:
            if set(other.get_fields()) != set(first.get_fields()):
                raise ValueError(f"{other} can't be joined to {first}: they have different fields.")
        joined = Instances(first.image_size)
        for name, value in first.get_fields().items():
            columns = [i.get(name) for i in instance_lists]
            if isinstance(value, torch.Tensor):
                joined.set(name, torch.cat(columns))
            elif isinstance(value, np.ndarray):
                joined.set(name, np.concatenate(columns))
            elif isinstance(value, list):
                joined.set(name, list(itertools.chain(*columns)))
            else:
                joined.set(name, type(value).cat(columns))
        return joined

    def __repr__(self) -> str:
        rows = len(self) if self._fields else 0
        return f"Instances({rows} rows, image {self._image_size}, fields {list(self._fields)})"
