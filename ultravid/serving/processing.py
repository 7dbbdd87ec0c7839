"""Processes one source, from its first frame to its files."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultravid import __version__
from ultravid.datasets.readers.kinds import is_dicom
from ultravid.datasets.readers.source import ImageArray
from ultravid.datasets.video import DataError
from ultravid.serving.drawing import draw
from ultravid.serving.output_folder import QC_FOLDER, OutputFolder
from ultravid.serving.pipeline import StageClock, run_pipeline, timed_tracker
from ultravid.serving.predictor import StreamingPredictor
from ultravid.serving.privacy import (
    MAX_FRAMES_LOOKED_AT,
    Blackout,
    BlackoutRule,
    ScannerMasks,
    choose_blackout,
    output_key,
    write_qc_picture,
)
from ultravid.serving.privacy.deidentify import deidentify_dicom
from ultravid.serving.privacy.dicom_subject import DicomSubject, Pseudonyms, read_subject
from ultravid.serving.records import FrameDetections, TimedFrame
from ultravid.serving.sources.base import RecordingStream
from ultravid.serving.writers import (
    DetectionsCsv,
    DetectionsJson,
    FramePictures,
    MovieWriter,
    Picture,
    ResultWriter,
    StillPicture,
    TracksCsv,
    YoloLabels,
    discard_writers,
)
from ultravid.serving.writers.dicom_sc import DicomCapture
from ultravid.serving.writers.dicom_sr import DicomReport
from ultravid.utils.text import counted
from ultravid.utils.whole_files import remove_path

__all__ = ["OutputChoice", "SourceProcessor"]

_EMPTIED = (
    "DICOM files have attributes of the patient or the study whose values DICOM does not allow; they are left empty"
)


@dataclass(frozen=True)
class OutputChoice:
    """The files that are written for a source besides JSON and CSV.

    Attributes:
        movie: ``NAME.mp4``.
        labels: ``labels/NAME_000000.txt``, see `YoloLabels`.
        label_scores: with the score in each line.
        pictures: ``NAME_frames/000000.jpg``, with boxes.
        plain_pictures: ``NAME_frames/000000.png``, without.
        allow_burned_in_text: nothing is blacked out but what the mask says.
        dicom_reports: of a DICOM file, ``NAME.sr.dcm`` and ``NAME.sc.dcm``: a structured report, and a capture of the pictures.
        keep_patient: these two have the patient of the file; else a pseudonym.
        clean_dicom: of a DICOM file, ``NAME.dcm``: a de-identified copy.
    """

    movie: bool = True
    labels: bool = False
    label_scores: bool = False
    pictures: bool = False
    plain_pictures: bool = False
    allow_burned_in_text: bool = False
    dicom_reports: bool = False
    keep_patient: bool = False
    clean_dicom: bool = False

    @property
    def needs_pictures(self) -> bool:
        """Whether frames are drawn at all."""
        return self.movie or self.pictures or self.plain_pictures or self.dicom_reports or self.clean_dicom

    def files(self, name: str, *, of_dicom: bool = False) -> list[str]:
        """What is written of each source whatever is found in it, besides ``NAME.json``.

        Args:
            name: the name of the source's outputs.
            of_dicom: whether it is a DICOM file.
        """
        found = [f"{name}.csv", f"{name}.tracks.csv"]
        found += [f"{name}.mp4"] if self.movie else []
        found += [f"{name}_frames"] if self.pictures or self.plain_pictures else []
        found += [f"{name}.sr.dcm", f"{name}.sc.dcm"] if self.dicom_reports and of_dicom else []
        found += [f"{name}.dcm"] if self.clean_dicom and of_dicom else []
        return found


class SourceProcessor:
    """Detects in sources and writes their files.

    Args:
        predictor: gives each source a stream of its own.
        folder: the folder of the files, open.
        outputs: what is written.
        masks: what the user says is black.
        organ: what is scanned; None: what a source states, else that of the model's config.
        vid_stride: the vid stride of the sources, for the JSON.
    """

    def __init__(
        self,
        predictor: StreamingPredictor,
        folder: OutputFolder,
        outputs: OutputChoice,
        *,
        masks: ScannerMasks | None = None,
        organ: str | None = None,
        vid_stride: int = 1,
    ) -> None:
        self.predictor, self.folder, self.outputs = predictor, folder, outputs
        self._masks, self._organ, self._vid_stride = masks, organ, vid_stride
        self._track_clock = StageClock()
        if predictor.tracker is not None:
            predictor.tracker, self._track_clock = timed_tracker(predictor.tracker)

    def run(
        self,
        stream: RecordingStream,
        name: str,
        source: str,
        *,
        label: str,
        place: str = "",
        scrub: Callable[[str], str] = str,
        stop: threading.Event | None = None,
        on_frame: Callable[[int], None] | None = None,
    ) -> dict[str, Any]:
        """Write the files of a source; an earlier result of the same name is replaced at the end.

        Args:
            stream: is read and closed.
            name: the name of the files.
            source: its `fingerprint`.
            label: how the JSON and the report call the source.
            place: the result of `OutputFolder.place_of`.
            scrub: removes from a message what may identify a patient.
            stop: as of `run_pipeline`.
            on_frame: as of `run_pipeline`.

        Returns:
            The source's entry in the report.

        Raises:
            DataError: nothing of the source can be decoded, or a mask does not fit it.
            OSError: a file can't be written.
            KeyboardInterrupt: as of `run_pipeline`.
        """
        output = _SourceOutput(self, stream, name, label, source, place, scrub)
        self._track_clock.wall_s = self._track_clock.cpu_s = 0.0
        detections = self.predictor.stream_of(stream)
        if self._organ is not None:
            detections = self.predictor.stream(self._organ, shown=stream.shown, color="RGB")
        report = run_pipeline(
            stream,
            detections.frame,
            output.writers,
            paint=output.paint if self.outputs.needs_pictures else None,
            before_writing=output.look if self.outputs.needs_pictures else None,
            num_first=MAX_FRAMES_LOOKED_AT,
            stop=stop,
            on_frame=on_frame,
            track_clock=self._track_clock,
            latency_budget_ms=self.predictor.latency_budget_ms,
        )
        return {"name": name, "source": label, **report.as_json(), **output.facts()}


class _SourceOutput:
    """The files of one source."""

    def __init__(
        self,
        processor: SourceProcessor,
        stream: RecordingStream,
        name: str,
        label: str,
        source: str,
        place: str,
        scrub: Callable[[str], str],
    ) -> None:
        self._stream, self._name, self._label, self._scrub = stream, name, label, scrub
        self._folder, self._outputs, self._masks = processor.folder.path, processor.outputs, processor._masks
        self._processor = processor
        self._capture: DicomCapture | None = None
        self._class_names = tuple(processor.predictor.class_names)
        self._blackout: Blackout | None = None
        self._first: ImageArray | None = None
        detector = processor.predictor.detector
        self._head = {
            "fps": stream.fps,
            "vid_stride": processor._vid_stride,
            "class_names": list(self._class_names),
            "model": {"name": detector.name, "weights_sha256": detector.weights_sha256},
            "ultravid": __version__,
            "identity": processor.folder.identity_of(source),
            "place": place,
        }
        self._left_out: list[str] = []  # why there are outputs that can't be made
        self._not_written: list[str] = []  # their files
        self._repairs: list[tuple[str, str]] = []  # of what the outputs copy of the source's header
        self.writers: list[ResultWriter] = []
        try:
            self._open_writers()
        except BaseException:
            discard_writers(self.writers)
            stream.close()
            raise

    def _open_writers(self) -> None:
        stream, outputs, names = self._stream, self._outputs, self._class_names
        base = self._folder / self._name
        self.writers.append(_Earlier(self._folder, self._name, outputs, self._not_written))
        self._movie = None
        if outputs.movie:
            self._movie = MovieWriter(self._folder / f"{self._name}.mp4", stream.size, stream.time_base, fps=stream.fps)
            self.writers += [self._movie, StillPicture(self._folder / f"{self._name}.png")]
        if outputs.labels:
            labels = self._folder / "labels"
            self.writers.append(YoloLabels(labels, self._name, stream.size, save_conf=outputs.label_scores))
        if outputs.pictures or outputs.plain_pictures:
            pictures = self._folder / f"{self._name}_frames"
            self.writers.append(FramePictures(pictures, plain=outputs.plain_pictures))
        if stream.path is not None and (outputs.dicom_reports or outputs.clean_dicom) and is_dicom(stream.path):
            self._open_dicom_writers(stream.path)
        self._tracks = TracksCsv(base.with_name(f"{self._name}.tracks.csv"), names)
        self.writers += [DetectionsCsv(base.with_name(f"{self._name}.csv"), names), self._tracks]
        json_file = base.with_name(f"{self._name}.json")
        self.writers.append(DetectionsJson(json_file, self._label, stream.size, names, self._head, self._foot))

    def _open_dicom_writers(self, path: Path) -> None:
        outputs, pseudonyms = self._outputs, Pseudonyms(output_key(self._folder))
        if outputs.dicom_reports:
            try:
                subject = read_subject(path, None if outputs.keep_patient else pseudonyms)
            except DataError as error:
                self.leave_out(f"There is no structured report and no secondary capture: {error}", ".sr.dcm", ".sc.dcm")
            else:
                if subject.emptied:
                    self._repairs.append((_EMPTIED, f"{', '.join(subject.emptied)}, in the report and the capture"))
                self._open_reports(subject)
        if outputs.clean_dicom:
            self.writers.append(_CleanCopy(self, path, self._folder / f"{self._name}.dcm", pseudonyms))

    def _open_reports(self, subject: DicomSubject) -> None:
        detector = self._processor.predictor.detector
        self._capture = DicomCapture(self._folder / f"{self._name}.sc.dcm", subject, algorithm=detector.name)
        self.writers.append(self._capture)
        how: dict[str, Any] = {"algorithm": detector.name, "version": detector.weights_sha256[:16]}
        how["parameters"] = (
            f"score threshold {self._processor.predictor.score_threshold or detector.score_threshold:g}",
        )
        how["on_left_out"] = lambda reason: self.leave_out(
            f"{self._label}: there is no structured report. {reason}", ".sr.dcm"
        )
        self.writers.append(DicomReport(self._folder / f"{self._name}.sr.dcm", subject, self._class_names, **how))

    def leave_out(self, reason: str, *suffixes: str) -> None:
        """Note outputs that can't be made: the others are written all the same."""
        self._left_out.append(reason)
        self._not_written.extend(f"{self._name}{suffix}" for suffix in suffixes)

    @property
    def blackout(self) -> Blackout:
        """What is black in the pictures, once that is known."""
        assert self._blackout is not None
        return self._blackout

    def look(self, images: list[ImageArray]) -> None:
        """Decide what is black, and write the picture to check it."""
        allow = self._outputs.allow_burned_in_text
        self._blackout = choose_blackout(self._stream, images, self._masks, allow)
        if self._capture is not None:
            self._capture.has_text = self._blackout.guessed or self._blackout.rule is BlackoutRule.NOTHING
        path = self._folder / QC_FOLDER / f"{self._name}.png"
        write_qc_picture(path, images[len(images) // 2], self._blackout, self._name)

    def paint(self, frame: TimedFrame, found: FrameDetections) -> Picture:
        """A frame with what is black, without boxes and with them."""
        plain = self.blackout.apply(frame.image)
        return Picture(plain, draw(plain, found, class_names=self._class_names))

    def facts(self) -> dict[str, Any]:
        """What is known of the source once it is read."""
        facts: dict[str, Any] = {
            "tracks": len(self._tracks.summaries()),
            "damage": [self._scrub(text) for text in (*self._stream.damage, *self._left_out)],
            "repairs": [
                {"kind": kind, "message": self._scrub(text)}
                for kind, text in (*self._stream.repairs, *self._repairs, *self._moved())
            ],
            "blacked_out": None if self._blackout is None else self._blackout.as_json(),
        }
        if self._not_written:
            facts["not_written"] = self._not_written
        if self._movie is not None and self._movie.moved_s:
            facts["movie_moved_s"] = float(self._movie.moved_s)
        if self._movie is not None and self._movie.num_adjusted:
            facts["movie_frames_moved"] = self._movie.num_adjusted
        return facts

    def _moved(self) -> Iterator[tuple[str, str]]:
        """What the movie has of other time stamps than the source."""
        if self._movie is not None and self._movie.moved_s:
            yield "an MP4 can't begin before 0: movies are written later", f"by {float(self._movie.moved_s):g} s"
        if self._movie is not None and self._movie.num_adjusted:
            frames = counted(self._movie.num_adjusted, "frame")
            yield "an MP4 can't have some time stamps, which are written as others", f"of {frames}"

    def _foot(self) -> dict[str, Any]:
        return {**self.facts(), "tracks": [track.as_json(self._class_names) for track in self._tracks.summaries()]}


class _CleanCopy:
    """Writes a de-identified copy of a DICOM file, once it is known what is black in it; a `ResultWriter`."""

    def __init__(self, output: _SourceOutput, source: Path, path: Path, pseudonyms: Pseudonyms) -> None:
        self._output, self._source, self._path, self._pseudonyms = output, source, path, pseudonyms

    def add(self, found: FrameDetections, picture: Picture | None = None) -> None:
        """As `ResultWriter.add`."""

    def close(self) -> None:
        """As `ResultWriter.close`."""
        try:
            deidentify_dicom(self._source, self._path, blackout=self._output.blackout, pseudonyms=self._pseudonyms)
        except DataError as error:  # what was found in the frames that are whole is not lost by it
            self._output.leave_out(f"There is no clean copy: {error}", ".dcm")
            remove_path(self._path)  # of an earlier command

    def discard(self) -> None:
        """As `ResultWriter.discard`."""


class _Earlier:
    """Removes what an earlier command wrote of the same name and this one does not, once all is written; a `ResultWriter`."""

    def __init__(self, folder: Path, name: str, outputs: OutputChoice, not_written: Sequence[str]) -> None:
        self._folder, self._not_written = folder, not_written
        self._stale = [folder / f"{name}.json", folder / f"{name}.png"]  # the JSON says that all others are there
        self._stale += [] if outputs.dicom_reports else [folder / f"{name}.{kind}.dcm" for kind in ("sr", "sc")]
        self._stale += [] if outputs.clean_dicom else [folder / f"{name}.dcm"]
        self._stale += [] if outputs.movie else [folder / f"{name}.mp4"]
        self._stale += [] if outputs.pictures or outputs.plain_pictures else [folder / f"{name}_frames"]

    def add(self, found: FrameDetections, picture: Picture | None = None) -> None:
        """As `ResultWriter.add`."""

    def close(self) -> None:
        """As `ResultWriter.close`."""
        for path in (*self._stale, *(self._folder / name for name in self._not_written)):
            remove_path(path)

    def discard(self) -> None:
        """As `ResultWriter.discard`."""
