import hashlib

import numpy as np
import pytest
import torch

from ultravid.data import (
    DataError,
    RandomColor,
    RandomFlip,
    RandomScale,
    RandomTimeFlip,
    ResizeToArea,
    StridedFrameSampler,
    Video,
    WindowFrameSampler,
    build_video_test_loader,
    build_video_train_loader,
    fold_of_patient,
    load_cva_bus,
    shard_videos,
    split_fold,
)
from ultravid.data.samplers import InfiniteClipSampler
from ultravid.datasets.video import Frame
from ultravid.structures import Boxes, Clip, Instances


def videos_of(lengths, patients=None):
    return [
        Video(
            f"v{i}",
            tuple(Frame("x", t, 8, 8) for t in range(n)),
            patients[i] if patients else f"p{i}",
        )
        for i, n in enumerate(lengths)
    ]


def loader(phantom, **changes):
    arguments = dict(
        videos=load_cva_bus(root=phantom),
        frame_sampler=WindowFrameSampler(num_frames=3, window=6),
        transforms=[
            ResizeToArea(area=2000, factor=(0.5, 1.5)),
            RandomColor(),
            RandomFlip(),
            RandomTimeFlip(),
        ],
        total_batch_size=2,
        seed=11,
    )
    return build_video_train_loader(**{**arguments, **changes})


def take(iterator, num):
    return [next(iterator) for _ in range(num)]


def same(a, b):
    return (
        torch.equal(a.frames, b.frames)
        and a.video_ids == b.video_ids
        and a.frame_indices == b.frame_indices
        and all(
            torch.equal(x.gt_boxes.tensor, y.gt_boxes.tensor) for x, y in zip(a.instances, b.instances, strict=True)
        )
    )


def test_a_batch_is_a_function_of_seed_and_iteration_whatever_the_workers(phantom):
    state = torch.get_rng_state()
    whole = take(iter(loader(phantom)), 5)
    later = take(loader(phantom, num_workers=2).iterate_from(3), 2)
    assert all(same(a, b) for x, y in zip(whole[3:], later, strict=True) for a, b in zip(x, y, strict=True))
    assert torch.equal(state, torch.get_rng_state())  # loading draws nothing from the model's generator
    other = take(iter(loader(phantom, seed=12)), 1)
    assert not same(whole[0][0], other[0][0])


def test_every_video_comes_once_before_one_comes_again(phantom):
    seen = [clip.video_ids[0] for batch in take(iter(loader(phantom)), 6) for clip in batch]
    assert sorted(seen[:6]) == sorted(seen[6:]) == sorted(set(seen))


def test_ranks_share_a_global_batch():
    batches = [next(iter(InfiniteClipSampler(4, rank, 2, start=7))) for rank in range(2)]
    assert batches == [[(7, 0), (7, 2)], [(7, 1), (7, 3)]]
    with pytest.raises(ValueError, match="shared evenly"):
        InfiniteClipSampler(3, 0, 2)


def test_foreign_context_takes_each_frame_from_another_video(phantom):
    (clip, _), *_ = take(iter(loader(phantom, foreign_context=True, transforms=[])), 1)
    assert len(set(clip.video_ids)) == 3
    frames = build_video_test_loader(videos=load_cva_bus(root=phantom, splits=["test"]), foreign_context=True)
    ids = [item["video_id"] for (item,) in frames]
    assert ids[0] != ids[1] and len(ids) == 24
    assert len({item["stream_id"] for (item,) in frames}) == 1


def test_test_frames_come_in_order_with_their_ground_truth(phantom):
    items = [item for (item,) in build_video_test_loader(videos=load_cva_bus(root=phantom, splits=["test"]), area=1024)]
    assert [i["frame_index"] for i in items] == [*range(12), *range(12)]
    assert items[0]["image"].shape == (3, 32, 32)
    assert (items[0]["height"], items[0]["width"]) == (64, 64)
    assert all(i["instances"].image_size == (64, 64) for i in items)


