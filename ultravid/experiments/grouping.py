"""Groups runs that differ only in seeds and folds: mean, standard deviation and number of runs of a setting.

The standard deviation is that of a sample (divided by n - 1). Mean and standard deviation are undefined if the metric is undefined in one
of the runs, as `ultravid.evaluation.folds` has it: a metric is not undefined at random but when a model is bad.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ultravid.evaluation.folds import FoldMetric
from ultravid.evaluation.metrics import IMAGE_METRICS, TRAINING_METRICS
from ultravid.experiments.run_results import RunResult, canonical, differing_keys, last_step, number_in
from ultravid.utils.errors import UserError
from ultravid.utils.text import counted, nearest, rounded

__all__ = [
    "AVERAGED",
    "Grouping",
    "Setting",
    "axis_values",
    "choose_metrics",
    "group_runs",
    "lower_is_better",
    "short_keys",
    "shown_values",
]

AVERAGED = ("seed", "fold")
"""Last steps of keys that are averaged over unless the user groups by them."""

_NAME = "name"
_MOST_METRICS = 8


@dataclass(frozen=True, eq=False)
class Setting:
    """Runs that are averaged.

    Attributes:
        number: from 0, in order of the first run.
        values: what they have in common, as text by key: the keys that runs are grouped by.
        runs: all of them, in order.
        data: which of several evaluations that can't be averaged: a letter; "" if there is one.
        shown: the values as tables show them, with fewer digits.
    """

    number: int
    values: Mapping[str, str]
    runs: Sequence[RunResult]
    data: str = ""
    shown: Mapping[str, str] = field(default_factory=dict)

    @property
    def results(self) -> list[RunResult]:
        """The runs whose metrics count."""
        return [run for run in self.runs if run.counts_as_result]

    @property
    def label(self) -> str:
        """Its values in a line."""
        values = {**self.values, **self.shown}
        texts = [f"{last_step(key)}={value}" for key, value in values.items() if value]
        return ", ".join([*texts, *([f"evaluation {self.data}"] if self.data else [])]) or "all runs"

    def metric(self, name: str) -> FoldMetric:
        """A metric over the runs that count; nan in a run that does not have it."""
        return FoldMetric(name, {n: run.metrics.get(name, math.nan) for n, run in enumerate(self.results)})


@dataclass(frozen=True, eq=False)
class Grouping:
    """Runs and how they are averaged.

    Attributes:
        runs: all of them.
        differing: the keys in which they differ.
        by: the keys that they are grouped by.
        over: the other ones, which are averaged over.
        settings: the groups.
        metrics: names of the metrics to show.
        notes: what a reader must know, a sentence each.
    """

    runs: Sequence[RunResult]
    differing: Sequence[str]
    by: Sequence[str]
    over: Sequence[str]
    settings: Sequence[Setting]
    metrics: Sequence[str]
    notes: Sequence[str]


def group_runs(
    runs: Sequence[RunResult], group_by: Sequence[str] | None, metrics: Sequence[str] = (), notes: Sequence[str] = ()
) -> Grouping:
    """Group runs by what they differ in.

    Args:
        runs: as of `run_results.read_runs`.
        group_by: full keys, or their last steps if these are unambiguous; None: all that differ but seeds, folds and names.
        metrics: the metrics to show; none: those of the log of a training, or the first ones that there are.
        notes: what is known of the runs already, a sentence each.

    Raises:
        UserError: a key or a metric is not among those of the runs.
    """
    differing = differing_keys(runs)
    by = [k for k in differing if not _is_averaged(k)] if group_by is None else _chosen(group_by, differing, runs)
    over = [key for key in differing if key not in by and key != _NAME]
    classes, on_classes = _classes(runs, [key for key in over if last_step(key) == "fold"])
    groups: dict[tuple[str, ...], list[RunResult]] = {}
    for run in runs:
        own = classes.get(id(run), "A" if classes else "")
        groups.setdefault((own, *(canonical(run.settings.get(key)) for key in by)), []).append(run)
    texts = shown_values(runs, by)
    settings = [
        _setting(number, by, members, group[0], texts) for number, (group, members) in enumerate(groups.items())
    ]
    chosen = choose_metrics(runs, metrics)
    return Grouping(runs, differing, by, over, settings, chosen, [*notes, *on_classes, *_notes(settings, over, chosen)])


def _setting(
    number: int, by: Sequence[str], members: Sequence[RunResult], data: str, texts: Mapping[str, Mapping[str, str]]
) -> Setting:
    values = {key: members[0].settings.get(key, "") for key in by}
    return Setting(number, values, members, data, {key: texts[key].get(text, text) for key, text in values.items()})


def shown_values(runs: Sequence[RunResult], keys: Sequence[str]) -> dict[str, dict[str, str]]:
    """How tables show the values of each key, by the value: with four significant digits, or as many as tell them apart."""
    return {key: rounded(run.settings.get(key, "") for run in runs) for key in keys}


def _is_averaged(key: str) -> bool:
    return last_step(key) in AVERAGED or key == _NAME


def _chosen(group_by: Sequence[str], differing: Sequence[str], runs: Sequence[RunResult]) -> list[str]:
    known = list(dict.fromkeys([*differing, *(key for run in runs for key in run.settings)]))
    chosen = []
    for text in group_by:
        fitting = [key for key in known if key == text] or [key for key in known if key.endswith(f".{text}")]
        if len(fitting) == 1:
            chosen += fitting
            continue
        if len(fitting) > 1:
            raise UserError(f"--group-by {text}: may be {' or '.join(fitting[:5])}; write the full key.")
        close = nearest(text, known)
        hint = f" Did you mean {close!r}?" if close else ""
        listed = ", ".join(differing[:10]) or "nothing"
        raise UserError(f"--group-by {text}: the runs have no such key. They differ in {listed}.{hint}")
    return list(dict.fromkeys(chosen))


def _classes(runs: Sequence[RunResult], folds: Sequence[str]) -> tuple[dict[int, str], list[str]]:
    """Which runs were evaluated otherwise than the others: a letter by the run's id, empty if all were alike.

    Folds have their own data, so the data of runs are compared within a fold.
    """
    results = [run for run in runs if run.counts_as_result]
    evaluators = list(dict.fromkeys(run.fingerprint[0] for run in results if run.fingerprint[0]))
    data: dict[tuple[str, ...], list[str]] = {}
    of_run: dict[int, tuple[int, int]] = {}
    for run in results:
        seen = data.setdefault(tuple(canonical(run.settings.get(key)) for key in folds), [])
        judged_by, data_text = run.fingerprint
        if data_text and data_text not in seen:
            seen.append(data_text)
        of_run[id(run)] = (
            evaluators.index(judged_by) if judged_by else 0,
            seen.index(data_text) if data_text else 0,
        )
    kinds = sorted(set(of_run.values()))
    if len(kinds) < 2:
        return {}, []
    letters = {kind: chr(ord("A") + min(number, 25)) for number, kind in enumerate(kinds)}
    classes = {run: letters[kind] for run, kind in of_run.items()}
    what = [
        *(["evaluators or their settings"] if len({kind[0] for kind in kinds}) > 1 else []),
        *(["data"] if len({kind[1] for kind in kinds}) > 1 else []),
    ]
    first = {letter: next(r.name for r in results if classes[id(r)] == letter) for letter in letters.values()}
    listed = ", ".join(f"{letter} as {name}" for letter, name in first.items())
    return classes, [
        f"Not all runs were evaluated alike: {' and '.join(what)} differ, so their metrics are neither averaged nor compared across "
        f"evaluations ({listed})."
    ]


def _notes(settings: Sequence[Setting], over: Sequence[str], metrics: Sequence[str]) -> list[str]:
    notes = []
    if over:
        keys = ", ".join(over)
        notes.append(f"Mean and sample standard deviation (n - 1) over the runs of a setting, which differ in {keys}.")
    elif any(len(setting.results) > 1 for setting in settings):
        notes.append("Mean and sample standard deviation (n - 1) over the runs of a setting.")
    mixed = [key for key in over if not _is_averaged(key)]
    if mixed:
        notes.append(f"Averaged over other values of {', '.join(mixed)}: group by it to tell them apart.")
    left = [run for setting in settings for run in setting.runs if not run.counts_as_result]
    if left:
        notes.append(f"{counted(len(left), 'run')} not in any mean: {_reasons(left)}.")
    numbers = {len(setting.results) for setting in settings}
    if len(numbers) > 1 and over:
        notes.append("The settings have different numbers of runs; see the column runs.")
    for name in metrics:
        partly = [s for s in settings if s.metric(name).defined and len(s.metric(name).defined) < len(s.results)]
        notes += [_undefined(name, setting) for setting in partly]
    commits = {
        (run.record.content.get("versions") or {}).get("ultravid") for r in settings for run in r.results if run.record
    }
    if len(commits) > 1:
        notes.append(f"Evaluated by different versions of ultravid: {', '.join(sorted(map(str, commits)))}.")
    return notes


def _reasons(runs: Sequence[RunResult]) -> str:
    by_reason: dict[str, list[str]] = {}
    for run in runs:
        by_reason.setdefault(run.problem.rstrip("."), []).append(run.name)
    parts = []
    for reason, names in by_reason.items():
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        parts.append(f"{shown} ({reason})")
    return "; ".join(parts)


def _undefined(name: str, setting: Setting) -> str:
    metric = setting.metric(name)
    without = [r.name for r in setting.results if math.isnan(r.metrics.get(name, math.nan))]
    return (
        f"{name} of {setting.label} has no mean: it is undefined in {', '.join(without)}; mean of the other "
        f"{len(metric.defined)}: {metric.mean_of_defined:.2f}."
    )


def choose_metrics(runs: Sequence[RunResult], wanted: Sequence[str]) -> list[str]:
    """The metrics to show.

    Raises:
        UserError: no run has one of those that are wanted.
    """
    known = list(dict.fromkeys(name for run in runs for name in run.metrics))
    for name in wanted:
        if name not in known and known:
            close = nearest(name, known)
            hint = f" Did you mean {close!r}?" if close else f" There are {', '.join(known[:12])}."
            raise UserError(f"--metrics {name}: no run has this metric.{hint}")
    if wanted:
        return list(wanted)
    usual = [name for name in TRAINING_METRICS if name in known]
    stills = any(run.counts.get("count/videos_of_assumed_rate") or run.counts.get("count/stills") for run in runs)
    return [*usual, *(n for n in IMAGE_METRICS if stills and n in known)] or known[:_MOST_METRICS]


def lower_is_better(name: str) -> bool:
    """Whether a smaller value of a metric is the better one: false positives, delays, losses, errors."""
    last = name.rpartition("/")[2].lower()
    return (
        last.startswith(("fp", "delay", "loss")) or last.endswith(("loss", "error")) or name.startswith("FP/image")
    ) and not last.startswith("froc")


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """The shortest end of each key, by steps, that no other key has."""
    short = {}
    for key in keys:
        steps = key.split(".")
        for number in range(1, len(steps) + 1):
            short[key] = ".".join(steps[-number:])
            if sum(other == short[key] or other.endswith(f".{short[key]}") for other in keys) == 1:
                break
    return short


def axis_values(runs: Sequence[RunResult], key: str) -> list[float] | None:
    """The numbers that a key has in runs, sorted; None if one of its values is no number."""
    numbers = [number_in(canonical(run.settings.get(key))) for run in runs]
    return None if any(n is None for n in numbers) else sorted({n for n in numbers if n is not None})
