"""Set-up that most launchers need: output folder, log, device, seed, writers, and the model on its device."""

from __future__ import annotations

import argparse
import inspect
import logging
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ultravid.checkpoint import CheckpointError, DetectionCheckpointer
from ultravid.checkpoint.checkpointer import split_heuristics
from ultravid.checkpoint.reading import check_present
from ultravid.config import (
    CfgNode,
    ConfigError,
    LazyConfig,
    Node,
    as_config,
    config_hash,
    resolve_environment,
)
from ultravid.config.kinds import config_to_save, load_config, store_seed
from ultravid.config.loader import with_project_folders
from ultravid.config.provenance import where
from ultravid.config.resume import check_resume_config, output_dir_of
from ultravid.engine.launch import restarted_by_torchrun
from ultravid.engine.sharding import shard_model
from ultravid.engine.threads import set_evaluation_threads, set_training_threads
from ultravid.utils import comm
from ultravid.utils.env import DeviceName, describe_environment, device_fault, select_device
from ultravid.utils.errors import UserError
from ultravid.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from ultravid.utils.file_io import require_local
from ultravid.utils.folder_lock import FolderLock, LockedError
from ultravid.utils.logger import setup_logger
from ultravid.utils.memory import keep_freed_memory
from ultravid.utils.run_folder import RunFolder
from ultravid.utils.seed import seed_all_rng
from ultravid.utils.tool import EXIT_USER_ERROR

__all__ = [
    "create_ddp_model",
    "default_setup",
    "default_writers",
    "load_evaluation_weights",
    "prepare_model",
    "resolve_resume",
]

logger = logging.getLogger(__name__)

_WORK = "a training"
_REMEDY = "give this run its own folder (train.output_dir=..., in YAML OUTPUT_DIR)"


def default_setup(cfg: Node | CfgNode, args: argparse.Namespace | Mapping[str, Any] | None = None) -> None:
    """Create the output folder and the log, save the config, select the device, and seed the generators.

    Of a config in nodes it reads ``train.output_dir``, ``train.seed``, ``train.deterministic``, ``train.num_threads`` and ``train.device``; a `CfgNode` is
    translated, and its own keys are saved too. The main process locks the output folder, unless ``args`` asks for an evaluation; the
    end of the trainer's ``train``, of `launch` or of the process releases it. A drawn seed (a negative one asks for it) is written into the config, even if that
    is frozen.

    Args:
        cfg: the config.
        args: the arguments of the command line; ``resume``, ``eval_only`` and ``config_file`` are read if present. None is a new
            training, as in a notebook.

    Raises:
        LockedError: another process is training in the output folder.
        UserError: the output folder can't be written; or, before anything is written, the device or the weights do not exist.
    """
    _share_config(cfg)
    train = as_config(cfg).train
    options = dict(args if isinstance(args, Mapping) else vars(args) if args is not None else {})
    eval_only = options.get("eval_only", False)
    resume = options.get("resume", False)
    if not (resume or eval_only) and isinstance(args, argparse.Namespace):
        args.resume = resume = restarted_by_torchrun(train.output_dir)
    output_dir, rank = require_local(train.output_dir, "train.output_dir"), comm.get_rank()
    folder = RunFolder(output_dir)
    device = _existing_device(train)
    _check_inputs(as_config(cfg), folder, resume, eval_only)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        claim = _claim_folder(folder, eval_only)
        setup_logger(folder.eval_log_of(0) if claim.is_shared else output_dir, rank)
    except OSError as error:
        place = where(train, "output_dir")
        raise UserError(
            f"train.output_dir={train.output_dir!r} can't be written: {error.strerror} ({place})."
        ) from error
    if claim.note:
        logger.warning("%s", claim.note)
    logger.info("Rank %d of %d. %s", rank, comm.get_world_size(), describe_environment())
    logger.info("Arguments: %s", " ".join(f"{k}={v}" for k, v in sorted(options.items())))
    if device.type == "cpu":
        logger.info("Running on the CPU%s.", "" if torch.cuda.is_available() else ": there is no CUDA device")
        keep_freed_memory()
    if not eval_only:  # an evaluation knows its model's size later
        set_training_threads(train.get("num_threads", "auto"), folder if resume else None)
    seed = train.seed
    if seed is None or seed < 0:
        seed = _drawn_seed(output_dir, resume)
        store_seed(cfg, seed)
    seed_all_rng(seed)
    if train.get("deterministic", False):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    if comm.is_main_process():
        # An evaluation must not overwrite the config of the training whose folder it shares.
        if not (eval_only or (resume and folder.can_resume())):
            folder.archive_config()  # the files of the earlier run were made with it
        path = folder.eval_config if eval_only else folder.config
        _save_config(cfg, path, options.get("config_file"))
        logger.info("Full config saved to %s", path)


