"""What a user's parts draw from Python's, numpy's and torch's global generators follows from the seed and the place in the run."""

import functools
import itertools
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler

from ultravid.data import (
    DatasetFromList,
    MapDataset,
    StridedFrameSampler,
    build_batch_data_loader,
    build_detection_test_loader,
    build_detection_train_loader,
    build_video_test_loader,
    build_video_train_loader,
    load_cva_bus,
)
from ultravid.data.build import ClipLoader
from ultravid.data.kept_generators import warn_of_kept_generators
from ultravid.data.mapper import ClipDataset
from ultravid.data.samplers import TrainingSampler
from ultravid.engine import SimpleTrainer
from ultravid.structures import Clip
from ultravid.utils.seed import generator_states, seed_all_rng, seeded_generators


def draw():
    """A number from each global generator."""
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002


def states():
    return str(generator_states())


class DrawingFrames(StridedFrameSampler):
    def __call__(self, num_frames, rng):
        return super().__call__(num_frames, rng) * 0 + random.randrange(num_frames)


def put_in(clip, rng):
    """A new clip whose first pixels hold what was drawn; the earlier ones move on by a row."""
    frames = clip.frames.float().roll(1, dims=-2)
    frames[0, 0, 0, :3] = torch.tensor(draw())
    return Clip(frames=frames, instances=clip.instances, video_ids=clip.video_ids, frame_indices=clip.frame_indices)


OF_THE_MODULE = np.random.default_rng(0)


class KeepsItsOwn:
    def __init__(self):
        self.parts = [{"rng": np.random.default_rng(0)}]

    def __call__(self, clip, rng):
        return clip


class InSlots:
    __slots__ = ("rng",)

    def __init__(self):
        self.rng = random.Random(0)

    def draws(self, item):
        return self.rng.random()


class InClass:
    rng = np.random.RandomState(0)


def uses_the_modules(item):
    return [OF_THE_MODULE.random() for _ in range(2)]


def as_default(item, rng=np.random.default_rng(0)):  # noqa: B008  # a habit of users
    return rng.random()


def around():
    rng = torch.Generator()
    return lambda item: torch.rand((), generator=rng)


class DrawsFromTheSeeded:
    def __init__(self):
        self.rng = np.random.mtrand._rand  # as scikit-learn's check_random_state(None) gives
        self.draw = random.random


def test_a_generator_that_is_kept_from_sample_to_sample_is_named(phantom, caplog):
    build_video_train_loader(
        videos=load_cva_bus(root=phantom),
        frame_sampler=DrawingFrames(num_frames=2),
        transforms=[put_in, KeepsItsOwn()],
        total_batch_size=2,
        seed=0,
    )
    (message,) = [r.message for r in caplog.records if r.name == "ultravid.data.kept_generators"]
    assert message.startswith("transforms[1].parts[0]['rng'] is a random generator that is kept from sample to sample")


@pytest.mark.parametrize(
    ("mapper", "place"),
    [
        (InSlots().draws, "mapper.rng"),
        (InClass(), "mapper.rng"),
        (functools.partial(len, np.random.default_rng(0)), "mapper.args[0]"),
        (uses_the_modules, f"mapper, 'OF_THE_MODULE' of {__name__}"),
        (lambda item: uses_the_modules(item), f"mapper, 'OF_THE_MODULE' of {__name__}"),
        (as_default, "mapper, argument 'rng' of as_default"),
        (around(), "mapper, 'rng' around around.<locals>.<lambda>"),
        (DrawsFromTheSeeded(), None),
    ],
)
def test_a_kept_generator_is_found_wherever_a_mapper_has_it(caplog, mapper, place):
    build_detection_train_loader(IMAGES, mapper=mapper, total_batch_size=2)
    found = [r.message.partition(" is a random")[0] for r in caplog.records if "kept from sample" in r.message]
    assert found == ([] if place is None else [place])


class Table(list):
    """Rows that count how often one of them is taken."""

    taken = 0

    def __iter__(self):
        for row in super().__iter__():
            self.taken += 1
            yield row


