"""Detections of frames that come one by one."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ultravid.checkpoint import DetectionCheckpointer
from ultravid.config import CfgNode
from ultravid.data import MetadataCatalog
from ultravid.data.mapper import frame_for_test
from ultravid.engine.cfg_builders import build_model
from ultravid.utils.errors import UserError

__all__ = ["DefaultPredictor"]

logger = logging.getLogger(__name__)


class DefaultPredictor:
    """A config's model with ``cfg.MODEL.WEIGHTS``, frame after frame of a video.

    For example::

        predictor = DefaultPredictor(cfg)
        for frame in video:
            instances = predictor(frame)["instances"]
        predictor.reset()  # before the next video

    A temporal model remembers: successive calls are successive frames of one video until `reset`. What comes out is what
    `inference_on_dataset` gets of the same frames.

    Args:
        cfg: see `ultravid.config.get_cfg`; a copy is kept.

    Attributes:
        cfg: the copy.
        model: in evaluation mode.
        metadata: of the first data set of ``cfg.DATASETS.TEST``, None where none is named.

    Raises:
        ConfigError: a value of the config is wrong.
        CheckpointError: the weights can't be read or don't fit the model.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg.clone()
        self.model: Any = build_model(self.cfg).eval()
        self.metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0]) if cfg.DATASETS.TEST else None
        if not cfg.MODEL.WEIGHTS:
            logger.warning("MODEL.WEIGHTS names no file: the predictor's model is untrained.")
        DetectionCheckpointer(self.model).load(cfg.MODEL.WEIGHTS, strict=True)

    def __call__(self, original_image: NDArray[np.uint8]) -> dict[str, Any]:
        """Detections of the next frame.

        Args:
            original_image: ``(H, W, 3)`` uint8, BGR, as OpenCV reads pictures; the model gets it in ``cfg.INPUT.FORMAT``,
                at ``cfg.INPUT.AREA_TEST`` square pixels.

        Returns:
            ``instances`` with ``pred_boxes`` (XYXY, pixels of the given frame), ``scores`` and ``pred_classes``, by falling
            score, on the model's device.

        Raises:
            UserError: the frame is no such array.
        """
        if not isinstance(original_image, np.ndarray) or original_image.dtype != np.uint8:
            kind = getattr(original_image, "dtype", type(original_image).__name__)
            raise UserError(f"A frame is an array of uint8, got {kind}.")
        if original_image.ndim != 3 or original_image.shape[2] != 3 or 0 in original_image.shape:
            raise UserError(
                f"A frame has the shape (H, W, 3), got {original_image.shape}; cv2.cvtColor makes grey BGR."
            )
        height, width = original_image.shape[:2]
        rgb = torch.from_numpy(original_image[:, :, ::-1].transpose(2, 0, 1).copy())
        image = frame_for_test(rgb, self.cfg.INPUT.AREA_TEST or None, self.cfg.INPUT.FORMAT)
        with torch.inference_mode():
            (prediction,) = self.model([{"image": image, "height": height, "width": width}])
        return dict(prediction)

    def reset(self) -> None:
        """The next frame is the first of another video."""
        if hasattr(self.model, "reset"):
            self.model.reset()
