"""Two real processes on the CPU."""

import json

import pytest
import torch

from ultravid.engine import StopTraining, launch
from ultravid.evaluation import DatasetEvaluator, DatasetEvaluators, inference_on_dataset
from ultravid.evaluation.recording import EvaluatedRun, evaluating
from ultravid.utils import comm
from ultravid.utils.errors import UserError
from ultravid.utils.run_folder import RunFolder
from ultravid.utils.tool import EXIT_STOPPED


class NoMetrics(DatasetEvaluator):
    """An evaluator, so that there is something to record."""


def talk(path):
    rank = comm.get_rank()
    model = torch.nn.BatchNorm1d(1)
    model.running_mean.fill_(rank)
    inference_on_dataset(model, [], None)
    different = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(different.weight, rank)
    try:
        with evaluating(EvaluatedRun(RunFolder(path / "run"))):
            inference_on_dataset(different, [], DatasetEvaluators([NoMetrics()]))
        refused = ""
    except UserError as error:
        refused = str(error)
    said = {
        "world": comm.get_world_size(),
        "all": comm.all_gather({"rank": rank}),
        "gathered": comm.gather(rank),
        "reduced": comm.reduce_dict({"b": torch.tensor(2.0 + rank), "a": torch.tensor(rank)})["b"].item(),
        "seeds": len(set(comm.all_gather(comm.shared_random_seed()))),
        "mean": model.running_mean.item(),
        "refused": refused,
    }
    (path / f"{rank}.json").write_text(json.dumps(said))


def make_a_mistake(kind):
    if kind == "stop":
        raise StopTraining("here")
    raise UserError("the folder is not there")


@pytest.mark.slow
@pytest.mark.distributed
def test_processes_hear_each_other(tmp_path):
    launch(talk, 2, dist_url="auto", args=(tmp_path,))
    first, second = (json.loads((tmp_path / f"{r}.json").read_text()) for r in range(2))
    refused = first.pop("refused")
    assert "Process 1 has other weights or another config than process 0" in refused and second["refused"] == refused
    assert first == {
        "world": 2,
        "all": [{"rank": 0}, {"rank": 1}],
        "gathered": [0, 1],
        "reduced": 2.5,
        "seeds": 1,
        "mean": 0.0,
    }
    assert second["gathered"] == []
    assert second["mean"] == 0.0  # every process evaluates the main one's batch statistics


@pytest.mark.slow
@pytest.mark.distributed
def test_an_error_in_the_processes_is_reported_once_and_a_stop_keeps_its_code():
    with pytest.raises(UserError, match="the folder is not there"):
        launch(make_a_mistake, 2, args=("mistake",))
    with pytest.raises(SystemExit) as caught:
        launch(make_a_mistake, 2, args=("stop",))
    assert caught.value.code == EXIT_STOPPED


def test_auto_is_for_one_machine():
    with pytest.raises(UserError, match="several machines"):
        launch(talk, 1, num_machines=2, dist_url="auto")