def _share_config(cfg: Node | CfgNode) -> None:
    """Give the config of each process the content of the main one's, if they differ: a run has one config.

    `launch` does so for launchers that read the config once; others read it in each process, and what is random or changes with
    time in it differs. A config that holds what can't be compared is left as it is.

    Raises:
        UserError: in all processes alike; the main one's config can't be sent to the others.
    """
    if comm.get_world_size() == 1:
        return
    try:
        text = config_hash(cfg) if isinstance(cfg, Node) else cfg.dump()
    except ConfigError:
        text = None
    texts = comm.all_gather(text)
    if None in texts or len(set(texts)) == 1:
        return
    content, failure, shared = b"", "", cfg
    try:
        content = pickle.dumps(cfg) if comm.is_main_process() else b""
    except Exception as error:  # whatever a value's own code raises; the others wait for an answer
        failure = f"{type(error).__name__}: {error}"
    content, failure = comm.all_gather((content, failure))[0]
    if not (failure or comm.is_main_process()):
        try:
            shared = pickle.loads(content)
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
    if failures := [each for each in comm.all_gather(failure) if each]:
        raise UserError(
            f"The processes read different configs, and that of rank 0 can't be sent to the others ({failures[0]}). Let the config "
            "be the same in each process, or read it once: ultravid.engine.launch(main, ..., prepare=...)."
        )
    logger.warning("The processes read different configs; all use that of rank 0.")
    if comm.is_main_process():
        return
    is_frozen = not isinstance(cfg, Node) and cfg.is_frozen()
    if is_frozen:
        cfg.defrost()
    cfg.clear()
    cfg.update(shared)
    if is_frozen:
        cfg.freeze()


def _claim_folder(folder: RunFolder, eval_only: bool) -> _Claim:
    """Lock the folder for a training; an evaluation locks nothing.

    Raises:
        LockedError: another process is training there, in the main process; the other processes of the run exit without a message.
    """
    claim, refusal = _Claim(), None
    if comm.is_main_process():
        try:
            if not eval_only:
                replaced = FolderLock(folder, _WORK, _REMEDY).acquire(_patience_s())
                claim = _Claim(note="" if replaced is None else replaced.takeover())
            elif (holder := folder.holder(exact=True)) is not None:
                claim = _Claim(
                    True, f"Another process is training in {folder}: {holder}. This evaluation has its own log."
                )
        except LockedError as error:
            refusal = error
    claim, is_refused = comm.all_gather((claim, refusal is not None))[0]
    if refusal is not None:
        raise refusal
    if is_refused:
        raise SystemExit(EXIT_USER_ERROR)
    return claim


@dataclass(frozen=True)
class _Claim:
    """What a run found in its folder: whether another process is training there, and what the log says of it."""

    is_shared: bool = False
    note: str = ""


def _patience_s() -> float:
    """How long a lock that may be dead is waited for: a restarted job is sure that its predecessor has ended, or will soon."""
    is_restarted = any(int(os.environ.get(n) or 0) > 0 for n in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))
    return 90.0 if is_restarted else 0.0


def _save_config(cfg: Node | CfgNode, path: Path, config_file: str | None) -> None:
    config = config_to_save(cfg)
    # A saved config must mean the same elsewhere, so it holds the environment's values and the folders of the project's modules.
    resolve_environment(config)
    if config_file is not None:
        config = with_project_folders(config, config_file)
    LazyConfig.save(config, path)


def _existing_device(train: Node) -> torch.device:
    if (fault := device_fault(train.device)) is not None:
        raise UserError(f"train.device={train.device!r} {fault} ({where(train, 'device')}).")
    return select_device(train.device)


def _check_inputs(cfg: Node, folder: RunFolder, resume: bool, eval_only: bool) -> None:
    """Refuse a run whose weights or test data are missing, before anything is written.

    Raises:
        UserError: what is missing.
    """
    weights = str(cfg.train.get("init_checkpoint") or "")
    resume = resume and folder.can_resume()
    if eval_only:
        if not (weights or resume):
            raise UserError(_needs_weights(folder))
        if cfg.get("dataloader", {}).get("test", "") is None:
            raise UserError(f"--eval-only needs test data: dataloader.test is None ({where(cfg.dataloader, 'test')}).")
    is_file = eval_only or Path(weights).suffix or os.sep in weights  # another name is for the checkpointer to know
    if weights and not resume and is_file:
        try:
            check_present(split_heuristics(weights)[0], fetch=eval_only)
        except CheckpointError as error:
            place = where(cfg.train, "init_checkpoint")
            error.add_note(f"It is the value of train.init_checkpoint{f' ({place})' if place else ''}.")
            raise


