#!/usr/bin/env python
"""Train or evaluate a model from a YAML config, with a `DefaultTrainer` whose methods you can override.

    python tools/train_net.py --config-file FILE.yaml [--resume | --eval-only] [--num-gpus N] [KEY VALUE ...]
    python tools/train_net.py --config-file FILE.yaml --help-config [KEY] [KEY VALUE ...]

`ultravid/config/cfg_defaults.py` names all keys. To change more than values, edit `Trainer`, or copy this file.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from ultravid.config import CfgNode, config_from_cfg_node, get_cfg, importable_project, refuse_faults
from ultravid.config.cfg_help import cfg_help_text
from ultravid.config.cfg_translation import with_tree_keys
from ultravid.config.command_line import yaml_argument_parser
from ultravid.engine import DefaultTrainer, default_setup, launch, load_evaluation_weights, resolve_resume, run_tool
from ultravid.engine.failures import evaluation_failures, training_failures
from ultravid.evaluation import DatasetEvaluator
from ultravid.utils.errors import UserError
from ultravid.utils.events import EventStorage


class Trainer(DefaultTrainer):
    """A place for what a project does differently: ``build_model``, ``build_train_loader``, ``build_hooks`` and so on."""

    @classmethod
    def build_evaluator(cls, cfg: Any, dataset_name: str) -> DatasetEvaluator | Sequence[DatasetEvaluator] | None:
        return super().build_evaluator(cfg, dataset_name)


def setup(args: argparse.Namespace) -> CfgNode:
    """The defaults, then the file, then the command line."""
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    return cfg


def do_test(cfg: CfgNode, resume: bool) -> None:
    """Evaluate ``MODEL.WEIGHTS``, or with --resume the newest checkpoint of ``OUTPUT_DIR``."""
    model = Trainer.build_model(cfg)
    load_evaluation_weights(model, config_from_cfg_node(cfg), resume)
    with EventStorage(0), evaluation_failures(model):  # a model may record metrics here as it does in training
        Trainer.test(cfg, model)


def run(cfg: CfgNode, args: argparse.Namespace) -> None:
    """One process of a run."""
    default_setup(cfg, args)
    if args.eval_only:
        do_test(cfg, args.resume)
        return
    trainer = Trainer(cfg)
    with training_failures(trainer):
        trainer.resume_or_load(resume=args.resume)
        trainer.train()


def prepare(args: argparse.Namespace) -> tuple[CfgNode, argparse.Namespace]:
    """Read and check the config: once, for all processes."""
    cfg = setup(args)
    config = config_from_cfg_node(cfg)
    refuse_faults(args.config_file, config)
    if args.eval_only and not (cfg.MODEL.WEIGHTS or args.resume):
        raise UserError("--eval-only needs weights: give MODEL.WEIGHTS FILE, or --resume for the newest checkpoint.")
    args.allow_change = with_tree_keys(config, args.allow_change)
    resolve_resume(config, args)
    return cfg, args


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, and start the processes."""
    args = yaml_argument_parser().parse_args(argv)
    if args.help_config is not None:
        print(cfg_help_text(setup(args), args.help_config))
        return 0
    with importable_project(args.config_file):
        processes = (args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)
        launch(run, *processes, prepare=partial(prepare, args))
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
