#!/usr/bin/env python
"""Detect lesions in recordings and write movies with their boxes, JSON and CSV.

    python tools/predict.py --run outputs/run scan.mp4 --output-dir OUT
    python tools/predict.py --run outputs/run recordings/ 'more/*.dcm' list.txt --output-dir OUT --conf 0.4
    python tools/predict.py --config-file F --weights W 0 --output-dir OUT        # the first camera, until Ctrl-C

A SOURCE is a movie, a DICOM file, a folder, a glob, a text file with a source on each line, the number of a camera, or an address
(rtsp://, tcp://). For each source, OUT holds files of its name:

    NAME.mp4            the frames with their boxes, each at its own time stamp
    NAME.json           {"source", "width", "height", "frames": [{"index", "pts_s", "detections": [{"box", "score", "class", "class_id",
                        "track_id"}]}], ...}: every frame that was read; boxes in the source's pixels, x1, y1, x2, y2
    NAME.csv            one row for each detection
    NAME.tracks.csv     one row for each lesion track
    NAME.png            of a source with one frame: the frame with its boxes
    labels/, NAME_frames/   with --save-txt, --save-frames; files count frames from 0, as the JSON does
    NAME.sr.dcm, NAME.sc.dcm, NAME.dcm      of a DICOM file, with --sr and --deidentify: see docs/dicom.md

and for all sources together report.json (its exit_code is null until the command has ended), coco_vid.json (COCO-VID with the detections as
annotations), coco_results.json (the same as COCO's results), and qc/ and qc.png, which show what was blacked out. Text that may be burnt
in outside of the scan is black in all pictures: see --mask and --allow-burned-in-text.

After an interruption, run the same command again: it skips sources with complete results, and processes sources that have changed
again. Other weights or settings in the same folder are refused, unless --redo is given.

Exit codes: 0 done; 2 nothing was done, and one message says why; 3 done, but something was damaged or left out; the log and report.json
list it.
"""

from __future__ import annotations

import ultravid.utils.threads  # noqa: F401 - before torch, which then waits passively # isort: skip

import argparse
import collections
import contextlib
import hashlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Nothing of torch, which takes seconds to import: what can't be done is refused before.
from ultravid.datasets.readers.kinds import is_dicom
from ultravid.datasets.video import DataError
from ultravid.serving.output_folder import (
    QC_FOLDER,
    REPORT_NAME,
    Identity,
    OutputFolder,
    check_output_folder,
    fingerprint,
)
from ultravid.serving.privacy import (
    NeutralNames,
    ScannerMasks,
    patient_values,
    read_scanner_masks,
    write_contact_sheets,
)
from ultravid.serving.sources import Source, SourceList, check_source, list_sources, open_stream
from ultravid.serving.writers import picture_suffix, write_coco_video
from ultravid.serving.writers.dicom_sr import require_highdicom
from ultravid.utils.errors import UserError
from ultravid.utils.text import counted, visible, visible_lines
from ultravid.utils.tool import EXIT_INCOMPLETE, EXIT_USER_ERROR, ToolParser, print_warnings, run_tool, silence_stdout

if TYPE_CHECKING:
    from ultravid.serving.predictor import StreamingPredictor
    from ultravid.serving.processing import SourceProcessor

logger = logging.getLogger("predict")

