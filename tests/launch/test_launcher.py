"""The launcher as a user meets it; most of it in this process, for starting an interpreter with torch takes seconds."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import PHANTOM_CONFIG, ROOT, load_tool, read_rows, same_weights, small_arguments, without_times
from tests.docs.run_files import unnamed_files
from tests.launch.timed_config import timed_config
from tests.quick_python import quick_python
from ultravid.engine import run_tool

HELLO = """
from ultravid.engine import HookBase


class HelloHook(HookBase):
    def after_step(self):
        if self.trainer.iter % 100 == 0:
            print(f"Hello at iteration {self.trainer.iter}!")
"""

MY_CONFIG = f"""
from ultravid.config import LazyCall as L, LazyConfig
from hello import HelloHook

_base = LazyConfig.load({str(PHANTOM_CONFIG)!r})
data, dataloader, model, train = _base.data, _base.dataloader, _base.model, _base.train
prepared_model, checkpointer, trainer = _base.prepared_model, _base.checkpointer, _base.trainer
optimizer, lr_multiplier = _base.optimizer, _base.lr_multiplier
trainer.hooks.hello = L(HelloHook)()
"""


def with_config(arguments, path):
    return ["--config-file", str(path), *arguments[2:]]


def output_of(arguments):
    return next(a.removeprefix("train.output_dir=") for a in arguments if a.startswith("train.output_dir="))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, phantom):
    """A run that went through, and its arguments."""
    arguments = small_arguments(phantom, tmp_path_factory.mktemp("finished") / "run")
    assert run_tool(load_tool("lazyconfig_train").main, arguments) == 0
    return arguments


def test_a_run_leaves_everything_it_promises(finished):
    out = Path(output_of(finished))
    names = {p.name for p in out.iterdir()}
    promised = {
        "config.yaml",
        "log.txt",
        "metrics.json",
        "model_final.pth",
        "last_checkpoint",
        "inference",
    }
    assert promised | {"model_0000002.pth", "model_0000005.pth"} <= names
    assert any(n.startswith("events.out.tfevents") for n in names)
    assert {"predictions", "predictions.json", "metrics.json", "frames.png", "record.json"} == {
        p.name for p in (out / "inference").iterdir()
    }
    rows = read_rows(out / "metrics.json")
    assert [r["iteration"] for r in rows] == list(range(9))
    assert all({"total_loss", "lr"} <= set(r) for r in rows[:8])
    assert {"AP50", "AP75", "mAP", "Pr80", "Pr90", "FP80", "FP90", "R@16"} <= set(rows[8])
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["train"]["max_iter"] == 8
    assert "Running on the CPU" in (out / "log.txt").read_text() or "CUDA" in (out / "log.txt").read_text()


def test_every_file_that_a_run_leaves_is_named_on_the_page_of_its_folder(finished):
    assert unnamed_files(Path(output_of(finished))) == []


def test_config_diff_takes_a_run_an_attempt_and_a_checkpoint(finished, capsys):
    out = Path(output_of(finished))
    main = load_tool("config_diff").main
    for other in (out / "attempts/1", out / "model_final.pth", out / "config.yaml"):
        assert main([str(out), str(other)]) == 0
    assert main([str(out), str(out / "model_final.pth"), "train.seed=1"]) == 1
    assert "~ train.seed: 0 -> 1" in capsys.readouterr().out
    assert run_tool(main, [str(out), str(out / "inference")]) == 2
    assert "inference is a folder without a config" in capsys.readouterr().err


def test_config_diff_takes_the_folder_of_an_evaluation(finished, tmp_path, capsys):
    shutil.copy(Path(output_of(finished)) / "config.yaml", tmp_path / "evaluated_config.yaml")
    assert load_tool("config_diff").main([output_of(finished), str(tmp_path)]) == 0


def test_eval_only_gives_the_same_metrics_digit_for_digit_also_from_the_saved_config(finished, launch_run, tmp_path):
    out = Path(output_of(finished))
    trained = (out / "inference/metrics.json").read_text()
    predictions = (out / "inference/predictions.json").read_text()
    weights = f"train.init_checkpoint={out / 'model_final.pth'}"
    for name, config in (("a", finished[1]), ("b", out / "config.yaml")):
        arguments = with_config(finished, config)
        arguments = [a for a in arguments if not a.startswith("train.output_dir=")]
        assert launch_run([*arguments, "--eval-only", weights, f"train.output_dir={tmp_path / name}"]) == 0
        assert (tmp_path / name / "inference/metrics.json").read_text() == trained
        assert (tmp_path / name / "inference/predictions.json").read_text() == predictions


def test_an_interrupted_eval_only_continues_after_the_videos_it_finished(finished, launch_run, tmp_path, capfd):
    weights = f"train.init_checkpoint={Path(output_of(finished)) / 'model_final.pth'}"
    arguments = [a for a in finished if not a.startswith("train.output_dir=")]
    arguments += ["--eval-only", weights, f"train.output_dir={tmp_path}"]
    resume = "dataloader.evaluator.evaluators[0].resume=true"
    assert launch_run(arguments) == 0
    predictions = tmp_path / "inference/predictions"
    whole = {p.name: p.read_bytes() for p in predictions.iterdir()}

    def interrupt():
        (predictions / "manifest.json").unlink()
        min(predictions.glob("*.npz")).unlink()

    interrupt()
    assert launch_run([*arguments, resume]) == 0
    assert "Reusing 1 video of an interrupted evaluation" in capfd.readouterr().out
    assert {p.name: p.read_bytes() for p in predictions.iterdir()} == whole
    # A model of another setting, with the same weights, is another model.
    interrupt()
    assert launch_run([*arguments, resume, "model.context_stride=1"]) == 0
    assert "other weights or settings made them" in capfd.readouterr().out


@pytest.mark.distributed
def test_two_processes_evaluate_to_the_same_metrics_as_one(finished, tmp_path):
    out = Path(output_of(finished))
    command = [
        quick_python(),
        str(ROOT / "tools/lazyconfig_train.py"),
        *finished,
        "--eval-only",
        "--num-gpus",
        "2",
    ]
    command += [
        f"train.init_checkpoint={out / 'model_final.pth'}",
        f"train.output_dir={tmp_path / 'two'}",
    ]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, text=True)
    one, two = (json.loads((d / "inference/metrics.json").read_text()) for d in (out, tmp_path / "two"))
    assert two == pytest.approx(one, nan_ok=True)
    rows = [json.loads((d / "inference/predictions.json").read_text()) for d in (out, tmp_path / "two")]
    assert [r["image_id"] for r in rows[0]] == [r["image_id"] for r in rows[1]]


@pytest.mark.distributed
def test_two_processes_train_one_run_whatever_time_and_chance_say_in_its_config(small_run, tmp_path):
    config = timed_config(tmp_path)
    arguments = [a for a in with_config(small_run, config) if not a.startswith("train.output_dir=")]
    command = [quick_python(), str(ROOT / "tools/lazyconfig_train.py"), *arguments, "--num-gpus", "2"]
    command += ["train.max_iter=2", "train.seed=-1"]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (run,) = tmp_path.glob("run_*")
    assert len(read_rows(run / "metrics.json")) == 3 and not (run / "lock.json").exists()
    drawn = [(tmp_path / f"drawn_{rank}.txt").read_text() for rank in range(2)]
    assert (
        drawn[0]
        == drawn[1]
        == repr(yaml.safe_load((run / "config.yaml").read_text())["trainer"]["hooks"]["note"]["value"])
    )


@pytest.mark.slow
def test_a_signal_saves_a_checkpoint_and_the_run_continues_from_it(finished, small_run, launch_run, tmp_path):
    whole, run = Path(output_of(finished)), tmp_path / "run"
    command = [sys.executable, str(ROOT / "tools/lazyconfig_train.py"), *small_run, "dataloader.train.num_workers=1"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True)
    for line in process.stdout:
        if "iter: 0" in line:
            for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM):
                os.killpg(process.pid, number)  # as a scheduler does: the loader's workers get it too
            break
    process.communicate()
    assert process.returncode == 75
    last = (run / "last_checkpoint").read_text()
    assert last.startswith("model_000000") and not (run / "model_final.pth").exists()
    assert launch_run([*small_run, "--resume"]) == 0
    assert without_times(read_rows(run / "metrics.json")) == without_times(read_rows(whole / "metrics.json"))
    assert same_weights(run / "model_final.pth", whole / "model_final.pth")


def test_a_users_own_hook_is_named_from_a_config(small_run, launch_run, tmp_path, capfd):
    (tmp_path / "hello.py").write_text(HELLO)
    (tmp_path / "mine.py").write_text(MY_CONFIG)
    assert launch_run([*with_config(small_run, tmp_path / "mine.py"), "train.max_iter=1"]) == 0
    assert "Hello at iteration 0!" in capfd.readouterr().out
    # The saved config says where the project's modules are: a fresh process finds them.
    saved = tmp_path / "run/config.yaml"
    assert "hello.HelloHook" in saved.read_text() and "oc.env" not in saved.read_text()
    command = [quick_python(), str(ROOT / "tools/lazyconfig_train.py"), "--config-file", str(saved), "--check"]
    assert subprocess.run(command, check=False, cwd=tmp_path / "run").returncode == 0


def swap(line):
    return f"from ultravid.config import LazyCall as L, get_config\nfrom .phantom import *\n{line}\n"


@pytest.mark.parametrize(
    ("line", "overrides", "expected"),
    [
        ('optimizer = get_config("common/optim.py").SGD', [], "torch.optim.SGD"),
        ("", ["optimizer=common/optim.py:SGD"], "torch.optim.SGD"),
        (
            "from torch.optim import Adagrad; optimizer._target_ = Adagrad; del optimizer.betas",
            [],
            "torch.optim.Adagrad",
        ),
        (
            "dataloader.evaluator = L('ultravid.evaluation.VideoDetectionEvaluator')()",
            [],
            "VideoDetectionEvaluator",
        ),
        ('lr_multiplier = get_config("common/schedules.py").cosine', [], "CosineParamScheduler"),
        (
            "dataloader.train = L('tests.launch.own_loader.repeat_first_batch')(loader=dataloader.train)",
            [],
            "own_loader",
        ),
    ],
)
def test_parts_are_swapped_by_a_three_line_config_or_an_override(
    small_run, launch_run, tmp_path, line, overrides, expected
):
    shutil.copytree(PHANTOM_CONFIG.parent, tmp_path / "configs")
    (tmp_path / "configs/mine.py").write_text(swap(line))
    arguments = with_config(small_run, tmp_path / "configs/mine.py")
    if "own_loader" in line:
        arguments = [a.replace("dataloader.train.", "dataloader.train.loader.") for a in arguments]
    assert launch_run([*arguments, "train.max_iter=1", *overrides]) == 0
    assert expected in (tmp_path / "run/config.yaml").read_text()
    assert read_rows(tmp_path / "run/metrics.json")[0]["total_loss"] > 0


def test_mixed_precision_is_a_key(small_run, launch_run, tmp_path):
    assert (
        launch_run(
            [*small_run, "train.max_iter=1", "train.amp.enabled=true", "~trainer.hooks.eval", "~trainer.hooks.best"]
        )
        == 0
    )
    assert read_rows(tmp_path / "run/metrics.json")[0]["total_loss"] > 0


def edit_json(phantom, tmp_path, change):
    root = tmp_path / "data"
    root.mkdir()
    os.symlink(phantom / "rawframes", root / "rawframes")
    for name in ("trainval.json", "test.json"):
        content = json.loads((phantom / name).read_text())
        if name == "trainval.json":
            change(content)
        (root / name).write_text(json.dumps(content))
    return f"data.root={root}"


def lose_two_frames(content):
    for image in content["images"][:2]:
        image["file_name"] = "benign/gone/" + image["file_name"].rpartition("/")[2]


def nan_box(content):
    content["annotations"][0]["bbox"][2] = float("nan")


def empty_split(content):
    content.update(videos=[], images=[], annotations=[])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-file", "{tmp}/fantom.py"], "fantom.py does not exist"),
        (["--config-file", "{tmp}/broken.py"], "broken.py:2: syntax error"),
        (["train.max_itr=5"], "Did you mean 'train.max_iter'"),
        (["optimizer.lrr=5"], "Did you mean 'optimizer.lr'"),
        (["+optimizer.momentun=0.9"], "torch.optim.adamw.AdamW takes no argument 'momentun'"),
        (["data.root={tmp}/nowhere"], "ULTRAVID_DATASETS"),
        (["data.root={tmp}"], "trainval.json does not exist"),
        ([lose_two_frames], "frame 0: "),
        ([lose_two_frames], "2 of 72 pictures are missing"),
        ([nan_box], "holds a nan"),
        ([empty_split], "The training split is empty"),
        (["train.init_checkpoint={tmp}/other.pth"], "doesn't fit the model"),
        (
            ["train.init_checkpoint={tmp}/other.pth"],
            "keys of the model are missing in it (backbone.stem.conv1.weight",
        ),
        (["train.init_checkpoint={tmp}/gone.pth"], "gone.pth does not exist"),
        (["train.init_checkpoint=foo://gone.pth"], "PathManager.register_handler"),
        (["train.output_dir=http://127.0.0.1:9/run"], "train.output_dir can't be at http://127.0.0.1:9/run"),
        (["--eval-only"], "--eval-only needs weights"),
        (["--eval-only", "train.init_checkpoint={tmp}"], "{tmp} is a folder; it holds no checkpoint"),
        (["--eval-only", "train.init_checkpoint={tmp}/gone.pth"], "gone.pth does not exist"),
        (["--eval-only", "train.init_checkpoint=gone.pth?matching_heuristics=True"], "gone.pth does not exist"),
        (["--eval-only", "train.init_checkpoint=gone"], "Checkpoint gone does not exist"),
        (["--eval-only", "train.init_checkpoint=http://127.0.0.1:9/gone.pth"], "gone.pth can't be read: "),
        (["train.device=cuda:0"], "is not a device of this machine, which has cpu; 'auto' chooses cpu (override"),
        (["train.device=xla"], "is not a device of this machine, which has cpu"),
        (
            [
                "dataloader.train.total_batch_size=2",
                "dataloader.train.fold=9",
                "dataloader.train.num_folds=4",
            ],
            "fold=9",
        ),
    ],
)
def test_bad_input_gets_one_message_and_no_training(
    small_run, launch_run, phantom, tmp_path, capfd, arguments, message
):
    if "cuda" in str(arguments):
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is a CUDA device")
    (tmp_path / "broken.py").write_text("train = dict(\n  max_iter=1\n  seed=2)\n")
    if "other.pth" in str(arguments):
        import torch

        torch.save({"model": {"x": torch.zeros(1)}}, tmp_path / "other.pth")
    given = [edit_json(phantom, tmp_path, a) if callable(a) else a.format(tmp=tmp_path) for a in arguments]
    assert launch_run([*small_run, *given]) == 2
    error = capfd.readouterr().err
    assert message.format(tmp=tmp_path) in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("run/model_*"))
    if "--eval-only" in arguments or "gone.pth" in message:  # known before anything is written
        assert not (tmp_path / "run").exists()


def test_check_alone_builds_nothing(small_run, launch_run, tmp_path, capfd):
    assert launch_run([*small_run, "--check"]) == 0
    assert not (tmp_path / "run").exists()


def test_a_new_run_in_an_old_folder_does_not_mix_with_it(small_run, launch_run, tmp_path):
    assert launch_run([*small_run, "train.max_iter=4"]) == 0
    assert launch_run([*small_run, "train.max_iter=1"]) == 0
    assert [r["iteration"] for r in read_rows(tmp_path / "run/metrics.json")] == [0, 1]
    assert len(read_rows(tmp_path / "run/metrics.json.1")) == 5
    assert "holds an earlier run" in (tmp_path / "run/log.txt").read_text()
    assert (tmp_path / "run/earlier_run_1/model_final.pth").is_file()
