"""Where an evaluation comes from: its record, its folder, and what the tools say of both or refuse."""

import json
import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import ROOT, load_tool, small_arguments
from tests.evaluation.cases import random_videos, write_coco
from tests.quick_python import quick_python
from ultravid.evaluation import DatasetEvaluator, inference_on_dataset
from ultravid.evaluation.evaluated_run import EvaluatedRun, evaluating
from ultravid.evaluation.records import write_record
from ultravid.utils.hashing import sha256_of
from ultravid.utils.processes import process_start_time
from ultravid.utils.run_folder import RunFolder
from ultravid.utils.tool import run_tool

EMA = "trainer.hooks.ema=common/hooks.py:EMA"


def tool(name, *arguments):
    return run_tool(load_tool(name).main, [str(a) for a in arguments])


def process(name, *arguments, cwd=ROOT):
    command = [quick_python(), str(ROOT / f"tools/{name}.py"), *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd)


def record_in(folder):
    return json.loads((folder / "record.json").read_text())


def report_of(run, folder):
    assert tool("report", run, "--output", folder / "report.html", "--bootstrap", 0, "--strips", 0) == 0
    return (folder / "report.html").read_text()


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def finished(phantom, tmp_path_factory):
    """A run with averaged weights, and other weights for its model beside it."""
    run = RunFolder(tmp_path_factory.mktemp("evaluated") / "run")
    assert tool("lazyconfig_train", *small_arguments(phantom, run.path), "train.max_iter=4", EMA) == 0
    content = torch.load(run.checkpoint("model_0000002"), weights_only=True)
    halved = {name: value / 2 if value.is_floating_point() else value for name, value in content["model"].items()}
    torch.save({"model": halved, "iteration": 70}, run.path.with_name("other.pth"))
    return run


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it."""
    shutil.copytree(finished, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def evaluate(run, *arguments):
    return tool("lazyconfig_train", "--config-file", run.config, "--eval-only", f"train.output_dir={run}", *arguments)


def test_other_weights_have_a_folder_of_their_own_and_no_training_command(finished, run, tmp_path):
    other = finished.path.with_name("other.pth")
    before = contents(run.inference)
    arguments = [
        "--config-file",
        run.config,
        "--eval-only",
        f"train.output_dir={run}",
        f"train.init_checkpoint={other}",
    ]
    done = process("lazyconfig_train", *arguments)
    assert done.returncode == 0, done.stderr
    folder = run.inference_of("other.pth", sha256_of(other))
    assert folder.name == f"inference_other_{sha256_of(other)[:8]}" and f"is written to {folder}" in done.stdout
    assert contents(run.inference) == before
    record = record_in(folder)
    weights = record["weights"]
    assert (weights["path"], weights["iteration"], weights["averaged"]) == (str(other), 70, False)
    assert weights["sha256"] == sha256_of(other) and str(other) in record["command"] and record["how"] == "finished"
    assert (
        record["data"]["frames"] == record["seen"]["frames"] == 24
        and record["config"]["file"] == "evaluated_config.yaml"
    )
    assert record["files"]["metrics.json"] == sha256_of(folder / "metrics.json")
    trained = json.loads((run.attempts / "1/record.json").read_text())
    page = report_of(folder, tmp_path)
    assert f"weights {other}" in page and "after 71 iterations" in page and "not known to be those of the run" in page
    assert trained["command"] not in page
    assert trained["command"].split()[-1] in report_of(run, tmp_path)


def test_a_trainings_evaluation_and_its_newest_checkpoints_are_recorded_in_inference(run, tmp_path):
    by_training = record_in(run.inference)
    assert by_training["by"] == "training" and by_training["run"]["attempt"] == 1
    assert (by_training["weights"]["iteration"], by_training["weights"]["averaged"]) == (3, True)
    assert (run.inference / by_training["config"]["file"]).samefile(run.attempts / "1/config.yaml")
    metrics = run.evaluation_metrics.read_bytes()
    assert evaluate(run, "--resume") == 0
    record = record_in(run.inference)
    weights = record["weights"]
    assert (weights["path"], weights["iteration"], weights["averaged"]) == (str(run.checkpoint("model_final")), 3, True)
    assert weights["sha256"] == sha256_of(run.checkpoint("model_final")) and record["by"] == "command"
    # The same weights under the same config, whoever evaluates them.
    assert (
        weights["model_sha256"] == by_training["weights"]["model_sha256"]
        and record["identity"] == by_training["identity"]
    )
    assert run.evaluation_metrics.read_bytes() == metrics and run.evaluations() == [run.evaluation]
    page = report_of(run, tmp_path)
    assert (
        "model_final.pth (SHA-256" in page and "after 4 iterations, averaged" in page and "not known to be" not in page
    )


def edit_metrics(run):
    values = json.loads(run.evaluation_metrics.read_text())
    run.evaluation_metrics.write_text(json.dumps({**values, "AP50": 61.5}))


def predictions_of_others(run):
    for path in run.predictions.iterdir():
        path.write_bytes(path.read_bytes()[::-1] if path.suffix == ".json" else path.read_bytes())
    manifest = json.loads(run.prediction_manifest.read_bytes()[::-1])
    run.prediction_manifest.write_text(json.dumps({**manifest, "fingerprint": "0" * 64}))


def one_video(run):
    path = next(run.predictions.glob("*.npz"))
    path.write_bytes(path.read_bytes() + b"\0")


def change_record(run, **changes):
    content = {key: value for key, value in record_in(run.inference).items() if key != "checksum"}
    write_record(run.evaluation, {**content, **changes})


def not_ended(run):
    change_record(run, end=None, how=None, process_started=1)


def going_on(run):
    change_record(run, end=None, how=None, pid=os.getpid(), process_started=process_start_time(os.getpid()))


def edit_record(run):
    run.evaluation.record.write_text(run.evaluation.record.read_text().replace('"iteration": 3', '"iteration": 9000'))


def unrecorded_and_edited(run):
    run.evaluation.record.unlink()
    edit_metrics(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit_metrics, "metrics.json: was changed or replaced after the evaluation of"),
        (predictions_of_others, "manifest.json: was changed or replaced after the evaluation of"),
        (one_video, "has changed since the evaluation: its SHA-256 is not the one in manifest.json"),
        (not_ended, "did not end, so what is there is not the result of one evaluation"),
        (going_on, "has not ended yet"),
        (edit_record, "record.json: was edited after the evaluation wrote it"),
        (unrecorded_and_edited, "its AP50 is 61.5, but that of the predictions beside it is"),
    ],
)
def test_what_no_record_explains_is_refused(run, tmp_path, capsys, change, message):
    change(run)
    for name, arguments in (("report", ["--output", tmp_path / "r.html"]), ("compare", [run])):
        assert tool(name, run, *arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    assert not (tmp_path / "r.html").exists()


def test_the_command_that_repairs_edited_metrics_works_as_it_is_printed(run, tmp_path, capsys):
    edit_metrics(run)
    assert tool("compare", run, run) == 2
    command = capsys.readouterr().err.partition("Compute it again from the predictions: ")[2].strip()
    typed = f"{shlex.quote(quick_python())}{command.removeprefix('python')}"
    assert subprocess.run(typed, shell=True, check=False, cwd=ROOT, capture_output=True).returncode == 0
    assert "computed again from the predictions" in report_of(run, tmp_path)
    assert record_in(run.inference)["weights"]["iteration"] == 3
    # Metrics of predictions alone have a record too, with that of the evaluation in it.
    assert tool("evaluate", "--predictions", run, "--output-dir", tmp_path / "out", "--score-threshold", 0.5) == 0
    assert "evaluated: weights of the training itself" in capsys.readouterr().out
    record = record_in(tmp_path / "out")
    assert record["evaluation"]["weights"]["iteration"] == 3 and record["settings"]["score_threshold"] == 0.5
    assert record["predictions"]["sha256"] == sha256_of(run.prediction_manifest)
    assert tool("evaluate", "--predictions", run, "--output-dir", run) == 2  # whose metrics.json is the training's
    assert "is the folder of a run" in capsys.readouterr().err


def test_predictions_of_version_0_1_are_shown_without_weights_and_with_the_command_to_evaluate_again(
    run, tmp_path, capsys
):
    run.evaluation.record.unlink()
    page = report_of(run, tmp_path)
    assert "no record: the weights are unknown. To evaluate again: python tools/lazyconfig_train.py" in page
    assert "whether it made the weights is not recorded" in page
    assert "No record says which weights" in page
    # Metrics of something else must not get there, and another detector's results may lie there.
    annotations, detections = write_coco(tmp_path, random_videos(np.random.default_rng(0), num_videos=3))
    others = ["--annotations", annotations, "--predictions", detections, "--output-dir"]
    assert tool("evaluate", *others, run.inference) == 2
    assert "holds a model's evaluation, of other predictions" in capsys.readouterr().err
    others[3] = shutil.copy(detections, run.inference / "another_detector.json")
    assert tool("evaluate", *others, tmp_path / "out") == 0
    assert record_in(tmp_path / "out")["evaluation"] is None


def test_a_report_names_what_does_not_fit_a_folder(finished, run, tmp_path):
    text = report_of(run, tmp_path)
    assert f"was written to {finished.inference}" in text and "was moved or is a copy" in text
    run.config.write_text(run.config.read_text().replace("max_iter: 4", "max_iter: 9000"))
    assert "config.yaml was changed after attempt 1 had begun (~ train.max_iter: 4 -&gt; 9000)" in report_of(
        run, tmp_path
    )
    saved = run.attempts / "1/config.yaml"
    text = saved.read_text()
    saved.write_text(text.replace("max_iter: 4", "max_iter: 8000"))
    assert "../attempts/1/config.yaml is not the config of this evaluation" in report_of(run, tmp_path)
    saved.write_text(text)
    attempt = run.new_attempt()  # a new training in the folder, which has not evaluated yet
    attempt.write_record({**json.loads((run.attempts / "1/record.json").read_text()), "attempt": 2, "command": "newer"})
    page = report_of(run, tmp_path)
    assert "Attempt 2 restarted at iteration 0; this evaluation is of attempt 1." in page and "newer" not in page
    inference = run.path.with_name("foreign") / "inference"
    shutil.copytree(run.inference, inference)  # another run's evaluation put into a folder
    shutil.copytree(run.attempts, inference.with_name("attempts"))
    begun = inference.with_name("attempts") / "1/record.json"
    begun.write_text(json.dumps({**json.loads(begun.read_text()), "pid": 1, "command": "another"}))
    page = report_of(inference.parent, tmp_path)
    assert "not known to be those of the run in this folder" in page and "another" not in page
    # So too if one process made both trainings, as a notebook does: this one had ended when the evaluation began.
    ended = json.loads((run.attempts / "1/record.json").read_text())
    ended["end"]["time"] = ended["started"] = "2020-01-01T00:00:00+00:00"
    begun.write_text(json.dumps({**ended, "command": "earlier"}))
    page = report_of(inference.parent, tmp_path)
    assert "not known to be those of the run in this folder" in page and "earlier" not in page


def test_a_living_run_keeps_its_inference_folder_and_is_said_to_be_training(run, tmp_path, capfd):
    with subprocess.Popen(["sleep", "60"]) as living:
        path = run.attempts / "1/record.json"
        alive = {"end": None, "pid": living.pid, "process_started": process_start_time(living.pid)}
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, **alive}))
        before = contents(run.inference)
        assert evaluate(run, "--resume") == 0
        assert contents(run.inference) == before and "is training" in capfd.readouterr().out
        (own,) = [folder for folder in run.evaluations() if folder != run.evaluation]
        assert own.path.name.startswith("inference_model_final_")
        assert f"still training (process {living.pid}" in report_of(own.path, tmp_path)
        living.kill()


class Counter(DatasetEvaluator):
    """A user's: it writes nothing, or a file of its own."""

    def __init__(self, output_dir=None):
        self._output_dir = output_dir
        self.seen = 0

    def process(self, inputs, outputs):
        self.seen += len(inputs)

    def evaluate(self):
        if self._output_dir:
            Path(self._output_dir, "seen.txt").write_text(str(self.seen))
        return {"seen": self.seen}


