"""The model of a page: one `StreamingPredictor`, with a separate stream for each recording."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ultravid.serving.page.analysis import PageStream
from ultravid.serving.page.decoders import DecodedFrame
from ultravid.serving.predictor import StreamingPredictor
from ultravid.serving.records import FrameDetections

__all__ = ["ModelDetector", "load_page_detector"]


class ModelDetector:
    """A `Detector` of the page.

    Args:
        predictor: that all recordings share.
        organ: what is scanned, if a recording does not say so; None: that of the config.

    Attributes:
        title: what the page says of the model.
    """

    def __init__(self, predictor: StreamingPredictor, organ: str | None = None) -> None:
        self._predictor = predictor
        self._organ = organ
        loaded = predictor.detector
        self.title = f"{loaded.name}: {', '.join(loaded.class_names)}"
        if organ is not None:
            predictor.check_organ(organ)

    @property
    def class_names(self) -> Sequence[str]:
        """As `Detector.class_names`."""
        return self._predictor.class_names

    @property
    def min_score(self) -> float:
        """As `Detector.min_score`."""
        return max(self._predictor.score_threshold or 0.0, self._predictor.detector.score_threshold)

    def detect(self, stream: PageStream) -> Iterator[tuple[DecodedFrame, FrameDetections]]:
        """As `Detector.detect`."""
        stated = str(stream.metadata.get("organ", ""))
        organ = stated if stated in self._predictor.detector.model.organs else self._organ
        detections = self._predictor.stream(organ, shown=stream.shown)
        for frame in stream:
            yield frame, detections.frame(frame)


def load_page_detector(
    cfg: str | Path,
    *,
    weights: str | Path | None = None,
    device: str | None = None,
    trust: Iterable[str] = (),
    min_score: float = 0.05,
    iou: float | None = None,
    image_size: int | None = None,
    organ: str | None = None,
) -> ModelDetector:
    """Load a model for a page.

    Args:
        cfg: the folder of a run, or a config's file.
        weights: see `load_detector`.
        device: see `load_detector`.
        trust: see `load_detector`.
        min_score: detections with a lower score are not kept.
        iou: as of `StreamingPredictor`.
        image_size: as of `StreamingPredictor`.
        organ: as of `ModelDetector`.

    Raises:
        UserError: see `load_detector` and `StreamingPredictor`.
    """
    predictor = StreamingPredictor(
        cfg, weights=weights, device=device, trust=trust, score_threshold=min_score, iou=iou, image_size=image_size
    )
    return ModelDetector(predictor, organ)
