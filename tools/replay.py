#!/usr/bin/env python
"""Repeat a step in which a number was not finite, and name the first module that it came from.

    python tools/replay.py outputs/phantom/capsules/iteration_0000123_rank0.pth

A run that meets a nan or an infinite number stops before the optimizer's step and keeps that step: batches, weights, the
generators' states. The model is built from the config that the run saved. Exit codes: 0 found, 1 all is finite here, 2 a
mistake.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from ultravid.checkpoint.weights import load_weights
from ultravid.config import Builder, LazyConfig, importable_project
from ultravid.engine.step_dump import StepDump, first_nonfinite
from ultravid.utils.env import select_device
from ultravid.utils.errors import UserError
from ultravid.utils.events import EventStorage
from ultravid.utils.run_folder import RunFolder
from ultravid.utils.seed import restore_generators, seed_step
from ultravid.utils.tool import run_tool


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capsule", type=Path, help="the file that the run's message names")
    parser.add_argument("--config-file", type=Path, help="the run's config (default: config.yaml of its output folder)")
    parser.add_argument("--device", default="auto", help="cuda, cpu, ...; auto: CUDA where there is one")
    parser.add_argument("--trust", action="store_true", help="admit batches of any type; the file may then run code")
    return parser.parse_args(argv)


def build_model(capsule: StepDump, args: argparse.Namespace) -> nn.Module:
    """The run's model with the weights of before the step, in training mode on the device."""
    config_file = args.config_file or RunFolder(args.capsule.resolve().parents[1]).config
    if not config_file.is_file():
        raise UserError(f"The run's config {config_file} is not there; name it with --config-file.")
    with importable_project(str(config_file)):
        model: nn.Module = Builder(LazyConfig.load(config_file)).build("model")
    load_weights(model, capsule.model, args.capsule)
    return model.to(select_device(args.device)).train()


def repeat(model: nn.Module, capsule: StepDump) -> tuple[str | None, list[dict[str, float]]]:
    """Where the first number is that is not finite, and the losses of each batch."""
    losses: list[dict[str, float]] = []
    device = next(model.parameters()).device
    autocast = nullcontext()
    if capsule.autocast is not None:
        autocast = torch.autocast(device.type, dtype=getattr(torch, capsule.autocast))
    if capsule.seed is not None:
        seed_step(capsule.seed, capsule.iteration, capsule.rank)
    else:
        restore_generators(capsule.generators)

    def step() -> Tensor:
        total = torch.zeros((), device=device)
        for batch in capsule.batches:
            with autocast:
                found = model(batch)
            named = found if isinstance(found, dict) else {"loss": found}
            losses.append({name: float(value) for name, value in named.items()})
            total = total + sum(named.values())
        return total

    with EventStorage(capsule.iteration):
        try:
            return first_nonfinite(model, step), losses
        except FloatingPointError as error:  # the model's own check
            return f"The model itself says: {error}", losses


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    capsule = StepDump.read(args.capsule, trust=args.trust)
    print(f"Iteration {capsule.iteration}, rank {capsule.rank}, samples: {'; '.join(capsule.samples)}")
    print("Losses of the run:", ", ".join(f"{name}={value:.6g}" for name, value in capsule.losses.items()) or "none")
    model = build_model(capsule, args)
    bad = [name for name, value in model.named_parameters() if not bool(torch.isfinite(value).all())]
    if bad:
        print(f"Not finite before the step already: {len(bad)} weights, the first is {bad[0]}")
    where, losses = repeat(model, capsule)
    for found in losses:
        print("Losses repeated:  ", ", ".join(f"{name}={value:.6g}" for name, value in found.items()))
    print(where or "Repeated here, all outputs, losses and gradients are finite.")
    return 0 if where else 1


if __name__ == "__main__":
    sys.exit(run_tool(main))
