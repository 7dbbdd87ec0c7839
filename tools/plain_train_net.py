#!/usr/bin/env python
"""Train or evaluate a model from a Python config, with the training loop written out in this file, so that you can change any line.

    python tools/plain_train_net.py --config-file FILE.py [--resume | --eval-only] [--num-gpus N] [key=value ...]

It reads the files that tools/lazyconfig_train.py reads and gives the same losses and weights. From the config it uses
``model``, ``prepared_model``, ``optimizer``, ``lr_multiplier``, ``dataloader``, ``train`` and ``trainer.clip_grad``. It ignores
``trainer.hooks``: the loop itself evaluates, writes and saves. It keeps all checkpoints and does not stop on signals.
"""

import ultravid.utils.threads  # noqa: F401 - before torch, which then waits passively # isort: skip

import argparse
import sys
from collections.abc import Sequence
from functools import partial

import torch
from torch.nn.utils import get_total_norm

from ultravid.checkpoint import DetectionCheckpointer
from ultravid.config import Builder, Node, importable_project, load_checked
from ultravid.config.command_line import default_argument_parser, show_config
from ultravid.config.default_arguments import target_of
from ultravid.config.instantiate import as_user_error
from ultravid.engine import default_setup, default_writers, launch, load_evaluation_weights, resolve_resume, run_tool
from ultravid.engine.failures import evaluation_failures
from ultravid.engine.model_output import checked_losses, total_of
from ultravid.evaluation import inference_on_dataset, scalar_metrics
from ultravid.evaluation.evaluated_run import EvaluatedRun, TrainedWeights, evaluating
from ultravid.solver import LRMultiplier
from ultravid.solver.saved_optimizer import hyperparameters
from ultravid.utils import comm
from ultravid.utils.env import select_device
from ultravid.utils.errors import UserError
from ultravid.utils.events import EventStorage
from ultravid.utils.run_folder import RunFolder
from ultravid.utils.seed import seed_iteration, seed_step

REQUIRED_KEYS = (
    *("model", "prepared_model", "optimizer", "lr_multiplier", "trainer.clip_grad"),
    *("dataloader.train", "dataloader.test", "dataloader.evaluator"),
    *("train.output_dir", "train.init_checkpoint", "train.max_iter", "train.amp", "train.checkpointer.period"),
    *("train.eval_period", "train.log_period", "train.device", "train.seed"),
)


def do_test(builder: Builder, trained: TrainedWeights | None = None) -> dict[str, float]:
    """Evaluate what was loaded, or in training the weights of the moment."""
    with as_user_error():
        model = builder.build("model").to(select_device(builder.cfg.train.device))
        loader, evaluator = builder.build("dataloader.test"), builder.build("dataloader.evaluator")
    run = EvaluatedRun(RunFolder(builder.cfg.train.output_dir), builder.cfg, weights=trained, model=model)
    with evaluating(run), evaluation_failures(model):
        return scalar_metrics(inference_on_dataset(model, loader, evaluator))


