"""Two real processes on the CPU."""

import argparse
import datetime
import json
import os
import signal
import socket
import threading
import time

import pytest
import torch

from tests.quick_python import spawns_quick_python
from ultravid.config import Node, get_cfg
from ultravid.engine import StopTraining, default_setup, launch
from ultravid.evaluation import DatasetEvaluator, DatasetEvaluators, inference_on_dataset
from ultravid.evaluation.evaluated_run import EvaluatedRun, evaluating
from ultravid.utils import comm
from ultravid.utils.errors import UserError
from ultravid.utils.run_folder import RunFolder
from ultravid.utils.tool import EXIT_STOPPED


class NoMetrics(DatasetEvaluator):
    """An evaluator, so that there is something to record."""


class NotSent(Node):
    """A config that can't be pickled."""

    def __reduce_ex__(self, protocol):
        raise TypeError("a lock is not picklable")


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
    # A script that reads its config in each process.
    cfg = Node(train=Node(output_dir=f"{path}/run_{rank}", seed=-1, device="cpu", init_checkpoint=""))
    frozen = get_cfg()
    frozen.OUTPUT_DIR = f"{path}/run_{rank}"
    frozen.freeze()
    for config in (cfg, frozen):
        default_setup(config, argparse.Namespace())
    try:
        default_setup(NotSent(train=Node(output_dir=f"{path}/run_{rank}")), argparse.Namespace())
        not_sent = ""
    except UserError as error:
        not_sent = str(error)
    said = {
        "not sent": not_sent,
        "run": [*sorted(p.name for p in path.glob("run_*")), cfg.train.output_dir, frozen.OUTPUT_DIR],
        "seed": cfg.train.seed,
        "world": comm.get_world_size(),
        "all": comm.all_gather({"rank": rank}),
        "gathered": comm.gather(rank),
        "reduced": comm.reduce_dict({"b": torch.tensor(2.0 + rank), "a": torch.tensor(rank)})["b"].item(),
        "seeds": len(set(comm.all_gather(comm.shared_random_seed()))),
        "mean": model.running_mean.item(),
        "refused": refused,
    }
    pids = comm.all_gather(os.getpid())
    (path / f"{rank}.json").write_text(json.dumps(said))
    if rank == 0:  # as a scheduler does while the main process writes the last checkpoint
        time.sleep(0.3)
        os.kill(pids[1], signal.SIGTERM)
        time.sleep(0.1)


def make_a_mistake(kind):
    rank = comm.get_rank()
    if kind == "user":
        raise UserError("the folder is not there")
    if kind == "stop":
        raise StopTraining("here")
    if rank == 0:  # the other one waits for it, and loses it
        comm.synchronize()
    if kind == "error":
        raise KeyError("of rank 1")
    if kind == "number":
        raise FloatingPointError("rank 1 has a nan")
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(3)


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with spawns_quick_python():
        yield


@pytest.mark.distributed
def test_processes_hear_each_other(tmp_path):
    launch(talk, 2, dist_url="auto", args=(tmp_path,))
    first, second = (json.loads((tmp_path / f"{r}.json").read_text()) for r in range(2))
    refused = first.pop("refused")
    assert "Process 1 has other weights or another config than process 0" in refused and second["refused"] == refused
    assert first.pop("run") == second["run"] == ["run_0", *[f"{tmp_path}/run_0"] * 2]
    assert first.pop("seed") == second["seed"] and not (tmp_path / "run_0/lock.json").exists()
    assert "that of rank 0 can't be sent to the others (TypeError: a lock is" in first.pop("not sent")
    assert first == {
        "world": 2,
        "all": [{"rank": 0}, {"rank": 1}],
        "gathered": [0, 1],
        "reduced": 2.5,
        "seeds": 1,
        "mean": 0.0,
    }
    assert second["gathered"] == [] and "(TypeError: a lock is" in second["not sent"]
    assert second["mean"] == 0.0  # every process evaluates the main one's batch statistics


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("kind", "error", "code", "said"),
    [
        ("user", UserError, None, "the folder is not there"),
        ("number", FloatingPointError, None, "rank 1 has a nan"),
        ("stop", SystemExit, EXIT_STOPPED, ""),
        ("error", SystemExit, 1, "Rank 1 failed:\nTraceback"),
        (
            "killed",
            SystemExit,
            1,
            "error: Rank 1 was killed by SIGKILL, so the run ended. A user may have killed it, or the kernel",
        ),
        ("exit", SystemExit, 3, ""),
    ],
)
def test_an_error_in_the_processes_is_reported_once_with_its_cause(capfd, kind, error, code, said):
    with pytest.raises(error) as caught:
        launch(make_a_mistake, 2, args=(kind,))
    reported = capfd.readouterr().err + ("" if code is not None else str(caught.value))
    assert said in reported and reported.count("Traceback") == (kind == "error")
    assert "Connection closed" not in reported
    assert code is None or caught.value.code == code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_machines": 2, "dist_url": "auto"}, "several machines"),
        ({"num_machines": 2, "machine_rank": 2}, "--machine-rank 2 must be below --num-machines 2"),
        ({"dist_url": "foo"}, "--dist-url foo is not an address. Write tcp://HOST:PORT"),
        ({"dist_url": "tcp://127.0.0.1"}, "is not an address"),
        ({"dist_url": "tcp://127.0.0.1:port"}, "is not an address"),
        ({"dist_url": "tcp://nowhere.invalid:29500"}, "the host 'nowhere.invalid' can't be found"),
        ({"dist_url": "tcp://127.0.0.1:{busy}"}, "of this machine is in use by another program"),
        ({"args": (lambda: 0,)}, "can't be sent to the other processes of the run"),
        ({"args": ({"train": {"hook": threading.Lock()}},)}, r"train.hook=<unlocked .* can't be sent to the other"),
    ],
)
def test_what_no_process_can_start_with_is_one_message(arguments, message):
    with socket.create_server(("", 0)) as busy:
        address = arguments.get("dist_url")
        if address is not None:
            arguments = {**arguments, "dist_url": address.format(busy=busy.getsockname()[1])}
        with pytest.raises(UserError, match=message):
            launch(talk, 2, **arguments)


def test_a_process_that_never_comes_is_reported_with_what_each_machine_needs():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
    timeout = datetime.timedelta(seconds=1)
    with pytest.raises(UserError, match=r"not all of its 2 processes came within 1 seconds"):
        launch(talk, 1, num_machines=2, dist_url=f"tcp://127.0.0.1:{port}", timeout=timeout)


def test_a_part_of_torchruns_environment_is_one_message(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match=r"not: WORLD_SIZE=, LOCAL_RANK=, MASTER_PORT=, MASTER_ADDR="):
        launch(talk, 1)
