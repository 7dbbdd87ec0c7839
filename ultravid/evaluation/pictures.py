"""One image of frames with their lesions and detections, to look at after an evaluation."""

from __future__ import annotations

import heapq
import logging
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ultravid.evaluation.evaluator import DatasetEvaluator
from ultravid.utils import comm
from ultravid.utils.drawing import DETECTION, IGNORED, TRUTH, draw_boxes
from ultravid.utils.file_io import require_local
from ultravid.utils.run_folder import InferenceFolder

__all__ = ["FramePictures"]

logger = logging.getLogger(__name__)

_WHITE = (255, 255, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


class FramePictures(DatasetEvaluator):
    """Writes one PNG of frames with their lesions (green), regions to ignore (grey) and detections (orange, with the score).

    Each video contributes the frame with the largest lesion; a video without lesion its first frame.

    Args:
        output_dir: folder for ``frames.png``.
        num_videos: number of videos shown; those with a lesion come first, then by id.
        score_threshold: detections of a lower score are not drawn.
        tile: side length of a frame in the PNG, pixels.
        allow_burned_in_text: show frames of DICOM files that show more than an ultrasound region. By default these are black
            behind their boxes: the patient's name may be burnt in.
    """

    metric_names = ()

    def __init__(
        self,
        output_dir: str | Path,
        num_videos: int = 12,
        score_threshold: float = 0.3,
        tile: int = 256,
        allow_burned_in_text: bool = False,
    ) -> None:
        self.output_dir = require_local(output_dir, "FramePictures.output_dir")
        self._num_videos = num_videos
        self._score_threshold = score_threshold
        self._tile = tile
        self._allow_burned_in_text = allow_burned_in_text
        self.reset()

    def settings(self) -> dict[str, Any]:
        """What the pictures show."""
        return {"num_videos": self._num_videos, "score_threshold": self._score_threshold}

    def reset(self) -> None:
        """Forget the frames of an earlier evaluation."""
        self._num_hidden = 0
        self._chosen: dict[str, tuple[float, NDArray[np.uint8]]] = {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """As `DatasetEvaluator.process`: draw a frame if its lesion is the largest of its video so far."""
        for given, output in zip(inputs, outputs, strict=True):
            video_id = given["video_id"]
            areas = given["instances"].gt_boxes.area()
            worth = float(areas.max()) if len(areas) else 0.0
            if video_id in self._chosen and self._chosen[video_id][0] >= worth:
                continue
            if video_id not in self._chosen and len(self._chosen) >= 4 * self._num_videos:
                continue  # enough videos to choose from; this bounds the memory
            self._chosen[video_id] = (worth, self._draw(given, output["instances"].to("cpu")))

    def _draw(self, given: dict[str, Any], found: Any) -> NDArray[np.uint8]:
        image = given["image"]
        image = image.permute(1, 2, 0).clamp(0, 255).byte().cpu().numpy()
        scale = self._tile / max(given["height"], given["width"])
        size = (max(1, round(given["width"] * scale)), max(1, round(given["height"] * scale)))
        shown = np.asarray(cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_LINEAR), np.uint8)
        is_hidden = bool(given.get("may_show_text")) and not self._allow_burned_in_text
        if is_hidden:
            self._num_hidden += 1
            shown[:] = 0
        ignored = given.get("ignored", ())
        lesions, boxes = given["instances"].gt_boxes.tensor, found.pred_boxes.tensor
        scores = found.scores.tolist()
        drawn = [place for place, score in enumerate(scores) if score >= self._score_threshold]
        draw_boxes(shown, (np.array(ignored).reshape(-1, 4) * scale).tolist(), IGNORED)
        draw_boxes(shown, (lesions * scale).tolist(), TRUTH)
        draw_boxes(shown, (boxes[drawn] * scale).tolist(), DETECTION, [f"{scores[place]:.2f}" for place in drawn])
        canvas = np.zeros((self._tile + 18, self._tile, 3), np.uint8)
        canvas[18 : 18 + size[1], : size[0]] = shown
        label = f"{given['video_id']}  frame {given['frame_index']}{'  (not shown)' if is_hidden else ''}"
        label += "  (grey: to ignore)" if len(ignored) else ""
        cv2.putText(canvas, label, (3, 12), _FONT, 0.38, _WHITE, 1, cv2.LINE_AA)
        return canvas

    def evaluate(self) -> None:
        """Write the PNG; there are no metrics."""
        if self._num_hidden:
            logger.warning(
                "Frames of DICOM files that show more than an ultrasound region are black in the picture: names may be burnt into "
                "them. Read them with blank_outside_region=True or masks, or set FramePictures(allow_burned_in_text=True)."
            )
        mine = heapq.nsmallest(self._num_videos, self._chosen.items(), key=lambda item: (item[1][0] == 0, item[0]))
        gathered = [item for part in comm.gather(mine) for item in part]
        if not comm.is_main_process() or not gathered:
            return
        chosen = heapq.nsmallest(self._num_videos, gathered, key=lambda item: (item[1][0] == 0, item[0]))
        tiles = [picture for _, (_, picture) in chosen]
        columns = min(len(tiles), max(1, round(math.sqrt(len(tiles) * 4 / 3))))
        tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
        rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
        legend = np.zeros((20, rows[0].shape[1], 3), np.uint8)
        cv2.putText(legend, "lesion", (4, 14), _FONT, 0.42, TRUTH, 1, cv2.LINE_AA)
        text = f"detection with its score, from {self._score_threshold}"
        cv2.putText(legend, text, (60, 14), _FONT, 0.42, DETECTION, 1, cv2.LINE_AA)
        path = InferenceFolder(self.output_dir).picture
        path.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(path), np.vstack([legend, *rows])[..., ::-1]):
            raise OSError(f"{path} can't be written.")
        logger.info("Frames with lesions and detections: %s", path)
