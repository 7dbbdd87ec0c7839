#!/usr/bin/env python
"""Export a trained detector to files that run without ultravid: ONNX, or a torch.export program.

    python tools/export.py --run RUN --format onnx --image-size H W --output OUT
    python tools/export.py --config-file FILE --weights FILE --format torch_export --image-size H W --output OUT

OUT/model.onnx (or model.pt2) is one step of the model: it maps a frame of H x W px and the state of a stream to boxes, scores, classes and
the next state. OUT/model.json holds everything needed to run it: names, shapes and types of inputs and outputs, initial values of the
state, how frames are resized, classes, thresholds. UltraDet has a second graph for its key frames, OUT/model_key.onnx. The tracker is not
part of the graph; model.json names it. H x W is the size to which the config resizes frames, which may differ from the size of the
recording: docs/export.md shows how to find it. examples/run_onnx.py runs an export on a movie with numpy, onnxruntime and PyAV alone.
"""

from __future__ import annotations

import ultravid.utils.threads  # noqa: F401 - before torch, which then waits passively # isort: skip

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ultravid.utils.text import counted
from ultravid.utils.tool import ToolParser, print_warnings, run_tool

if TYPE_CHECKING:
    from ultravid.serving.export import Agreement


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", metavar="FOLDER", help="folder of a run, with its config and weights")
    source.add_argument("--config-file", metavar="FILE", help="config file, .py or .yaml")
    parser.add_argument(
        "--weights", metavar="FILE", help="checkpoint file; with --run also last, best or final (the newest)"
    )
    parser.add_argument("--format", required=True, choices=("onnx", "torch_export"))
    parser.add_argument(
        "--image-size",
        required=True,
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="height and width, in pixels, to which the config resizes frames",
    )
    parser.add_argument("--output", required=True, metavar="OUT", help="folder for the files")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"), help="torch_export only")
    parser.add_argument(
        "--winograd",
        action="store_true",
        help="compute large 3x3 convolutions by Winograd's minimal filtering: faster in onnxruntime on a processor, slower on GPUs",
    )
    parser.add_argument(
        "--organ", help="what is scanned, for a model with a classifier per organ whose config does not say"
    )
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="NAME",
        help="class or function that the config may build although it is not one of ultravid's; may be repeated",
    )
    args = parser.parse_args(argv)
    if args.run is not None and not Path(args.run).is_dir():
        parser.error(f"--run {args.run}: is not a folder. A file is given as --config-file FILE --weights FILE")
    return args


def compared(found: Agreement) -> str:
    """How the detections of an export compare with PyTorch's, in a sentence."""
    frames = counted(found.frames, "frame")
    if not found.detections:
        return (
            f"The export ran over {frames} of noise as PyTorch did: without a detection, so that there was nothing to compare. Compare it on a "
            "recording with lesions: examples/run_onnx.py."
        )
    more = f"; {counted(found.unpaired, 'detection')} by more" if found.unpaired else ""
    return (
        f"Compared with PyTorch over {frames} of noise, {counted(found.detections, 'detection')}: boxes differ by up to {found.box_px:.2g} px, "
        f"scores by up to {found.score:.2g}{more}."
    )


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    print_warnings()
    from ultravid.serving.export import export_detector  # torch and torchvision take seconds to import
    from ultravid.serving.loading import load_detector

    detector = load_detector(args.run or args.config_file, weights=args.weights, device="cpu", trust=args.trust)
    written = export_detector(
        detector,
        (args.image_size[0], args.image_size[1]),
        args.output,
        format=args.format,
        precision=args.precision,
        organ=args.organ,
        winograd=args.winograd,
    )
    for path in (*written.files, written.description):
        size = path.stat().st_size
        print(f"{path}  {f'{size / 2**20:.1f} MiB' if size >= 2**20 else f'{size / 2**10:.1f} KiB'}")
    if written.agreement is not None:
        print(compared(written.agreement))
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
