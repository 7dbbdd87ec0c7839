#!/usr/bin/env python
"""Print the parameters of a config's model, and the operations it needs per frame.

    python tools/analyze_model.py --config-file FILE [--tasks parameter flop activation shape structure]
                                  [--num-inputs N | --size H W] [--depth D] [key=value ...]

Tasks:
  parameter    number of parameters, by module
  flop         operations per frame, by module and by operator; a multiplication with its addition counts as one (fvcore)
  activation   elements in the outputs of convolutions and matrix products per frame, by module
  shape        shape of each module's output for the last frame
  structure    the modules, as torch prints them

The frames are the first of the config's test loader (``dataloader.test``). With --size, synthetic frames of one video are used, and no
data are needed. The model gets the frames one at a time, in order, because the cost can differ from frame to frame: UltraDet's key
frames take more operations than the frames between them.
"""

import ultravid.utils.threads  # noqa: F401 - before torch, which then waits passively # isort: skip

import argparse
import itertools
import logging
import math
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor, nn

from ultravid.config import Builder, Node, importable_project, load_checked
from ultravid.structures import Boxes, Instances
from ultravid.utils.env import select_device
from ultravid.utils.errors import UserError
from ultravid.utils.tool import ToolParser, run_tool

with warnings.catch_warnings():  # fvcore compiles a loss by torch.jit.script, which is deprecated
    warnings.simplefilter("ignore", FutureWarning)
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis, parameter_count, parameter_count_table
    from fvcore.nn.jit_analysis import JitModelAnalysis
    from fvcore.nn.jit_handles import get_shape

TASKS = ("parameter", "flop", "activation", "shape", "structure")
NEED_FRAMES = {"flop", "activation", "shape"}


