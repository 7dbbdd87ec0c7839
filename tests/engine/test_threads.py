"""The number of threads of a run."""

import pytest
import torch
from torch import nn

from ultravid.config import LazyConfig, get_config
from ultravid.engine.threads import set_evaluation_threads, set_training_threads
from ultravid.utils.errors import UserError
from ultravid.utils.run_folder import RunFolder


@pytest.fixture
def run_of_three_threads(tmp_path):
    attempt = RunFolder(tmp_path).new_attempt()
    attempt.write_record({"attempt": 1, "threads": 3})
    return RunFolder(tmp_path)


def test_a_resumed_run_keeps_its_number_of_threads(run_of_three_threads, caplog):
    set_training_threads("auto", run_of_three_threads)
    assert torch.get_num_threads() == 3 and "WARNING" not in caplog.text
    set_training_threads("auto", None)
    assert torch.get_num_threads() == 3  # a new run takes what the process has


def test_a_resumed_run_with_another_number_of_threads_is_warned_about(run_of_three_threads, caplog):
    set_training_threads(2, run_of_three_threads)
    assert torch.get_num_threads() == 2 and "has had 3 threads so far and continues with 2" in caplog.text


def test_a_small_model_is_evaluated_on_one_thread_and_a_number_is_obeyed():
    torch.set_num_threads(2)
    set_evaluation_threads(nn.Linear(2000, 2000))
    assert torch.get_num_threads() == 2
    set_evaluation_threads(nn.Linear(8, 8))
    assert torch.get_num_threads() == 1
    set_evaluation_threads(nn.Linear(8, 8), 2)
    assert torch.get_num_threads() == 2


def test_a_number_of_the_command_line_is_obeyed():
    cfg = LazyConfig.apply_overrides(get_config("common/train.py"), ["train.num_threads=2"])
    torch.set_num_threads(1)
    set_training_threads(cfg.train.num_threads, None)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    set_evaluation_threads(nn.Linear(8, 8), cfg.train.num_threads)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("value", [0, "-1", "1.5", "many", True])
def test_what_is_no_number_of_threads_is_refused(value):
    with pytest.raises(UserError, match="neither 'auto' nor a number"):
        set_training_threads(value, None)
