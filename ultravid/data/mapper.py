"""Reads the frames of a clip or of a test item from disk and turns them into the input of a model.

Legend: ``T`` frames, ``H, W`` height and width in pixels, ``N`` lesions in a frame.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ultravid.data.clip_planner import ClipPlanner, StaticClips
from ultravid.data.loader_videos import organ_of
from ultravid.data.pixels import as_rgb, has_one_plane, resize_frames, to_contiguous
from ultravid.data.samplers import AnchoredFrameSampler, Film, FilmFrameSampler, FrameSampler, Position
from ultravid.data.transforms import ClipTransform, apply_transforms, area_size
from ultravid.datasets.readers import read_frame_image
from ultravid.datasets.video import DataError, Frame, Video
from ultravid.structures import Boxes, Clip, Instances
from ultravid.utils.seed import seeded_generators

__all__ = ["ClipDataset", "FrameDataset", "frame_for_test"]


# Streams of one seed; without a tag (seed, turn) and (seed, turn, 0) would be the same stream. 2 is the order of videos, 3 the
# mined clips (`clip_planner`), 4 the loader of an iteration (`mixing`).
_OF_A_SAMPLE, _OF_STATIC = 1, 5


def read_frame(video: Video, index: int) -> Tensor:
    """Frame ``index`` as ``(3, H, W)`` uint8 RGB; the channels of a grey frame share their memory, see `pixels.as_rgb`.

    Raises:
        DataError: it can't be decoded, or has another size than its annotation states.
    """
    planes = _read_planes(video, index)
    return torch.from_numpy(np.stack(planes)) if len(planes) == 3 else as_rgb(torch.from_numpy(planes[0])[None])


def _read_planes(video: Video, index: int) -> Sequence[NDArray[np.uint8]]:
    """The channels of a frame, each ``(H, W)``; only one if all are equal."""
    image = read_frame_image(video, index, keep_grey=True)
    if image.ndim == 2:
        return [image]
    planes = [np.asarray(plane, np.uint8) for plane in cv2.split(image)]
    grey = np.array_equal(planes[0], planes[1]) and np.array_equal(planes[0], planes[2])
    return planes[:1] if grey else planes


def _read_frames(places: Sequence[tuple[Video, int]]) -> Tensor:
    """``(T, 3, H, W)`` frames of videos, see `read_frame`; a frame that is repeated is decoded once.

    Raises:
        DataError: see `read_frame`; or the frames differ in size.
    """
    decoded: dict[tuple[str, int], Sequence[NDArray[np.uint8]]] = {}
    for video, index in places:
        if (video.video_id, index) not in decoded:
            decoded[video.video_id, index] = _read_planes(video, index)
    clip = [decoded[video.video_id, index] for video, index in places]
    for (video, index), planes in zip(places, clip, strict=True):
        if planes[0].shape != clip[0][0].shape:
            raise DataError(
                f"Video {video.video_id!r} frame {index}: is {planes[0].shape[1]}x{planes[0].shape[0]} px, "
                f"frame {places[0][1]} is {clip[0][0].shape[1]}x{clip[0][0].shape[0]} px; all frames of a clip must have the same size."
            )
    if all(len(planes) == 1 for planes in clip):
        return as_rgb(torch.from_numpy(np.stack([planes[0] for planes in clip]))[:, None])
    return torch.from_numpy(np.stack([np.broadcast_to(np.stack(planes), (3, *planes[0].shape)) for planes in clip]))


def frame_for_test(image: Tensor, area: float | None = None, image_format: str = "RGB") -> Tensor:
    """A model's input for a frame ``(3, H, W)`` uint8 RGB: resized to an area, with its channels in the given order.

    Args:
        image: the frame.
        area: square pixels; None keeps the size.
        image_format: "RGB" or "BGR".
    """
    if area is not None:
        image = resize_frames(image, *area_size(image.shape[-2], image.shape[-1], area))
    return to_contiguous(_in_format(image, image_format))


def _in_format(image: Tensor, image_format: str) -> Tensor:
    """RGB images ``(..., 3, H, W)`` as RGB or BGR."""
    if image_format not in ("RGB", "BGR"):
        raise DataError(f"image_format must be 'RGB' or 'BGR', got {image_format!r}.")
    return image if image_format == "RGB" or has_one_plane(image) else image.flip(-3)


def frame_instances(frame: Frame) -> Instances:
    """The annotations of a frame: ``gt_boxes``, ``gt_classes``, ``gt_ids``."""
    return Instances(
        (frame.height, frame.width),
        gt_boxes=Boxes(torch.from_numpy(frame.boxes)),
        gt_classes=torch.from_numpy(frame.classes),
        gt_ids=torch.from_numpy(frame.track_ids),
    )


class ClipDataset(Dataset[Clip]):
    """Training clips by position: everything about sample ``k`` of iteration ``i`` follows from (seed, i, k).

    That holds for samplers and transforms that draw from Python's, numpy's or torch's global generators too: these are seeded
    for each clip, once before it is loaded and once before ``device_transforms``, and are afterwards what they were before.

    Args:
        videos: each is used once before one is used again, in another order each time.
        frame_sampler: chooses the frames of the video; in videos with gaps by their time, if it can (`FilmFrameSampler`). One with an
            attribute ``num_memory`` declares the number of leading frames that are memory frames (`Clip.num_memory`).
        transforms: augmentation of the clip.
        total_batch_size: clips per iteration, all ranks together.
        seed: the seed of the order, the frames and the augmentation.
        foreign_context: take each frame of a clip from another video instead, at the same place: a control that removes
            only the coherence in time.
        image_format: "RGB" or "BGR", the order of channels that the model needs; augmentation always gets RGB.
        device_transforms: augmentation after ``transforms``, from the same generator: the list in which a transform is changes
            only where it runs (`ClipLoader`), unless it draws from a global generator.
        planner: chooses the video of each clip; None: all ``videos`` in turn.
        static: makes some clips static.
        organ: the organ of the clips; None: the one in each video's metadata.

    Raises:
        DataError: mining lists frames but the frame sampler can't include a given one, or no clip can be made static.
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
        *,
        device_transforms: Sequence[ClipTransform] = (),
        planner: ClipPlanner | None = None,
        static: StaticClips | None = None,
        organ: str | None = None,
    ) -> None:
        self.videos = videos
        self.frame_sampler = frame_sampler
        self.transforms = transforms
        self.device_transforms = device_transforms
        self.total_batch_size = total_batch_size
        self.seed = seed
        self.foreign_context = foreign_context
        self.image_format = image_format
        self.planner = planner or ClipPlanner(videos, seed)
        self.static = static
        self.organ = organ
        self.films = {place: Film(video.times) for place, video in enumerate(videos) if not video.is_even}
        if self.planner.holds_frames and not isinstance(frame_sampler, AnchoredFrameSampler):
            raise DataError(
                f"Clips with a listed frame need a frame sampler that has a method around(), and {type(frame_sampler).__name__} "
                "has none; set mining.frame_rate=0, or use another sampler."
            )
        if static is not None:
            static.check(videos)

    def __getitem__(self, position: Position) -> Clip:
        """The clip of a position.

        Raises:
            DataError: one of its frames can't be used; the message names it.
        """
        return self.finish(*self.load(position))

    def load(self, position: Position) -> tuple[Clip, np.random.Generator]:
        """The clip before ``device_transforms``, and the generator for them."""
        with seeded_generators(self.seed, "clip", *position):
            return self._load(*position)

    def _load(self, iteration: int, k: int) -> tuple[Clip, np.random.Generator]:
        rng = np.random.default_rng((self.seed, _OF_A_SAMPLE, iteration, k))
        count = iteration * self.total_batch_size + k
        planned = self.planner(count)
        video = self.videos[planned.video]
        indices = self._frame_indices(video, self.films.get(planned.video), planned.frame, count, rng)
        self._check_indices(indices, video)
        places = [(video, int(i)) for i in indices]
        if self.foreign_context:
            places = self._foreign(video, indices, rng)
        clip = Clip(
            frames=_read_frames(places),
            instances=[frame_instances(v.frames[i]) for v, i in places],
            video_ids=[v.video_id for v, _ in places],
            frame_indices=[i for _, i in places],
            position=count,
            organ=organ_of(video, self.organ),
            num_memory=int(getattr(self.frame_sampler, "num_memory", 0)),
        )
        num_memory, length = clip.num_memory, len(clip)
        clip = apply_transforms(clip, self.transforms, rng)
        clip.position = count  # a transform may have made a new clip without it, and `finish` seeds from it
        if len(clip) == length:
            clip.num_memory = num_memory  # for the same reason: memory frames must not be trained on
        return clip, rng

    def finish(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """The clip that a model gets, from the results of `load`, on any device."""
        if self.device_transforms:
            with seeded_generators(self.seed, "device transforms", clip.position):
                clip = apply_transforms(clip, self.device_transforms, rng)
        return dataclasses.replace(clip, frames=to_contiguous(_in_format(clip.frames, self.image_format)))

    def _frame_indices(
        self, video: Video, film: Film | None, frame: int | None, count: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        if film is not None and isinstance(self.frame_sampler, FilmFrameSampler):
            indices = self.frame_sampler.of_film(film, rng, frame)
        elif frame is not None:
            assert isinstance(self.frame_sampler, AnchoredFrameSampler), "checked when the dataset is made"
            indices = self.frame_sampler.around(len(video), frame, rng)
        else:
            indices = self.frame_sampler(len(video), rng)
        if frame is not None:
            return indices
        if self.static is None:
            return indices
        still = self.static.frame_of(video, np.random.default_rng((self.seed, _OF_STATIC, count)))
        return indices if still is None else np.full_like(indices, still)

    def _check_indices(self, indices: Any, video: Video) -> None:
        """Refuse frames that a frame sampler of the user's chose and that the video does not have.

        Raises:
            DataError: there is none, or one is out of range.
        """
        wrong = [int(i) for i in indices if not 0 <= i < len(video)]
        if wrong or len(indices) == 0:
            raise DataError(
                f"The frame sampler {type(self.frame_sampler).__name__} chose {f'frame {wrong[0]}' if wrong else 'no frame'} of video "
                f"{video.video_id!r}, which has the frames 0 to {len(video) - 1}."
            )

    def _foreign(self, video: Video, indices: Any, rng: np.random.Generator) -> list[tuple[Video, int]]:
        size = (video.frames[0].height, video.frames[0].width)
        others = [v for v in self.videos if (v.frames[0].height, v.frames[0].width) == size]
        drawn = rng.choice(len(others), len(indices), replace=len(others) < len(indices))
        return [(others[d], min(int(i), len(others[d]) - 1)) for d, i in zip(drawn, indices, strict=True)]


class FrameDataset(Dataset[dict[str, Any]]):
    """Frames for evaluation, in order, in detectron2's form.

    An item holds ``image`` (``(3, H, W)`` uint8 in ``image_format``, resized), ``height`` and ``width`` (of the frame on disk: detections
    and ground truth are in its pixels), ``video_id``, ``frame_index``, ``frame_number`` and ``time_s`` (see `Frame`; the time is None
    if the frame has no time stamp), ``image_id``, ``file_name``, ``fps`` (None if unknown), ``patient``, ``metadata``,
    ``organ`` ("" if unknown), ``class_names``, ``category_ids``, ``merged_classes``, ``may_show_text`` (see `Video`), ``view`` (`FrameView`) and ``instances`` (the ground truth); if the
    frame has regions to ignore, also ``ignored`` and ``ignored_crowds`` (see `Frame`), in the same pixels as the ground truth. What a
    reader draws from the global generators depends on the frame alone.

    Args:
        videos: in the order of evaluation.
        area: square pixels to resize to; None keeps the size.
        foreign_context: give frame 0 of every video, then frame 1 of every video, and so on, as one stream: what the model
            remembers then comes from other videos. A control, see `ClipDataset`.
        image_format: see `ClipDataset`.
        all_videos: what all processes evaluate together, to be compared with the training's videos; None: ``videos``.
        organ: the organ of the frames, for a model that has a classifier per organ; None: the one in each video's metadata.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        area: float | None = None,
        foreign_context: bool = False,
        image_format: str = "RGB",
        all_videos: Sequence[Video] | None = None,
        organ: str | None = None,
    ) -> None:
        self.videos = videos
        self.organ = organ
        self.all_videos = videos if all_videos is None else all_videos
        self.area = area
        self.image_format = image_format
        self.foreign_context = foreign_context
        self._ends = np.cumsum([len(video) for video in videos])
        # For each item the number of its frame among those of all videos; a range if videos are not interleaved.
        self._order: Sequence[int] | NDArray[np.int64] = range(int(self._ends[-1]) if len(videos) else 0)
        if foreign_context:
            times = np.concatenate([np.arange(len(video)) for video in videos])
            self._order = np.argsort(times, kind="stable")

    def __len__(self) -> int:
        return len(self._order)

    def _place(self, index: int) -> tuple[int, int]:
        """(video, frame) of an item."""
        number = int(self._order[index])
        video = int(np.searchsorted(self._ends, number, side="right"))
        return video, number - int(self._ends[video]) + len(self.videos[video])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """An item.

        Raises:
            DataError: its frame can't be used; the message names it.
        """
        video_index, t = self._place(index)
        video = self.videos[video_index]
        with seeded_generators("frame", video.video_id, t):
            return self._load(video, t)

    def _load(self, video: Video, t: int) -> dict[str, Any]:
        frame = video.frames[t]
        item = {
            "image": frame_for_test(read_frame(video, t), self.area, self.image_format),
            "height": frame.height,
            "width": frame.width,
            "video_id": video.video_id,
            "frame_index": t,
            "frame_number": t if frame.number is None else frame.number,
            "time_s": frame.time_s,
            "image_id": frame.image_id,
            "file_name": frame.path,
            "fps": video.fps,
            "patient": video.patient if video.patient_known else None,
            "metadata": dict(video.metadata),
            "organ": organ_of(video, self.organ),
            "class_names": video.class_names,
            "category_ids": video.category_ids,
            "may_show_text": video.may_show_text,
            "view": video.view(t),
            "merged_classes": dict(video.merged_classes),
            "instances": frame_instances(frame),
        }
        if len(frame.ignored):
            item |= {"ignored": frame.ignored, "ignored_crowds": frame.ignored_crowds}
        return {**item, "stream_id": "all videos"} if self.foreign_context else item