SAID_EVERY_S = 10.0
SHEET = 40  # pictures on one QC sheet


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    # Without abbreviations: --confi would be --config-file.
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("sources", nargs="+", metavar="SOURCE")
    model = parser.add_argument_group("the model")
    model.add_argument("--run", type=Path, metavar="FOLDER", help="folder of a run, with its config and weights")
    model.add_argument("--config-file", type=Path, metavar="FILE", help="config file, Python or YAML")
    model.add_argument(
        "--weights", metavar="FILE", help="checkpoint file; with --run also last, best or final (the newest)"
    )
    model.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="NAME",
        help="class or function that the config may build although it is not on ultravid's list; may be repeated",
    )
    model.add_argument("--device", help="cpu, cuda, or the number of a GPU (as in the config)")
    model.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads per operation on the CPU (default: chosen by the size of the model)",
    )
    model.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    model.add_argument("--compile", action="store_true", help="compile the model: faster, but the start takes minutes")
    found = parser.add_argument_group("what is detected")
    found.add_argument(
        "--conf", type=share, default=0.25, metavar="S", help="leave out detections with a lower score (0.25)"
    )
    found.add_argument(
        "--iou", type=share, metavar="S", help="IoU threshold of non-maximum suppression (default: as in the model)"
    )
    found.add_argument("--imgsz", type=int, metavar="PX", help="longer side of the model's input (as in the config)")
    found.add_argument("--vid-stride", type=int, default=1, metavar="N", help="read every N-th frame (1)")
    found.add_argument(
        "--tracker", choices=("auto", "none"), default="auto", help="none: do not link detections to lesion tracks"
    )
    found.add_argument(
        "--smooth-boxes", action="store_true", help="write the tracker's estimates of boxes, which jitter less"
    )
    found.add_argument(
        "--latency-budget-ms",
        type=float,
        metavar="MS",
        help="drop frames of a live source that can't be processed in this time",
    )
    found.add_argument("--organ", help="organ that is scanned, for a model with a classifier per organ")
    files = parser.add_argument_group("what is written")
    files.add_argument("--output-dir", type=Path, metavar="OUT", help="folder for the results (outputs/predict)")
    files.add_argument("--project", type=Path, metavar="P", help="with --name N: the same as --output-dir P/N")
    files.add_argument("--name", metavar="N")
    files.add_argument("--save", action=argparse.BooleanOptionalAction, default=True, help="write movies (on)")
    files.add_argument(
        "--save-txt",
        action="store_true",
        help="write text files to labels/: class, x, y, width, height (as fractions of the image), track",
    )
    files.add_argument("--save-conf", action="store_true", help="with --save-txt: add the score, before the track")
    files.add_argument("--save-frames", action="store_true", help="write each frame as a picture with its boxes")
    files.add_argument("--plain-frames", action="store_true", help="write each frame as a picture without boxes")
    files.add_argument(
        "--mask", metavar="FILE", help="what to black out: a table by scanner and size, a list of boxes, or a picture"
    )
    files.add_argument("--allow-burned-in-text", action="store_true", help="black out only what --mask states")
    files.add_argument(
        "--sr", action="store_true", help="for DICOM files, write a structured report and a secondary capture"
    )
    files.add_argument("--deidentify", action="store_true", help="for DICOM files, write a de-identified copy")
    files.add_argument(
        "--keep-patient", action="store_true", help="with --sr: keep the patient in place of a pseudonym"
    )
    files.add_argument("--redo", action="store_true", help="process all sources again, even if the settings differ")
    files.add_argument("--quiet", action="store_true", help="print only warnings and errors")
    args = parser.parse_intermixed_args(with_dashed_sources(sys.argv[1:] if argv is None else argv))
    check_args(args, parser)
    return args


def with_dashed_sources(argv: Sequence[str]) -> list[str]:
    """Arguments as argparse takes sources that begin with a dash, which follow ``--``, when sources stand on both sides of options."""
    if "--" not in argv:
        return list(argv)
    at = argv.index("--")
    return [*argv[:at], *(f"./{text}" if text.startswith("-") else text for text in argv[at + 1 :])]


