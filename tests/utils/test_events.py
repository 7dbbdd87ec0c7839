import json
import logging
import math

import numpy as np
import pytest
import torch
from fvcore.common.history_buffer import HistoryBuffer

from ultravid.utils.errors import UserError
from ultravid.utils.events import (
    CommonMetricPrinter,
    CSVWriter,
    EventStorage,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)


def test_a_window_counts_iterations_not_values():
    with EventStorage(0) as storage:
        for iteration in range(0, 100, 10):
            storage.iter = iteration
            storage.put_scalar("loss", float(iteration))
        for iteration in range(100):
            storage.put_scalar("dense", float(iteration), cur_iter=iteration)
        storage.put_scalar("once", 7.0)
    # 90 and 80 are in the last 20 iterations (71 to 90); 70 is not.
    assert storage.count_samples("loss", 20) == 2
    assert [storage.count_samples("loss", n) for n in (1, 10, 11, 1000)] == [1, 1, 2, 10]
    assert storage.count_samples("dense", 20) == 20 and storage.count_samples("once", 20) == 1
    assert storage.latest_with_smoothing_hint(20) == {"loss": (85.0, 90), "dense": (89.5, 99), "once": (7.0, 90)}
    with pytest.raises(KeyError, match="No scalar 'los'"):
        storage.count_samples("los")


def test_the_printer_shows_the_window_the_rate_and_the_memory(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("ultravid"), "propagate", True)
    with caplog.at_level(logging.INFO), EventStorage(0) as storage:
        for iteration in range(0, 50, 10):
            storage.iter = iteration
            storage.put_scalar("total_loss", float(iteration))
            storage.put_scalar("time", 0.5)
            storage.put_scalar("time/clips_per_second", 10.0 + iteration)
        CommonMetricPrinter(max_iter=141, window_size=20).write()
    line = caplog.messages[-1]
    # 100 iterations are left, at half a second each; the window holds the values of iterations 30 and 40.
    assert line.startswith("eta: 0:00:50  iter: 40  total_loss: 35  clips/s: 45.0  time: 0.5000  max_")
    name, memory = line.split("  ")[-1].split(": ")
    assert name == ("max_mem" if torch.cuda.is_available() else "max_rss")
    assert memory.endswith("M") and int(memory[:-1]) >= (0 if torch.cuda.is_available() else 50)


def test_images_are_there_for_every_writer_and_gone_in_the_next_iteration(tmp_path):
    with EventStorage(5) as storage:
        storage.put_image("a", torch.zeros(3, 2, 2))
        storage.put_histogram("h", torch.arange(4.0), bins=2)
        first, second = TensorboardXWriter(tmp_path), object()
        first.write()
        first.close()
        storage.put_image("b", torch.zeros(3, 2, 2))
        assert [name for name, *_ in storage.take_new(first)[0]] == ["b"]
        images, histograms = storage.take_new(second)
        assert [name for name, *_ in images] == ["a", "b"] and [h["bucket_counts"] for h in histograms] == [[2.0, 2.0]]
        assert storage.take_new(second) == ([], [])
        storage.put_image("c", torch.zeros(3, 2, 2))
        storage.step()
        assert [name for name, *_ in storage.images()] == ["c"] and storage.histograms() == []
        assert [name for name, *_ in storage.take_new(second)[0]] == ["c"]
        storage.clear_images()
        storage.put_image("d", torch.zeros(3, 2, 2))
        assert [name for name, *_ in storage.take_new(second)[0]] == ["d"]


def test_a_window_also_counts_iterations_when_they_were_recorded_out_of_order():
    storage = EventStorage()
    for iteration in (5, 7, 3, 8, 9, 9):
        storage.put_scalar("x", float(iteration), cur_iter=iteration)
    # Going back from the last value, the count ends at the first that is too old: at 3, although 7 comes before it.
    assert storage.window("x", 3) == storage.window("x", 6) == [8.0, 9.0, 9.0]
    assert storage.window("x", 7) == [5.0, 7.0, 3.0, 8.0, 9.0, 9.0] and storage.count_samples("x", 100) == 6


def test_a_history_is_fvcores_buffer_and_forgets_its_oldest_values(monkeypatch):
    storage, reference = EventStorage(), HistoryBuffer()
    for value in (0.1, 0.7, math.pi, -2.0):
        storage.put_scalar("x", value)
        reference.update(value)
    history = storage.history("x")
    assert isinstance(history, HistoryBuffer) and history.global_avg() == reference.global_avg()
    assert history.median(3) == reference.median(3) and history.avg(3) == reference.avg(3)
    monkeypatch.setattr(history, "_max_length", 20)
    for value in range(100):
        storage.put_scalar("x", value)
    assert 18 <= len(history.values()) <= 20 and history.latest() == 99


@pytest.mark.parametrize("count", [1, 2, 5, 20, 1001])
@pytest.mark.parametrize("odd_one", [0.3, math.inf, math.nan])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_smoothing_is_numpys_median(count, odd_one):
    values = [*np.random.default_rng(0).normal(size=count - 1).tolist(), odd_one]
    storage = EventStorage()
    for value in values:
        storage.put_scalar("noisy", value)
        storage.put_scalar("plain", value, smoothing_hint=False)
        storage.step()
    latest = storage.latest_with_smoothing_hint(count)
    np.testing.assert_equal(latest["noisy"], (np.median(values), count - 1))
    np.testing.assert_equal(latest["plain"], (odd_one, count - 1))
    np.testing.assert_equal(storage.latest_with_smoothing_hint(1), storage.latest())


def test_the_printer_shows_metrics_that_are_not_losses(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("ultravid"), "propagate", True)
    with caplog.at_level(logging.INFO), EventStorage() as storage:
        storage.put_scalar("[metric]bn_stat", 1.5)
        storage.put_scalar("accuracy", 1.0)
        storage.put_scalar("loss", 2.0)
        CommonMetricPrinter().write()
    assert caplog.messages[-1].startswith("iter: 0  loss: 2  [metric]bn_stat: 1.5  max_")


def test_numbers_on_a_device_are_read_when_a_writer_asks(tmp_path):
    with EventStorage() as storage:
        with storage.name_scope("train"):
            storage.put_scalars_later(("a", "b"), torch.tensor([1.0, 2.0]))
        storage.step()
        storage.put_scalars_later(["a"], torch.tensor([3.0]))
        assert storage.latest(wait=False) == {} and storage.iteration == storage.iter == 1
        JSONWriter(tmp_path / "new/metrics.json").write()
        assert get_event_storage() is storage
    rows = [json.loads(line) for line in (tmp_path / "new/metrics.json").read_text().splitlines()]
    assert rows == [{"iteration": 0, "train/a": 1.0, "train/b": 2.0}, {"iteration": 1, "a": 3.0}]
    with pytest.raises(RuntimeError, match="outside of"):
        get_event_storage()


@pytest.mark.parametrize("writer", [JSONWriter, CSVWriter, TensorboardXWriter])
def test_files_that_are_appended_to_must_be_local(writer):
    with pytest.raises(UserError, match=r"can't be at s3://bucket/run/x: .*appended to"):
        writer("s3://bucket/run/x")
