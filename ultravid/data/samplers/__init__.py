"""The order of samples: clips of videos, frames of a clip, and images by their index."""

from ultravid.data.samplers.clips import (
    AnchoredFrameSampler,
    FilmFrameSampler,
    FrameSampler,
    InfiniteClipSampler,
    MemoryFrameSampler,
    Position,
    StridedFrameSampler,
    WindowFrameSampler,
    shard_videos,
)
from ultravid.data.samplers.films import Film
from ultravid.data.samplers.images import (
    GroupedBatchSampler,
    InferenceSampler,
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)

__all__ = [
    "AnchoredFrameSampler",
    "Film",
    "FilmFrameSampler",
    "FrameSampler",
    "GroupedBatchSampler",
    "InferenceSampler",
    "InfiniteClipSampler",
    "MemoryFrameSampler",
    "Position",
    "RandomSubsetTrainingSampler",
    "RepeatFactorTrainingSampler",
    "StridedFrameSampler",
    "TrainingSampler",
    "WindowFrameSampler",
    "shard_videos",
]
