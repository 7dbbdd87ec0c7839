"""The trackers with their real libraries, offline; each in a process of its own, as in a run."""

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
from ultravid.utils.events import EventStorage
from ultravid.utils.trackers import MLflowWriter, WandbWriter

writer, library = sys.argv[1:]
config = {"train": {"max_iter": 8}, "list": [1, 2]}
kwargs = {"mode": "offline"} if writer == "WandbWriter" else {"tracking_uri": "sqlite:///m.db", "experiment": "e"}
for begin, end in ((0, 6), (4, 8)):  # the second attempt resumes from a checkpoint after 4 steps
    tracker = globals()[writer]("out", config=config, **kwargs)
    assert begin > 0 or library not in sys.modules, "imported before it was needed"
    tracker.rewind(begin)
    with EventStorage(begin) as storage:
        for iteration in range(begin, end):
            storage.iter = iteration
            storage.put_scalar("number", iteration + 0.5, smoothing_hint=False)
            storage.put_scalar("R@16", 1.0)
            if iteration == 3:
                storage.put_image("frame", torch.zeros(3, 4, 6).index_fill_(0, torch.tensor([0]), 1.0))
                storage.put_histogram("weights", torch.arange(1000.0))
            tracker.write()
    tracker.close()
"""
READ_MLFLOW = """
from mlflow.tracking import MlflowClient

client = MlflowClient("sqlite:///m.db")
(run,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
history = {n: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, n)] for n in run.data.metrics}
print(json.dumps([run.info.run_id, run.info.status, history, run.data.params]))
client.download_artifacts(run.info.run_id, "images", ".")
"""


def track(tmp_path, writer, library, then=""):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_SILENT": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN + then, writer, library]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def needs(library):
    return pytest.mark.skipif(importlib.util.find_spec(library) is None, reason=f"{library} is not installed")


def wandb_records(folder):
    """The records of an offline run on disk: a log of LevelDB's with protocol buffers, in blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("*.wandb")
    data = path.read_bytes()
    place, parts = 7, b""  # after the file's header
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # no room for a header: the rest of the block is empty
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # complete, or the last part
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


@needs("wandb")
@pytest.mark.slow_models
def test_wandb_gets_every_row_once_also_of_a_resumed_run(tmp_path):
    track(tmp_path, "WandbWriter", "wandb")
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
@pytest.mark.slow_models
def test_mlflow_gets_every_row_once_also_of_a_resumed_run(tmp_path):
    printed = track(tmp_path, "MLflowWriter", "mlflow", READ_MLFLOW)
    run_id, status, history, params = json.loads(printed.splitlines()[-1])
    assert (run_id, status) == (json.loads((tmp_path / "out/mlflow_run.json").read_text())["id"], "FINISHED")
    assert history["number"] == [[i, i + 0.5] for i in range(8)]
    assert history["R_16"] == [[i, 1.0] for i in range(8)]
    assert params == {"train.max_iter": "8", "list": "[1, 2]"}
    from PIL import Image

    with Image.open(tmp_path / "images/frame/0000003.png") as picture:
        assert picture.size == (6, 4) and picture.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(("writer", "library"), [(WandbWriter, "wandb"), (MLflowWriter, "mlflow")])
def test_a_missing_library_is_reported_before_the_run_with_the_command_that_installs_it(
    writer, library, monkeypatch, tmp_path
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"{writer.__name__} needs {library}, which is not installed: pip install"):
        writer(tmp_path)


@needs("wandb")
def test_a_new_run_in_an_old_folder_is_tracked_as_another_and_a_broken_id_is_an_error(tmp_path):
    (tmp_path / "wandb_run.json").write_text('{"id": "abc", "last_iteration": 5}')
    WandbWriter(tmp_path).rewind(0)
    assert not (tmp_path / "wandb_run.json").exists() and (tmp_path / "wandb_run.json.1").exists()
    (tmp_path / "wandb_run.json").write_text("{")
    with pytest.raises(UserError, match=r"wandb_run\.json does not say which run of wandb to continue"):
        WandbWriter(tmp_path).rewind(3)
