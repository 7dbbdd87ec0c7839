"""What most launchers want: set-up, writers, the model on its device."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ultravid.config import LazyConfig, Node, project_folders, resolve_environment
from ultravid.utils import comm
from ultravid.utils.env import describe_environment, select_device
from ultravid.utils.errors import UserError
from ultravid.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from ultravid.utils.file_io import put_aside
from ultravid.utils.logger import setup_logger
from ultravid.utils.seed import seed_all_rng

__all__ = [
    "create_ddp_model",
    "default_setup",
    "default_writers",
    "prepare_model",
]

logger = logging.getLogger(__name__)


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
    compile: dict[str, Any] | None = None,
) -> nn.Module:
    """The model on its device, wrapped for several processes; the plain module inside stays the given one.

    Args:
        model: the plain module.
        device: see `select_device`.
        ddp: arguments of `create_ddp_model`.
        sync_batchnorm: share batch statistics among processes, where there are several on CUDA.
        compile: arguments of `torch.nn.Module.compile`, which compiles the module in place, so that its weights keep their
            names; ``{}`` takes its defaults, None does not compile.
    """
    model.to(select_device(device))
    if compile is not None:
        model.compile(**compile)
    if sync_batchnorm and comm.get_world_size() > 1 and select_device(device).type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return create_ddp_model(model, **(ddp or {}))
