"""`DefaultPredictor`: detections of frames that come one by one."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ultravid.config import CfgNode, Node
from ultravid.data.mapper import frame_for_test
from ultravid.datasets import DatasetCatalog, MetadataCatalog
from ultravid.engine.threads import set_evaluation_threads
from ultravid.engine.trained import load_trained_model
from ultravid.modeling.detector import VideoDetector
from ultravid.modeling.inference import Precision, prepare_for_inference
from ultravid.utils.errors import UserError

__all__ = ["DefaultPredictor"]


class DefaultPredictor:
    """Detect lesions in the frames of a video, one after the other, with the model of a config and its weights.

    For example::

        predictor = DefaultPredictor(cfg)  # or DefaultPredictor("outputs/run")
        for frame in video:
            instances = predictor(frame)["instances"]
        predictor.reset()  # before the next video

    A temporal model has a memory: successive calls are successive frames of one video until `reset`. The detections are the same
    as those of `inference_on_dataset` for the same frames.

    Args:
        cfg: a `CfgNode`; a config in nodes; a config file; or the folder of a run, whose newest checkpoint is used. A copy
            is kept.
        weights: a checkpoint in place of the one that the config names, or of the folder's newest.
        trust: None trusts the config and builds any target that it names. With a sequence of names, which may be empty, only the parts on
            ultravid's list and the named ones are built from the folder of a run or a YAML file (`ultravid.engine.trusted`).
        prepare: run a copy of the model whose norms are folded (`prepare_for_inference`); its results differ only by rounding. Without
            it, the plain model runs, as in an evaluation. The number of threads is the config's ``train.num_threads`` in both cases.
        image_size: (H, W) of the frames after the config's resizing; frames of another size are then refused. None accepts any size.
        precision: see `prepare_for_inference`.
        compile: see `prepare_for_inference`; needs ``image_size``.

    Attributes:
        cfg: the copy.
        model: in evaluation mode; with ``prepare`` an `InferenceDetector`.
        organ: the organ that is scanned, for a model that has a classifier per organ; at first that of the config's test loader.
        metadata: the metadata of the config's first test data set, if it is in the `DatasetCatalog`; else None.

    Raises:
        ConfigError: a value of the config is wrong.
        TrustError: the config names what is neither on the list nor trusted.
        CheckpointError: the weights can't be read or don't fit the model.
        ValueError: ``compile`` without ``image_size``, or one of the last three arguments without ``prepare``.
        CompileError: the model does not compile to one graph.
    """

    def __init__(
        self,
        cfg: CfgNode | Node | str | Path,
        *,
        weights: str | Path | None = None,
        trust: Iterable[str] | None = None,
        prepare: bool = True,
        image_size: tuple[int, int] | None = None,
        precision: Precision = "float32",
        compile: bool = False,
    ) -> None:
        if not prepare and (image_size is not None or precision != "float32" or compile):
            raise ValueError("image_size, precision and compile are of a prepared model: they need prepare=True.")
        trained = load_trained_model(cfg, weights=weights, trust=trust)
        self.cfg: Any = trained.config if isinstance(cfg, str | Path) else copy.deepcopy(cfg)
        self.model: Any = trained.model
        name = trained.test_set
        self.metadata = MetadataCatalog.get(name) if name in DatasetCatalog.list() else None
        self._preprocessing = trained.preprocessing
        self.organ: str = trained.preprocessing.organ
        train = trained.config.get("train") or Node()
        set_evaluation_threads(self.model, train.get("num_threads", "auto"))
        if prepare and isinstance(self.model, VideoDetector):
            self.model = prepare_for_inference(self.model, image_size, precision=precision, compile=compile)

    def __call__(self, original_image: NDArray[np.uint8]) -> dict[str, Any]:
        """Detections of the next frame.

        Args:
            original_image: ``(H, W, 3)`` uint8, BGR, as OpenCV reads pictures; the model gets it in the config's order of
                channels (``INPUT.FORMAT``), at the config's area (``INPUT.AREA_TEST``, square pixels).

        Returns:
            ``instances`` with ``pred_boxes`` (XYXY, pixels of the given frame), ``scores`` and ``pred_classes``, by falling
            score, on the model's device.

        Raises:
            UserError: the frame is not such an array.
        """
        if not isinstance(original_image, np.ndarray) or original_image.dtype != np.uint8:
            kind = getattr(original_image, "dtype", type(original_image).__name__)
            raise UserError(f"A frame is an array of uint8, got {kind}.")
        if original_image.ndim != 3 or original_image.shape[2] != 3 or 0 in original_image.shape:
            raise UserError(
                f"A frame has the shape (H, W, 3), got {original_image.shape}; cv2.cvtColor turns a grey image into BGR."
            )
        height, width = original_image.shape[:2]
        rgb = torch.from_numpy(original_image[:, :, ::-1].transpose(2, 0, 1).copy())
        image = frame_for_test(rgb, self._preprocessing.area, self._preprocessing.image_format)
        with torch.inference_mode():
            (prediction,) = self.model([{"image": image, "height": height, "width": width, "organ": self.organ}])
        return dict(prediction)

    def reset(self) -> None:
        """The next frame is the first of another video."""
        if hasattr(self.model, "reset"):
            self.model.reset()
