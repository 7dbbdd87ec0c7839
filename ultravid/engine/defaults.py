"""What most launchers want: set-up, writers, the model on its device."""

from __future__ import annotations

import argparse
import functools
import inspect
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ultravid.checkpoint import DetectionCheckpointer
from ultravid.config import CfgNode, LazyConfig, Node, project_folders, resolve_environment
from ultravid.config.resume import check_resume_config, output_dir_of
from ultravid.engine.launch import restarted_by_torchrun
from ultravid.engine.sharding import shard_model
from ultravid.utils import comm
from ultravid.utils.env import describe_environment, select_device
from ultravid.utils.errors import UserError
from ultravid.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from ultravid.utils.file_io import replace_file, require_local
from ultravid.utils.logger import setup_logger
from ultravid.utils.run_folder import RunFolder
from ultravid.utils.seed import seed_all_rng

__all__ = [
    "create_ddp_model",
    "default_setup",
    "default_writers",
    "load_evaluation_weights",
    "prepare_model",
    "resolve_resume",
]

logger = logging.getLogger(__name__)


@dataclass
class _RunSettings:
    """What `default_setup` reads of a config, whatever kind it is, and how it writes to it.

    Attributes:
        keys: what the config calls ``output_dir`` and ``device``, for messages.
        set_seed: lets the config hold the seed that was drawn.
        saved_seed: the seed that a saved config holds.
        save: writes the config to a file.
    """

    output_dir: Path
    device: str
    seed: int | None
    deterministic: bool
    keys: Mapping[str, str]
    set_seed: Callable[[int], None]
    saved_seed: Callable[[Path], int]
    save: Callable[[Path], None]


def _settings_of_node(cfg: Node, args: argparse.Namespace) -> _RunSettings:
    def save(path: Path) -> None:
        # What is saved must mean the same elsewhere: the environment's values, and where the project's own modules are.
        resolve_environment(cfg)
        cfg.setdefault("project_folders", project_folders(args.config_file))
        LazyConfig.save(cfg, path)

    return _RunSettings(
        output_dir=require_local(cfg.train.output_dir, "train.output_dir"),
        device=cfg.train.device,
        seed=cfg.train.seed,
        deterministic=cfg.train.get("deterministic", False),
        keys={"output_dir": "train.output_dir", "device": "train.device"},
        set_seed=functools.partial(setattr, cfg.train, "seed"),
        saved_seed=lambda path: int(LazyConfig.load(path).train.seed),
        save=save,
    )


def _settings_of_cfg_node(cfg: CfgNode) -> _RunSettings:
    def set_seed(seed: int) -> None:
        frozen = cfg.is_frozen()
        cfg.defrost()
        cfg.SEED = seed
        if frozen:
            cfg.freeze()

    def save(path: Path) -> None:
        with replace_file(path) as file:
            file.write(cfg.dump().encode())

    return _RunSettings(
        output_dir=require_local(cfg.OUTPUT_DIR, "OUTPUT_DIR"),
        device=cfg.MODEL.DEVICE,
        seed=cfg.SEED,
        deterministic=cfg.DETERMINISTIC,
        keys={"output_dir": "OUTPUT_DIR", "device": "MODEL.DEVICE"},
        set_seed=set_seed,
        saved_seed=lambda path: int(CfgNode.load_yaml_with_base(path)["SEED"]),
        save=save,
    )


def default_setup(cfg: Node | CfgNode, args: argparse.Namespace) -> None:
    """Make the output folder, the log and the saved config; choose the device; seed.

    Of a `Node` it reads ``train.output_dir``, ``train.seed``, ``train.deterministic`` and ``train.device``, of a `CfgNode`
    ``OUTPUT_DIR``, ``SEED``, ``DETERMINISTIC`` and ``MODEL.DEVICE``. A seed that is drawn (asked for by a negative one) is
    written into the config, also into a frozen one.

    Raises:
        UserError: the output folder can't be written, or the device is not there.
    """
    run = _settings_of_cfg_node(cfg) if isinstance(cfg, CfgNode) else _settings_of_node(cfg, args)
    folder = RunFolder(run.output_dir)
    rank = comm.get_rank()
    try:
        run.output_dir.mkdir(parents=True, exist_ok=True)
        setup_logger(run.output_dir, rank)
    except OSError as error:
        raise UserError(
            f"{run.keys['output_dir']}={str(run.output_dir)!r} can't be written: {error.strerror}."
        ) from error
    _check_device(run)
    logger.info("Rank %d of %d. %s", rank, comm.get_world_size(), describe_environment())
    logger.info("Arguments: %s", " ".join(f"{k}={v}" for k, v in sorted(vars(args).items())))
    if select_device(run.device).type == "cpu":
        logger.info("Running on the CPU%s.", "" if torch.cuda.is_available() else ": there is no CUDA device")
    seed_all_rng(_settled_seed(run, args.resume))
    if run.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    if comm.is_main_process():
        # An evaluation must not overwrite the config of the training whose folder it shares.
        if not (args.eval_only or args.resume):
            folder.archive_config()  # the files of the earlier run were made with it
        path = folder.eval_config if args.eval_only else folder.config
        run.save(path)
        logger.info("Full config saved to %s", path)