def test_a_large_table_is_not_searched_for_generators_and_hides_none(caplog):
    part = KeepsItsOwn()
    part.table, part.rng = Table({"clip": [i, {}], "path": str(i)} for i in range(20_000)), random.Random(0)
    warn_of_kept_generators(mapper=part)
    assert [r.message.split()[0] for r in caplog.records] == ["mapper.rng", "mapper.parts[0]['rng']"]
    assert part.table.taken <= 101


class DrawingClips(ClipDataset):
    def __getitem__(self, position):
        before = draw()
        clip = super().__getitem__(position)
        return put_in(put_in(clip, None), None) if before[0] < 0.5 else put_in(clip, None)


def clips_from(loader, start, number=2):
    batches = itertools.islice(loader.iterate_from(start), number)
    return [(clip.frame_indices, clip.position, clip.frames[:, 0, :6, :3].tolist()) for b in batches for clip in b]


def test_transforms_of_clips_draw_by_seed_and_position_whatever_the_workers_ranks_and_the_model_do(phantom, processes):
    def loader(seed=0, **changes):
        arguments = dict(
            videos=load_cva_bus(root=phantom),
            frame_sampler=DrawingFrames(num_frames=2),
            transforms=[put_in, put_in],
            device_transforms=[put_in],
            total_batch_size=2,
        )
        return build_video_train_loader(seed=seed, **{**arguments, **changes})

    before = states()
    whole = clips_from(loader(), 0, 4)
    assert states() == before
    drawn = [row for _, _, rows in whole for row in rows[0][:3]]
    assert len({number for row in drawn for number in row}) == 3 * len(drawn) == 72
    assert not {str(row) for row in drawn} & {str(row) for _, _, rows in clips_from(loader(1), 0, 4) for row in rows[0]}
    draw()  # as a model does between two batches
    assert clips_from(loader(num_workers=1, device="cpu"), 1, 3) == whole[2:]
    assert clips_from(loader(num_workers=2), 2) == clips_from(loader(device="cpu"), 2) == whole[4:]
    ranks = []
    for rank in range(2):
        processes(rank, 2)
        ranks.append(clips_from(loader(), 0, 4))
    assert [clip for pair in zip(*ranks, strict=True) for clip in pair] == whole
    # What a subclass draws, before and after the clip is loaded, is seeded too.
    processes(0, 1)
    dataset = DrawingClips(load_cva_bus(root=phantom), DrawingFrames(num_frames=2), [put_in], 2, 0)
    assert clips_from(ClipLoader(dataset), 1) == clips_from(ClipLoader(dataset, 2), 0, 3)[2:]


def drawing_mapper(item):
    return None if random.random() < 0.2 else [item["width"] > item["height"], item["image_id"], *draw()]


def keeping_mapper(item):
    return {**item, "drawn": draw()}


class DrawingSampler(Sampler):
    def __iter__(self):
        yield from random.sample(range(6), 6)

    def __len__(self):
        return 6


def collated(batch):
    return [*batch, draw()]


IMAGES = [{"image_id": i, "width": 4 + i % 2, "height": 4} for i in range(6)]


@pytest.mark.parametrize("grouping", [False, True])
@pytest.mark.parametrize("sampler", [TrainingSampler(6, seed=1), DrawingSampler()])
def test_mappers_samplers_and_collations_of_images_draw_by_seed_and_place(processes, grouping, sampler):
    def batches(start, number, seed=0, workers=0):
        seed_all_rng(seed)
        loader = build_detection_train_loader(
            IMAGES,
            mapper=keeping_mapper if grouping else drawing_mapper,
            sampler=sampler,
            total_batch_size=2,
            aspect_ratio_grouping=grouping,
            num_workers=workers,
            collate_fn=collated,
        )
        before = states()
        found = list(itertools.islice(loader.iterate_from(start), number))
        assert states() == before
        return found

    whole = batches(0, 9)
    assert batches(2, 7, workers=2) == whole[2:] and batches(5, 4) == whole[5:]
    numbers = [n for batch in whole for n in batch[-1]] + [n for b in whole for i in b[:-1] for n in drawn_in(i)]
    assert len(set(numbers)) == len(numbers)
    assert not {n for batch in batches(0, 9, seed=1) for n in batch[-1]} & set(numbers)
    ranks = []
    for rank in range(2):
        processes(rank, 2)
        ranks.append({n for batch in batches(0, 9) for n in batch[-1]})
    assert len(ranks[0] | ranks[1]) == 54


