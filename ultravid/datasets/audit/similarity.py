"""Frames that show the same image, exactly or nearly.

Each frame gets a hash of its pixels and a perceptual hash: the signs of its lowest cosine frequencies against their median, after
Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010. Two frames are near duplicates if their
perceptual hashes differ in few bits and their thumbnails correlate. Both tolerate a change of size, of brightness and contrast, and
of compression, but neither a crop nor a mirror image.

Legend: ``N`` frames.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ultravid.datasets.readers.source import ImageArray

__all__ = ["FrameTable", "NearDuplicate", "find_near_duplicates", "perceptual_hash"]

_THUMBNAIL = 32  # px per side
_FREQUENCIES = 16  # per side: 256 bits
_BLANK = 2.0  # grey levels of standard deviation; an image with less shows nothing to compare
_PART = 1 << 14  # pairs of thumbnails compared at a time: 130 MB
_BLOCK = 1024  # frames compared with all others at a time: 1024 x 25,000 distances are 25 MB

# Measured on 761 breast stills of 425 patients: images of two patients differ in 82 bits or more and correlate by 0.88 or less;
# the same image made half as large, brighter, compressed to JPEG quality 30 or noisy differs in 36 bits or less and correlates
# by 0.977 or more. The most similar images that are not duplicates were two healthy lungs with one overlay: 66 bits, 0.938.
MAX_BITS = 56
MIN_CORRELATION = 0.95


def perceptual_hash(image: ImageArray) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """(hash of 256 bits as ``(4,)`` uint64, thumbnail ``(1024,)`` float32 of mean 0 and norm 1; zero of a blank image).

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = np.asarray(cv2.resize(grey, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA), np.float32)
    low = np.asarray(cv2.dct(small), np.float32)[:_FREQUENCIES, :_FREQUENCIES].reshape(-1)
    low[0] = 0.0  # the mean is brightness, not content
    bits = np.packbits(low > np.median(low)).view(np.uint64)
    centred = small.reshape(-1) - small.mean()
    blank = float(small.std()) < _BLANK
    return bits, np.zeros_like(centred) if blank else np.asarray(centred / np.linalg.norm(centred), np.float32)


@dataclass(frozen=True)
class NearDuplicate:
    """Two groups of frames, as two videos, that share images.

    Attributes:
        groups: the two.
        frames: the most similar pair of frames.
        correlation: of the thumbnails of that pair.
        num_pairs: pairs of near duplicates in all.
    """

    groups: tuple[int, int]
    frames: tuple[int, int]
    correlation: float
    num_pairs: int


class FrameTable:
    """Hashes and thumbnails of frames, 4 kB per frame."""

    def __init__(self) -> None:
        self.exact: list[bytes] = []
        self._bits: list[NDArray[np.uint64]] = []
        self._thumbnails: list[NDArray[np.float32]] = []

    def add(self, image: ImageArray) -> None:
        """Add the frame ``image``, ``(H, W, 3)`` uint8 RGB."""
        content = hashlib.blake2b(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes(), digest_size=16)
        bits, thumbnail = perceptual_hash(image)
        self.exact.append(content.digest())
        self._bits.append(bits)
        self._thumbnails.append(thumbnail)

    def __len__(self) -> int:
        return len(self.exact)

    @property
    def bits(self) -> NDArray[np.uint64]:
        """The perceptual hashes of the frames, 256 bits each: ``(N, 4)`` uint64, in the order in which they were added."""
        return np.asarray(self._bits, np.uint64).reshape(-1, 4)

    @property
    def thumbnails(self) -> NDArray[np.float32]:
        """The thumbnails of the frames, 32 x 32 pixels each: ``(N, 1024)`` float32, in the order in which they were added."""
        return np.asarray(self._thumbnails, np.float32).reshape(-1, _THUMBNAIL**2)


def find_near_duplicates(
    frames: FrameTable,
    groups: Sequence[int],
    splits: Sequence[int],
    patients: Sequence[int],
    max_bits: int = MAX_BITS,
    min_correlation: float = MIN_CORRELATION,
) -> list[NearDuplicate]:
    """Groups that share near duplicates, the most similar first; ties in the order of the groups.

    Two frames are compared if they are of different groups, and of different splits or different patients.

    Args:
        frames: ``N`` of them.
        groups: the groups of each frame, ``N`` numbers; a group is in one split and of one patient.
        splits: the splits of each frame.
        patients: the patients of each frame.
        max_bits: largest number of bits, of 256, in which two hashes may differ.
        min_correlation: smallest correlation of two thumbnails.
    """
    found: dict[tuple[int, int], NearDuplicate] = {}
    group = np.asarray(groups, np.int64)
    labels = np.stack([group, np.asarray(splits, np.int64), np.asarray(patients, np.int64)])
    for first, second, correlation in _pairs(frames, labels, max_bits, min_correlation):
        codes = group[first] * (group.max() + 1) + group[second]
        order = np.lexsort((-correlation, codes))
        starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
        counts = np.diff(np.append(starts, len(order)))
        for best, count in zip(order[starts], counts, strict=True):
            pair = (int(group[first[best]]), int(group[second[best]]))
            new = NearDuplicate(pair, (int(first[best]), int(second[best])), float(correlation[best]), int(count))
            found[pair] = _merged(found[pair], new) if pair in found else new
    return sorted(found.values(), key=lambda d: (-round(d.correlation, 6), d.groups))


def _merged(a: NearDuplicate, b: NearDuplicate) -> NearDuplicate:
    best = a if a.correlation >= b.correlation else b
    return NearDuplicate(a.groups, best.frames, best.correlation, a.num_pairs + b.num_pairs)


def _pairs(
    frames: FrameTable, labels: NDArray[np.int64], max_bits: int, min_correlation: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    """(first, second, correlation) of near duplicates, block by block; each pair once, the lower group first.

    ``labels`` is ``(3, N)``: group, split and patient of each frame.
    """
    order = np.argsort(labels[0], kind="stable")
    bits, thumbnails = frames.bits[order], frames.thumbnails[order]
    group, split, patient = labels[:, order]
    for start in range(0, len(order), _BLOCK):
        block, rest = slice(start, start + _BLOCK), slice(start, None)
        distance = np.zeros((len(group[block]), len(group[rest])), np.int16)
        for word in range(bits.shape[1]):
            distance += np.bitwise_count(bits[block, None, word] ^ bits[None, rest, word])
        near = (distance <= max_bits) & (group[block, None] < group[None, rest])
        near &= (split[block, None] != split[None, rest]) | (patient[block, None] != patient[None, rest])
        i, j = np.nonzero(near)
        for part in range(0, len(i), _PART):
            a, b = i[part : part + _PART] + start, j[part : part + _PART] + start
            correlation = np.einsum("nd,nd->n", thumbnails[a], thumbnails[b])
            alike = correlation >= min_correlation
            if alike.any():
                yield order[a[alike]], order[b[alike]], correlation[alike]
