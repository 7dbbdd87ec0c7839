"""The contract of every detector: losses of clips, and a stream that is a pure function of an image and a state.

Legend: ``B`` clips, ``T`` frames of a clip, ``H, W`` height and width in pixels, ``K`` rows of detections, ``G`` rows of ground truth.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ultravid.config.errors import did_you_mean
from ultravid.modeling.organs import organs_of
from ultravid.modeling.postprocessing import detector_postprocess
from ultravid.modeling.published import current_names
from ultravid.modeling.types import Detections, State, Targets
from ultravid.structures import Boxes, Clip, Instances

__all__ = ["ClipBatch", "DetectorArguments", "Tracker", "VideoDetector", "VideoStream"]

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


class ClipBatch(NamedTuple):
    """Clips as tensors; smaller images and shorter clips are padded at their end.

    Attributes:
        images: ``(B, T, 3, H, W)`` float32, normalised; padding is zero.
        frame_valid: ``(B, T)`` bool, False for frames that pad a short clip.
        is_memory: ``(B, T)`` bool, True for the frames that `Clip.num_memory` counts.
        targets: the ground truth of all ``B * T`` frames.
        organ: ``(B,)`` int64, place in `VideoDetector.organs`.
    """

    images: Tensor
    frame_valid: Tensor
    is_memory: Tensor
    targets: Targets
    organ: Tensor


class Tracker(Protocol):
    """Links detections of a stream to tracks, on the host, after the boxes were scaled to the output's size."""

    def initial_state(self) -> State:
        """The state before the first frame, on the CPU."""
        ...

    def update(self, detections: Detections, state: State) -> tuple[Detections, State]:
        """Assign the detections of the next frame to tracks.

        Args:
            detections: all valid, on the CPU, with boxes in pixels of the output.
            state: from `initial_state` or the previous call; it must not be written to.

        Returns:
            The detections with ``track_ids``, as many and in the order that the tracker chooses (rows that are not valid are left out of
            the results), and the next state.
        """
        ...


class DetectorArguments(TypedDict, total=False):
    """The arguments of `VideoDetector`, which each family takes too."""

    pixel_mean: Sequence[float]
    pixel_std: Sequence[float]
    organs: Sequence[str]
    organ_loss_weights: Mapping[str, float] | None
    tracker: Tracker | None
    gradient_checkpointing: bool


