"""Which video and which frames a clip holds."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest

from ultravid.data import (
    DataError,
    HardMining,
    MemoryFrameSampler,
    MixedClipLoader,
    StaticClips,
    StridedFrameSampler,
    Video,
    WindowFrameSampler,
    build_video_train_loader,
    group_by_metadata,
    label_groups,
    load_cva_bus,
    select_group,
    split_fold,
)
from ultravid.data.clip_planner import ClipPlanner
from ultravid.data.mining import HardList, read_hard_list, write_hard_list
from ultravid.datasets.video import Frame

ONE_BOX = {
    "boxes": np.array([[1, 1, 5, 5]], np.float32),
    "classes": np.zeros(1, np.int64),
    "track_ids": np.zeros(1, np.int64),
}


def video(name, num_frames=20, lesion=True, **more):
    frames = [Frame(f"{name}/{t}.png", t, 8, 8, **(ONE_BOX if lesion else {})) for t in range(num_frames)]
    return Video(name, frames, more.pop("patient", name), **more)


def loader(phantom, **changes):
    arguments = dict(
        videos=load_cva_bus(root=phantom),
        frame_sampler=WindowFrameSampler(num_frames=3, window=6),
        transforms=[],
        total_batch_size=2,
        seed=11,
    )
    return build_video_train_loader(**{**arguments, **changes})


def who(clips):
    return [(c.video_ids[0], c.frame_indices) for c in clips]


def take(batches, number):
    return [clip for batch, _ in zip(batches, range(number), strict=False) for clip in batch]


# --- frames -------------------------------------------------------------------------------------------------------------------


def test_memory_frames_come_first_and_lie_in_the_interval_before_the_window():
    sampler = MemoryFrameSampler(num_memory=4, memory_interval=10, num_frames=3, window=6)
    plain = WindowFrameSampler(num_frames=3, window=6)
    for seed in range(200):
        drawn = sampler(60, np.random.default_rng(seed))
        memory, local = drawn[:4], drawn[4:]
        assert np.array_equal(local, plain(60, np.random.default_rng(seed)))  # the window is that of the plain sampler
        centre = int(np.random.default_rng(seed).integers(60))
        begin = min(max(centre - 3, 0), 54)
        if begin == 0:
            assert memory.tolist() == [local[0]] * 4  # nothing before the video
        else:
            assert memory.min() >= max(0, begin - 10) and memory.max() < begin
            assert (np.diff(memory) >= (1 if begin >= 4 else 0)).all()


@pytest.mark.parametrize(
    "sampler",
    [
        WindowFrameSampler(num_frames=4, window=9),
        StridedFrameSampler(num_frames=4, stride=3),
        MemoryFrameSampler(num_memory=2, memory_interval=5, num_frames=4, window=9),
    ],
)
def test_a_clip_around_a_frame_holds_it(sampler):
    for num_frames, seed in [(40, 0), (40, 1), (13, 2), (3, 3), (1, 4)]:
        for frame in range(num_frames):
            drawn = sampler.around(num_frames, frame, np.random.default_rng((seed, frame)))
            assert frame in drawn
            assert drawn.min() >= 0 and drawn.max() < num_frames and (np.diff(drawn) >= 0).all()


def test_a_stride_that_passes_a_frame_over_comes_as_near_as_it_can():
    drawn = StridedFrameSampler(num_frames=4, stride=5).around(16, 7, np.random.default_rng(0))
    assert drawn.tolist() == [0, 5, 10, 15]  # the one start that fits 16 frames


# --- videos -------------------------------------------------------------------------------------------------------------------


def test_the_share_of_negative_videos_is_exact_and_each_kind_goes_in_turn():
    videos = [video(f"p{i}") for i in range(6)] + [video(f"n{i}", lesion=False) for i in range(3)]
    planner = ClipPlanner(videos, seed=3, negative_share=0.25)
    chosen = [videos[planner(n).video].video_id for n in range(24 * 4)]
    negatives = [v for v in chosen if v[0] == "n"]
    assert len(negatives) == 24 and set(Counter(negatives).values()) == {8}
    positives = [v for v in chosen if v[0] == "p"]
    assert all(sorted(positives[i : i + 6]) == [f"p{i}" for i in range(6)] for i in range(0, 72, 6))
    left_out = ClipPlanner(videos, seed=3, negative_share=0.0)
    assert {videos[left_out(n).video].video_id[0] for n in range(30)} == {"p"}
    with pytest.raises(DataError, match="all 6 training videos have one"):
        ClipPlanner(videos[:6], seed=3, negative_share=0.1)


def test_listed_videos_and_frames_are_drawn_at_their_rates(tmp_path):
    write_hard_list(tmp_path / "hard.json", HardList({"v1": 3, "v2": 1, "held out": 9}, {"v4": [2, 17], "v5": [0]}))
    videos = [video(f"v{i}") for i in range(6)]
    mining = HardMining(path=tmp_path / "hard.json", video_rate=0.5, frame_rate=1.5)
    planner = ClipPlanner(videos, seed=0, mining=mining)
    chosen = [planner(n) for n in range(6000)]
    ordinary = [c.video for n, c in enumerate(chosen) if c.frame is None and c.video in (0, 3)]
    by_frame = Counter((c.video, c.frame) for c in chosen if c.frame is not None)
    assert sum(by_frame.values()) == 3000  # 1.5 of 1 + 0.5 + 1.5
    assert set(by_frame) == {(4, 2), (4, 17), (5, 0)} and min(by_frame.values()) > 900
    assert ordinary.count(0) == pytest.approx(2000 / 6, abs=1)  # in turn: each of six videos as often
    extra = {v: sum(c.video == v and c.frame is None for c in chosen) - 2000 / 6 for v in (1, 2)}
    assert extra[1] + extra[2] == pytest.approx(1000, abs=2)
    assert extra[1] / extra[2] == pytest.approx(3, rel=0.15)


def test_a_mined_clip_holds_its_frame_and_no_mining_changes_nothing(phantom, tmp_path):
    videos = load_cva_bus(root=phantom)
    name = videos[2].video_id
    write_hard_list(tmp_path / "hard.json", HardList({}, {name: [9]}))
    plain = who(take(iter(loader(phantom)), 4))
    off = HardMining(path=tmp_path / "hard.json", video_rate=0, frame_rate=0)
    assert who(take(iter(loader(phantom, mining=off)), 4)) == plain
    half = HardMining(path=tmp_path / "hard.json", video_rate=0, frame_rate=1)
    mined = who(take(iter(loader(phantom, mining=half)), 6))
    assert sum(v == name and 9 in frames for v, frames in mined) >= 6
    assert who(take(loader(phantom, mining=half, num_workers=2).iterate_from(2), 4)) == mined[4:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is not a list of hard videos"),
        ('{"video": {}}', "unknown key 'video'.*videos"),
        ('{"videos": {"a": 0}}', "video 'a' has the weight 0"),
        ('{"frames": {"a": [-1]}}', r"video 'a' has the frames \[-1\]"),
        ("{", "is not JSON"),
    ],
)
def test_a_malformed_list_is_refused_by_entry(tmp_path, content, message):
    (tmp_path / "hard.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_hard_list(tmp_path / "hard.json")


def test_mining_that_can_do_nothing_is_refused(phantom, tmp_path):
    write_hard_list(tmp_path / "hard.json", HardList({"elsewhere": 1}, {"a": [20]}))
    mining = HardMining(path=tmp_path / "hard.json")
    with pytest.raises(DataError, match="lists no videos of the 6 videos that are trained on"):
        loader(phantom, mining=mining)
    with pytest.raises(DataError, match="'a' has 20 frames, and no frame 20"):
        mining.listed_frames([video("a")])

    class Own:
        def __call__(self, num_frames, rng):
            return np.arange(2)

    write_hard_list(tmp_path / "hard.json", HardList({}, {load_cva_bus(root=phantom)[0].video_id: [1]}))
    by_frame = HardMining(path=tmp_path / "hard.json", video_rate=0)
    with pytest.raises(DataError, match=r"method around\(\), and Own has none"):
        loader(phantom, mining=by_frame, frame_sampler=Own())


def test_static_clips_repeat_one_frame_of_a_stretch_in_which_the_probe_is_held_still(phantom):
    videos = [dataclasses.replace(v, static_frames=((1, 2), (7, 7))) for v in load_cva_bus(root=phantom)]
    still = [f for _, f in who(take(iter(loader(phantom, videos=videos, static=StaticClips(rate=1.0))), 12))]
    assert all(len(set(frames)) == 1 for frames in still)
    assert {frames[0] for frames in still} == {1, 2, 7}
    some = who(take(iter(loader(phantom, videos=videos, static=StaticClips(rate=0.5))), 20))
    plain = who(take(iter(loader(phantom)), 20))
    changed = [a != b for a, b in zip(some, plain, strict=True)]
    assert 10 <= sum(changed) <= 30 and all(len(set(a[1])) == 1 for a, c in zip(some, changed, strict=True) if c)
    with pytest.raises(DataError, match="none of the 6 training videos has"):
        loader(phantom, static=StaticClips(rate=0.1))
    anywhere = who(take(iter(loader(phantom, static=StaticClips(rate=1.0, anywhere=True))), 12))
    assert len({frames[0] for _, frames in anywhere}) > 5


# --- several loaders ----------------------------------------------------------------------------------------------------------


def mixed(phantom, num_workers=0, **more):
    videos = load_cva_bus(root=phantom)
    return MixedClipLoader(
        loaders={
            "breast": loader(phantom, videos=videos[:4], num_workers=num_workers),
            "thyroid": loader(phantom, videos=videos[2:], total_batch_size=3, num_workers=num_workers, organ="neck"),
        },
        seed=5,
        **more,
    )


def test_mixed_loaders_give_a_batch_of_one_each_and_go_on_where_they_are_asked_to(phantom):
    whole = [batch for batch, _ in zip(iter(mixed(phantom)), range(9), strict=False)]
    organs = [{clip.organ for clip in batch} for batch in whole]
    assert all(o in ({"breast"}, {"neck"}) for o in organs) and {*organs[0], *organs[1], *organs[2], *organs[3]} == {
        "breast",
        "neck",
    }
    # Each loader is gone through in turn, as it is alone.
    alone = take(loader(phantom, videos=load_cva_bus(root=phantom)[:4]).iterate_from(0), 9)
    of_breast = [clip for batch in whole for clip in batch if clip.organ == "breast"]
    assert who(of_breast) == who(alone)[: len(of_breast)]
    later = [b for b, _ in zip(mixed(phantom, num_workers=1).iterate_from(4), range(5), strict=False)]
    assert [who(b) for b in later] == [who(b) for b in whole[4:]]


def test_the_loader_of_an_iteration_follows_its_weight_and_counts_are_those_of_all_iterations_before(phantom):
    loaders = mixed(phantom, weights={"breast": 3, "thyroid": 1})
    names = [loaders.loader_of(i) for i in range(3000)]
    assert names.count("breast") / 3000 == pytest.approx(0.75, abs=0.03)
    assert loaders._counts_before(2500).tolist() == [names[:2500].count(n) for n in ("breast", "thyroid")]
    with pytest.raises(DataError, match=r"'thyriod', which is not a loader\. Did you mean 'thyroid'"):
        mixed(phantom, weights={"breast": 1, "thyriod": 1})
    with pytest.raises(DataError, match="'thyroid' has the weight None"):
        mixed(phantom, weights={"breast": 1})


# --- folds and groups ---------------------------------------------------------------------------------------------------------


def test_a_table_of_patients_keeps_their_videos_in_one_fold(phantom, tmp_path):
    names = [v.video_id for v in load_cva_bus(root=phantom)]
    (tmp_path / "patients.json").write_text(json.dumps({name: f"patient{i // 3}" for i, name in enumerate(names)}))
    videos = load_cva_bus(root=phantom, patients=tmp_path / "patients.json")
    assert [v.patient for v in videos] == [f"patient{i // 3}" for i in range(6)]
    for fold in range(3):
        train, test = split_fold(videos, fold, 3)
        assert not {v.patient for v in train} & {v.patient for v in test}
        assert len(train) + len(test) == 6


def test_rare_devices_are_tested_together():
    devices = ["A", "B", "C", "C", None]
    videos = [video(f"v{i}", metadata={"device": d} if d else {}) for i, d in enumerate(devices)]
    groups = {"portable": ["A", "B"]}
    found = group_by_metadata(videos, "device", groups)
    assert {k: [v.video_id for v in part] for k, part in found.items()} == {
        "C": ["v2", "v3"],
        "portable": ["v0", "v1"],
        "unknown": ["v4"],
    }
    labelled = label_groups(videos, key="device", groups=groups)
    assert [v.metadata["device_group"] for v in labelled] == ["portable", "portable", "C", "C", "unknown"]
    assert labelled[0].metadata["device"] == "A" and len(labelled[0]) == 20
    assert [v.video_id for v in select_group(labelled, name="portable")] == ["v0", "v1"]
    with pytest.raises(DataError, match=r"No video has device_group 'portabel'.*Did you mean 'portable'"):
        select_group(labelled, name="portabel")
    for wrong, message in (
        ({"x": ["A"], "y": ["A"]}, "'A' is in two groups, 'x' and 'y'"),
        ({"x": ["a1"]}, "no video has the device 'a1'"),
        ({"C": ["A"]}, "Group 'C' has the name of a device that is not in it"),
    ):
        with pytest.raises(DataError, match=message):
            group_by_metadata(videos, "device", wrong)