def test_window_sampler_stays_in_a_window_and_repeats_only_where_it_must():
    sampler, rng = WindowFrameSampler(num_frames=16, window=30), np.random.default_rng(0)
    for _ in range(50):
        drawn = sampler(100, rng)
        assert len(set(drawn)) == 16 and drawn[-1] - drawn[0] < 30 and (np.diff(drawn) > 0).all()
    short = sampler(5, rng)
    assert len(short) == 16 and short.min() >= 0 and short.max() < 5


def test_strided_sampler_is_even_and_shrinks_its_stride_in_short_videos():
    rng = np.random.default_rng(0)
    assert set(np.diff(StridedFrameSampler(num_frames=16, stride=2)(64, rng))) == {2}
    assert set(np.diff(StridedFrameSampler(num_frames=16, stride=2)(20, rng))) == {1}
    assert StridedFrameSampler(num_frames=4, stride=2)(2, rng).tolist() == [0, 1, 1, 1]


def test_folds_keep_patients_together_and_cover_everything():
    videos = videos_of([1] * 40, patients=[f"p{i // 2}" for i in range(40)])
    expected = int(hashlib.sha256(b"p3").hexdigest(), 16) % 4
    assert fold_of_patient("p3", 4) == expected
    tested = []
    for fold in range(4):
        train, test = split_fold(videos, fold, 4)
        assert not {v.patient for v in train} & {v.patient for v in test}
        assert len(train) + len(test) == 40
        tested += test
    assert len({v.video_id for v in tested}) == 40
    with pytest.raises(DataError, match="fold=4"):
        split_fold(videos, 4, 4)


def test_an_empty_split_is_refused(phantom):
    with pytest.raises(DataError, match="training split is empty"):
        loader(phantom, videos=[])
    alone = videos_of([3])
    fold = fold_of_patient(alone[0].patient, 4)
    with pytest.raises(DataError, match=f"1 video was read, all in fold {fold} of 4; fold=None takes all"):
        loader(phantom, videos=alone, fold=fold, num_folds=4)
    with pytest.raises(DataError, match="has no boxes"):
        loader(phantom, videos=alone)


def test_videos_are_dealt_to_ranks_longest_first():
    videos = videos_of([10, 50, 20, 30, 40])
    shards = [shard_videos(videos, rank, 2) for rank in range(2)]
    assert sorted(v.video_id for s in shards for v in s) == [f"v{i}" for i in range(5)]
    assert [sum(len(v) for v in s) for s in shards] == [80, 70]
    assert shard_videos(videos[:1], 1, 2) == []


def marked_clip():
    """Two frames whose only bright pixels are those of the box."""
    frames = torch.zeros(2, 3, 24, 40, dtype=torch.uint8)
    instances = []
    for t, (x1, y1, x2, y2) in enumerate([(4, 6, 14, 12), (8, 10, 20, 18)]):
        frames[t, :, y1:y2, x1:x2] = 200
        boxes = Boxes([[x1, y1, x2, y2]])
        zero = torch.zeros(1, dtype=torch.int64)
        instances.append(Instances((24, 40), gt_boxes=boxes, gt_classes=zero, gt_ids=zero))
    return Clip(frames, instances, ["v", "v"], [0, 1])


@pytest.mark.parametrize(
    "transform",
    [
        RandomFlip(prob=1.0),
        RandomTimeFlip(prob=1.0),
        ResizeToArea(area=3000, factor=(0.8, 1.2)),
        RandomScale(factor=(0.8, 1.3), aspect=(0.8, 1.25)),
    ],
)
def test_boxes_stay_on_what_they_mark(transform):
    for seed in range(5):
        clip = transform(marked_clip(), np.random.default_rng(seed))
        for frame, instances in zip(clip.frames, clip.instances, strict=True):
            if len(instances) == 0:  # cropped away
                continue
            rows, columns = torch.nonzero(frame[0] > 100, as_tuple=True)
            seen = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (seen - instances.gt_boxes.tensor[0]).abs().max() <= 1.5
            assert instances.image_size == tuple(frame.shape[1:])


def test_transforms_leave_the_given_clip_as_it_is():
    clip, before = marked_clip(), marked_clip()
    for transform in (RandomFlip(prob=1.0), RandomColor(), RandomScale(), RandomTimeFlip(prob=1.0)):
        transform(clip, np.random.default_rng(0))
    assert same(clip, before)
