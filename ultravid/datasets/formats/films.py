"""Reads the metadata of a recording, annotated or not: rate and times, device, patient, and the visible part of the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ultravid.datasets.faults import FileFaults
from ultravid.datasets.formats.common import Row, make_frame, make_video
from ultravid.datasets.image_io import check_image
from ultravid.datasets.patients import PatientRule
from ultravid.datasets.readers import FrameSource, read_sidecar
from ultravid.datasets.readers.images import SKIPPED_NUMBERS, ImageFolderSource, skipped_numbers
from ultravid.datasets.readers.kinds import is_dicom
from ultravid.datasets.readers.shown import Shown
from ultravid.datasets.readers.sidecar import OTHER_CLOCK, OTHER_RATE, states_other_rate, trusted_times
from ultravid.datasets.video import DataError, Frame, Video

__all__ = ["Film"]


class Film:
    """Makes the frames of a recording, and their video.

    Args:
        source: the recording's frames, whole.
        video_id: the id of the video.
        show: `choose_shown` with all but source and device.
        where: file and video, for messages; None: the video.

    Attributes:
        times_s: time stamps of the recording's frames; None if they are evenly spaced, unknown, or of a wrong clock.

    Raises:
        DataError: the sidecar can't be used, or the file has not the region that is to be shown.
    """

    def __init__(
        self, source: FrameSource, video_id: str, show: Callable[..., Shown], where: str | None = None
    ) -> None:
        self.source = source
        self.video_id = video_id
        self.where = where or f"video {video_id!r}"
        self.sidecar = read_sidecar(source.path)
        self.metadata = {**source.metadata, **self.sidecar.metadata}
        self.shown = show(source, device=str(self.metadata.get("device", "")))
        self.times_s = trusted_times(source, self.sidecar)

    def frame(self, place: int, image_id: int, rows: Sequence[Row] = (), *, number: int | None = None) -> Frame:
        """A frame of the video.

        Args:
            place: in the recording, from 0.
            image_id: see `Frame`.
            rows: its boxes, in what is shown.
            number: see `Frame`; None: ``place`` if the recording has time stamps.

        Raises:
            DataError: its image is damaged or of another size; headers are read only.
        """
        path, index_in_file = self.source.place(place)
        bits = self.source.bits if index_in_file is not None else None
        if index_in_file is None:
            checked = check_image(path, *self.source.size, stated="the first image of the folder is")
            if checked.fault is not None:
                n = place if number is None else number
                raise DataError(f"{self.where} frame {n}: {path} {checked.fault}.")
            bits = checked.bits
        more: dict[str, Any] = {"crop": self.shown.crop, "blanked": self.shown.blanked, "bits": bits, "number": number}
        if self.times_s is not None:
            more |= {"number": place if number is None else number, "time_s": float(self.times_s[place])}
        return make_frame((path, index_in_file), image_id, self.shown.size, rows, **more)

    def video(
        self,
        frames: Sequence[Frame],
        patients: PatientRule,
        faults: FileFaults,
        *,
        path: str | None = None,
        **more: Any,
    ) -> Video:
        """The video of its frames; what was guessed or repaired goes to ``faults``.

        Args:
            frames: at least one.
            patients: who was scanned.
            faults: takes the repairs.
            path: what a rule for patients looks at; None: the video's id.
            more: see `Video`.
        """
        source, sidecar, where = self.source, self.sidecar, self.where
        if states_other_rate(source, sidecar):
            kind = OTHER_RATE if source.times_s is None else OTHER_CLOCK
            faults.repair(kind, f"{where}: states {source.fps:g} frames/s, its sidecar {sidecar.fps:g}")
        if isinstance(source, ImageFolderSource) and frames[0].number is None and skipped_numbers(source.files):
            faults.repair(SKIPPED_NUMBERS, f"{where}: {skipped_numbers(source.files)}")
        for kind, message in source.repairs:
            faults.repair(kind, f"{where}: {message}")
        if self.shown.fault is not None:
            faults.repair(self.shown.fault, where)
        dicom = source.path if not source.path.is_dir() and is_dicom(source.path) else None
        patient = patients.patient(self.video_id, sidecar.patient, path=path, dicom=dicom)
        more |= {"fps": sidecar.fps or source.fps, "metadata": self.metadata}
        return make_video(self.video_id, frames, patient, may_show_text=self.shown.fault is not None, **more)
