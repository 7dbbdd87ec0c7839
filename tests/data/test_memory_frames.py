"""Clips whose first frames are memory."""

import dataclasses

import numpy as np
import pytest
import torch

from ultravid.config import get_config, instantiate
from ultravid.data import (
    MemoryFrameSampler,
    RandomTimeFlip,
    StaticClips,
    StridedFrameSampler,
    build_video_train_loader,
    load_cva_bus,
)


def clips(phantom, number=3, **changes):
    arguments = dict(
        videos=load_cva_bus(root=phantom),
        frame_sampler=MemoryFrameSampler(num_memory=2, memory_interval=4, num_frames=3, window=5),
        transforms=[],
        total_batch_size=2,
        seed=3,
    )
    batches = build_video_train_loader(**{**arguments, **changes}).iterate_from(0)
    return [clip for _, batch in zip(range(number), batches, strict=False) for clip in batch]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_workers": 1},
        {"device": "cpu"},
        {"foreign_context": True},
        {"static": StaticClips(rate=1.0, anywhere=True)},
    ],
    ids=["", "worker", "device", "foreign", "static"],
)
def test_memory_frames_are_declared_by_the_sampler_through_loader_and_workers(phantom, changes):
    for clip in clips(phantom, number=1, **changes):
        assert (len(clip), clip.num_memory, len(clip.instances)) == (5, 2, 5)


def test_other_samplers_have_no_memory(phantom):
    assert {c.num_memory for c in clips(phantom, frame_sampler=StridedFrameSampler(num_frames=3, stride=2))} == {0}


def test_a_clip_played_backwards_keeps_its_memory_first(phantom):
    for clip in clips(phantom):
        flipped = RandomTimeFlip(prob=1.0)(clip, np.random.default_rng(0))
        order = [1, 0, 4, 3, 2]
        assert flipped.num_memory == 2 and torch.equal(flipped.frames, clip.frames[order])
        for field in ("frame_indices", "video_ids", "instances"):
            assert getattr(flipped, field) == [getattr(clip, field)[i] for i in order]
    grey = dataclasses.replace(clip, frames=clip.frames[:, :1].expand(-1, 3, -1, -1))
    assert RandomTimeFlip(prob=1.0)(grey, np.random.default_rng(0)).frames.stride(1) == 0


def test_a_transform_that_makes_a_new_clip_keeps_the_memory(phantom):
    def anew(clip, rng):
        return dataclasses.replace(clip, num_memory=0, position=0)

    assert {c.num_memory for c in clips(phantom, transforms=[anew])} == {2}


def test_memory_frames_carry_no_loss(phantom):
    clip = clips(phantom, number=1)[0]
    model = instantiate(get_config("common/models/basicdet_small.py").model).train()
    targets = model.batch([clip]).targets
    assert targets.weight.tolist() == [0, 0, 1, 1, 1] and model.batch([clip]).is_memory.tolist() == [
        [True] * 2 + [False] * 3
    ]
