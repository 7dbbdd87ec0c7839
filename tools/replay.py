#!/usr/bin/env python
"""Repeat a step in which a number was nan or infinite, and name the module in which it first appeared.

    python tools/replay.py outputs/phantom/step_dumps/iteration_0000123_rank0.pth

A run whose gradient or loss is nan or infinite stops before the optimizer's step and writes that step to a file: batches, weights,
states of the random generators. The model is built from the config that the run saved. Exit codes: 0 the module was found, 1 all
numbers are finite here, 2 a user's mistake.
"""

import ultravid.utils.threads  # noqa: F401 - before torch, which then waits passively # isort: skip

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
from ultravid.utils.tool import ToolParser, run_tool


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dump", type=Path, metavar="FILE", help="the step dump that the error message of the run names")
    parser.add_argument("--config-file", type=Path, help="the run's config (default: config.yaml of its output folder)")
    parser.add_argument("--device", default="auto", help="cuda, cpu, ...; auto: CUDA if available")
    parser.add_argument(
        "--trust", action="store_true", help="allow batches of any type; reading the file may then run code"
    )
    return parser.parse_args(argv)


def build_model(dump: StepDump, args: argparse.Namespace) -> nn.Module:
    """The run's model with the weights of before the step, in training mode on the device."""
    config_file = args.config_file or RunFolder(args.dump.resolve().parents[1]).config
    if not config_file.is_file():
        raise UserError(f"The run's config {config_file} is not there; name it with --config-file.")
    with importable_project(str(config_file)):
        model: nn.Module = Builder(LazyConfig.load(config_file)).build("model")
    load_weights(model, dump.model, args.dump)
    return model.to(select_device(args.device)).train()


def repeat(model: nn.Module, dump: StepDump) -> tuple[str | None, list[dict[str, float]]]:
    """The place of the first number that is not finite, and the losses of each batch."""
    losses: list[dict[str, float]] = []
    device = next(model.parameters()).device
    autocast = nullcontext()
    if dump.autocast is not None:
        autocast = torch.autocast(device.type, dtype=getattr(torch, dump.autocast))
    if dump.seed is not None:
        seed_step(dump.seed, dump.iteration, dump.rank)
    else:
        restore_generators(dump.generators)

    def step() -> Tensor:
        total = torch.zeros((), device=device)
        for batch in dump.batches:
            with autocast:
                found = model(batch)
            named = found if isinstance(found, dict) else {"loss": found}
            losses.append({name: float(value.detach()) for name, value in named.items()})
            total = total + sum(named.values())
        return total

    with EventStorage(dump.iteration):
        try:
            return first_nonfinite(model, step), losses
        except FloatingPointError as error:  # the model's own check
            return f"The model itself says: {error}", losses


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    dump = StepDump.read(args.dump, trust=args.trust)
    print(f"Iteration {dump.iteration}, rank {dump.rank}, samples: {'; '.join(dump.samples)}")
    print("Losses of the run:", ", ".join(f"{name}={value:.6g}" for name, value in dump.losses.items()) or "none")
    model = build_model(dump, args)
    bad = [name for name, value in model.named_parameters() if not bool(torch.isfinite(value).all())]
    if bad:
        print(f"Not finite before the step already: {len(bad)} weights, the first is {bad[0]}")
    where, losses = repeat(model, dump)
    for found in losses:
        print("Losses repeated:  ", ", ".join(f"{name}={value:.6g}" for name, value in found.items()))
    print(where or "Repeated here, all outputs, losses and gradients are finite.")
    return 0 if where else 1


if __name__ == "__main__":
    sys.exit(run_tool(main))
