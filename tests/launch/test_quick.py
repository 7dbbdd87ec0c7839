"""`--quick`: a few iterations and every hook, in a folder of its own."""

from pathlib import Path

import pytest
import torch

from tests.conftest import load_tool, read_rows, small_arguments
from ultravid.engine import HookBase
from ultravid.evaluation.run_facts import run_warnings
from ultravid.utils.run_folder import RunFolder


def test_a_trial_run_trains_evaluates_resumes_and_says_what_the_run_would_take(
    phantom, tmp_path, launch_run, capsys, caplog
):
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.metrics.write_text("a run at work\n")
    arguments = [
        *[a for a in small_arguments(phantom, run.path) if "max_iter" not in a and "period" not in a],
        *("train.max_iter=1000", "train.eval_period=300", "dataloader.train.num_workers=1"),
        *("trainer.hooks.ema=common/hooks.py:EMA", "trainer.hooks.bn=common/hooks.py:PreciseBN", "--quick"),
    ]
    arguments = [f"+{a}" if a.startswith("trainer.hooks.bn") else a for a in arguments]
    run.quick.mkdir()
    (run.quick / "model_0000777.pth").write_text("of an earlier look")
    assert launch_run(arguments) == 2 and "holds a run that --quick did not make" in capsys.readouterr().err
    (run.quick / run.quick_report.name).write_text("")
    assert launch_run(arguments) == 0
    report = capsys.readouterr().out.partition("Trial run of ")[2]
    assert "it works" in report and "6 iterations, stopped after 3 and resumed" in report
    assert "whole run about" in report and "1000 iterations" in report and "4 evaluations" in report
    assert "up to 7 checkpoints of" in report
    assert run.metrics.read_text() == "a run at work\n" and {p.name for p in run.path.iterdir()} == {
        "metrics.json",
        "quick",
    }
    assert "no other file of the run's folder was changed" in report
    look = RunFolder(run.quick)
    assert look.quick_report.read_text() == f"Trial run of {report}"
    assert any("trial run (--quick)" in text for text in run_warnings(look.path))
    caplog.clear()
    assert load_tool("evaluate").main(["--predictions", str(look.path), "--output-dir", str(tmp_path / "metrics")]) == 0
    assert "trial run (--quick)" in caplog.text
    rows = read_rows(look.metrics)
    assert [row["iteration"] for row in rows] == [2, 5, 6] and "AP50" in rows[0] and "AP50" in rows[-1]
    assert {path.stem for path in look.checkpoints()} >= {"model_0000002", "model_final"}
    assert "averaged_model" in torch.load(look.final_checkpoint(), weights_only=True)
    assert [a.read_record()["end"]["how"] for a in look.list_attempts()] == ["stopped", "finished"]
    assert not list(look.path.glob("earlier_run_*")) and not look.checkpoint("model_0000777").exists()


class Plots(HookBase):
    def __init__(self, places):
        self.places = [Path(place) for place in places]

    def after_step(self):
        for place in self.places:
            place.parent.mkdir(exist_ok=True)
            place.write_text("a plot")


@pytest.mark.slow_models
def test_a_trial_run_leaves_the_runs_own_files_alone_however_the_folder_is_spelled_or_says_so(
    phantom, tmp_path, launch_run, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run/inference").mkdir(parents=True)
    (tmp_path / "run/inference/metrics.json").write_text("of the run")
    hook = f"+trainer.hooks.plots={{_target_: {__name__}.Plots, places: [run/plots/a.txt]}}"
    arguments = ["train.output_dir=./run", "dataloader.evaluator.evaluators[0].output_dir=run/inference", hook]
    arguments.append("data.test_videos.splits=[trainval]")
    assert launch_run([*small_arguments(phantom, Path("run")), *arguments, "--quick"]) == 0
    assert (tmp_path / "run/inference/metrics.json").read_text() == "of the run"
    assert (tmp_path / "run/quick/inference/metrics.json").is_file()
    report = capsys.readouterr().out.partition("Trial run of ")[2]
    assert report.count("warning   The evaluation is not independent") == 1 and "known patients (the first: " in report
    assert (
        "The trial run wrote to the folder of the run itself: plots/a.txt." in report and "no other file" not in report
    )


def test_a_trial_run_of_a_run_that_would_fail_says_why(phantom, tmp_path, launch_run, capsys):
    arguments = [*small_arguments(phantom, tmp_path / "run"), "dataloader.train.fold=2", "dataloader.train.num_folds=4"]
    assert launch_run([*arguments, "train.init_checkpoint=gone.pth", "--quick"]) == 2
    assert "gone.pth does not exist" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    with pytest.raises(SystemExit):
        launch_run([*arguments, "--quick", "--resume"])
    assert "--quick: not allowed with --resume" in capsys.readouterr().err
