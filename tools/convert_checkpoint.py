#!/usr/bin/env python
"""Convert a checkpoint of UltraDet's published code, or of torchvision or detectron2, to a config and weights of this package.

    python tools/convert_checkpoint.py --config configs/UltraDet/UltraDet_fold0_iter1w.yaml --weights model_final.pth --output converted
    python tools/convert_checkpoint.py --model BasicDet --depth 18 --weights basicdet_r18.pth --output converted
    python tools/lazyconfig_train.py --config-file converted/config.yaml --eval-only dataloader.train.fold=0

The output folder gets config.yaml, a complete config of a run on CVA-BUS, and model_final.pth, so all tools read it like the folder of a
run. Values of the YAML file that differ from the published ones are kept; an unsupported value is refused, and the message names its key. A
file with only a ResNet (torchvision's .pth, detectron2's .pkl) provides the backbone of --model; the rest stays untrained.

Exit code: 0 converted; 2 something can't be read, is not supported or doesn't fit, and nothing was written.
"""

import argparse
import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ultravid.engine.conversion import Conversion, convert_checkpoint
from ultravid.modeling.published import PUBLISHED_MODELS
from ultravid.utils.text import counted, visible
from ultravid.utils.tool import ToolParser, run_tool


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument(
        "--config",
        type=os.path.expanduser,
        metavar="FILE.yaml",
        help="the YAML file of the run; its _BASE_ files are read too",
    )
    model.add_argument("--model", metavar="NAME", help=f"the published model: {', '.join(PUBLISHED_MODELS)}")
    parser.add_argument("--depth", type=int, choices=(18, 34), default=None, help="of --model's ResNet (default 34)")
    parser.add_argument(
        "--weights", type=os.path.expanduser, required=True, metavar="FILE", help="a file or an address"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write; created if needed")
    parser.add_argument(
        "--opts",
        nargs="+",
        default=[],
        metavar="KEY VALUE",
        help="values that replace those of --config, as MODEL.RPN.NMS_THRESH 0.6",
    )
    args = parser.parse_args(argv)
    if args.config is not None and args.depth is not None:
        parser.error(
            "--depth goes with --model; in a YAML file it is MODEL.RESNETS.DEPTH (--opts MODEL.RESNETS.DEPTH 18)"
        )
    if args.config is None and args.opts:
        parser.error("--opts goes with --config")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    conversion = convert_checkpoint(
        args.weights, args.output, config=args.config, options=args.opts, model=args.model, depth=args.depth or 34
    )
    print("\n".join(map(visible, _report(conversion, args.weights))))
    return 0


def _report(done: Conversion, weights: str) -> list[str]:
    rows = [f"{weights}: {counted(done.num_weights, 'weight')} of {done.name} converted."]
    for argument, value, key in done.changed:
        rows.append(f"Unlike the published model: {argument} = {value} ({key})")
    if done.lacking:
        rows.append(
            f"It holds only a backbone: {counted(len(done.lacking), 'weight')} of the model are not in it and stay untrained "
            f"({', '.join(done.lacking[:3])}, ...)."
        )
    if done.unused:
        rows.append(f"Not used: {counted(len(done.unused), 'name')} of the file: {_listed(done.unused)}")
    by_reason: dict[str, list[str]] = {}
    for name, reason in done.skipped.items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        rows.append(f"Not needed: {counted(len(names), 'name')} of the file ({names[0]}, ...): {reason}")
    if done.computed:
        rows.append(f"Computed from the config: {', '.join(done.computed)}")
    if done.not_carried:
        rows.append(f"Keys of training and data that are not carried over: {', '.join(done.not_carried)}")
    rows.append(f"Written: {done.config}, {done.weights}")
    command = ["python", "tools/lazyconfig_train.py", "--config-file", str(done.config), "--eval-only"]
    rows += _about_folds(done.held_out)
    rows.append(f"Next: {shlex.join([*command, f'dataloader.train.fold={(done.held_out or [0])[0]}'])}")
    return rows


def _about_folds(held_out: list[int] | None) -> list[str]:
    """What must be known of the folds before the model is evaluated: its metrics on videos that it was trained on would mean nothing."""
    if held_out is None:
        return ["The weights do not say which fold they were not trained on: set dataloader.train.fold to it."]
    if not held_out:
        return [
            "DATASETS.TEST_FOLDS is empty: no fold was held out, so every fold holds videos that the model was trained on."
        ]
    if len(held_out) > 1:
        return [
            f"The folds {', '.join(map(str, held_out))} were held out (DATASETS.TEST_FOLDS); evaluate each by itself."
        ]
    return []


def _listed(names: Sequence[str]) -> str:
    """A few names as they are, many by the module that they begin with."""
    if len(names) <= 8:
        return ", ".join(names)
    modules = Counter(".".join(name.split(".")[:2]) for name in names)
    return ", ".join(f"{module}.* ({number})" if number > 1 else module for module, number in modules.items())


if __name__ == "__main__":
    sys.exit(run_tool(main))