class Finds(torch.nn.Module):
    def forward(self, inputs):
        return [{} for _ in inputs]


def test_a_users_own_evaluator_is_recorded_with_or_without_a_folder(tmp_path):
    loader = [[{"video_id": "v", "frame_index": i}] for i in range(3)]
    run = RunFolder(tmp_path / "run")
    with evaluating(EvaluatedRun(run)):
        assert inference_on_dataset(Finds(), loader, Counter()) == {"seen": 3}
    record = record_in(run.inference)
    assert record["metrics"] == {"seen": 3} and record["evaluators"][0]["class"].endswith("Counter")
    assert record["weights"]["path"] is None and record["weights"]["iteration"] is None
    with evaluating(
        EvaluatedRun(run)
    ) as described:  # several in one go have their own folders, and none without an evaluator
        for evaluator in (None, Counter(), Counter(), Counter()):
            inference_on_dataset(Finds(), loader, evaluator)
    assert [Path(path).name for path in described.recorded] == ["inference", "Counter", "Counter_2"]
    run.checkpoint("model_final").write_bytes(b"")  # now there is a run, and the model in memory is not its own
    evaluator = Counter(str(run.inference))
    with evaluating(EvaluatedRun(run)):
        inference_on_dataset(Finds(), loader, evaluator)
    (own,) = [folder for folder in run.evaluations() if run.inference not in (folder.path, folder.path.parent)]
    assert own.path.name.startswith("inference_in_memory_") and (own.path / "seen.txt").is_file()
    assert list(record_in(own.path)["files"]) == ["seen.txt"] and evaluator._output_dir == str(run.inference)
    assert inference_on_dataset(Finds(), loader, Counter()) == {
        "seen": 6 - 3
    }  # without a run there is nowhere to record


