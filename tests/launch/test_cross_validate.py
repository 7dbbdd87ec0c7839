"""tools/cross_validate.py as a user meets it: real runs in subprocesses, and its tables against figures worked by numpy."""

import contextlib
import csv
import io
import json
import math
import shlex
import signal
import subprocess
import time

import numpy as np
import pytest

from tests.conftest import PHANTOM_CONFIG, ROOT, load_tool
from tests.quick_python import quick_python
from ultravid.config import load_checked
from ultravid.evaluation.folds import FoldResult, FoldTable, fold_csv, fold_html, fold_json, fold_latex, fold_text
from ultravid.evaluation.metrics import TRAINING_METRICS, all_metrics
from ultravid.evaluation.prediction_store import find_manifest, read_videos
from ultravid.experiments import describe_exit
from ultravid.utils.folder_lock import FolderLock
from ultravid.utils.run_folder import RunFolder
from ultravid.utils.tool import run_tool

FOLDED_CONFIG = f"""
from ultravid.config import LazyConfig, ref

_base = LazyConfig.load({str(PHANTOM_CONFIG)!r})
data, dataloader, model, train = _base.data, _base.dataloader, _base.model, _base.train
prepared_model, checkpointer, trainer = _base.prepared_model, _base.checkpointer, _base.trainer
optimizer, lr_multiplier = _base.optimizer, _base.lr_multiplier

data.videos.splits = ["trainval", "test"]
dataloader.train.fold, dataloader.train.num_folds = 0, 3
dataloader.test.videos = ref("data.videos")
dataloader.test.fold = ref("dataloader.train.fold")
dataloader.test.num_folds = ref("dataloader.train.num_folds")

train.max_iter, train.log_period, train.checkpointer.period = 8, 1, 3
dataloader.train.frame_sampler.num_frames = 3
dataloader.train.num_workers = dataloader.test.num_workers = 0
"""


def command(*arguments):
    return [quick_python(), str(ROOT / "tools/cross_validate.py"), *map(str, arguments)]