class OneFrame(nn.Module):
    """A model in the form that the tracer takes: from the tensor of one frame to a tuple of tensors."""

    def __init__(self, model: nn.Module, frame: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.frame = frame

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensors_of(self.model([{**self.frame, "image": image}])))


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Every tensor in the output of a model or a module."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Boxes):
        yield value.tensor
    elif isinstance(value, Instances):
        yield from tensors_of(value.get_fields())
    elif isinstance(value, Mapping):
        yield from tensors_of(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_of(item)


def made_up_frames(height: int, width: int, number: int) -> list[dict[str, Any]]:
    """Random frames of one video; ``image`` is ``(3, H, W)`` uint8."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (number, 3, height, width), generator=generator, dtype=torch.uint8)
    common = {"height": height, "width": width, "video_id": "made up"}
    return [{**common, "image": image, "frame_index": t, "image_id": t} for t, image in enumerate(images)]


def frames_of(args: argparse.Namespace, cfg: Node, builder: Builder) -> list[dict[str, Any]]:
    """The frames that are counted.

    Raises:
        UserError: there is no data.
    """
    if args.size is not None:
        return made_up_frames(*args.size, args.num_inputs)
    if "dataloader" not in cfg or "test" not in cfg.dataloader:
        raise UserError(f"{args.config_file} has no dataloader.test to take frames from; give --size HEIGHT WIDTH.")
    try:
        loader = builder.build("dataloader.test")
        return [frame for batch in itertools.islice(loader, args.num_inputs) for frame in batch][: args.num_inputs]
    except UserError as error:
        error.add_note("Without data, --size HEIGHT WIDTH counts synthetic frames.")
        raise


def matmul_operations(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """Multiplications of a product of matrices of any leading axes; fvcore's own count leaves out those that are broadcast."""
    width: int = get_shape(inputs[0])[-1]
    return width * math.prod(get_shape(outputs[0]))


def count_operations(model: nn.Module, inputs: tuple[Tensor, ...]) -> FlopCountAnalysis:
    return FlopCountAnalysis(model, inputs).set_op_handle("aten::matmul", matmul_operations)


def count(
    make: Callable[..., JitModelAnalysis], model: nn.Module, frames: Sequence[Mapping[str, Any]]
) -> list[JitModelAnalysis]:
    """An analysis of each frame, in the order of the video."""
    reset = getattr(model, "reset", lambda: None)
    reset()
    counted = []
    for frame in frames:
        analysis = make(OneFrame(model, frame), (frame["image"],))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the tracer warns that the graph holds for this frame alone, as intended
            analysis.total()
        counted.append(analysis)
    reset()
    return counted


def by_module(counted: Sequence[JitModelAnalysis], model: nn.Module, depth: int, unit: str) -> str:
    """Means over the frames, in millions, as a table of modules."""
    mean: Counter[str] = Counter()
    for analysis in counted:
        mean.update({name.removeprefix("model").lstrip("."): n for name, n in analysis.by_module().items() if name})
    parameters = parameter_count(model)
    rows = [
        (name or "model", f"{parameters[name] / 1e6:.3f}", f"{n / len(counted) / 1e6:.3f}")
        for name, n in mean.items()
        if name in parameters and (not name or name.count(".") < depth) and (n or parameters[name])
    ]
    return tabulate(
        rows, headers=["module", "parameters, M", unit], colalign=("left", "right", "right"), disable_numparse=True
    )


def print_counts(title: str, unit: str, counted: Sequence[JitModelAnalysis], model: nn.Module, depth: int) -> None:
    totals = np.asarray([analysis.total() for analysis in counted]) / 1e6
    print(f"\n{title} per frame, mean of {len(counted)}:\n{by_module(counted, model, depth, unit)}")
    print(
        f"{unit}: mean {totals.mean():.3f}, standard deviation {totals.std():.3f}; first frame {totals[0]:.3f}, "
        f"last {totals[-1]:.3f}"
    )
    operators: Counter[str] = Counter()
    unsupported: Counter[str] = Counter()
    for analysis in counted:
        operators.update(analysis.by_operator())
        unsupported.update(analysis.unsupported_ops())
    shown = [f"{name} {n / len(counted) / 1e6:.3f}" for name, n in operators.most_common() if n]
    print(f"By operator: {', '.join(shown)}")
    if unsupported:
        names = ", ".join(
            f"{name.removeprefix('aten::')} {n / len(counted):.4g}" for name, n in unsupported.most_common()
        )
        print(f"Not counted, calls per frame: {names}")


def print_shapes(model: nn.Module, frames: Sequence[dict[str, Any]], depth: int) -> None:
    rows: list[tuple[str, str, str]] = []

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            del inputs
            shapes = " ".join(str(tuple(tensor.shape)) for tensor in tensors_of(output))
            rows.append((name or "model", type(module).__name__, shapes))

        return hook

    handles = [
        module.register_forward_hook(look(name))
        for name, module in model.named_modules()
        if not name or name.count(".") < depth
    ]
    with torch.no_grad():
        for frame in frames:
            rows.clear()
            model([frame])
    for handle in handles:
        handle.remove()
    getattr(model, "reset", lambda: None)()
    print(f"\nOutputs of frame {len(frames) - 1}, in the order in which they were computed:")
    print(tabulate(rows, headers=["module", "class", "shapes"], disable_numparse=True))


def print_parameters(model: nn.Module, depth: int) -> None:
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in model.parameters())
    print(f"\nParameters: {everything:,}, trainable {trainable:,}, {everything * 4 / 2**20:.1f} MiB as float32")
    print(parameter_count_table(model, max_depth=depth))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="a config, .py or .yaml")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", default=["parameter", "flop"], help="see above")
    parser.add_argument("--num-inputs", type=int, default=20, metavar="N", help="number of frames")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), help="synthetic frames of this height and width"
    )
    parser.add_argument("--depth", type=int, default=3, help="levels of modules in the tables")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides")
    args = parser.parse_intermixed_args(argv)
    args.opts = [*(task for task in args.tasks if "=" in task or task.startswith("~")), *args.opts]
    args.tasks = [task for task in args.tasks if task not in args.opts]
    unknown = [task for task in args.tasks if task not in TASKS]
    if unknown or not args.tasks:
        raise UserError(f"--tasks {' '.join(unknown)}: the tasks are {', '.join(TASKS)}.")
    if args.num_inputs < 1 or args.depth < 1 or min(args.size or [1]) < 1:
        raise UserError("--num-inputs, --depth and --size must be at least 1.")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    cfg = load_checked(args.config_file, args.opts, required=("model",))
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    with importable_project(args.config_file):
        builder = Builder(cfg)
        model = builder.build("model").to(select_device(cfg.get("train", {}).get("device", "auto"))).eval()
        frames = frames_of(args, cfg, builder) if NEED_FRAMES & set(args.tasks) else []
        organs = getattr(model, "organs", ())
        if args.size is not None and organs:
            frames = [{**frame, "organ": organs[0]} for frame in frames]  # the organs' classifiers are alike
        for task in dict.fromkeys(args.tasks):
            if task == "parameter":
                print_parameters(model, args.depth)
            elif task == "flop":
                print_counts("Operations", "MFLOP", count(count_operations, model, frames), model, args.depth)
            elif task == "activation":
                counted = count(ActivationCountAnalysis, model, frames)
                print_counts("Activations", "millions", counted, model, args.depth)
            elif task == "shape":
                print_shapes(model, frames, args.depth)
            else:
                print(f"\n{model}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
