"""Detections as a DICOM structured report, which viewers and archives show beside the image.

A measurement report (TID 1500) with a planar region (TID 1410) for each box in each frame. The boxes of one lesion track share a
tracking identifier and UID. Coordinates are those of the whole image, with (0, 0) at the upper left corner of the upper left pixel.

Sources: DICOM PS3.16 TID 1500, TID 1410; PS3.3 A.35.3 (comprehensive SR), C.18.6 (spatial coordinates).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ultravid.datasets.video import DataError
from ultravid.serving.privacy.dicom_subject import DicomSubject
from ultravid.serving.records import Detection, FrameDetections
from ultravid.serving.writers.base import Picture
from ultravid.utils.errors import UserError
from ultravid.utils.file_io import replace_file

if TYPE_CHECKING:
    import pydicom

__all__ = ["MAX_REGIONS", "DicomReport", "require_highdicom"]

MAX_REGIONS = 5_000
"""Boxes in a report. It is made in memory, in 10 ms and with some 50 kB a box."""

_SERIES_NUMBER = 9001
_SCHEME = "99ULTRAVID"
_US_MULTI_FRAME, _US = "1.2.840.10008.5.1.4.1.1.3.1", "1.2.840.10008.5.1.4.1.1.6.1"
_FINDINGS: Mapping[str, tuple[str, str]] = {  # SNOMED CT, by class name
    "lesion": ("52988006", "Lesion"),
    "mass": ("4147007", "Mass"),
    "nodule": ("27925004", "Nodule"),
}


def require_highdicom() -> None:
    """Refuse a report before long work if the library that writes it is not installed.

    Raises:
        UserError: it is not.
    """
    try:
        import highdicom.sr  # noqa: F401
    except ImportError:
        raise UserError("Structured reports need highdicom: pip install 'ultravid[dicom-sr]'.") from None


class DicomReport:
    """Writes the detections in a DICOM file as a structured report.

    Args:
        path: the path of the report; its folder exists.
        subject: what the report is about.
        class_names: by `Detection.class_id`.
        algorithm: name of the detector, such as its config's.
        version: the version of the detector, such as the hash of its weights.
        parameters: the parameters of the detector, such as its score threshold; they become part of the report.
        on_left_out: is called once if there are more than `MAX_REGIONS` boxes, with the reason why there is no report. None: that is an
            error.

    Raises:
        UserError: highdicom is not installed.
    """

    def __init__(
        self,
        path: Path,
        subject: DicomSubject,
        class_names: Sequence[str],
        *,
        algorithm: str,
        version: str,
        parameters: Sequence[str] = (),
        on_left_out: Callable[[str], None] | None = None,
    ) -> None:
        require_highdicom()
        self.path = path
        self._subject = subject
        # highdicom refuses references to objects of a class that it does not know, as those of older scanners are, or of a vendor's own
        # class. So the report is made of references to an ultrasound image, and `_report` puts the object's own class in their place.
        self._is_multi_frame = subject.is_multi_frame  # or once a frame comes that is not the first
        self._class_names = tuple(class_names)
        self._algorithm = (algorithm or "detector")[:64]
        self._version = (version or "unknown")[:64]
        self._parameters = [text[:1024] for text in parameters]
        self._rows: list[tuple[int, float, Detection]] = []
        self._on_left_out = on_left_out
        self._is_left_out = False

    def add(self, found: FrameDetections, picture: Picture | None = None) -> None:  # noqa: ARG002  # a writer's
        """Add a frame, as `ResultWriter.add`.

        Raises:
            DataError: there are more than `MAX_REGIONS` boxes, and there is no ``on_left_out``.
        """
        if self._is_left_out:
            return
        self._is_multi_frame |= found.index > 0
        self._rows += [(found.index, found.pts_s, detection) for detection in found.detections]
        if len(self._rows) > MAX_REGIONS:
            reason = f"A structured report holds at most {MAX_REGIONS:,} boxes, and there are more: raise --conf, or leave the report out."
            if self._on_left_out is None:
                raise DataError(reason)
            self._rows.clear()
            self._is_left_out = True
            self._on_left_out(reason)

    def close(self) -> None:
        """Write the report, complete or absent.

        Raises:
            OSError: it can't be written.
        """
        from ultravid.datasets.readers.dicom_file import quiet_pydicom

        if self._is_left_out:
            return
        with quiet_pydicom():
            report = self._report()
            with replace_file(self.path) as file:
                report.save_as(file, enforce_file_format=True)

    def discard(self) -> None:
        """Does nothing: nothing is written before `close`."""

    @property
    def _stand_in(self) -> str:
        return _US_MULTI_FRAME if self._is_multi_frame else _US

    def _report(self) -> Any:
        import highdicom as hd
        from pydicom.uid import generate_uid

        content = hd.sr.MeasurementReport(
            observation_context=hd.sr.ObservationContext(observer_device_context=self._observer()),
            procedure_reported=hd.sr.CodedConcept("16310003", "SCT", "Diagnostic ultrasonography"),
            imaging_measurements=self._regions() or [self._nothing_found()],
        )
        report = hd.sr.ComprehensiveSR(
            evidence=[self._evidence()],
            content=content,
            series_instance_uid=generate_uid(prefix=None),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=generate_uid(prefix=None),
            instance_number=1,
            manufacturer="ultravid",
            manufacturer_model_name=self._algorithm,
            software_versions=self._version,
            device_serial_number="none",
            series_description=f"Detections of {self._algorithm}"[:64],
            is_complete=True,
            is_final=False,
        )
        for element in report.iterall():
            if element.keyword == "ReferencedSOPClassUID":  # all references are to this object
                element.value = self._subject.sop_class_uid
        return report

    def _observer(self) -> Any:
        import highdicom as hd
        from pydicom.sr.codedict import codes

        number = int.from_bytes(hashlib.sha256(f"{self._algorithm}:{self._version}".encode()).digest()[:16])
        return hd.sr.ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
                uid=f"2.25.{number}", name="ultravid", model_name=self._algorithm
            ),
        )

    def _evidence(self) -> pydicom.Dataset:
        """The object that the report is about, as far as the report copies it."""
        import pydicom

        evidence = pydicom.Dataset()
        evidence.update(self._subject.attributes)
        evidence.SOPClassUID = self._stand_in
        evidence.SOPInstanceUID = self._subject.sop_instance_uid
        evidence.SeriesInstanceUID = self._subject.series_instance_uid
        evidence.Modality = self._subject.modality
        return evidence

    def _regions(self) -> list[Any]:
        import highdicom as hd
        from pydicom.sr.codedict import codes
        from pydicom.uid import generate_uid

        algorithm = self._identification()
        time_name = hd.sr.CodedConcept("FRAMETIME", _SCHEME, "Presentation time of the frame")
        uids: dict[int, str] = {}
        regions = []
        for number, (index, pts_s, detection) in enumerate(self._rows, start=1):
            track = detection.track_id
            uid = generate_uid(prefix=None) if track is None else uids.setdefault(track, generate_uid(prefix=None))
            identifier = f"box {number}" if track is None else f"lesion track {track}"
            regions.append(
                hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
                    tracking_identifier=hd.sr.TrackingIdentifier(uid=uid, identifier=identifier),
                    referenced_region=self._region(index, detection),
                    finding_type=self._finding(detection.class_id),
                    algorithm_id=algorithm,
                    measurements=[
                        hd.sr.Measurement(codes.DCM.CertaintyOfFinding, 100 * detection.score, codes.UCUM.Percent),
                        hd.sr.Measurement(time_name, pts_s, codes.UCUM.Second),
                    ],
                )
            )
        return regions

    def _nothing_found(self) -> Any:
        """A report must measure something: that there are no boxes."""
        import highdicom as hd
        from pydicom.sr.codedict import codes
        from pydicom.uid import generate_uid

        name = hd.sr.CodedConcept("NUMBOXES", _SCHEME, "Number of boxes")
        return hd.sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.sr.TrackingIdentifier(uid=generate_uid(prefix=None), identifier="no box"),
            algorithm_id=self._identification(),
            measurements=[hd.sr.Measurement(name, 0, codes.UCUM.NoUnits)],
            source_images=[hd.sr.SourceImageForMeasurementGroup(self._stand_in, self._subject.sop_instance_uid)],
        )

    def _identification(self) -> Any:
        import highdicom as hd

        return hd.sr.AlgorithmIdentification(
            name=self._algorithm, version=self._version, parameters=self._parameters or None
        )

    def _region(self, index: int, detection: Detection) -> Any:
        import highdicom as hd

        x1, y1, x2, y2 = detection.box
        corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]], np.float32)
        source = hd.sr.SourceImageForRegion(
            self._stand_in,
            self._subject.sop_instance_uid,
            referenced_frame_numbers=[index + 1] if self._is_multi_frame else None,
        )
        return hd.sr.ImageRegion(hd.sr.GraphicTypeValues.POLYLINE, corners, source)

    def _finding(self, class_id: int) -> Any:
        import highdicom as hd

        name = self._class_names[class_id] if class_id < len(self._class_names) else f"class {class_id}"
        known = _FINDINGS.get(name.strip().lower())
        if known is not None:
            return hd.sr.CodedConcept(known[0], "SCT", known[1])
        return hd.sr.CodedConcept(f"CLASS{class_id}", _SCHEME, name[:64])
