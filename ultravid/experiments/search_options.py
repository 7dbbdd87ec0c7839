"""The options of a search on the command line; this module imports little, as every command of ``tools/experiment.py`` reads it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ultravid.experiments.plan import ExperimentFolder
from ultravid.utils.errors import UserError
from ultravid.utils.tool import seed_argument

__all__ = ["DIRECTIONS", "PRUNERS", "SAMPLERS", "add_search_arguments", "objective_of", "refuse_search_folder"]

SAMPLERS = ("tpe", "random")
PRUNERS = ("median", "halving", "none")
DIRECTIONS = ("maximize", "minimize")

_TRIALS = 20


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a search to those of ``tools/experiment.py``."""
    group = parser.add_argument_group("search instead of a grid")
    group.add_argument(
        "--search",
        choices=["optuna"],
        help="let Optuna propose the jobs, from intervals, ranges and lists of values",
    )
    group.add_argument(
        "--trials",
        type=int,
        default=_TRIALS,
        metavar="N",
        help=f"total number of trials, over all commands ({_TRIALS})",
    )
    group.add_argument("--objective", default="AP50", metavar="METRIC", help="metric to optimize (AP50)")
    group.add_argument(
        "--direction",
        choices=DIRECTIONS,
        help="direction of the objective (default: minimize false positives, delays and losses; maximize others)",
    )
    group.add_argument("--sampler", choices=SAMPLERS, default="tpe", help="how Optuna proposes trials (tpe)")
    group.add_argument(
        "--pruner",
        choices=PRUNERS,
        default="median",
        help="rule that stops bad jobs early, from their evaluations (median)",
    )
    group.add_argument("--search-seed", type=seed_argument, default=0, metavar="N", help="seed of the proposals (0)")
    group.add_argument("--searcher", dest="is_searcher", action="store_true", help=argparse.SUPPRESS)


def refuse_search_folder(output_dir: Path) -> None:
    """Refuse a grid in the folder of a search.

    Raises:
        UserError: it is one.
    """
    if ExperimentFolder(output_dir).study.exists():
        raise UserError(
            f"{output_dir} holds a search. Continue it with --search optuna, or choose another --output-dir."
        )


def objective_of(folder: ExperimentFolder) -> str:
    """The metric that the search in a folder optimizes, from its journal; "" if there is no search."""
    try:
        with folder.study.open(encoding="utf-8") as journal:
            for line in journal:
                if '"search":' in line:
                    return str(json.loads(line)["user_attr"]["search"]["objective"])
    except (OSError, ValueError, KeyError):
        pass
    return ""