def _check_device(run: _RunSettings) -> None:
    key = run.keys["device"]
    try:
        device = select_device(run.device)
    except RuntimeError as error:
        raise UserError(f"{key}={run.device!r} is no device: 'auto', 'cpu', 'cuda' or 'cuda:1'.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{key}={run.device!r}, but there is no CUDA device; 'auto' takes what there is.")


def _settled_seed(run: _RunSettings, resume: bool) -> int:
    """The config's seed; where it holds none, the one that the run began with or a new one, which the config then holds."""
    if run.seed is not None and run.seed >= 0:
        return run.seed
    saved = RunFolder(run.output_dir).config
    if resume and saved.is_file():
        seed = run.saved_seed(saved)
        logger.info("Took the seed %d that the run began with.", seed)
    else:
        seed = comm.shared_random_seed()
        logger.info("Drew the seed %d.", seed)
    run.set_seed(seed)
    return seed


def resolve_resume(cfg: Node | CfgNode, args: argparse.Namespace) -> None:
    """Set ``args.resume`` where torchrun has started the run anew; let a run go on under its own config alone.

    Raises:
        ConfigError: see `check_resume_config`.
        StopTraining: see `restarted_by_torchrun`.
    """
    args.resume = args.resume or restarted_by_torchrun(output_dir_of(cfg))
    if args.resume and not args.eval_only:
        check_resume_config(cfg, args.allow_change)


def load_evaluation_weights(model: nn.Module, cfg: Node | CfgNode, resume: bool) -> None:
    """Give a model the weights that the config names, or with ``resume`` those of the newest checkpoint of its output folder.

    Raises:
        UserError: there are neither.
        CheckpointError: they can't be read or don't fit.
    """
    lazy = isinstance(cfg, Node)
    weights, option = (
        (cfg.train.init_checkpoint, "train.init_checkpoint=FILE") if lazy else (cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS FILE")
    )
    checkpointer = DetectionCheckpointer(model, output_dir_of(cfg))
    resume = resume and checkpointer.has_checkpoint()
    if not (weights or resume):
        raise UserError(
            f"--eval-only needs weights: give {option}, or --resume for the last checkpoint of {checkpointer.save_dir}."
        )
    checkpointer.resume_or_load(weights, resume=resume)


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """Writers to the log, to ``metrics.json`` and to TensorBoard."""
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(RunFolder(output_dir).metrics),
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
    if (
        "broadcast_buffers" in kwargs
        and "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    ):
        kwargs["forward_sync_buffers"] = kwargs.pop("broadcast_buffers")  # its name since torch 2.14
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
    fsdp: dict[str, Any] | None = None,
) -> nn.Module:
    """The model on its device, wrapped for several processes; the plain module inside stays the given one.

    Args:
        model: the plain module.
        device: see `select_device`.
        ddp: arguments of `create_ddp_model`.
        sync_batchnorm: share batch statistics among processes, where there are several on CUDA.
        compile: arguments of `torch.nn.Module.compile`, which compiles the module in place, so that its weights keep their
            names; ``{}`` takes its defaults, None does not compile.
        fsdp: arguments of `shard_model`, which shards the module in place instead of wrapping it in DDP; its checkpoints are
            those of `DistributedCheckpointer`. None does not shard.
    """
    model.to(select_device(device))
    if compile is not None:
        model.compile(**compile)
    if sync_batchnorm and comm.get_world_size() > 1 and select_device(device).type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if fsdp is not None:
        return shard_model(model, **fsdp)
    return create_ddp_model(model, **(ddp or {}))
