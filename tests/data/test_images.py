"""Loaders, samplers and data sets of images, as code written for detectron2 uses them."""

import itertools
import math
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset, SequentialSampler

from ultravid.config import get_cfg
from ultravid.data import (
    DatasetCatalog,
    DatasetFromList,
    MapDataset,
    ToIterableDataset,
    build_batch_data_loader,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from ultravid.data.common import AspectRatioGroupedDataset, NumpySerializedList
from ultravid.data.samplers import (
    GroupedBatchSampler,
    InferenceSampler,
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from ultravid.datasets.video import DataError
from ultravid.utils.seed import seed_all_rng


def images(number=12):
    return [
        {"image_id": i, "width": 4 + i % 2, "height": 4, "annotations": [{"category_id": 0, "iscrowd": int(i == 1)}]}
        for i in range(number)
    ]


def first(iterable, number):
    return list(itertools.islice(iterable, number))


class Count(IterableDataset):
    def __iter__(self):
        yield from [1, 2, 3, 4]


def flat(loader):
    return [item for batch in loader for item in batch]


def test_a_round_of_training_holds_each_index_once_and_rounds_differ():
    indices = first(TrainingSampler(7, seed=1), 14)
    assert sorted(indices[:7]) == sorted(indices[7:]) == list(range(7)) and indices[:7] != indices[7:]
    assert first(TrainingSampler(7, seed=1), 14) == indices != first(TrainingSampler(7, seed=2), 14)
    assert first(TrainingSampler(3, shuffle=False), 7) == [0, 1, 2, 0, 1, 2, 0]
    with pytest.raises(ValueError, match="size=0"):
        TrainingSampler(0)


def test_a_sampler_without_a_seed_follows_the_programs():
    seed_all_rng(42)
    indices = first(TrainingSampler(30), 65)
    seed_all_rng(42)
    sampler = TrainingSampler(30)
    seed_all_rng(999)
    assert first(sampler, 65) == indices


def test_processes_share_one_order(processes):
    whole = first(TrainingSampler(7, seed=1), 20)
    parts = []
    for rank in range(2):
        processes(rank, 2)
        parts.append(first(TrainingSampler(7, seed=1), 10))
    assert parts == [whole[0::2], whole[1::2]]


def test_a_random_part_stays_the_same_in_all_rounds():
    sampler = RandomSubsetTrainingSampler(10, 0.5, seed_shuffle=1, seed_subset=2)
    indices = first(sampler, 15)
    assert len(set(indices)) == 5 and all(sorted(indices[i : i + 5]) == sorted(indices[:5]) for i in (5, 10))
    other = first(RandomSubsetTrainingSampler(10, 0.5, seed_shuffle=9, seed_subset=2), 5)
    assert set(other) == set(indices) and other != indices[:5]
    assert len(set(first(RandomSubsetTrainingSampler(10, 0.5, shuffle=False), 15))) == 5
    with pytest.raises(ValueError, match="not a part"):
        RandomSubsetTrainingSampler(10, 0.01)


def test_rare_categories_are_repeated():
    data = [
        {"annotations": [{"category_id": 0}, {"category_id": 1}]},
        {"annotations": [{"category_id": 0}]},
        {"annotations": []},
    ]
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
    assert torch.allclose(factors(data, 0.5), torch.tensor([math.sqrt(1.5), 1.0, 1.0]))
    assert torch.allclose(factors(data, 0.5, sqrt=False), torch.tensor([1.5, 1.0, 1.0]))
    counts = Counter(first(RepeatFactorTrainingSampler(torch.tensor([2.5, 1.0]), seed=0), 7000))
    assert counts[0] / counts[1] == pytest.approx(2.5, rel=0.05)
    assert first(RepeatFactorTrainingSampler(torch.tensor([2.0, 1.0]), shuffle=False), 6) == [0, 0, 1, 0, 0, 1]


@pytest.mark.parametrize(
    ("size", "expected"), [(7, [[0, 1, 2], [3, 4], [5, 6]]), (2, [[0], [1], []]), (0, [[], [], []])]
)
def test_each_process_tests_its_own_part(processes, size, expected):
    found = []
    for rank in range(3):
        processes(rank, 3)
        sampler = InferenceSampler(size)
        assert len(sampler) == len(expected[rank])
        found.append(list(sampler))
    assert found == expected


def test_batches_of_one_group_are_given_when_they_are_full():
    batches = list(GroupedBatchSampler(SequentialSampler(range(7)), [0, 1, 1, 0, 0, 1, 0], 2))
    assert batches == [[1, 2], [0, 3], [4, 6]]
    with pytest.raises(TypeError, match="depends on the order"):
        len(GroupedBatchSampler(SequentialSampler(range(7)), [0] * 7, 2))


@pytest.mark.parametrize("serialize", [True, False, NumpySerializedList])
def test_a_list_gives_copies(serialize):
    data = DatasetFromList([{"a": [1]}, {"a": [2]}], serialize=serialize)
    data[0]["a"].append(5)
    assert len(data) == 2 and data[0] == {"a": [1]} and data[-1] == {"a": [2]}
    with pytest.raises(IndexError):
        data[2]
    assert pickle.loads(pickle.dumps(data))[1] == {"a": [2]}
    items = [object()]
    assert DatasetFromList(items, copy=False, serialize=False)[0] is items[0]


def test_an_item_that_the_function_refuses_is_replaced(caplog):
    data = MapDataset(DatasetFromList([1, 2, 3]), lambda x: None if x == 2 else 2 * x)
    assert len(data) == 3 and data[0] == 2 and data[2] == 6 and data[1] in (2, 6)
    assert pickle.loads(pickle.dumps(data))[0] == 2  # a lambda too
    with pytest.raises(ValueError, match="all 3 items"):
        MapDataset(DatasetFromList([1, 2, 3]), lambda x: None)[0]


def test_an_item_of_a_stream_that_the_function_refuses_is_skipped():
    mapped = MapDataset(Count(), lambda x: None if x == 2 else 2 * x)
    assert isinstance(mapped, IterableDataset) and list(mapped) == [2, 6, 8]
    assert list(pickle.loads(pickle.dumps(mapped))) == [2, 6, 8]
    with pytest.raises(TypeError):
        len(mapped)


def test_workers_share_a_stream_in_chunks(monkeypatch):
    data = DatasetFromList(list(range(10)))
    stream = ToIterableDataset(data, SequentialSampler(range(10)), shard_chunk_size=2)
    assert list(stream) == list(range(10)) and len(stream) == 10

    class Worker:
        id, num_workers = 1, 3

    monkeypatch.setattr("ultravid.data.common.get_worker_info", lambda: Worker)
    assert list(stream) == [2, 3, 8, 9]
    assert list(ToIterableDataset(data, SequentialSampler(range(10)), shard_sampler=False)) == list(range(10))
    with pytest.raises(ValueError, match="with indices"):
        ToIterableDataset(stream, SequentialSampler(range(10)))


def test_batches_are_of_one_orientation_and_leave_no_full_bucket_behind():
    data = [{"width": w, "height": h} for w, h in [(2, 1), (1, 1), (3, 1), (1, 2)]]
    grouped = AspectRatioGroupedDataset(data, 2)
    assert [[d["width"] > d["height"] for d in batch] for batch in grouped] == [[True, True], [False, False]]
    for _ in range(3):
        next(iter(grouped))
        assert all(len(bucket) < 2 for bucket in grouped._buckets)


def test_a_loader_of_batches_gives_this_process_its_share(processes):
    data = DatasetFromList(list(range(10)))
    assert list(build_batch_data_loader(data, InferenceSampler(10), 4)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert list(build_batch_data_loader(data, InferenceSampler(10), 4, drop_last=False))[-1] == [8, 9]
    assert list(build_batch_data_loader(data, InferenceSampler(10), 4, collate_fn=sum, single_gpu_batch_size=5)) == [
        10,
        35,
    ]
    with pytest.raises(ValueError, match="needs a sampler"):
        build_batch_data_loader(data, None, 4)
    processes(1, 2)
    assert list(build_batch_data_loader(data, InferenceSampler(10), 4)) == [[5, 6], [7, 8]]
    with pytest.raises(DataError, match="can't be shared evenly among 2"):
        build_batch_data_loader(data, InferenceSampler(10), 3)


@pytest.mark.parametrize("grouping", [True, False])
@pytest.mark.parametrize("as_stream", [True, False])
def test_training_batches_of_images_have_no_end(grouping, as_stream):
    data = images()
    if as_stream:
        data = ToIterableDataset(DatasetFromList(data), TrainingSampler(12, seed=3))
    loader = build_detection_train_loader(data, mapper=dict, total_batch_size=4, aspect_ratio_grouping=grouping)
    batches = first(loader, 10)
    assert all(len(batch) == 4 for batch in batches) and {d["image_id"] for b in batches for d in b} == set(range(12))
    if grouping:
        assert all(len({d["width"] for d in batch}) == 1 for batch in batches)


def test_workers_draw_different_random_numbers_and_a_seed_fixes_them():
    def draw(_):
        return float(np.random.rand())  # noqa: NPY002  # what mappers written for detectron2 do

    def drawn(seed):
        stream = MapDataset(DatasetFromList(list(range(8))), draw)
        return flat(build_batch_data_loader(stream, InferenceSampler(8), 2, num_workers=2, seed=seed))

    assert drawn(1) == drawn(1) != drawn(2)
    assert len(set(drawn(1))) == 8


def test_a_loader_does_not_touch_the_models_generator():
    state = torch.get_rng_state()
    next(
        iter(
            build_detection_train_loader(images(), mapper=None, total_batch_size=2, sampler=TrainingSampler(12, seed=1))
        )
    )
    next(iter(build_detection_test_loader(images(), mapper=None)))
    assert torch.equal(torch.get_rng_state(), state)


def test_test_loaders_give_each_image_once():
    stream = ToIterableDataset(DatasetFromList(list(range(5))), InferenceSampler(5))
    assert flat(build_detection_test_loader(dataset=stream, mapper=lambda x: x)) == list(range(5))
    batches = list(build_detection_test_loader(list(range(5)), mapper=lambda x: 2 * x, batch_size=2))
    assert batches == [[0, 2], [4, 6], [8]]
    with pytest.raises(ValueError, match="takes no sampler"):
        build_detection_test_loader(dataset=stream, mapper=None, sampler=InferenceSampler(5))


@pytest.fixture
def catalog():
    DatasetCatalog.register("some_images", images)
    DatasetCatalog.register("no_images", list)
    DatasetCatalog.register("no_dicts", lambda: ["video"])
    yield
    for name in ("some_images", "no_images", "no_dicts"):
        DatasetCatalog.remove(name)


def test_images_come_from_the_catalog(catalog):
    assert len(get_detection_dataset_dicts("some_images")) == 11  # one has a crowd alone
    assert len(get_detection_dataset_dicts(["some_images", "some_images"], filter_empty=False)) == 24
    for names, message in (([], "No data set"), ("no_images", "is empty"), ("no_dicts", "build_video_train_loader")):
        with pytest.raises(DataError, match=message):
            get_detection_dataset_dicts(names)


def test_loaders_of_images_from_a_config(catalog):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("some_images",)
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    batch = next(iter(build_detection_train_loader(cfg, mapper=dict, sampler=SequentialSampler(range(11)))))
    assert [d["image_id"] for d in batch] == [0, 2]  # the first two of one orientation
    batch = next(iter(build_detection_train_loader(cfg, dict, dataset=images(2), aspect_ratio_grouping=False)))
    assert {d["image_id"] for d in batch} == {0, 1}
    found = flat(build_detection_test_loader(cfg, "some_images", mapper=lambda d: d["image_id"]))
    assert found == list(range(12))
    with pytest.raises(DataError, match="mapper=FUNCTION"):
        build_detection_test_loader(cfg, "some_images")


@pytest.mark.parametrize(
    ("name", "keys", "kind"),
    [
        ("RepeatFactorTrainingSampler", {"REPEAT_THRESHOLD": 0.5}, RepeatFactorTrainingSampler),
        ("RandomSubsetTrainingSampler", {"RANDOM_SUBSET_RATIO": 0.5}, RandomSubsetTrainingSampler),
    ],
)
def test_a_config_names_the_sampler(catalog, name, keys, kind):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("some_images",)
    cfg.DATALOADER.update({"SAMPLER_TRAIN": name, "ASPECT_RATIO_GROUPING": False, "NUM_WORKERS": 0, **keys})
    loader = build_detection_train_loader(cfg, dict)
    assert isinstance(loader.batch_sampler.sampler, kind)
    cfg.DATALOADER.SAMPLER_TRAIN = "Sampler"
    with pytest.raises(DataError, match="'Sampler'"):
        build_detection_train_loader(cfg, dict)