def share(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (value := float(text)) <= 1:
            return value
    raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 1")


def check_args(args: argparse.Namespace, parser: ToolParser) -> None:
    if (args.run is None) == (args.config_file is None):
        parser.error("one of --run and --config-file is needed: --run FOLDER, or --config-file FILE --weights FILE")
    if args.output_dir is not None and (args.project is not None or args.name is not None):
        parser.error("--output-dir OUT and --project P --name N say the same; give one of the two")
    if args.output_dir is None:
        args.output_dir = (args.project or Path("outputs/predict")) / (args.name or "")
    for name in ("threads", "imgsz", "vid_stride"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} {value}: must be 1 or more")
    if args.latency_budget_ms is not None and not args.latency_budget_ms > 0:
        parser.error(f"--latency-budget-ms {args.latency_budget_ms:g}: must be above 0")
    if args.device is not None and args.device.isdecimal():
        args.device = f"cuda:{args.device}"
    if args.run is not None and not args.run.is_dir():
        parser.error(f"--run {args.run}: is not a folder. A file is given as --config-file FILE --weights FILE")


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What results depend on; threads and device change the last digits alone."""
    names = ("conf", "iou", "imgsz", "vid_stride", "tracker", "smooth_boxes", "organ", "precision", "save", "save_txt")
    names += ("save_conf", "save_frames", "plain_frames", "allow_burned_in_text", "sr", "deidentify", "keep_patient")
    settings = {f"--{name.replace('_', '-')}": getattr(args, name) for name in names}
    mask = None if args.mask is None else hashlib.sha256(Path(args.mask).read_bytes()).hexdigest()[:16]
    return {**settings, "--mask": mask}


class Progress:
    """Says how far the work is: a bar on a terminal, else a line now and then."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        if not quiet and sys.stderr is not None and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (MofNCompleteColumn(), TextColumn("{task.fields[rate]:.1f} frames/s"), TimeRemainingColumn())
            shown = (TextColumn("{task.description}", markup=False), BarColumn(), *columns)
            self._bar = Bar(*shown, console=Console(stderr=True), transient=True)
            self._bar.start()

    def line(self, text: str) -> None:
        if self._quiet:
            return
        text = visible_lines(text)
        try:
            (self._bar.console.print if self._bar else print)(
                text, **({"highlight": False, "markup": False} if self._bar else {"flush": True})
            )
        except BrokenPipeError:  # `| head` has read enough; the work goes on
            self._quiet = True
            silence_stdout()

    def of(self, label: str, total: int | None, *, is_stated: bool) -> Callable[[int], None]:
        """What is called with the number of frames that are written of a source, of a total that it states or that is estimated."""
        expected = "" if total is None else f" of {total}" if is_stated else f" of about {total}"
        begin = said = time.monotonic()
        if self._bar is not None:
            self._task = self._bar.add_task(label, total=total, rate=0.0)

        def on_frame(number: int) -> None:
            nonlocal said
            now = time.monotonic()
            rate = number / max(now - begin, 1e-6)
            if self._bar is not None:
                self._bar.update(self._task, completed=number, rate=rate)
            elif now - said >= SAID_EVERY_S:
                said = now
                self.line(f"{label}: {number}{expected} frames, {rate:.1f} frames/s")

        return on_frame

    def end_of(self, entry: Mapping[str, Any]) -> None:
        if self._bar is not None:
            self._bar.remove_task(self._task)
        found = "no detection"
        if entry["detections"]:
            found = f"{counted(entry['detections'], 'detection')} in {counted(entry['tracks'], 'track')}"
        rate = f"{entry['frames_per_second']:.1f} frames/s{live_text(entry)}"
        self.line(f"{entry['source']}: {counted(entry['frames'], 'frame')}, {found}{black_text(entry)}, {rate}")
        for repair in entry["repairs"]:
            self.line(f"  {repair['kind']}: {repair['message']}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def black_text(entry: Mapping[str, Any]) -> str:
    """How much of the pictures is black, to follow what was found; "" if nothing is, as was asked for, or no picture was written."""
    blackout = entry["blacked_out"]
    if blackout is None or not (blackout["share"] or blackout["guessed"]):
        return ""
    share = blackout["share"]
    amount = f"{share:.0%}" if share >= 0.01 else "less than 1%" if share else "nothing"
    return f", {amount} blacked out{' (a guess)' if blackout['guessed'] else ''}"


def live_text(entry: Mapping[str, Any]) -> str:
    """What became of the frames of a live source, to follow what was done; "" of a recording."""
    if "live" not in entry:
        return ""
    live, late = entry["live"], entry["live"]["late"]
    text = f"; {entry['dropped']} of {counted(live['came'], 'frame')} dropped{f', {late} late' if late else ''}"
    if live["mean_latency_ms"] is None:
        return text
    return f"{text}; latency {live['mean_latency_ms']:.0f} ms on average, {live['max_latency_ms']:.0f} ms at most"


class Prediction:
    """One command: its sources, one after the other."""

    def __init__(
        self,
        args: argparse.Namespace,
        folder: OutputFolder,
        predictor: StreamingPredictor,
        masks: ScannerMasks | None,
        stop: threading.Event,
    ) -> None:
        self.args, self.folder, self.stop = args, folder, stop
        self.predictor, self.masks = predictor, masks
        self.processor = self._processor()
        self.names = NeutralNames(folder.path)
        self.progress = Progress(args.quiet)
        self.counts: collections.Counter[str] = collections.Counter()
        self.left_out: list[dict[str, str]] = []
        self.num_sources = self.num_guessed = 0

    def _processor(self) -> SourceProcessor:
        from ultravid.serving.processing import OutputChoice, SourceProcessor

        args = self.args
        outputs = OutputChoice(
            movie=args.save,
            labels=args.save_txt,
            label_scores=args.save_conf,
            pictures=args.save_frames,
            plain_pictures=args.plain_frames,
            allow_burned_in_text=args.allow_burned_in_text,
            dicom_reports=args.sr,
            keep_patient=args.keep_patient,
            clean_dicom=args.deidentify,
        )
        how: dict[str, Any] = {"masks": self.masks, "organ": args.organ, "vid_stride": args.vid_stride}
        return SourceProcessor(self.predictor, self.folder, outputs, **how)

    def run(self, sources: SourceList) -> int:
        begin = time.monotonic()
        self.num_sources = len(sources) + len(sources.left_out)
        self.folder.refuse_foreign_files([self.names.of(source.path, source.name) for source in sources])
        self._write_report(0.0, None)  # from now on the folder is known as one of results
        try:
            for found, reason in sources.left_out:
                label = visible(self.names.of(Path(found), Path(found).name))
                self._leave_out(Path(found), label, f"{label}: {reason}")
            for source in sources:
                if self.stop.is_set():
                    raise KeyboardInterrupt
                self._source(source)
            self.progress.close()
            self._write_all_sources()
        except BaseException as error:
            self.progress.close()
            self._warn_of_guesses()
            with contextlib.suppress(OSError):  # the disk may be full, which `error` says
                self._write_report(
                    time.monotonic() - begin, EXIT_USER_ERROR if isinstance(error, UserError | OSError) else None
                )
            raise
        self._warn_of_guesses()
        self._write_report(time.monotonic() - begin, self._exit_code())
        return self._exit_code()

    def _warn_of_guesses(self) -> None:
        """Once for all sources, however many they are."""
        if self.num_guessed:
            logger.warning(
                "What is blacked out of %s is a guess, as nothing states which part is the scan. Look at %s before you share results. "
                "--mask FILE states what is black, --allow-burned-in-text turns it off.",
                counted(self.num_guessed, "source"),
                self.folder.path / QC_FOLDER,
            )

    def say_what_was_written(self) -> None:
        """The last lines."""
        if (number := self.names.num_replaced) > 0:
            whose = "1 source are" if number == 1 else f"{number} sources are"
            why = "its file's name contains a value" if number == 1 else "their files' names contain values"
            self.progress.line(
                f"Results of {whose} called recording-...: {why} of the DICOM header (a name, id or date)"
            )
        before = f"; {self.counts['skipped']} done before" if self.counts["skipped"] else ""
        left_out = f"; {len(self.left_out)} left out, which {REPORT_NAME} lists" if self.left_out else ""
        self.progress.line(
            f"Wrote {counted(self.counts['done'], 'source')} to {self.args.output_dir}{before}{left_out}"
        )

    def _source(self, source: Source) -> None:
        path = source.path
        name = self.names.of(path, source.name)
        label = file_name(path) if path is not None and name == source.name else name
        try:
            stream = open_stream(source, vid_stride=self.args.vid_stride)
        except DataError as error:
            if self.stop.is_set():  # while an address was waited for
                raise KeyboardInterrupt from None
            self._leave_out(path, label, str(error))
            return
        try:
            key, place = fingerprint(path), self.folder.place_of(path)
            earlier = self.folder.earlier_name(place) if name == source.name else None  # not in place of a neutral name
            name = earlier or self.folder.free_name(name, key, place)
            done = None if path is None else self.folder.finished(name, key, self._files(path, name))
            if done is not None:
                self._skip(name, label, done)
                return
            how = {"label": label, "place": place, "scrub": self._scrub(path, label)}
            on_frame = self.progress.of(label, stream.num_frames, is_stated=stream.states_num_frames)
            entry = self.processor.run(stream, name, key, **how, stop=self.stop, on_frame=on_frame)
        except DataError as error:
            self._leave_out(path, label, str(error))
            return
        except UserError as error:  # the model does not take its frames, or their times
            self._leave_out(path, label, f"{label}: {error}")
            return
        finally:
            stream.close()
        self.progress.end_of(entry)
        self.counts["frames"] += entry["frames"]
        self.num_guessed += bool((entry["blacked_out"] or {}).get("guessed"))
        self._add(entry, "done")

    def _files(self, path: Path, name: str) -> list[str]:
        outputs = self.processor.outputs
        is_of_dicom = (outputs.dicom_reports or outputs.clean_dicom) and is_dicom(path)
        return outputs.files(name, of_dicom=is_of_dicom)

    def _scrub(self, path: Path | None, label: str) -> Callable[[str], str]:
        """Messages tell neither where a source lies nor what its name may say."""

        def scrub(text: str) -> str:
            return visible(self.names.scrub(without_place(text, path, label)))

        return scrub

    def _skip(self, name: str, label: str, done: Mapping[str, Any]) -> None:
        self.progress.line(f"{label}: done before")
        known = self.folder.entries.get(name) or {"name": name, "source": label}
        more = {key: done.get(key, []) for key in ("damage", "repairs", "blacked_out")}
        self._add({**known, **more}, "skipped")

    def _add(self, entry: Mapping[str, Any], state: str) -> None:
        self.folder.entries[entry["name"]] = {**entry, "state": state}
        self.counts[state] += 1
        for text in entry["damage"]:
            self.counts["damaged"] += 1
            logger.warning("damaged: %s", text)

    def _leave_out(self, path: Path | None, label: str, reason: str) -> None:
        reason = self._scrub(path, label)(reason)
        self.left_out.append({"source": label, "reason": reason})
        if self.num_sources == 1 and not self.counts:
            raise UserError(reason)
        logger.warning("left out: %s", reason)

    def _write_report(self, seconds: float, exit_code: int | None) -> None:
        self.folder.write_report(
            done=self.counts["done"],
            skipped=self.counts["skipped"],
            frames=self.counts["frames"],
            seconds=round(seconds, 3),
            frames_per_second=round(self.counts["frames"] / seconds, 2) if seconds else 0.0,
            left_out=self.left_out,
            damaged=[text for entry in self.folder.entries.values() for text in entry.get("damage", ())],
            masks=[] if self.masks is None else self.masks.unfit(),
            names_replaced=self.names.num_replaced,
            exit_code=exit_code,
        )

    def _write_all_sources(self) -> None:
        """The files of all sources of the folder."""
        path = self.folder.path
        files = self.folder.finished_files()
        names = self.predictor.class_names
        suffix = picture_suffix(self.args.plain_frames)
        write_coco_video(path / "coco_vid.json", path / "coco_results.json", files, names, suffix)
        pictures = [p for file in files if (p := path / QC_FOLDER / f"{file.stem}.png").is_file()]
        for number in range(0, len(pictures), SHEET):
            import cv2

            sheet = [cv2.imread(str(p))[..., ::-1] for p in pictures[number : number + SHEET]]
            write_contact_sheets(path, sheet, "qc" if len(pictures) <= SHEET else f"qc_{number // SHEET + 1}")

    def _exit_code(self) -> int:
        if self.left_out and not self.counts["done"] + self.counts["skipped"]:
            return 2
        return EXIT_INCOMPLETE if self.left_out or self.counts["damaged"] else 0


def sources_outside(folder: Path, sources: SourceList) -> SourceList:
    """Sources without what earlier commands wrote: the output folder may be in a folder of sources.

    Raises:
        UserError: there is no other source.
    """
    root = real_path(folder)

    def is_inside(path: Path) -> bool:
        real = real_path(path)
        return root in (real, *real.parents) and (root / REPORT_NAME).is_file()

    kept = [source for source in sources if source.path is None or not is_inside(source.path)]
    if sources and not kept:
        raise UserError(f"All sources are in {folder}, the folder of the results. Choose another --output-dir.")
    left_out = [(path, reason) for path, reason in sources.left_out if not is_inside(Path(path))]
    if len(kept) == len(sources):
        return SourceList(sources, left_out)
    # Listed again, as names depend on which sources there are.
    return SourceList(list_sources([source.path or source.camera or source.address or "" for source in kept]), left_out)


def stop_on_signals(stop: threading.Event) -> None:
    """Ctrl-C and SIGTERM end a live source, whose movie is completed, and break off a recording; a second Ctrl-C breaks off anything."""

    def handle(*_: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)


def check_before_loading(args: argparse.Namespace, sources: SourceList) -> None:
    """Refuse what can't be done before the model is loaded.

    Raises:
        UserError: a library is missing, the only source can't be read, or the results can't be written.
    """
    if args.sr:
        require_highdicom()
    if (args.sr or args.deidentify) and not any(
        source.path is not None and is_dicom(source.path) for source in sources
    ):
        raise UserError(f"{'--sr' if args.sr else '--deidentify'} is for DICOM files, and none of the sources is one.")
    check_output_folder(args.output_dir)
    if len(sources) == 1 and not sources.left_out:  # one of several is left out, which exit code and report say
        try:
            check_source(sources[0])
        except DataError as error:
            path = sources[0].path
            name = "" if path is None else file_name(path)
            is_telling = path is not None and patient_values(path).occur_in(str(path))
            text = without_place(str(error), path, "the source" if is_telling else name)
            raise UserError(text.replace(name, "the source") if is_telling else text) from None


def file_name(path: Path) -> str:
    """The name of a file or folder for messages, also of ``.`` and ``..``."""
    return visible(path.name if path.name not in ("", "..") else real_path(path).name)


def real_path(path: Path) -> Path:
    """A path without links; one whose links lead in a circle stays, for which ``Path.resolve`` raises an error."""
    return Path(os.path.realpath(path))


def without_place(text: str, path: Path | None, label: str) -> str:
    """A message on a source that calls it by its label, so that it does not tell where the source lies."""
    for spelling in (str(real_path(path)), str(path)) if path is not None else ():
        if os.sep in spelling:
            text = text.replace(spelling, label)
        elif text.startswith(spelling):  # it may be "."
            text = label + text.removeprefix(spelling)
    return text


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    print_warnings()
    sources = sources_outside(args.output_dir, list_sources(args.sources))
    masks = read_scanner_masks(args.mask)
    check_before_loading(args, sources)
    from ultravid.serving.predictor import StreamingPredictor

    stop = threading.Event()
    predictor = StreamingPredictor(
        args.run or args.config_file,
        weights=args.weights,
        device=args.device,
        image_size=args.imgsz,
        score_threshold=args.conf,
        iou=args.iou,
        tracker=None if args.tracker == "none" else "auto",
        smooth_boxes=args.smooth_boxes,
        latency_budget_ms=args.latency_budget_ms,
        precision=args.precision,
        compile=args.compile,
        threads=args.threads,
        trust=args.trust,
    )
    if predictor.detector.weights is None:
        raise UserError(f"{args.config_file} names no weights: add --weights FILE.")
    if args.organ is not None:
        predictor.check_organ(args.organ)
    identity = Identity(predictor.detector.weights_sha256, settings_of(args))
    with OutputFolder(args.output_dir, identity, redo=args.redo).open() as folder:
        prediction = Prediction(args, folder, predictor, masks, stop)
        stop_on_signals(stop)
        code = prediction.run(sources)
        prediction.say_what_was_written()
    return code


if __name__ == "__main__":
    sys.exit(run_tool(main))
