import logging

import pytest
import torch

from ultravid.utils.events import CommonMetricPrinter, EventStorage, TensorboardXWriter


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


def test_pictures_are_there_for_every_writer_and_gone_in_the_next_iteration(tmp_path):
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
