"""The page of the files of a run's and of an experiment's folder, from the classes that name them."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ultravid.config.key_help import first_sentence
from ultravid.experiments.plan import ExperimentFolder
from ultravid.utils import run_folder
from ultravid.utils.run_folder import Attempt, InferenceFolder, RunFolder, RunState

__all__ = ["TABLES", "Table", "files", "listed_files"]

ROOT = Path("RUN")


@dataclass(frozen=True)
class Table:
    """The files that one class names.

    Attributes:
        title: heading.
        about: what stands before the table.
        folder: an object of the class, whose properties are paths.
        methods: what methods of it return for example arguments, as the page shows it: name -> (text, call).
        elsewhere: names that are not files of this table: they find or change files that it lists, or are folders of other tables.
    """

    title: str
    about: str
    folder: Any
    methods: dict[str, tuple[str, Callable[[Any], Path]]]
    elsewhere: frozenset[str] = frozenset()


TABLES = (
    Table(
        "The folder of a run",
        "`train.output_dir`; in Python `ultravid.utils.run_folder.RunFolder(path)`. *Name* is the attribute or method of it that gives the path.",
        RunFolder(ROOT),
        {
            "log_of": ("log.txt.rank1", lambda run: run.log_of(1)),
            "eval_log_of": ("log_eval.txt", lambda run: run.eval_log_of(0)),
            "events": (
                "events.out.tfevents.<time and host>",
                lambda run: run.path / "events.out.tfevents.<time and host>",
            ),
            "checkpoint": ("model_0000999.pth", lambda run: run.checkpoint("model_0000999")),
            "inference_of": ("inference_<weights>_<hash>/", lambda run: run.inference_of("<weights>", "<hash>")),
        },
        frozenset(
            {
                *(
                    "containing",
                    "saved_config",
                    "final_checkpoint",
                    "newest_checkpoint",
                    "list_attempts",
                    "new_attempt",
                ),
                *(
                    "trained_config",
                    "evaluation",
                    "evaluation_metrics",
                    "predictions",
                    "prediction_manifest",
                    "checkpoints",
                    "evaluations",
                ),
                *("archive_checkpoints", "archive_events"),
            }
        ),
    ),
    Table(
        "The folder of an attempt",
        "`attempts/1`, `attempts/2`, ...: each start and each resume of the training; in Python `RunFolder.list_attempts()`.",
        Attempt(Path("1")),
        {},
    ),
    Table(
        "The folder of an evaluation",
        "`inference`, or `inference_<weights>_<hash>` for other weights than the run's newest; of several data sets, a folder in it for each. "
        "In Python `InferenceFolder(path)`.",
        InferenceFolder(Path("inference")),
        {},
    ),
    Table(
        "The folder of an experiment",
        "`--output-dir` of `ultravid experiment`; in Python `ultravid.experiments.ExperimentFolder(path)`. Each of its runs has a folder as above "
        "in `jobs/<number>-<identity>`. What `ultravid summarize` adds is in `summary/`.",
        ExperimentFolder(ROOT),
        {},
        frozenset({"known_folders"}),
    ),
)

INTRODUCTION = """\
# Files of a run's folder

All that a run writes is in one folder, `train.output_dir`. Scripts find its files by name, or by `RunFolder` in Python:

```python
from ultravid.utils.run_folder import RunFolder

run = RunFolder("outputs/phantom")
print(run.state(), run.metrics, run.final_checkpoint())
```
"""

MORE = """\
What is not a file of one run's present: `config.yaml.1`, `earlier_run_1/` and `earlier_events_1/` (then 2, ...) hold what an earlier run left in the
same folder. `git.diff` of an attempt is written in a checkout with changes only; `model_final.pth` and `model_best.pth` are checkpoints as the
others, of the end of training and of the best metric, and `.dcp` folders take the place of `.pth` files where the model is sharded. Names that
begin with a dot and end in `.tmp` are files that are being written, or that a killed process left; they can be deleted.
"""


def files() -> dict[str, str]:
    """The page, by path from ``docs/``."""
    parts = [INTRODUCTION, _promise(), _states(), _table(TABLES[0]), MORE, *map(_table, TABLES[1:])]
    return {"reference/run_folder.md": "\n".join(parts)}


def _promise() -> str:
    """What `RunState` says of all states."""
    paragraphs = inspect.cleandoc(RunState.__doc__ or "").split("\n\n")
    return f"{_marked(paragraphs[1])}\n"


def _states() -> str:
    """The states of a run, with the text below each of them in the class."""
    rows = [f"| `{state.value}` | {text} |" for state, text in _texts_of_members().items()]
    about = "The state of a run is read from its own files: `RunFolder(path).state()`, or `ultravid experiment --status` for many."
    return "\n".join(["## States", "", about, "", "| state | meaning |", "|---|---|", *rows, ""])


def _texts_of_members() -> dict[RunState, str]:
    tree = ast.parse(inspect.getsource(run_folder))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "RunState")
    found = {}
    for node, after in pairwise(body):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(after, ast.Expr):
            found[RunState[node.targets[0].id]] = _marked(ast.literal_eval(after.value))
    return found


def _marked(text: str) -> str:
    """Text of a docstring as Markdown on one line."""
    return re.sub(r"``([^`]+)``", r"`\1`", " ".join(text.split()))


def members(table: Table) -> Iterable[tuple[str, str]]:
    """(name, text) of what a class says of its files, in its order."""
    for name, member in vars(type(table.folder)).items():
        if not name.startswith("_") and (isinstance(member, property | classmethod) or inspect.isfunction(member)):
            yield name, inspect.getdoc(member) or ""


def paths(table: Table) -> dict[str, Path]:
    """The path by the name of the attribute or method that gives it."""
    found: dict[str, Path] = {}
    for name, _ in members(table):
        if name in table.elsewhere:
            continue
        if name in table.methods:
            found[name] = table.methods[name][1](table.folder)
        elif isinstance(value := getattr(table.folder, name), Path):
            found[name] = value
    return found


def listed_files() -> dict[str, list[str]]:
    """Names of files and folders below the folder of each table, by its title."""
    return {
        table.title: [path.relative_to(table.folder.path).as_posix() for path in paths(table).values()]
        for table in TABLES
    }


def _table(table: Table) -> str:
    found, rows = paths(table), []
    for name, doc in members(table):
        if name in found:
            shown = (
                table.methods[name][0]
                if name in table.methods
                else found[name].relative_to(table.folder.path).as_posix()
            )
            rows.append(f"| `{shown}` | {_sentence(doc)} | `{name}` |")
    return "\n".join(
        [f"## {table.title}", "", table.about, "", "| file | content | name |", "|---|---|---|", *rows, ""]
    )


def _sentence(doc: str) -> str:
    """The first paragraph of a docstring; names of modules in it become what they are called."""
    text = _marked(doc.partition("\n\n")[0])
    return re.sub(r"\s*\(`ultravid\.[\w.]+`\)", "", text) or first_sentence(doc)
