"""Pictures with boxes as a DICOM secondary capture, for viewers that show no structured reports.

Source: DICOM PS3.3 A.8.5 (multi-frame true colour secondary capture), C.7.6.5 (cine), C.8.6.

Legend: ``H, W`` height and width of a picture in pixels.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg

from ultravid.serving.privacy.dicom_output import FrameSpool
from ultravid.serving.privacy.dicom_subject import DicomSubject
from ultravid.serving.records import FrameDetections
from ultravid.serving.writers.base import Picture

if TYPE_CHECKING:
    import pydicom

__all__ = ["DicomCapture"]

_SOP_CLASS = "1.2.840.10008.5.1.4.1.1.7.4"  # Multi-frame True Color Secondary Capture Image Storage
_JPEG_BASELINE = "1.2.840.10008.1.2.4.50"  # which every viewer decodes
_QUALITY = 95
_SERIES_NUMBER = 9002
_EQUAL_S = 2e-6  # a float's rounding of a time stamp, and a decimal's of the time between frames
_FRAME_TIME, _FRAME_TIME_VECTOR = 0x00181063, 0x00181065


class DicomCapture:
    """Writes the pictures of a DICOM file as a multi-frame secondary capture; memory does not grow with their number.

    Args:
        path: the path of the capture; its folder exists.
        subject: whose pictures they are.
        algorithm: name of the detector, for the series' description.

    Attributes:
        has_text: whether names may still be burnt in, as nothing was blacked out, or by a guess; True unless it is set before `close`.

    Raises:
        OSError: the folder can't be written.
    """

    def __init__(self, path: Path, subject: DicomSubject, *, algorithm: str) -> None:
        self.path = path
        self._subject = subject
        self._algorithm = algorithm
        self.has_text = True
        self._spool = FrameSpool(path.parent, is_compressed=True)
        self._times_s: list[float] = []
        self._size: tuple[int, int] | None = None
        self._num_bytes = 0

    def add(self, found: FrameDetections, picture: Picture | None) -> None:
        """Add a frame, as `ResultWriter.add`.

        Args:
            found: its detections; only their time counts.
            picture: the picture of the frame; the one with its boxes is kept.

        Raises:
            OSError: the disk is full.
            ValueError: there is no picture, or it has another size than the first.
        """
        drawn = None if picture is None else picture.drawn
        if drawn is None or drawn.shape[:2] != (self._size or drawn.shape[:2]):
            raise ValueError("A capture needs a picture of each frame, and all of one size.")
        self._size = (drawn.shape[0], drawn.shape[1])
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(drawn), _QUALITY, "RGB", "422")
        self._num_bytes += len(data)
        self._spool.add(data)
        self._times_s.append(found.pts_s)

    def close(self) -> None:
        """Write the capture, complete or absent; without a frame there is none.

        Raises:
            OSError: it can't be written.
        """
        from pydicom.uid import UID

        from ultravid.datasets.readers.dicom_file import quiet_pydicom

        try:
            if self._size is not None:
                with quiet_pydicom():
                    self._spool.write(self.path, self._header(self._size), UID(_JPEG_BASELINE), "OB")
        finally:
            self._spool.close()

    def discard(self) -> None:
        """Leave nothing, unless `close` was called."""
        self._spool.close()

    def _header(self, size: tuple[int, int]) -> pydicom.Dataset:
        import pydicom
        from pydicom.uid import generate_uid

        now = datetime.datetime.now()
        header = pydicom.Dataset()
        header.update(self._subject.attributes)
        header.SOPClassUID, header.SOPInstanceUID = _SOP_CLASS, generate_uid(prefix=None)
        header.SeriesInstanceUID, header.SeriesNumber, header.InstanceNumber = (
            generate_uid(prefix=None),
            _SERIES_NUMBER,
            1,
        )
        header.SeriesDescription = f"Boxes of {self._algorithm}"[:64]
        header.Modality, header.ConversionType = self._subject.modality, "WSD"
        header.Manufacturer = "ultravid"
        header.SecondaryCaptureDeviceManufacturer = "ultravid"
        header.ImageType = ["DERIVED", "SECONDARY"]
        header.PatientOrientation = None
        header.ContentDate, header.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S.%f")
        header.BurnedInAnnotation = "YES" if self.has_text else "NO"
        header.SourceImageSequence = pydicom.Sequence([self._source()])
        self._add_pixels(header, size)
        self._add_times(header)
        return header

    def _source(self) -> pydicom.Dataset:
        import pydicom

        source = pydicom.Dataset()
        source.ReferencedSOPClassUID = self._subject.sop_class_uid
        source.ReferencedSOPInstanceUID = self._subject.sop_instance_uid
        return source

    def _add_pixels(self, header: pydicom.Dataset, size: tuple[int, int]) -> None:
        header.Rows, header.Columns = size
        header.SamplesPerPixel, header.PhotometricInterpretation, header.PlanarConfiguration = 3, "YBR_FULL_422", 0
        header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 8, 8, 7, 0
        header.LossyImageCompression, header.LossyImageCompressionMethod = "01", "ISO_10918_1"
        ratio = 3 * size[0] * size[1] * len(self._times_s) / self._num_bytes
        header.LossyImageCompressionRatio = f"{ratio:.3f}"

    def _add_times(self, header: pydicom.Dataset) -> None:
        """The time between frames: one number if it is always the same, else one for each frame."""
        header.NumberOfFrames = len(self._times_s)
        times_s = np.array(self._times_s)
        usual_s = (times_s[-1] - times_s[0]) / max(1, len(times_s) - 1)
        grid = times_s[0] + usual_s * np.arange(len(times_s))
        if np.abs(times_s - grid).max() < _EQUAL_S:
            header.FrameIncrementPointer = _FRAME_TIME
            header.FrameTime = _decimal(1000.0 * usual_s)
        else:
            header.FrameIncrementPointer = _FRAME_TIME_VECTOR
            header.FrameTimeVector = ["0", *(_decimal(1000.0 * step) for step in np.diff(times_s))]


def _decimal(value: float) -> str:
    """A number in the 16 characters that DICOM gives it."""
    return f"{value:.12g}"[:16]