def drawn_in(item):
    return item["drawn"] if isinstance(item, dict) else item[2:]


def test_each_round_over_a_loader_that_ends_draws_other_numbers():
    data = MapDataset(DatasetFromList(IMAGES), keeping_mapper)
    loader = build_batch_data_loader(data, DrawingSampler(), 2, seed=3)
    rounds = [[item for batch in loader for item in batch] for _ in range(2)]
    assert len({n for items in rounds for item in items for n in item["drawn"]}) == 36
    again = build_batch_data_loader(data, DrawingSampler(), 2, seed=3).iterate_from(0)
    assert [item for _ in range(6) for item in next(again)] == rounds[0] + rounds[1]


def test_what_is_drawn_for_a_test_image_or_frame_depends_on_it_alone(phantom, processes, monkeypatch):
    def drawn(workers, size=1):
        loader = build_detection_test_loader(IMAGES, mapper=keeping_mapper, num_workers=workers, batch_size=size)
        return {item["image_id"]: item["drawn"] for batch in loader for item in batch}

    before = states()
    whole = drawn(0)
    assert drawn(2, 4) == whole and len({n for row in whole.values() for n in row}) == 18
    from ultravid.data import mapper

    read = mapper.read_frame
    monkeypatch.setattr(mapper, "read_frame", lambda video, t: read(video, t) * 0 + int(256 * draw()[2]))
    videos = load_cva_bus(root=phantom, splits=["test"])

    def pixels(videos, workers=0):
        loader = build_video_test_loader(videos=videos, num_workers=workers)
        return {(i["video_id"], i["frame_index"]): int(i["image"][0, 0, 0]) for (i,) in loader}

    assert pixels(videos[::-1], 2) == pixels(videos) and len(set(pixels(videos).values())) > 12
    assert states() == before
    processes(1, 2)
    assert drawn(0).items() < whole.items()


class Stream(IterableDataset):
    def __iter__(self):
        return ([i, *draw()] for i in range(8))


class Model(torch.nn.Module):
    """Keeps the batches and what it draws itself."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []
        self.drawn = []

    def forward(self, batch):
        self.seen.append(str(batch))
        self.drawn.append(draw())
        return {"loss": self.weight * 1.0}


def trained(loader, start, seed=0):
    seed_all_rng(seed)
    model = Model()
    trainer = SimpleTrainer(model, loader(), torch.optim.SGD(model.parameters(), lr=0.1), max_iter=6, seed=seed)
    trainer.train(start)
    return model


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_or_a_plain_loader_differs_by_rank_and_seed_and_a_resumed_run_does_not_repeat_it(processes, workers):
    def plain():
        data = MapDataset(DatasetFromList(IMAGES), lambda item: draw())
        return DataLoader(data, batch_size=2, num_workers=workers, shuffle=True, collate_fn=list)

    def stream():
        return build_batch_data_loader(Stream(), None, 1, num_workers=workers)

    for loader in (plain, stream):
        whole = trained(loader, 0)
        assert whole.seen == trained(loader, 0).seen and len(set(whole.seen)) == 6
        others = [trained(loader, 3), trained(loader, 0, seed=1)]
        assert whole.drawn[3:] == others[0].drawn != others[1].drawn[3:]
        processes(1, 1)
        others.append(trained(loader, 0))
        processes(0, 1)
        if loader is plain and workers == 0:
            assert others[0].seen != whole.seen[:3]
        assert not {s for other in others for s in other.seen} & set(whole.seen[:3])


def test_contexts_restore_what_was_drawn_before_and_nest():
    seed_all_rng(5)
    np.random.randn()  # noqa: NPY002  # leaves a second number in the generator
    random.gauss(0, 1)
    before = states()
    with seeded_generators(1, "a", 2):
        first = draw()
        with seeded_generators(1, "a", 3):
            second = draw()
    assert states() == before
    with pytest.raises(KeyError, match="True"), seeded_generators(1, "a", 3):
        raise KeyError(draw() == second != first)
    assert states() == before