def run(*arguments):
    """The tool called in this process; its folds are processes of their own."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_tool(load_tool("cross_validate").main, [str(a) for a in arguments])
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def config(phantom, tmp_path_factory):
    """Arguments of a cross-validation of seconds: three folds over the phantom."""
    path = tmp_path_factory.mktemp("config") / "folded.py"
    path.write_text(FOLDED_CONFIG)
    return ["--config-file", path, f"data.root={phantom}"]


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """All folds trained, two at a time."""
    folder = tmp_path_factory.mktemp("cv") / "out"
    done = run(*config, "--output-dir", folder, "--gpus", "0,1")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def figures_of(folder, fold):
    return json.loads((folder / f"fold_{fold}/inference/metrics.json").read_text())


def rows_of(folder):
    with (folder / "cross_validation.csv").open() as file:
        return {row["metric"]: row for row in csv.DictReader(file)}


def test_every_fold_is_held_out_once_and_the_tables_hold_what_numpy_computes(finished):
    folder, said = finished
    assert "fold_0: started on GPU 0" in said and "fold_1: started on GPU 1" in said
    manifests = [find_manifest(folder / f"fold_{fold}") for fold in range(3)]
    videos = [list(read_videos(manifest)) for manifest in manifests]
    names = [video.video_id for part in videos for video in part]
    assert len(names) == len(set(names)) == 8 and all(videos)
    by_fold = [figures_of(folder, fold) for fold in range(3)]
    rows, written = rows_of(folder), json.loads((folder / "cross_validation.json").read_text())
    pooled = all_metrics([video for part in videos for video in part])
    assert set(rows) == {name for name in by_fold[0] if not name.startswith("count/")}
    for name, row in rows.items():
        values = [figures[name] for figures in by_fold]
        defined = [value for value in values if value is not None]
        assert (row["num_folds"], row["num_defined"]) == ("3", str(len(defined)))
        if len(defined) == 3:
            assert float(row["mean"]) == pytest.approx(np.mean(values))
            assert float(row["std"]) == pytest.approx(np.sqrt(np.square(np.array(values) - np.mean(values)).sum() / 2))
        else:
            assert row["mean"] == row["std"] == "" and written["mean"][name] is None
            assert any(name in reasons for reasons in written["undefined"].values())
        assert row["pooled"] == ("" if math.isnan(pooled[name]) else repr(pooled[name]))
    page = (folder / "cross_validation.html").read_text()
    assert "Held out: " in page and "Fewer than 10 patients in fold 0, 1, 2" in written["patient_notes"][1]
    assert "sample standard deviation (n - 1) over n = 3 folds (0, 1, 2)" in page and "tools/cross_validate.py" in page


def test_the_same_command_keeps_finished_folds_and_rejects_another_config(finished, config):
    folder, _ = finished
    before = {p: p.stat().st_mtime_ns for p in folder.glob("fold_*/**/*") if p.is_file()}
    done = run(*config, "--output-dir", folder)
    assert done.returncode == 0 and done.stdout.count("finished before") == 3
    assert {p: p.stat().st_mtime_ns for p in folder.glob("fold_*/**/*") if p.is_file()} == before
    done = run(*config, "--output-dir", folder, "train.max_iter=9", "optimizer.lr=0.5", "dataloader.test.num_workers=1")
    assert done.returncode == 2 and done.stderr.startswith("error: Folds in ")
    assert "~ train.max_iter: 8 -> 9 (fold 0, 1, 2)" in done.stderr and "num_workers" not in done.stderr
    assert (
        "--allow-change train.max_iter,optimizer.lr" in done.stderr
        or "--allow-change optimizer.lr,train.max_iter" in done.stderr
    )


@pytest.mark.slow_models
def test_eval_only_evaluates_each_folds_own_weights_or_those_that_are_named(finished, config, tmp_path):
    folder, _ = finished
    weights = f"train.init_checkpoint={folder}/fold_{{fold}}/model_final.pth"
    arguments = [*config, "--output-dir", tmp_path / "out", "--eval-only", weights, "--folds", "0,2"]
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    for fold in (0, 2):
        assert figures_of(tmp_path / "out", fold) == figures_of(folder, fold)
    assert "over n = 2 folds (0, 2)" in done.stdout
    assert run(*arguments).stdout.count("finished before") == 2
    done = run(*config, "--output-dir", tmp_path / "empty", "--eval-only")
    assert done.returncode == 2 and "Fold 0: " in done.stderr and "model_final.pth is missing" in done.stderr


@pytest.mark.slow_models
def test_a_signal_stops_the_folds_in_order_and_the_same_command_ends_with_the_same_figures(
    finished, config, tmp_path, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as the folds had that were trained two at a time: digits hang on it
    whole, _ = finished
    arguments = [*config, "--output-dir", tmp_path / "out", "--folds", "0-1"]
    process = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "out/fold_0/terminal.txt"
    deadline = time.time() + 120
    while time.time() < deadline and not (log.exists() and "iter: 0" in log.read_text()):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert "Run the same command to continue" in err and "fold_1" not in out
    assert (tmp_path / "out/fold_0/last_checkpoint").is_file() and not (
        tmp_path / "out/fold_0/model_final.pth"
    ).exists()
    assert not (tmp_path / "out/cross_validation.json").exists()
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    for fold in range(2):
        assert figures_of(tmp_path / "out", fold) == figures_of(whole, fold)


@pytest.mark.parametrize(("place", "work"), [(".", "a cross-validation"), ("fold_1", "a training")])
def test_two_cross_validations_do_not_write_into_one_folder(config, tmp_path, capsys, place, work):
    folder = tmp_path / place
    folder.mkdir(exist_ok=True)
    RunFolder(folder).lock.write_bytes(FolderLock(folder, work)._content())  # as if another process had locked it
    given = [str(a) for a in (*config, "--output-dir", tmp_path)]
    assert run_tool(load_tool("cross_validate").main, given) == 2
    assert f"{work} is still running there" in capsys.readouterr().err and not list(tmp_path.glob("fold_0"))


@pytest.mark.slow_models
def test_a_fold_that_fails_is_reported_at_the_end_and_does_not_stop_the_others(config, tmp_path):
    out = tmp_path / "out"
    (out / "fold_0").mkdir(parents=True)
    (out / "fold_0/log.txt").mkdir()  # the run can't write its log there
    done = run(*config, "--output-dir", out, "--folds", "0,2", "train.max_iter=1")
    assert done.returncode == 1
    assert "fold_0: exit code 2" in done.stdout and "fold_2: finished" in done.stdout
    assert "Fold 0 failed, exit code 2. The end of " in done.stderr and "can't be written" in done.stderr
    assert "over n = 1 fold (2)" in done.stdout and "0 is missing" in done.stdout
    assert json.loads((out / "cross_validation.json").read_text())["missing_folds"] == [0]


def test_the_overrides_that_make_folds_can_be_typed_as_the_message_gives_them(tmp_path, capsys):
    given = ["--config-file", str(PHANTOM_CONFIG), "--output-dir", str(tmp_path / "out")]
    assert run_tool(load_tool("cross_validate").main, given) == 2
    overrides = shlex.split(capsys.readouterr().err.splitlines()[1])
    cfg = load_checked(PHANTOM_CONFIG, [*overrides, "dataloader.train.fold=1"])
    test = cfg.dataloader.test
    assert (test.fold, test.num_folds, test.raw["videos"]) == (1, 4, cfg.dataloader.train.raw["videos"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-file", PHANTOM_CONFIG], "dataloader.train.num_folds is not set, so this config has no folds"),
        (["--config-file", PHANTOM_CONFIG, "dataloader.train.num_folds=3"], "dataloader.test does not change with"),
        (["--folds", "0-3"], "there is no fold 3; the config has 3 folds"),
        (["--folds", "2-0"], "the range '2-0' is empty"),
        (["--folds", "0,x"], "'x' is neither a fold nor a range"),
        (["--folds", "1,0-2"], "names fold 1 twice"),
        (["--gpus", "0,0"], "name each GPU once"),
        (["--fold-key", "dataloader.fold"], "has no key 'dataloader.fold'"),
        (["train.max_itr=5"], "Did you mean 'train.max_iter'"),
    ],
)
def test_a_mistake_is_one_message_before_any_work(config, tmp_path, capsys, arguments, message):
    given = [str(a) for a in (*config, "--output-dir", tmp_path / "out", *arguments)]
    assert run_tool(load_tool("cross_validate").main, given) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


NAN = float("nan")
HAND = FoldTable(
    [
        FoldResult(0, {"AP50": 80.0, "Pr90": 50.0, "odd_name": 1.0}, {}, {"count/videos": 3}),
        FoldResult(1, {"AP50": 90.0, "Pr90": NAN, "odd_name": 2.0}, {"Pr90": "the recall ends at 0.700"}),
        FoldResult(3, {"AP50": 85.0, "Pr90": 60.0, "odd_name": 3.0}),
    ],
    missing=[2],
    not_pooled="a video stands in several folds",
    shown=("AP50", "Pr90", "odd_name"),
)


def test_a_figure_that_a_fold_lacks_has_no_mean_and_the_others_mean_is_named_so():
    rows = {row["metric"]: row for row in csv.DictReader(fold_csv(HAND).splitlines())}
    assert (rows["AP50"]["mean"], rows["AP50"]["std"], rows["AP50"]["fold_3"]) == ("85.0", "5.0", "85.0")
    assert (rows["Pr90"]["mean"], rows["Pr90"]["std"], rows["Pr90"]["num_defined"]) == ("", "", "2")
    assert float(rows["Pr90"]["mean_of_defined"]) == 55 and float(rows["Pr90"]["std_of_defined"]) == pytest.approx(
        50**0.5
    )
    text = fold_text(HAND)
    assert (
        "Pr90: undefined in 1 of 3 folds (fold 1, the recall ends at 0.700); mean of the other 2: Pr90 55.00 (std 7.07)"
        in text
    )
    assert "2 is missing" in text and "No pooled metrics: a video stands in several folds" in text
    assert math.isnan(fold_json(HAND)["mean"]["Pr90"]) and fold_json(HAND)["pooled"] is None


def test_the_latex_table_is_of_booktabs_with_a_row_for_each_fold():
    lines = [line for line in fold_latex(HAND).splitlines() if not line.startswith("%")]
    assert lines == [
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r" & AP50 & Pr90 & odd\_name \\",
        r"\midrule",
        r"Fold 0 & 80.00 & 50.00 & 1.00 \\",
        r"Fold 1 & 90.00 & -- & 2.00 \\",
        r"Fold 3 & 85.00 & 60.00 & 3.00 \\",
        r"\midrule",
        r"Mean & 85.00 & -- & 2.00 \\",
        r"Standard deviation & 5.00 & -- & 1.00 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_a_single_fold_has_no_standard_deviation_and_names_are_escaped():
    single = FoldTable([FoldResult(0, dict.fromkeys(TRAINING_METRICS, 50.0))], pooled={"AP50": 50.0})
    text = fold_text(single)
    assert "A single fold has no standard deviation" in text and "50.00 |     - |" in text
    page = fold_html(single, "<b>x</b> & y", "python tools/cross_validate.py '<i>'")
    assert "&lt;b&gt;x&lt;/b&gt; &amp; y" in page and "<b>x</b>" not in page and "<i>" not in page


def test_a_killed_fold_is_described_by_its_signal():
    assert describe_exit(-signal.SIGKILL) == "killed by SIGKILL" and describe_exit(1) == "exit code 1"
