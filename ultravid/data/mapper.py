"""From a place in a video to what a model is fed: pictures are opened here.

Legend: ``T`` frames, ``H, W`` height and width in pixels, ``N`` lesions in a frame.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as TF

from ultravid.data.readers import read_frame_image
from ultravid.data.samplers import FrameSampler, Position
from ultravid.data.transforms import ClipTransform, apply_transforms, area_size
from ultravid.data.video import DataError, Frame, Video
from ultravid.structures import Boxes, Clip, Instances

__all__ = ["ClipDataset", "FrameDataset", "frame_for_test"]


# Streams of one seed; without a tag (seed, turn) and (seed, turn, 0) would be the same stream.
_OF_A_SAMPLE, _OF_THE_ORDER = 1, 2


def read_frame(video: Video, index: int) -> Tensor:
    """Frame ``index`` as ``(3, H, W)`` uint8 RGB.

    Raises:
        DataError: it can't be decoded, or has another size than its annotation says.
    """
    image = read_frame_image(video, index)
    return torch.from_numpy(image.transpose(2, 0, 1).copy())


def frame_for_test(image: Tensor, area: float | None = None, image_format: str = "RGB") -> Tensor:
    """What a model is given of a frame ``(3, H, W)`` uint8 RGB: resized to an area, its channels in the asked order.

    Args:
        image: the frame.
        area: square pixels; None keeps the size.
        image_format: "RGB" or "BGR".
    """
    if area is not None:
        image = TF.resize(image, list(area_size(image.shape[-2], image.shape[-1], area)), antialias=True)
    return _in_format(image, image_format)


def _in_format(image: Tensor, image_format: str) -> Tensor:
    """RGB pictures ``(..., 3, H, W)`` as RGB or BGR."""
    if image_format not in ("RGB", "BGR"):
        raise DataError(f"The format of pictures is 'RGB' or 'BGR', got {image_format!r}.")
    return image if image_format == "RGB" else image.flip(-3)


def frame_instances(frame: Frame) -> Instances:
    """What is annotated in a frame: ``gt_boxes``, ``gt_classes``, ``gt_ids``."""
    return Instances(
        (frame.height, frame.width),
        gt_boxes=Boxes(torch.from_numpy(frame.boxes)),
        gt_classes=torch.from_numpy(frame.classes),
        gt_ids=torch.from_numpy(frame.track_ids),
    )


class ClipDataset(Dataset[Clip]):
    """Training clips by position: everything about sample ``k`` of iteration ``i`` follows from (seed, i, k).

    Args:
        videos: every video comes once before one comes again, in an order of its own each time round.
        frame_sampler: which frames of the video.
        transforms: augmentation of the clip.
        total_batch_size: clips an iteration, all ranks together.
        seed: of the order, the frames and the augmentation.
        foreign_context: take each frame of a clip from another video instead, at the same place: a control that keeps
            everything but what belongs together in time.
        image_format: "RGB" or "BGR", the order of channels that a model wants; augmentation sees RGB in any case.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        frame_sampler: FrameSampler,
        transforms: Sequence[ClipTransform],
        total_batch_size: int,
        seed: int,
        foreign_context: bool = False,
        image_format: str = "RGB",
    ) -> None:
        self.videos = videos
        self.frame_sampler = frame_sampler
        self.transforms = transforms
        self.total_batch_size = total_batch_size
        self.seed = seed
        self.foreign_context = foreign_context
        self.image_format = image_format
        self._order: tuple[int, np.ndarray[Any, Any]] = (-1, np.empty(0, np.int64))

    def __getitem__(self, position: Position) -> Clip:
        """The clip of a position.

        Raises:
            DataError: one of its frames can't be used; the message names it.
        """
        iteration, k = position
        rng = np.random.default_rng((self.seed, _OF_A_SAMPLE, iteration, k))
        count = iteration * self.total_batch_size + k
        video = self.videos[self._video_index(count)]
        indices = self.frame_sampler(len(video), rng)
        places = [(video, int(i)) for i in indices]
        if self.foreign_context:
            places = self._foreign(video, indices, rng)
        frames = [read_frame(v, i) for v, i in places]
        clip = Clip(
            frames=torch.stack(frames),
            instances=[frame_instances(v.frames[i]) for v, i in places],
            video_ids=[v.video_id for v, _ in places],
            frame_indices=[i for _, i in places],
            position=count,
        )
        clip = apply_transforms(clip, self.transforms, rng)
        return dataclasses.replace(clip, frames=_in_format(clip.frames, self.image_format))

    def _video_index(self, count: int) -> int:
        turn, place = divmod(count, len(self.videos))
        if self._order[0] != turn:
            self._order = (
                turn,
                np.random.default_rng((self.seed, _OF_THE_ORDER, turn)).permutation(len(self.videos)),
            )
        return int(self._order[1][place])

    def _foreign(self, video: Video, indices: Any, rng: np.random.Generator) -> list[tuple[Video, int]]:
        size = (video.frames[0].height, video.frames[0].width)
        others = [v for v in self.videos if (v.frames[0].height, v.frames[0].width) == size]
        drawn = rng.choice(len(others), len(indices), replace=len(others) < len(indices))
        return [(others[d], min(int(i), len(others[d]) - 1)) for d, i in zip(drawn, indices, strict=True)]


class FrameDataset(Dataset[dict[str, Any]]):
    """Frames for evaluation, in order, in detectron2's form.

    An item holds ``image`` (``(3, H, W)`` uint8 in ``image_format``, resized), ``height`` and ``width`` (of the frame on disk: detections
    and ground truth are in its pixels), ``video_id``, ``frame_index``, ``image_id``, ``file_name``, ``fps`` (None where
    unknown), ``patient``, ``metadata`` (see `Video`) and ``instances`` (the ground truth).

    Args:
        videos: in the order of evaluation.
        area: resize to so many square pixels; None keeps the size.
        foreign_context: give frame 0 of every video, then frame 1 of every video, and so on, all as one stream: what a
            model remembers then comes from other videos. A control, see `ClipDataset`.
        image_format: see `ClipDataset`.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        area: float | None = None,
        foreign_context: bool = False,
        image_format: str = "RGB",
    ) -> None:
        self.videos = videos
        self.area = area
        self.image_format = image_format
        self.foreign_context = foreign_context
        self.places = [(v, t) for v, video in enumerate(videos) for t in range(len(video))]
        if foreign_context:
            self.places.sort(key=lambda place: (place[1], place[0]))

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The frame of a place.

        Raises:
            DataError: it can't be used; the message names it.
        """
        video_index, t = self.places[index]
        video = self.videos[video_index]
        frame = video.frames[t]
        item = {
            "image": frame_for_test(read_frame(video, t), self.area, self.image_format),
            "height": frame.height,
            "width": frame.width,
            "video_id": video.video_id,
            "frame_index": t,
            "image_id": frame.image_id,
            "file_name": frame.path,
            "fps": video.fps,
            "patient": video.patient,
            "metadata": dict(video.metadata),
            "instances": frame_instances(frame),
        }
        return {**item, "stream_id": "all videos"} if self.foreign_context else item
