#!/usr/bin/env python
"""Train or evaluate a model from a config.

    python tools/lazyconfig_train.py --config-file FILE [--resume [--allow-change KEY,...] | --eval-only] [key=value ...]
    python tools/lazyconfig_train.py --config-file FILE --quick [key=value ...]
    python tools/lazyconfig_train.py --config-file FILE [--check | --print | --explain KEY ... | --help-config [KEY ...]] [key=value ...]

The launcher uses these keys of a config, and no others:

- ``model``: the plain module. ``dataloader.test`` and ``dataloader.evaluator``: the data and the evaluator of --eval-only.
- ``trainer``: an object with ``resume_or_load(resume)`` and ``train()``. It refers to everything else that training needs: the
  prepared model, the optimizer, the training data, the checkpointer, its hooks.
- ``train``: ``output_dir``, ``device``, ``seed``, ``init_checkpoint``, and if present ``num_threads``.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from ultravid.config import Builder, Node, importable_project, load_checked
from ultravid.config.check import RUN_KEYS, RUN_OBJECTS
from ultravid.config.command_line import default_argument_parser, show_config
from ultravid.config.identity import check_identity
from ultravid.config.instantiate import as_user_error
from ultravid.utils.tool import run_tool

# Modules that import torch are imported inside functions, so that --print and --explain of a saved config start fast.


def do_test(builder: Builder, resume: bool) -> None:
    """Evaluate ``train.init_checkpoint``, or with --resume the newest checkpoint of ``train.output_dir``."""
    from ultravid.engine import load_evaluation_weights
    from ultravid.engine.failures import evaluation_failures
    from ultravid.evaluation import inference_on_dataset, inference_on_datasets, print_csv_format
    from ultravid.evaluation.evaluated_run import EvaluatedRun, evaluating
    from ultravid.utils.env import select_device
    from ultravid.utils.events import EventStorage

    with as_user_error():
        model = builder.build("model").to(select_device(builder.cfg.train.device))
    load_evaluation_weights(model, builder.cfg, resume)
    with as_user_error():
        loader, evaluator = builder.build("dataloader.test"), builder.build("dataloader.evaluator")
    evaluate = inference_on_datasets if isinstance(loader, dict) else inference_on_dataset
    # A model may record numbers in the storage as it does in training.
    with EventStorage(0), evaluating(EvaluatedRun.of_config(builder.cfg)), evaluation_failures(model):
        results = evaluate(model, loader, evaluator)
    print_csv_format(results)


def do_train(builder: Builder, resume: bool) -> None:
    """Build the trainer and everything that it refers to, load a checkpoint, and train."""
    from ultravid.engine.failures import training_failures

    with as_user_error():
        trainer = builder.build("trainer")
    with training_failures(trainer):
        trainer.resume_or_load(resume)
        trainer.train()


def do_quick(cfg: Node, args: argparse.Namespace) -> None:
    """A trial run, in a separate folder."""
    from ultravid.engine import default_setup
    from ultravid.engine.quick import quick_run, shorten_config

    plan = shorten_config(cfg, args.config_file)
    default_setup(cfg, args)
    quick_run(cfg, plan)


def run(cfg: Node, args: argparse.Namespace) -> None:
    """What each process of a run does."""
    from ultravid.engine import default_setup

    if args.quick:
        do_quick(cfg, args)
        return
    default_setup(cfg, args)
    (do_test if args.eval_only else do_train)(Builder(cfg), args.resume)


def prepare(args: argparse.Namespace) -> tuple[Node, argparse.Namespace]:
    """Read and check the config: once, for all processes."""
    from ultravid.engine import resolve_resume

    cfg = load_checked(args.config_file, args.opts, required=RUN_KEYS, objects=RUN_OBJECTS)
    if args.identity:
        check_identity(cfg, args.identity)
    if not args.quick:  # which may look at a run that is at work
        resolve_resume(cfg, args)
    return cfg, args


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, check the config, and start the processes."""
    args = default_argument_parser(quick=True, identity=True).parse_args(argv)
    if show_config(args, RUN_KEYS, RUN_OBJECTS):
        return 0
    from ultravid.engine import launch

    with importable_project(args.config_file):
        processes = (args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)
        launch(run, *processes, prepare=partial(prepare, args))
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
