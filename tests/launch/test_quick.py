"""`--quick`: a few iterations and every hook, in a folder of its own."""

import pytest
import torch

from tests.conftest import read_rows, small_arguments
from ultravid.utils.run_folder import RunFolder


def test_a_quick_look_trains_evaluates_resumes_and_says_what_the_run_would_take(phantom, tmp_path, launch_run, capsys):
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
    assert launch_run(arguments) == 0
    report = capsys.readouterr().out.partition("Quick look at ")[2]
    assert "it goes through" in report and "6 iterations, stopped after 3 and resumed" in report
    assert "whole run about" in report and "1000 iterations" in report and "4 evaluations" in report
    assert "up to 7 checkpoints of" in report
    assert run.metrics.read_text() == "a run at work\n" and {p.name for p in run.path.iterdir()} == {
        "metrics.json",
        "quick",
    }
    look = RunFolder(run.quick)
    rows = read_rows(look.metrics)
    assert [row["iteration"] for row in rows] == [2, 5, 6] and "AP50" in rows[0] and "AP50" in rows[-1]
    assert {path.stem for path in look.checkpoints()} >= {"model_0000002", "model_final"}
    assert "averaged_model" in torch.load(look.final_checkpoint(), weights_only=True)
    assert [a.read_record()["end"]["how"] for a in look.list_attempts()] == ["stopped", "finished"]
    assert not list(look.path.glob("earlier_run_*")) and not look.checkpoint("model_0000777").exists()


def test_a_quick_look_at_a_run_that_would_fail_says_why(phantom, tmp_path, launch_run, capsys):
    arguments = [*small_arguments(phantom, tmp_path / "run"), "dataloader.train.fold=2", "dataloader.train.num_folds=4"]
    assert launch_run([*arguments, "train.init_checkpoint=gone.pth", "--quick"]) == 2
    assert "gone.pth does not exist" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    with pytest.raises(SystemExit):
        launch_run([*arguments, "--quick", "--resume"])
    assert "--quick: not allowed with --resume" in capsys.readouterr().err