class VideoDetector(nn.Module, ABC):
    """A detector in video.

    Training: ``model(list[Clip])`` returns a dict of losses. Evaluation: ``model([{"image", "height", "width", "video_id", ...}])``
    returns ``[{"instances"}]``, frame after frame of one stream; a change of ``stream_id`` (else ``video_id``) or `reset`
    starts a new one. ``image`` is ``(3, H, W)``, RGB in 0..255; ``organ``, if it is given, is the same in all frames of a stream. Several streams at once: one `VideoStream` each.

    Args:
        pixel_mean: mean of R, G and B, in 0..255.
        pixel_std: standard deviation of R, G and B.
        organs: names of the organs that the model takes; empty: those that it has a classifier for (`modeling.organs`), or any
            organ if its classifiers are the same for all.
        organ_loss_weights: factor of a clip's losses by its organ; 1 for an organ that is not listed.
        tracker: links the detections of a stream; None for none.
        gradient_checkpointing: in training, keep no activations of the backbone but compute them again in the backward pass, which
            saves most of the memory and costs about a quarter of the time. Batch norms that are not frozen then count each batch twice
            in their running statistics.

    Attributes:
        organs: names of the organs, in the order of the classifiers; empty if the model takes any. A family's constructor ends with
            `resolve_organs`, which asks the classifiers.

    Raises:
        ValueError: the classifiers are for other organs than the model was given, ``organ_loss_weights`` names another, or the mean or
            the deviation of the pixels is not three numbers.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
        organs: Sequence[str] = (),
        organ_loss_weights: Mapping[str, float] | None = None,
        tracker: Tracker | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if len(pixel_mean) != 3 or len(pixel_std) != 3 or min(pixel_std) <= 0:
            raise ValueError(
                f"pixel_mean={list(pixel_mean)} and pixel_std={list(pixel_std)} must be three numbers each, for R, G and B, and the "
                "deviations above 0."
            )
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(pixel_std, dtype=torch.float32).view(-1, 1, 1))
        self.organs: tuple[str, ...] = tuple(organs)
        self.organ_loss_weights = dict(organ_loss_weights or {})
        self.tracker = tracker
        self.gradient_checkpointing = gradient_checkpointing
        self._stream: VideoStream | None = None
        self._stream_id: object = None

    # --- what a family defines

    @abstractmethod
    def initial_state(self, image_size: tuple[int, int], organ: str = "") -> State:
        """The state before the first frame of a stream, on the model's device.

        Args:
            image_size: (height, width) of the stream's images in pixels.
            organ: the organ that is scanned; needed by a model that has a classifier per organ.

        Raises:
            ValueError: as `organ_index`.
        """

    @abstractmethod
    def _step(self, image: Tensor, state: State, phase: int) -> tuple[Detections, State]:
        """What `step` computes; a subclass defines it, callers use `step`.

        Args:
            image: ``(3, H, W)`` float32 in 0..255, RGB, on the model's device.
            state: from `initial_state` or the previous step; it must not be written to.
            phase: what `phase` gives for the frame's number; 0 for a model with one phase.

        Returns:
            ``K`` rows of `Detections` in pixels of the image, and the next state, with the same keys, shapes and dtypes.
        """

    @abstractmethod
    def detect_clip(self, frames: Tensor, organ: str = "") -> Detections:
        """Detections ``(T, K, ...)`` of a whole clip at once, as training computes it, but without ground truth.

        A causal model gives what a stream that begins at the clip's first frame gives.

        Args:
            frames: ``(T, 3, H, W)`` in 0..255, RGB.
            organ: as for `initial_state`.
        """

    @abstractmethod
    def losses(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """The losses of clips, each a scalar mean over the clips of all processes once DDP has averaged the gradients.

        Args:
            clips: the clips of this process, with annotations on all frames that are not memory.
        """

    @property
    def num_phases(self) -> int:
        """Number of different computations that frames of a stream take; 1 if all take the same."""
        return 1

    def phase(self, frame_number: int) -> int:
        """Which of the `num_phases` computations the frame with this number in its stream takes.

        Args:
            frame_number: how many frames of the stream come before this one.

        Returns:
            A number from 0 to ``num_phases - 1``.
        """
        del frame_number
        return 0

    # --- what they share

    @torch.no_grad()
    def step(self, image: Tensor, state: State, phase: int = 0) -> tuple[Detections, State]:
        """Detect in the next frame of a stream, without gradients. Nothing is written to, neither the inputs nor the model.

        Args:
            image: ``(3, H, W)`` float32 in 0..255, RGB, on the model's device.
            state: the state of the stream, from `initial_state` or the previous step.
            phase: what the method `phase` gives for the frame's number.

        Returns:
            ``K`` rows of `Detections` in pixels of the image, and the next state, with the same keys, shapes and dtypes.
        """
        return self._step(image, state, phase)

    @property
    def device(self) -> torch.device:
        """The device of the model; inputs are moved there."""
        return self.pixel_mean.device

    def normalize(self, image: Tensor) -> Tensor:
        """``(..., 3, H, W)`` in 0..255 to zero mean and unit variance, on the model's device.

        Args:
            image: RGB, of any dtype and on any device.

        Returns:
            The same shape, float32.

        Raises:
            ValueError: the model's weights are of half precision.
        """
        if self.pixel_mean.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"The model's weights are {self.pixel_mean.dtype}; keep them in float32 and compute in half precision by "
                'train.amp.enabled=true in training, and prepare_for_inference(model, image_size, precision="bfloat16").'
            )
        return (image.to(self.device, non_blocking=True).float() - self.pixel_mean) / self.pixel_std

    def current_names(self, names: Iterable[str]) -> dict[str, str]:
        """Today's names of weights of earlier versions and of the predecessor (`ultravid.modeling.published.current_names`).

        `ultravid.checkpoint` calls it when a file has names that the model does not have.

        Args:
            names: the names of weights in a file.

        Returns:
            The model's name for each name of the file that the model does not have, but has under another name; "" for one that no
            model needs. Other names are left out.
        """
        return current_names(names, self.state_dict().keys())

    def resolve_organs(self) -> None:
        """Set `organs` to those of the classifiers, once all parts are there.

        Raises:
            ValueError: the model was given other organs, or ``organ_loss_weights`` names another.
        """
        of_classifiers, given = organs_of(self), self.organs
        if of_classifiers and given and of_classifiers != given:
            raise ValueError(
                f"The model's organs are {', '.join(given)}, those of its classifiers {', '.join(of_classifiers)}; they must be the "
                "same, in the same order."
            )
        self.organs = of_classifiers or given
        for organ in self.organ_loss_weights if self.organs else ():
            if organ not in self.organs:
                raise ValueError(
                    f"organ_loss_weights names {organ!r}, which is not an organ of the model.{did_you_mean(organ, self.organs)}"
                )

    def computed_names(self) -> set[str]:
        """Names of constants in the state dict that follow from the config: a file of weights may lack them."""
        of_norms = {"weight", "bias", "running_mean", "running_var"}
        buffers = {name for name, _ in self.named_buffers() if name.rpartition(".")[2] not in of_norms}
        return buffers & self.state_dict().keys()

    def organ_index(self, organ: str) -> Tensor:
        """``()`` int64: the organ's place in `organs`, 0 for a model without a classifier per organ.

        Args:
            organ: the name of the organ; "" if it is not known.

        Raises:
            ValueError: the model has a classifier per organ, but none for this one.
        """
        organs = self.organs
        if organs and organ == "":
            raise ValueError(
                f"This model has a classifier per organ ({', '.join(organs)}), but the organ is not known: state it in the videos' metadata, "
                "or as the argument organ of the loader or of the stream."
            )
        if organs and organ not in organs:
            raise ValueError(f"{organ!r} is not an organ of the model.{did_you_mean(organ, organs)}")
        return torch.tensor(organs.index(organ) if organs else 0, device=self.device)

    def one_clip(self, frames: Tensor, organ: str) -> tuple[Tensor, Tensor, Tensor]:
        """The input of the parts in `detect_clip`: images ``(1, T, 3, H, W)`` float32, all valid ``(1, T)``, and the organ ``(T,)`` of each frame.

        Args:
            frames: ``(T, 3, H, W)`` in 0..255, RGB.
            organ: as for `initial_state`.

        Raises:
            ValueError: as `organ_index`.
        """
        images = self.normalize(frames)[None]
        frame_valid = torch.ones(images.shape[:2], dtype=torch.bool, device=images.device)
        return images, frame_valid, self.organ_index(organ)[None].expand(len(frames))

    def batch(self, clips: Sequence[Clip]) -> ClipBatch:
        """Clips as tensors on the model's device.

        Args:
            clips: the clips; shorter ones, and smaller images, are padded.

        Raises:
            ValueError: a ground-truth box on the CPU has no area. Boxes on a GPU are not checked: it would have to be waited for.
        """
        _check_boxes(clips)
        length = max(len(c) for c in clips)
        height, width = (max(int(c.frames.shape[d]) for c in clips) for d in (-2, -1))
        images, frames = [], []
        for clip in clips:
            image = self.normalize(clip.frames)
            pad = (0, width - image.shape[-1], 0, height - image.shape[-2], 0, 0, 0, length - len(clip))
            images.append(F.pad(image, pad) if any(pad) else image)
            frames += [*clip.instances, *(None for _ in range(length - len(clip)))]
        lengths = torch.tensor([[len(c)] for c in clips])
        place = torch.arange(length)[None]
        frame_valid = place < lengths
        is_memory = place < torch.tensor([[c.num_memory] for c in clips])
        organ_weight = torch.tensor([[float(self.organ_loss_weights.get(c.organ, 1.0))] for c in clips])
        weight = organ_weight * (frame_valid & ~is_memory)
        sizes = [(float(c.frames.shape[-2]), float(c.frames.shape[-1])) for c in clips for _ in range(length)]
        boxes, classes, valid = _padded_ground_truth(frames)
        targets = Targets(boxes, classes, valid, weight.flatten(), torch.tensor(sizes))
        return ClipBatch(
            images=torch.stack(images),
            frame_valid=frame_valid.to(self.device),
            is_memory=is_memory.to(self.device),
            targets=Targets(*(field.to(self.device, non_blocking=True) for field in targets)),
            organ=torch.stack([self.organ_index(c.organ) for c in clips]),
        )

    def forward(self, inputs: list[Any]) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """Losses of clips in training, detections of frames in evaluation, in the form that the class describes.

        Args:
            inputs: a list of `Clip` in training; test items with ``image``, ``height``, ``width`` and ``video_id`` in
                evaluation, one frame after the other.

        Returns:
            Losses by name, or ``{"instances": Instances}`` for each item.
        """
        if self.training:
            return self.losses(inputs)
        return [{"instances": self._detect(frame)} for frame in inputs]

    def _detect(self, frame: dict[str, Any]) -> Instances:
        image = frame["image"]
        size = (int(image.shape[-2]), int(image.shape[-1]))
        stream_id, organ = frame.get("stream_id", frame.get("video_id")), str(frame.get("organ", ""))
        if self._stream is None or stream_id != self._stream_id:
            self._stream = VideoStream(self, size, organ=organ)
            self._stream_id = stream_id
        elif organ != self._stream.organ and "organ" in frame:
            raise ValueError(
                f"Frame {self._stream.frame_number} of stream {stream_id!r} shows {organ!r}, the frames before it {self._stream.organ!r}: "
                "a stream has one organ. Give the frame another stream_id, or call reset first."
            )
        return self._stream(image, (frame.get("height", size[0]), frame.get("width", size[1])))

    def reset(self) -> None:
        """Forget the stream of `forward`; the next frame begins a new one."""
        self._stream = None
        self._stream_id = None

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return {**state, "_stream": None, "_stream_id": None}


class VideoStream:
    """One stream of frames through a model in evaluation mode: its state, its frame number, its tracks, the scaling of its boxes.

    Streams are independent: several may pass one model, in turns or from threads.

    Args:
        model: is not changed.
        image_size: (height, width) of the frames that the model is given, in pixels.
        output_size: (height, width) that the boxes are scaled to; None: that of the frames.
        organ: the organ that is scanned; needed by a model that has a classifier per organ.
        tracker: in place of the model's; None for none.
    """

    def __init__(
        self,
        model: VideoDetector,
        image_size: tuple[int, int],
        output_size: tuple[int, int] | None = None,
        organ: str = "",
        *,
        tracker: Tracker | Literal["the model's"] | None = "the model's",
    ) -> None:
        self.model = model
        self.tracker = model.tracker if isinstance(tracker, str) else tracker
        self.organ = organ
        self.image_size = image_size
        self.output_size = output_size or image_size
        self.reset()

    def reset(self) -> None:
        """Start a new stream, as with the first frame of a video."""
        self.frame_number = 0
        self.state = self.model.initial_state(self.image_size, self.organ)
        self.tracker_state = None if self.tracker is None else self.tracker.initial_state()

    @torch.no_grad()
    def __call__(self, image: Tensor, output_size: tuple[int, int] | None = None) -> Instances:
        """Detect in the next frame.

        Args:
            image: ``(3, H, W)``, RGB in 0..255.
            output_size: (height, width) for this frame, if it is another than the stream's.

        Returns:
            ``pred_boxes`` (in pixels of the output, inside it), ``scores``, ``pred_classes``, and with a tracker ``track_ids``.

        Raises:
            ValueError: the image has another size than those before it, and the model's state depends on the size; or it is no image, or
                one on the CPU with values that are NaN or infinite, which would spoil the frames after it.
        """
        self._check_image(image)
        size = (int(image.shape[-2]), int(image.shape[-1]))
        if size != self.image_size:
            self._check_size(size)
        image = image.to(self.model.device, non_blocking=True).float()
        detections, self.state = self.model.step(image, self.state, self.model.phase(self.frame_number))
        self.frame_number += 1
        return self._output(detections, size, output_size or self.output_size)

    def _check_image(self, image: Tensor) -> None:
        shape = list(getattr(image, "shape", ()))
        if not isinstance(image, Tensor) or image.dim() not in (2, 3) or shape[:-2] not in ([], [1], [3]):
            raise ValueError(
                f"Frame {self.frame_number} of the stream is {type(image).__name__} of shape {tuple(shape)}; a frame is a tensor "
                "(3, height, width), RGB in 0..255, without an axis for the batch."
            )
        # The sum is finite if all values are, and costs a third of asking each; a GPU would have to be waited for.
        if image.device.type == "cpu" and image.is_floating_point() and not image.sum(dtype=torch.float32).isfinite():
            raise ValueError(f"Frame {self.frame_number} of the stream has values that are NaN or infinite.")

    def _check_size(self, size: tuple[int, int]) -> None:
        if _shapes(self.model.initial_state(size, self.organ)) != _shapes(
            self.model.initial_state(self.image_size, self.organ)
        ):
            raise ValueError(
                f"Frame {self.frame_number} of the stream is {size[1]}x{size[0]} px, the frames before it are "
                f"{self.image_size[1]}x{self.image_size[0]}: the model relates maps of several frames, which must have one "
                "size. Resize the frames, or begin a new stream."
            )

    def _output(self, detections: Detections, size: tuple[int, int], output_size: tuple[int, int]) -> Instances:
        row = detections.valid.nonzero()[:, 0]
        found = Instances(
            size,
            pred_boxes=Boxes(detections.boxes[row]),
            scores=detections.scores[row],
            pred_classes=detections.classes[row],
        )
        found = detector_postprocess(found, *output_size)
        if self.tracker is None:
            return found
        boxes, scores, classes = found.pred_boxes.tensor.cpu(), found.scores.cpu(), found.pred_classes.cpu()
        valid = torch.ones(len(found), dtype=torch.bool)
        updated = self.tracker.update(Detections.of(boxes, scores, classes, valid), self.tracker_state or {})
        if not (isinstance(updated, tuple) and len(updated) == 2):
            raise ValueError(
                f"{type(self.tracker).__name__}.update must return two values: the detections with track_ids, and the next state."
            )
        tracked, self.tracker_state = updated
        kept = Detections(*(field[tracked.valid] for field in tracked))
        return Instances(
            output_size,
            pred_boxes=Boxes(kept.boxes),
            scores=kept.scores,
            pred_classes=kept.classes,
            track_ids=kept.track_ids,
        )


def _check_boxes(clips: Sequence[Clip]) -> None:
    faults = []
    for clip in clips:
        for place, instances in enumerate(clip.instances):
            boxes = instances.gt_boxes.tensor if len(instances) else None
            if boxes is None or boxes.device.type != "cpu":
                continue
            wrong = boxes[~(boxes[:, 2:] > boxes[:, :2]).all(dim=1)].tolist()
            where = f"in frame {clip.frame_indices[place]} of video {clip.video_ids[place]}"
            faults += [f"{box} {where}" for box in wrong]
    if faults:
        raise ValueError(
            f"Ground-truth boxes need x2 > x1 and y2 > y1: {'; '.join(faults[:5])}{' ...' if faults[5:] else ''}."
        )


def _padded_ground_truth(frames: Sequence[Instances | None]) -> tuple[Tensor, Tensor, Tensor]:
    """``(B, G, 4)`` boxes, ``(B, G)`` classes and ``(B, G)`` valid of frames, on the CPU; None is a frame without ground truth."""
    rows = max([1, *(len(f) for f in frames if f is not None)])
    boxes = torch.zeros(len(frames), rows, 4)
    classes = torch.zeros(len(frames), rows, dtype=torch.int64)
    valid = torch.zeros(len(frames), rows, dtype=torch.bool)
    for b, frame in enumerate(frames):
        if frame is not None and len(frame):
            boxes[b, : len(frame)] = frame.gt_boxes.tensor
            classes[b, : len(frame)] = frame.gt_classes
            valid[b, : len(frame)] = True
    return boxes, classes, valid


def _shapes(state: State) -> dict[str, Any]:
    return {k: _shapes(v) if isinstance(v, dict) else tuple(v.shape) for k, v in state.items()}
