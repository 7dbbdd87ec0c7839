"""The trackers with their real libraries, offline; a process of its own each, as a run is."""

import importlib.util
import json
import os
import struct
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from ultravid.utils.errors import UserError
from ultravid.utils.trackers import MLflowWriter, WandbWriter

RUN = """
import json, sys
import torch
from ultravid.engine import HookBase, SimpleTrainer, hooks
from ultravid.utils.events import TensorboardXWriter, get_event_storage
from ultravid.utils.trackers import MLflowWriter, WandbWriter

writer, begin, end, period = sys.argv[1], *map(int, sys.argv[2:])


class Model(torch.nn.Linear):
    def forward(self, x):
        storage = get_event_storage()
        storage.put_scalar("number", storage.iter + 0.5, smoothing_hint=False)
        storage.put_scalar("R@16", 1.0)
        if storage.iter == 3:
            storage.put_image("frame", torch.zeros(3, 4, 6).index_fill_(0, torch.tensor([0]), 1.0))
            storage.put_histogram("weights", torch.arange(1000.0))
        return {"loss": super().forward(x).sum()}


class Stop(HookBase):
    def after_step(self):
        if self.trainer.iter + 1 == end < 8:
            raise ValueError("the machine is gone")


config = {"train": {"max_iter": 8}, "list": [1, 2]}
kwargs = {"mode": "offline"} if writer == "WandbWriter" else {"tracking_uri": "sqlite:///m.db", "experiment": "e"}
tracker = globals()[writer]("out", config=config, **kwargs)
assert not {"wandb", "mlflow"} & set(sys.modules), "imported before it was needed"
model = Model(2, 1)
trainer = SimpleTrainer(model, [torch.ones(1, 2)], torch.optim.SGD(model.parameters(), lr=0.0), max_iter=8,
                        hooks=[hooks.PeriodicWriter([TensorboardXWriter("out"), tracker], period=period), Stop()])
try:
    trainer.train(begin)
except ValueError:
    pass
"""


def train(tmp_path, writer, begin, end, period=1):
    (tmp_path / "run.py").write_text(RUN)
    command = [sys.executable, "run.py", writer, str(begin), str(end), str(period)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_SILENT": "true", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def needs(library):
    return pytest.mark.skipif(importlib.util.find_spec(library) is None, reason=f"{library} is not installed")


def wandb_records(folder):
    """What an offline run has on disk: LevelDB's log of protocol buffers, in blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("*.wandb")
    data = path.read_bytes()
    place, parts = 7, b""  # after the file's own head
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # no room for a head: the block's end is empty
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


@needs("wandb")
@pytest.mark.slow
def test_wandb_gets_every_row_once_also_of_a_run_that_was_taken_up(tmp_path):
    train(tmp_path, "WandbWriter", 0, 6)
    train(tmp_path, "WandbWriter", 4, 8)  # from the checkpoint after 4 steps
    folders = sorted((tmp_path / "out/wandb").glob("offline-run-*"))
    assert len(folders) == 2
    ids, rows, config = set(), [], {}
    for folder in folders:
        for record in wandb_records(folder):
            if record.HasField("run"):
                ids.add(record.run.run_id)
                config.update({u.key: json.loads(u.value_json) for u in record.run.config.update})
            if record.HasField("history"):
                rows.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item})
    assert ids == {json.loads((tmp_path / "out/wandb_run.json").read_text())["id"]}
    assert config["train"] == {"max_iter": 8}
    assert [(r["_step"], r["number"]) for r in rows] == [(i, i + 0.5) for i in range(8)]
    assert (rows[3]["frame/width"], rows[3]["frame/height"]) == (6, 4)
    assert sum(rows[3]["weights/values"]) == 1000 and len(rows[3]["weights/values"]) == 500  # wandb takes 512 bins


@needs("mlflow")
@needs("sqlalchemy")
@pytest.mark.slow
def test_mlflow_gets_every_row_once_also_of_a_run_that_was_taken_up(tmp_path):
    train(tmp_path, "MLflowWriter", 0, 6)
    train(tmp_path, "MLflowWriter", 4, 8)
    look = (
        "import json; from mlflow.tracking import MlflowClient; c = MlflowClient('sqlite:///m.db')\n"
        "(run,) = c.search_runs([c.get_experiment_by_name('e').experiment_id])\n"
        "history = {n: [(m.step, m.value) for m in c.get_metric_history(run.info.run_id, n)] for n in run.data.metrics}\n"
        "print(json.dumps([run.info.run_id, run.info.status, history, run.data.params]))\n"
        "c.download_artifacts(run.info.run_id, 'images', '.')\n"
    )
    told = subprocess.run([sys.executable, "-c", look], cwd=tmp_path, capture_output=True, text=True, check=True)
    run_id, status, history, params = json.loads(told.stdout.splitlines()[-1])
    assert (run_id, status) == (json.loads((tmp_path / "out/mlflow_run.json").read_text())["id"], "FINISHED")
    assert history["number"] == [[i, i + 0.5] for i in range(8)]
    assert history["R_16"] == [[i, 1.0] for i in range(8)]
    assert params == {"train.max_iter": "8", "list": "[1, 2]"}
    from PIL import Image

    with Image.open(tmp_path / "images/frame/0000003.png") as picture:
        assert picture.size == (6, 4) and picture.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(("writer", "library"), [(WandbWriter, "wandb"), (MLflowWriter, "mlflow")])
def test_a_library_that_is_missing_is_told_before_the_run_with_the_command_that_installs_it(
    writer, library, monkeypatch, tmp_path
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"{writer.__name__} needs {library}, which is not installed: pip install"):
        writer(tmp_path)


@needs("wandb")
def test_a_new_run_in_an_old_folder_is_tracked_as_another_and_a_broken_id_is_told(tmp_path):
    (tmp_path / "wandb_run.json").write_text('{"id": "abc", "last_iteration": 5}')
    WandbWriter(tmp_path).rewind(0)
    assert not (tmp_path / "wandb_run.json").exists() and (tmp_path / "wandb_run.json.1").exists()
    (tmp_path / "wandb_run.json").write_text("{")
    with pytest.raises(UserError, match=r"wandb_run\.json does not say which run of wandb goes on"):
        WandbWriter(tmp_path).rewind(3)
