"""Slots of GPUs and of the processor, and the number of threads that an experiment keeps."""

import pytest
import torch

from ultravid.experiments.slots import Threads, make_slots, threads_per_job, with_threads
from ultravid.utils.errors import UserError


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_jobs_are_spread_over_gpus_before_a_gpu_gets_a_second_one(two_gpus):
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in make_slots("0, 1", 2)] == ["0", "1", "0", "1"]
    assert make_slots("GPU-8f2e-01") == [{"CUDA_VISIBLE_DEVICES": "GPU-8f2e-01"}]
    assert make_slots() == [{}] and make_slots(slots=3) == [{}, {}, {}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("0,2,3",), "there is no GPU 2, 3; there is 0, 1"),
        (("0,0",), "name each GPU once"),
        (("0,",), "name each GPU once"),
        (("",), "name each GPU once"),
        (("all",), "there is no GPU all; there is 0, 1"),
        (("0", 0), "--per-gpu 0: is below 1"),
        (("0", None, 2), "--per-gpu 2"),
        ((None, 2), "needs --gpus"),
        ((None, None, -1), "--slots -1: is below 1"),
    ],
)
def test_wrong_slots_are_refused_with_what_would_be_right(arguments, message, two_gpus):
    with pytest.raises(UserError, match=message):
        make_slots(*arguments)


def test_gpus_that_the_environment_withholds_are_not_there(two_gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert make_slots("3") == [{"CUDA_VISIBLE_DEVICES": "3"}]
    with pytest.raises(UserError, match="no GPU 0; there is 2, 3 as CUDA_VISIBLE_DEVICES=2,3"):
        make_slots("0,3")


def test_without_a_gpu_the_message_says_what_works(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"torch finds no GPU here.*--slots N"):
        make_slots("0")


def test_the_number_of_threads_stays_when_slots_change(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("ultravid.experiments.slots._cores", lambda: 8)
    threads = Threads(tmp_path / "threads.json")
    assert threads_per_job(threads, [{}] * 2) == (4, "")
    number, note = threads_per_job(threads, [{}] * 8)
    assert number == 4 and note.startswith("4 threads for each job, as when the experiment began")
    assert threads_per_job(threads, [{}], wanted=4) == (4, "")  # the same command again
    assert threads_per_job(threads, [{}] * 2, wanted=1)[1].endswith("those that began before keep 4.")
    assert threads_per_job(threads, [{}] * 2)[0] == 1
    threads.path.write_text("{")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_per_job(threads, [{}] * 4) == (3, "4 slots of 3 threads share 8 cores.")
    assert with_threads([{"CUDA_VISIBLE_DEVICES": "1"}], 3) == [{"CUDA_VISIBLE_DEVICES": "1", "OMP_NUM_THREADS": "3"}]
    with pytest.raises(UserError, match="--threads 0: is below 1"):
        threads_per_job(threads, [{}], 0)


def test_on_gpus_the_threads_follow_the_slots(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("ultravid.experiments.slots._cores", lambda: 8)
    threads = Threads(tmp_path / "threads.json")
    slots = [{"CUDA_VISIBLE_DEVICES": str(n)} for n in range(4)]
    assert [threads_per_job(threads, slots[:n])[0] for n in (4, 1)] == [2, 8] and not threads.path.exists()
