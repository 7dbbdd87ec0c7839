"""The search space: intervals and ranges as numbers, lists and named edits as choices.

'optimizer.lr=tag(log, interval(1e-5, 1e-2))'     a number, spread evenly over its logarithm
'model.backbone.depth=18,34'                      one of these texts
'train.batch_size=range(2, 9, 2)'                 a whole number: 2, 4, 6 or 8
--set small='a=1 b=2' --set large='a=3 b=4'       one of these edits of several keys
'train.seed=range(3)'                             not searched: each trial runs once with each seed, and its value is their mean
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ultravid.config.sweeps import Choices, Interval, parse_sweep
from ultravid.experiments.settings import JobSettings
from ultravid.utils.errors import UserError

__all__ = ["Dimension", "SearchSpace", "search_space"]

_REPEATED = ("seed", "fold")
"""Last steps of keys that judge a setting several times, and improve nothing: the best of them would be the luckiest."""


@dataclass(frozen=True)
class Dimension:
    """A key, or a group of named edits, and what it may be.

    Attributes:
        key: the full key, or the name of the group.
        sign: the sign of the override; "" of a group.
        texts: the values as text; empty if it is an interval.
        edits: the overrides of each text, of a group; empty if it is a key.
        low: the smallest number; None if it is a choice.
        high: the largest number, alike.
        step: distance of the numbers; None if all between are meant.
        is_integer: whether only whole numbers are meant.
        is_log: whether numbers are spread evenly over their logarithm.
    """

    key: str
    sign: str = ""
    texts: tuple[str, ...] = ()
    edits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None
    step: float | None = None
    is_integer: bool = False
    is_log: bool = False

    @property
    def corners(self) -> list[str]:
        """Texts that a check of the config tries: all choices, or both ends."""
        return (
            list(self.texts) if self.low is None or self.high is None else [self.text(self.low), self.text(self.high)]
        )

    @property
    def size(self) -> float:
        """The number of values; infinite if they are not counted."""
        if self.low is None or self.high is None:
            return len(self.texts)
        if self.step is not None:
            return round((self.high - self.low) / self.step) + 1
        return self.high - self.low + 1 if self.is_integer else math.inf

    def text(self, value: Any) -> str:
        """The value of a trial in the grammar of overrides."""
        if self.low is None:
            return str(value)
        if self.is_integer:
            return str(int(value))
        if self.step is not None:
            return min(
                self.texts, key=lambda text: abs(float(text) - value)
            )  # as typed, without the noise of adding steps
        return repr(float(value))

    def suggest(self, trial: Any) -> str:
        """The text that a trial of Optuna proposes."""
        if self.low is None or self.high is None:
            return self.text(trial.suggest_categorical(self.key, list(self.texts)))
        if self.is_integer:
            whole = trial.suggest_int(
                self.key, int(self.low), int(self.high), step=int(self.step or 1), log=self.is_log
            )
            return self.text(whole)
        return self.text(trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.is_log))

    def described(self) -> str:
        """What it may be, in a line."""
        if self.low is None or self.high is None:
            return ", ".join(self.texts)
        kind = "whole numbers" if self.is_integer else "numbers"
        steps = f" in steps of {self.step:g}" if self.step is not None else ""
        return f"{kind} from {self.low:g} to {self.high:g}{steps}{', logarithmic' if self.is_log else ''}"


@dataclass(frozen=True)
class SearchSpace:
    """All that a search varies, and the overrides of every trial.

    Attributes:
        dimensions: in order.
        in_order: the overrides as typed; of one that is searched or repeated, its key in a tuple.
        repeated: the seeds and folds with which each trial is run; its value is the mean.
    """

    dimensions: tuple[Dimension, ...]
    in_order: tuple[str | tuple[str], ...]
    repeated: tuple[Choices, ...] = ()

    @property
    def plain(self) -> list[str]:
        """The overrides of every trial."""
        return [item for item in self.in_order if isinstance(item, str)]

    @property
    def size(self) -> float:
        """The number of different trials; infinite if they are not counted."""
        return math.prod(dimension.size for dimension in self.dimensions)

    def settings(self, texts: Mapping[str, str]) -> list[JobSettings]:
        """What the jobs of a trial set: one job, or one for each combination of the seeds and folds.

        Args:
            texts: the value of each dimension by its key.
        """
        keys = [choices.key for choices in self.repeated]
        combinations = itertools.product(*(choices.values for choices in self.repeated))
        return [self._job({**texts, **dict(zip(keys, values, strict=True))}) for values in combinations]

    def _job(self, texts: Mapping[str, str]) -> JobSettings:
        sign_of = {dimension.key: dimension.sign for dimension in self.dimensions}
        sign_of |= {choices.key: choices.sign for choices in self.repeated}
        edits = [override for d in self.dimensions if d.edits for override in d.edits[texts[d.key]]]
        own = [
            item if isinstance(item, str) else f"{sign_of[item[0]]}{item[0]}={texts[item[0]]}" for item in self.in_order
        ]
        edited = tuple(text.partition("=")[0].lstrip("+~") for text in edits)
        return JobSettings((*edits, *own), dict(texts), edited=edited)

    def corners(self) -> list[JobSettings]:
        """Jobs that have each choice, both ends of each interval, and each seed and fold at least once."""
        first = {dimension.key: dimension.corners[0] for dimension in self.dimensions}
        jobs = {tuple(first.items()): first}
        for dimension in self.dimensions:
            for text in dimension.corners[1:]:
                texts = {**first, dimension.key: text}
                jobs[tuple(texts.items())] = texts
        every = [self.settings(texts) for texts in jobs.values()]
        return [*every[0], *(of_trial[0] for of_trial in every[1:])]

    def described(self) -> dict[str, str]:
        """What each dimension may be, and which seeds and folds a trial is the mean over, by key."""
        repeated = {choices.key: f"the mean over {', '.join(choices.values)}" for choices in self.repeated}
        return {dimension.key: dimension.described() for dimension in self.dimensions} | repeated


def search_space(overrides: Sequence[str], edits: Mapping[str, Sequence[JobSettings]]) -> SearchSpace:
    """The space that a command line describes.

    Args:
        overrides: as typed, sweeps and others.
        edits: named edits by group, as of `ultravid.experiments.settings.parse_named_edits`.

    Raises:
        OverrideError: a sweep that means nothing.
        UserError: nothing varies, or a key is set twice.
    """
    dimensions = [
        Dimension(group, texts=tuple(job.name for job in jobs), edits={job.name: job.overrides for job in jobs})
        for group, jobs in edits.items()
    ]
    in_order: list[str | tuple[str]] = []
    repeated: list[Choices] = []
    for text in overrides:
        sweep = parse_sweep(text)
        if sweep is None:
            in_order.append(text)
            continue
        if isinstance(sweep, Choices) and _is_repeated(sweep.key):
            repeated.append(sweep)
        else:
            dimensions.append(_dimension(text, sweep))
        in_order.append((sweep.key,))
    if not dimensions:
        raise UserError(
            "--search: nothing varies. Name what to search over, as 'optimizer.lr=tag(log, interval(1e-5, 1e-2))' or "
            "'model.backbone.depth=18,34'."
        )
    _refuse_twice(dimensions, in_order, repeated)
    _refuse_luck(dimensions)
    return SearchSpace(tuple(dimensions), tuple(in_order), tuple(repeated))


def _is_repeated(key: str) -> bool:
    return key.rpartition(".")[2] in _REPEATED


def _dimension(text: str, sweep: Choices | Interval) -> Dimension:
    if isinstance(sweep, Interval):
        ends = re.search(r"interval\(\s*[+-]?\d+\s*,\s*[+-]?\d+\s*\)", text)  # the grammar makes floats of both
        is_integer = sweep.is_integer or (ends is not None and re.search(r"tag\([^)]*\bfloat\b", text) is None)
        unit = 1 if is_integer and not sweep.is_log else None
        return Dimension(sweep.key, sweep.sign, (), {}, sweep.low, sweep.high, unit, is_integer, sweep.is_log)
    is_range = re.match(r"\s*range\(", text.partition("=")[2]) is not None
    numbers = sorted(map(float, sweep.values)) if is_range and len(sweep.values) > 1 else []
    if not numbers:
        return Dimension(sweep.key, sweep.sign, sweep.values)
    is_integer = all(number.is_integer() for number in numbers) and all("." not in value for value in sweep.values)
    step = round(numbers[1] - numbers[0], 12)
    return Dimension(sweep.key, sweep.sign, sweep.values, {}, numbers[0], numbers[-1], step, is_integer)


def _refuse_luck(dimensions: Sequence[Dimension]) -> None:
    """Refuse to search over seeds and folds: the best of them is the luckiest, and the other values would be judged by luck too."""
    for dimension in dimensions:
        if _is_repeated(dimension.key):
            name = dimension.key.rpartition(".")[2]
            raise UserError(
                f"--search: {dimension.key}: a search would choose the {name} that happens to give the best value. Set one, "
                f"{dimension.key}={dimension.corners[0]}; or name several, '{dimension.key}=range(3)': each trial is run with each of them, "
                "and its value is their mean."
            )


def _refuse_twice(
    dimensions: Sequence[Dimension], in_order: Sequence[str | tuple[str]], repeated: Sequence[Choices]
) -> None:
    plain = [item.partition("=")[0].lstrip("+~") for item in in_order if isinstance(item, str)]
    varied = [choices.key for choices in repeated]
    for dimension in dimensions:
        edited = {text.partition("=")[0].lstrip("+~") for texts in dimension.edits.values() for text in texts}
        varied += sorted(edited) if dimension.edits else [dimension.key]
    twice = [key for key in varied if varied.count(key) > 1 or key in plain]
    if twice:
        raise UserError(f"{twice[0]} is set twice, and searched at least once; name all its values in one.")
