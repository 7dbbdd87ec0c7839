#!/usr/bin/env python
"""Show a live page: drop a recording or choose a camera, and see a model's boxes over the video.

    python tools/serve.py --run outputs/run
    python tools/serve.py --run outputs/run --port 8080
    python tools/serve.py --config-file FILE.py --weights model.pth
    python tools/serve.py --run outputs/run --host 0.0.0.0        # for other machines, with a token that it prints

The page needs only the connection between the browser and this server, and no other network. Uploads are kept in a private folder of this
machine. They are deleted when the viewer closes the page, after half an hour without any action, and when the server ends. Ctrl-C ends it.

The connection is not encrypted. For other machines, use a trusted network, `ssh -L 8000:localhost:8000 HOST`, or a proxy with TLS (with
--allow-host NAME). Browsers allow the camera only for pages of this machine and for https.
"""

import ultravid.utils.threads  # noqa: F401 - before torch, which then waits passively # isort: skip

import argparse
import dataclasses
import os
import secrets
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from ultravid.serving.page.bounds import PageBounds
from ultravid.utils.errors import UserError
from ultravid.utils.tool import ToolParser, print_warnings, run_tool

TOKEN_VARIABLE = "ULTRAVID_TOKEN"
BOUND_HELP = {
    "max_upload_mb": "size of a file in MB",
    "max_stored_mb": "size of all files and their pictures in MB",
    "max_frames": "frames of a recording",
    "max_pixels": "pixels of a frame",
    "max_upload_s": "seconds of an upload",
    "max_analysis_s": "seconds of an analysis, of a camera too",
    "max_running": "recordings that are analysed at the same time; others wait",
    "max_queue": "recordings that wait",
    "max_recordings": "recordings of a viewer",
    "max_viewers": "viewers at the same time",
    "max_idle_s": "seconds without any action, after which a viewer's recordings are deleted",
    "max_absence_s": "seconds after a viewer's page was closed, after which the recordings are deleted",
}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    model = parser.add_argument_group("model")
    model.add_argument("--run", metavar="FOLDER", help="folder of a run: its config and its newest weights")
    model.add_argument("--config-file", metavar="FILE", help="config in Python or YAML, in place of a run")
    model.add_argument(
        "--weights", metavar="FILE", help="checkpoint file; with --run also last, best or final (the newest)"
    )
    model.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 (that of the config)")
    model.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="NAME",
        help="class or function that the config may build although it is not on ultravid's list; may be repeated",
    )
    model.add_argument(
        "--conf", type=float, default=0.05, metavar="SCORE", help="leave out detections with a lower score (0.05)"
    )
    model.add_argument(
        "--iou", type=float, metavar="IOU", help="IoU threshold of non-maximum suppression (default: as in the model)"
    )
    model.add_argument("--imgsz", type=int, metavar="PX", help="longest side of the model's input (as in the config)")
    model.add_argument("--organ", metavar="NAME", help="organ that is scanned, for a model with a classifier per organ")
    access = parser.add_argument_group("access")
    access.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on (127.0.0.1: only this machine)"
    )
    access.add_argument(
        "--port", type=int, default=8000, metavar="P", help="port to listen on (8000; 0: any free port)"
    )
    access.add_argument(
        "--token",
        nargs="?",
        const="",
        metavar="TOKEN",
        help=f"ask for a token; without a value, a new one is made. Other users of this machine can read the command line, but not ${TOKEN_VARIABLE}",
    )
    access.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="further name of this server; may be repeated"
    )
    privacy = parser.add_argument_group("privacy")
    privacy.add_argument(
        "--mask",
        type=Path,
        metavar="FILE",
        help="what to black out: a table by scanner and size, a list of boxes, or a picture",
    )
    privacy.add_argument("--allow-burned-in-text", action="store_true", help="black out only what --mask states")
    bounds = parser.add_argument_group("upper bounds")
    for field in dataclasses.fields(PageBounds):
        kind = int if isinstance(field.default, int) and field.type == "int" else float
        option = "--" + field.name.replace("_", "-")
        bounds.add_argument(
            option, type=kind, default=field.default, metavar="N", help=f"{BOUND_HELP[field.name]} ({field.default:g})"
        )
    args = parser.parse_args(argv)
    if bool(args.run) == bool(args.config_file):
        parser.error("give either --run FOLDER or --config-file FILE (with --weights FILE)")
    if not 0 <= args.conf < 1:
        parser.error(f"--conf {args.conf}: is not a score; scores are 0 to 1")
    return args


def token_of(args: argparse.Namespace, is_local: bool) -> str | None:
    """The token; None if none is needed, which only this machine can be let in without."""
    from_environment = os.environ.pop(TOKEN_VARIABLE, None)  # no process that is started from here needs it
    given = args.token if args.token is not None else from_environment
    if given is None and is_local:
        return None
    token = given or secrets.token_urlsafe(24)
    if not token.isascii() or not token.isprintable() or token != token.strip():
        raise UserError(
            "--token: only letters, digits and punctuation can be sent in a header; without a value a good one is made."
        )
    if len(token) < 12:
        print(
            "warning: the token is short, so that it may be guessed; --token without a value makes a good one.",
            file=sys.stderr,
        )
    return token


def address(host: str, port: int, token: str | None) -> str:
    """What the user opens."""
    name = host
    if host in ("0.0.0.0", "::", ""):
        name = socket.gethostname()
    if ":" in name:
        name = f"[{name}]"
    return f"http://{name}:{port}/" + ("" if token is None else f"#token={token}")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    print_warnings()
    bounds = PageBounds(**{field.name: getattr(args, field.name) for field in dataclasses.fields(PageBounds)})
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
        import websockets  # noqa: F401
    except ImportError as error:
        raise UserError(f"The page needs {error.name}: pip install 'ultravid[serve]'") from error
    from ultravid.serving.page.access import Access, is_loopback
    from ultravid.serving.page.app import PageApp
    from ultravid.serving.page.decoders import Privacy
    from ultravid.serving.page.model import load_page_detector
    from ultravid.serving.page.server import bind, serve
    from ultravid.serving.page.working_folder import WorkingFolder
    from ultravid.serving.privacy.scanner_masks import read_scanner_masks

    if args.mask is not None:
        read_scanner_masks(args.mask)  # what is wrong with it is said now
    token = token_of(args, is_loopback(args.host))
    with bind(args.host, args.port) as bound:  # before the model is loaded, which takes seconds
        detector = load_page_detector(
            args.run or args.config_file,
            weights=args.weights,
            device=args.device,
            trust=args.trust,
            min_score=args.conf,
            iou=args.iou,
            image_size=args.imgsz,
            organ=args.organ,
        )
        page = PageApp(
            detector=detector,
            bounds=bounds,
            access=Access(args.host, token, args.allow_host),
            folder=WorkingFolder(),
            title=detector.title,
            privacy=Privacy(args.mask, args.allow_burned_in_text),
        )
        port = bound.getsockname()[1]
        text = f"Open {address(args.host, port, token)}\nCtrl-C ends the page; what was uploaded is deleted then."
        serve(page, bound, lambda: print(text, flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
