"""What most launchers want: arguments, set-up, the model on its device."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ultravid.config import LazyConfig, Node, project_folders, resolve_environment
from ultravid.engine.launch import EXIT_MISTAKE, EXIT_STOPPED
from ultravid.engine.train_loop import StopTraining
from ultravid.utils import comm
from ultravid.utils.env import describe_environment, select_device
from ultravid.utils.errors import UserError
from ultravid.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from ultravid.utils.file_io import put_aside
from ultravid.utils.logger import setup_logger
from ultravid.utils.seed import seed_all_rng

__all__ = [
    "create_ddp_model",
    "default_argument_parser",
    "default_setup",
    "default_writers",
    "prepare_model",
    "run_tool",
]

logger = logging.getLogger(__name__)


class _IntermixedParser(argparse.ArgumentParser):
    """A parser that takes options after overrides too: ``train.max_iter=5 --resume``."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        return self.parse_intermixed_args(args, namespace)


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """The arguments of a training launcher."""
    parser = _IntermixedParser(
        epilog=epilog
        or f"""
Examples:
  train:           {sys.argv[0]} --config-file projects/basicdet/configs/phantom.py
  change values:   {sys.argv[0]} --config-file ... optimizer.lr=1e-4 train.max_iter=2000
  go on:           {sys.argv[0]} --config-file ... --resume
  evaluate:        {sys.argv[0]} --config-file ... --eval-only train.init_checkpoint=outputs/x/model_final.pth
  two processes:   {sys.argv[0]} --config-file ... --num-gpus 2
""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="a config, .py or .yaml")
    parser.add_argument("--check", action="store_true", help="check the config and the overrides, and leave")
    parser.add_argument(
        "--eval-only",
        action="store_true",
        help="evaluate train.init_checkpoint, or with --resume the last one",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of train.output_dir")
    parser.add_argument(
        "--num-gpus",
        type=int,
        default=1,
        help="processes on this machine, a GPU each (CPU: shared)",
    )
    parser.add_argument("--num-machines", type=int, default=1, help="machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="this machine, from 0")
    parser.add_argument(
        "--dist-url",
        default="auto",
        help="where processes meet, tcp://host:port; auto: a free local port",
    )
    parser.add_argument(
        "opts",
        nargs="*",
        metavar="key=value",
        help="overrides: key=value, +key=value, ++key=value, ~key, key=file.py:NAME",
    )
    return parser


def default_setup(cfg: Node, args: argparse.Namespace) -> None:
    """Make the output folder, the log and the saved config; choose the device; seed.

    Of the config it reads ``train.output_dir``, ``train.seed``, ``train.deterministic`` and
    ``train.device``.

    Raises:
        UserError: the output folder can't be written, or the device is not there.
    """
    output_dir = Path(cfg.train.output_dir)
    rank = comm.get_rank()
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        setup_logger(output_dir, rank)
    except OSError as error:
        raise UserError(f"train.output_dir={str(output_dir)!r} can't be written: {error.strerror}.") from error
    device = select_device(cfg.train.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"train.device={cfg.train.device!r}, but there is no CUDA device; 'auto' takes what there is.")
    logger.info("Rank %d of %d. %s", rank, comm.get_world_size(), describe_environment())
    logger.info("Arguments: %s", " ".join(f"{k}={v}" for k, v in sorted(vars(args).items())))
    if device.type == "cpu":
        logger.info(
            "Running on the CPU%s.",
            "" if torch.cuda.is_available() else ": there is no CUDA device",
        )
    if cfg.train.seed is None or cfg.train.seed < 0:
        saved = output_dir / "config.yaml"
        if args.resume and saved.is_file():
            cfg.train.seed = LazyConfig.load(saved).train.seed
            logger.info("Took the seed %d that the run began with.", cfg.train.seed)
        else:
            cfg.train.seed = comm.shared_random_seed()
            logger.info("Drew the seed %d.", cfg.train.seed)
    seed_all_rng(cfg.train.seed)
    if cfg.train.get("deterministic", False):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    # What is saved must mean the same elsewhere: the environment's values, and where the project's own modules are.
    resolve_environment(cfg)
    cfg.setdefault("project_folders", project_folders(args.config_file))
    if comm.is_main_process():
        # An evaluation must not overwrite the config of the training whose folder it shares.
        path = output_dir / ("config_eval.yaml" if args.eval_only else "config.yaml")
        if path.name == "config.yaml" and path.is_file() and not args.resume:
            put_aside(path)  # what stands beside it was made with it
        LazyConfig.save(cfg, path)
        logger.info("Full config saved to %s", path)


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """Writers to the log, to ``metrics.json`` and to TensorBoard."""
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(Path(output_dir) / "metrics.json"),
        TensorboardXWriter(output_dir),
    ]


def create_ddp_model(model: nn.Module, *, fp16_compression: bool = False, **kwargs: Any) -> nn.Module:
    """Wrap a model in DDP where there are several processes.

    Args:
        model: on its device.
        fp16_compression: send gradients as float16.
        kwargs: of `DistributedDataParallel`.
    """
    if comm.get_world_size() == 1:
        return model
    device = next(model.parameters()).device
    if device.type == "cuda":
        kwargs.setdefault("device_ids", [device.index])
    ddp = DistributedDataParallel(model, **kwargs)
    if fp16_compression:
        from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

        ddp.register_comm_hook(state=None, hook=default_hooks.fp16_compress_hook)
    return ddp


def prepare_model(
    *,
    model: nn.Module,
    device: str = "auto",
    ddp: dict[str, Any] | None = None,
    sync_batchnorm: bool = False,
) -> nn.Module:
    """The model on its device, wrapped for several processes; the plain module inside stays the given one.

    Args:
        model: the plain module.
        device: see `select_device`.
        ddp: arguments of `create_ddp_model`.
        sync_batchnorm: share batch statistics among processes, where there are several on CUDA.
    """
    model.to(select_device(device))
    if sync_batchnorm and comm.get_world_size() > 1 and select_device(device).type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return create_ddp_model(model, **(ddp or {}))


def run_tool(main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None) -> int:
    """Call a tool's main and give its exit code; a `UserError` is printed alone and gives 2, a run that was stopped 75."""
    try:
        return main(argv) or 0
    except StopTraining:
        return EXIT_STOPPED
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        for note in getattr(error, "__notes__", ()):
            print(f"  {note}", file=sys.stderr)  # noqa: T201
        return EXIT_MISTAKE