def _needs_weights(folder: RunFolder) -> str:
    return f"--eval-only needs weights: give train.init_checkpoint=FILE, or --resume for the last checkpoint of {folder.path}."


def _drawn_seed(output_dir: Path, resume: bool) -> int:
    """The seed that the resumed run started with, or a new one."""
    saved = RunFolder(output_dir).config
    if resume and saved.is_file():
        seed = int(load_config(saved).train.seed)
        logger.info("Using the seed %d that the run started with.", seed)
    else:
        seed = comm.shared_random_seed()
        logger.info("Drew the seed %d.", seed)
    return seed


def resolve_resume(cfg: Node | CfgNode, args: argparse.Namespace) -> None:
    """Set ``args.resume`` if torchrun has restarted the run; refuse to resume a run under a config that differs from its own.

    Call it in the process that the user started, before others are started.

    Args:
        cfg: the run's config.
        args: the arguments of `default_argument_parser`.

    Raises:
        LockedError: another process is training in the output folder.
        ConfigError: the config differs from the run's in a key that ``args.allow_change`` does not name.
        StopTraining: torchrun restarted a run that was asked to stop.
    """
    run = RunFolder(output_dir_of(cfg))
    is_first = int(os.environ.get("RANK") or 0) == 0 and getattr(args, "machine_rank", 0) == 0
    # The lock that any other process finds may be the first one's.
    if is_first and not args.eval_only and not _patience_s():
        holder = run.holder(exact=True)
        if holder is not None:
            raise holder.refusal(run.path, _REMEDY)
    args.resume = args.resume or (not args.eval_only and restarted_by_torchrun(run))
    if args.resume and not args.eval_only:
        check_resume_config(cfg, args.allow_change)


def load_evaluation_weights(model: nn.Module, cfg: Node | CfgNode, resume: bool) -> None:
    """Load the weights that the config names, or with ``resume`` those of the newest checkpoint in its output folder.

    It also sets the number of threads, ``train.num_threads``, by the model's size.

    Args:
        model: the plain model, whose weights are replaced.
        cfg: the run's config; ``train.init_checkpoint`` and ``train.output_dir`` are read.
        resume: whether the newest checkpoint is taken, if there is one.

    Raises:
        UserError: the config names none, and there is no checkpoint.
        CheckpointError: they can't be read or don't fit.
    """
    train = as_config(cfg).train
    weights = train.init_checkpoint
    checkpointer = DetectionCheckpointer(model, train.output_dir)
    resume = resume and checkpointer.has_checkpoint()
    if not (weights or resume):
        raise UserError(_needs_weights(RunFolder(checkpointer.save_dir)))
    checkpointer.resume_or_load(weights, resume=resume)
    set_evaluation_threads(model, train.get("num_threads", "auto"))


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """Writers to the log, to ``metrics.json`` and to TensorBoard.

    Args:
        output_dir: the folder of the run.
        max_iter: the run's last iteration, from which the log estimates the time that is left; None gives no estimate.
    """
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(RunFolder(output_dir).metrics),
        TensorboardXWriter(output_dir),
    ]


def create_ddp_model(model: nn.Module, *, fp16_compression: bool = False, **kwargs: Any) -> nn.Module:
    """Wrap a model in DDP if there are several processes.

    Args:
        model: the model, on its device.
        fp16_compression: send gradients as float16.
        kwargs: further arguments of `DistributedDataParallel`.
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
    device: DeviceName = "auto",
    ddp: dict[str, Any] | None = None,
    sync_batchnorm: bool = False,
    compile: dict[str, Any] | None = None,
    fsdp: dict[str, Any] | None = None,
) -> nn.Module:
    """Move a model to its device and wrap it for several processes; the plain module inside is still the given one.

    Args:
        model: the plain module.
        device: "auto", "cpu", "cuda" or "cuda:1".
        ddp: arguments of `create_ddp_model`.
        sync_batchnorm: share batch statistics among processes, if there are several on CUDA.
        compile: arguments of `torch.nn.Module.compile`, which compiles the module in place, so that its weights keep their
            names; ``{}`` means its defaults, None does not compile.
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