def do_train(builder: Builder, resume: bool) -> None:
    train = builder.cfg.train
    accumulation, hooks = builder.cfg.trainer.get("accumulation") or {}, builder.cfg.trainer.hooks
    schedule = (hooks.get("lr") or {}).get("scheduler")
    if accumulation.get("num_batches", 1) != 1 or hooks.get("ema") is not None:
        raise UserError("This loop neither accumulates nor averages weights: add it here, or use lazyconfig_train.py.")
    if schedule is not None and target_of(schedule) is not LRMultiplier:
        raise UserError(
            "This loop uses lr_multiplier, not trainer.hooks.lr.scheduler: change it here, or use lazyconfig_train.py."
        )
    with as_user_error():
        model, prepared, optimizer = (builder.build(key) for key in ("model", "prepared_model", "optimizer"))
        scheduler = LRMultiplier(optimizer, builder.build("lr_multiplier"), train.max_iter)
        loader, clip_grad = builder.build("dataloader.train"), builder.build("trainer.clip_grad")
    device, dtype = next(model.parameters()).device.type, getattr(torch, train.amp.precision)
    scaler = torch.amp.GradScaler(device, enabled=train.amp.enabled and dtype == torch.float16)
    parts = {"optimizer": optimizer, "grad_scaler": scaler}
    checkpointer = DetectionCheckpointer(model, train.output_dir, **parts)
    resumed = resume and checkpointer.has_checkpoint()
    configured = hyperparameters(optimizer)
    loaded = checkpointer.resume_or_load(train.init_checkpoint, resume=resume)
    for group, now in zip(optimizer.param_groups, configured, strict=True):
        group.update(now)  # a checkpoint has those of the config of then
    start_iter = loaded["iteration"] + 1 if resumed else 0
    if "trainer" in loaded:
        raise UserError(f"{train.output_dir} holds a run of another tool: resume it with that one.")
    if not resumed:
        checkpointer.archive_previous_run()
    scheduler.set_iteration(start_iter)
    storage = EventStorage(start_iter)
    if resumed and "events" in loaded:  # what was recorded after the last row
        storage.load_state_dict(loaded["events"])
    checkpointer.add_checkpointable("events", storage)
    writers = default_writers(train.output_dir, train.max_iter) if comm.is_main_process() else []
    for writer in writers:
        if resumed:
            writer.resume(min(storage.next_row, start_iter))
        else:
            writer.rewind(0)

    prepared.train()
    with storage, evaluation_failures(model, "Training"):
        batches = loader.iterate_from(start_iter)
        for iteration in range(start_iter, train.max_iter):
            storage.iter = iteration
            seed_iteration(train.seed, iteration, comm.get_rank())
            clips = next(batches)
            seed_step(train.seed, iteration, comm.get_rank())
            with torch.autocast(device, dtype=dtype, enabled=train.amp.enabled):
                losses = checked_losses(prepared(clips), model)
            total_loss = total_of(losses, model)

            optimizer.zero_grad()
            scaler.scale(total_loss).backward()
            scaler.unscale_(optimizer)
            parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            # After DDP the gradients, and so their norm, are the same in all processes: all stop before the step.
            if not scaler.is_enabled() and not torch.isfinite(get_total_norm([p.grad for p in parameters])):
                raise FloatingPointError(f"Iteration {iteration}: the gradient is not finite; losses: {losses}")
            if clip_grad is not None:
                clip_grad(parameters)
            scaler.step(optimizer)
            scaler.update()
            shown = comm.reduce_dict({**losses, "total_loss": total_loss})
            storage.put_scalars(**{name: value.item() for name, value in shown.items()})
            storage.put_scalar("lr", optimizer.param_groups[0]["lr"], smoothing_hint=False)
            scheduler.step()

            done = iteration + 1
            last = done == train.max_iter
            if not last and train.eval_period > 0 and done % train.eval_period == 0:
                storage.put_scalars(**do_test(builder, TrainedWeights(iteration)), smoothing_hint=False)
                comm.synchronize()  # processes take different times to evaluate
            if last or done % train.log_period == 0:
                for writer in writers:
                    writer.write()
            if last or done % train.checkpointer.period == 0:
                checkpointer.save("model_final" if last else f"model_{iteration:07d}", iteration=iteration)

        storage.iter = train.max_iter
        trained = TrainedWeights(train.max_iter - 1)
        storage.put_scalars(**do_test(builder, trained), smoothing_hint=False)
        for writer in writers:
            writer.write()
            writer.close()


def run(cfg: Node, args: argparse.Namespace) -> None:
    """One process of a run."""
    default_setup(cfg, args)
    builder = Builder(cfg)
    if not args.eval_only:
        do_train(builder, args.resume)
        return
    with as_user_error():
        model = builder.build("model")
    load_evaluation_weights(model, cfg, args.resume)
    do_test(builder)


def prepare(args: argparse.Namespace) -> tuple[Node, argparse.Namespace]:
    """The config, which is read once for all processes."""
    cfg = load_checked(args.config_file, args.opts, required=REQUIRED_KEYS)
    resolve_resume(cfg, args)
    return cfg, args


def main(argv: Sequence[str] | None = None) -> int:
    args = default_argument_parser().parse_args(argv)
    if show_config(args, REQUIRED_KEYS):
        return 0
    with importable_project(args.config_file):
        processes = (args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)
        launch(run, *processes, prepare=partial(prepare, args))
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
