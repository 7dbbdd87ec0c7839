"""Folders of runs of small detectors with random weights, and frames for them."""

from pathlib import Path

import numpy as np

from tests.modeling.random_models import describe, random_model, video
from ultravid.checkpoint import DetectionCheckpointer
from ultravid.config import LazyConfig, Node


def write_run(folder: Path, name: str = "basicdet", seed: int = 0, **values: object) -> Path:
    """A folder with the config and the weights of a small model, as a training leaves them."""
    config = Node(
        model=describe(name, **values), train=Node(device="cpu", init_checkpoint="", num_threads=1), dataloader=Node()
    )
    folder.mkdir(parents=True)
    LazyConfig.save(config, folder / "config.yaml")
    DetectionCheckpointer(random_model(name, seed, **values), folder).save("model_final", iteration=9)
    return folder


def frames(seed: int, length: int = 6, height: int = 64, width: int = 64) -> list[np.ndarray]:
    """``(H, W, 3)`` uint8 frames of a video, grey."""
    return [np.ascontiguousarray(frame.permute(1, 2, 0).numpy()) for frame in video(seed, length, height, width)]
