"""Compares two forms of a detector: their detections are paired, frame by frame of a stream.

Legend: ``H, W`` height and width of a frame in pixels, ``N`` detections of a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Agreement", "Arrays", "Step", "compare_steps", "noise_frames", "pair_detections"]

Arrays = Mapping[str, NDArray[Any]]
"""The inputs or outputs of a step, by name (see `StepGraph`)."""

Step = Callable[[Arrays, int], Arrays]
"""``step(inputs, phase) -> outputs``."""

BOX_TOLERANCE_PX = 0.05
SCORE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Agreement:
    """How the detections of one form compare with those of another.

    Attributes:
        frames: number of frames.
        detections: number of detections in them, of the form that has more of them.
        unpaired: how many of these have no partner of the same class within the tolerances: as where a score or an overlap lies so near
            a threshold that rounding decides.
        box_px: the largest difference between sides of paired boxes.
        score: the largest difference between paired scores.
    """

    frames: int = 0
    detections: int = 0
    unpaired: int = 0
    box_px: float = 0.0
    score: float = 0.0

    def __add__(self, other: Agreement) -> Agreement:
        """Of the frames of both."""
        return Agreement(
            self.frames + other.frames,
            self.detections + other.detections,
            self.unpaired + other.unpaired,
            max(self.box_px, other.box_px),
            max(self.score, other.score),
        )


def pair_detections(
    expected: Arrays, found: Arrays, box_px: float = BOX_TOLERANCE_PX, score: float = SCORE_TOLERANCE
) -> Agreement:
    """Pair the valid detections of a frame, each with the nearest that is left, the nearest pairs first.

    Args:
        expected: ``boxes``, ``scores``, ``classes`` and ``valid``.
        found: as ``expected``.
        box_px: a pair's sides differ by no more.
        score: a pair's scores differ by no more.
    """
    one, other = (
        {name: form[name][form["valid"]] for name in ("boxes", "scores", "classes")} for form in (expected, found)
    )
    of_box = np.abs(one["boxes"][:, None] - other["boxes"][None]).max(axis=-1)  # (N, N')
    of_score = np.abs(one["scores"][:, None] - other["scores"][None])
    possible = (of_box <= box_px) & (of_score <= score) & (one["classes"][:, None] == other["classes"][None])
    cost = np.where(possible, of_box / box_px + of_score / score, np.inf)
    pairs: list[tuple[int, int]] = []
    while cost.size and np.isfinite(cost.min()):
        row, column = np.unravel_index(cost.argmin(), cost.shape)
        pairs.append((int(row), int(column)))
        cost[row], cost[:, column] = np.inf, np.inf
    number = max(cost.shape)
    return Agreement(
        frames=1,
        detections=number,
        unpaired=number - len(pairs),
        box_px=max((float(of_box[pair]) for pair in pairs), default=0.0),
        score=max((float(of_score[pair]) for pair in pairs), default=0.0),
    )


def compare_steps(
    expected: Step, found: Step, initial: Arrays, images: Iterable[NDArray[np.float32]], cycle: Sequence[int]
) -> Agreement:
    """Compare two forms over a stream, each with a state of its own.

    Args:
        expected: one form.
        found: the other one.
        initial: the state before the first frame, ``state.<path>`` by name.
        images: ``(3, H, W)``, the stream's frames.
        cycle: frame ``n`` takes the phase at place ``n % len(cycle)``.
    """
    agreement = Agreement()
    states = [initial, initial]
    for number, image in enumerate(images):
        outputs = [
            step({"image": image, **state}, cycle[number % len(cycle)])
            for step, state in zip((expected, found), states, strict=True)
        ]
        states = [{name: output[f"next_{name}"] for name in initial} for output in outputs]
        agreement += pair_detections(outputs[0], outputs[1])
    return agreement


def noise_frames(image_size: tuple[int, int], count: int) -> Iterator[NDArray[np.float32]]:
    """``count`` grey frames ``(3, H, W)`` of random squares of 8 px."""
    rng = np.random.default_rng(0)
    height, width = image_size
    for _ in range(count):
        cells = rng.integers(0, 256, (-(-height // 8), -(-width // 8))).astype(np.float32)
        plane = cells.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
        yield np.ascontiguousarray(np.broadcast_to(plane, (3, height, width)))