def test_an_evaluation_that_fails_says_so_and_the_next_one_names_it(tmp_path):
    def broken():
        yield [{"video_id": "v", "frame_index": 0}]
        raise RuntimeError

    with pytest.raises(RuntimeError), evaluating(EvaluatedRun(RunFolder(tmp_path))):
        inference_on_dataset(Finds(), broken(), Counter())
    failed = record_in(tmp_path / "inference")
    assert failed["how"] == "failed: RuntimeError" and "files" not in failed
    with evaluating(EvaluatedRun(RunFolder(tmp_path))):
        inference_on_dataset(Finds(), [], Counter())
    assert record_in(tmp_path / "inference")["follows"]["id"] == failed["id"]


def test_weights_that_changed_after_they_were_loaded_are_not_those_of_the_file(tmp_path):
    from ultravid.checkpoint import DetectionCheckpointer
    from ultravid.checkpoint.origin import weights_origin

    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)  # it does not count the versions of what it changes
    path = DetectionCheckpointer(model, tmp_path).save("model_0000004", iteration=4)
    origin, changed = weights_origin(model)
    assert (origin.path, origin.iteration, changed) == (str(path), 4, False)
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    assert weights_origin(model)[1]
    begin = time.perf_counter()
    DetectionCheckpointer(model).load(path)
    assert not weights_origin(model)[1] and time.perf_counter() - begin < 1
