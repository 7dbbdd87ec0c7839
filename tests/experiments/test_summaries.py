"""Summaries of many runs, read from run folders that are written by hand."""

import csv
import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from tests.conftest import load_tool
from tests.evaluation.cases import random_videos
from tests.launch.test_report import Page, write_run
from ultravid.evaluation.bootstrap import bootstrap_metrics, paired_p_value
from ultravid.evaluation.matching import match_videos
from ultravid.evaluation.metrics import all_metrics, count_metrics
from ultravid.experiments.paired import holm
from ultravid.experiments.run_results import canonical
from ultravid.utils.file_io import dump_json
from ultravid.utils.text import latex_text
from ultravid.utils.tool import run_tool

METRICS = ["--metrics", "AP50,R@16,Pr80", "--bootstrap", "40"]


def summarize(*arguments):
    return run_tool(load_tool("summarize").main, [str(argument) for argument in arguments])


def videos_of(rng, shift):
    """Six patients' videos, the same for every run, with detections that are off by some pixels."""
    videos = random_videos(np.random.default_rng(0), num_videos=6, max_frames=8, step=None)
    moved = []
    for i, video in enumerate(videos):
        frames = [
            dataclasses.replace(f, boxes=(f.boxes + shift + rng.uniform(0, 0.5)).astype(np.float32))
            for f in video.frames
        ]
        moved.append(dataclasses.replace(video, frames=frames, video_id=f"v{i}", patient=f"p{i}"))
    return moved


def finished(folder, videos, how="finished", max_iter=40):
    write_run(folder, videos)
    matched = match_videos(videos)
    metrics = all_metrics(matched)
    (folder / "inference/metrics.json").write_text(dump_json({**metrics, **count_metrics(matched)}))
    rows = [{"iteration": i, "total_loss": 2.0 - i / 40} for i in (9, 19, 29, 39)]
    rows += [{"iteration": i, "AP50": metrics["AP50"] * i / 40} for i in (20, 40)]
    (folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"iteration": 4')
    (folder / "attempts/1").mkdir(parents=True)
    record = {"max_iter": max_iter, "host": "elsewhere", "end": {"how": how, "why": ""}}
    (folder / "attempts/1/record.json").write_text(json.dumps(record))
    return metrics


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """Three rates by two seeds; the last run was stopped."""
    folder = tmp_path_factory.mktemp("rates")
    jobs, metrics = [], {}
    for lr, shift in (("1e-4", 3), ("3e-4", 1), ("1e-3", 0)):
        for seed in "01":
            number, identity = len(jobs), f"{len(jobs):08x}" * 8
            settings = {"optimizer.lr": lr, "train.seed": seed}
            run = folder / f"jobs/{number:03d}-{identity[:8]}"
            jobs.append({"number": number, "identity": identity, "folder": f"jobs/{run.name}", "settings": settings})
            jobs[-1]["overrides"] = [f"{key}={value}" for key, value in settings.items()]
            videos = videos_of(np.random.default_rng(number), shift)
            metrics[lr, seed] = finished(run, videos, "stopped" if number == 5 else "finished")
    plan = {"format": 1, "ultravid": "0.1.0", "config_file": "/c.py", "swept": [], "jobs": jobs}
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder, metrics


@pytest.fixture(scope="module")
def summary(experiment, tmp_path_factory):
    folder, _ = experiment
    out = tmp_path_factory.mktemp("summary")
    (folder / "jobs/000-00000000/report.html").touch()
    assert summarize(folder, *METRICS, "--no-reports", "--output-dir", out) == 0
    return out


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_settings_are_means_over_their_seeds_and_runs_that_have_not_ended_are_said(experiment, summary):
    _, metrics = experiment
    rows = {row["optimizer.lr"]: row for row in rows_of(summary / "settings.csv") if row["metric"] == "AP50"}
    assert list(rows) == ["1e-4", "3e-4", "1e-3"]
    for lr in ("1e-4", "3e-4"):
        values = [metrics[lr, seed]["AP50"] for seed in "01"]
        assert float(rows[lr]["mean"]) == np.mean(values) and float(rows[lr]["std"]) == np.std(values, ddof=1)
    assert rows["1e-3"]["num_runs"] == "1" and rows["1e-3"]["std"] == ""
    text = (summary / "summary.txt").read_text()
    assert "1 run not in any mean: 005-00000005 (stopped)" in text and "tools/summarize.py" in text
    runs = rows_of(summary / "runs.csv")
    assert [row["counted"] for row in runs] == ["yes"] * 5 + ["no"] and runs[0]["train.seed"] == "0"
    assert list(runs[0]).index("AP50") < list(runs[0]).index("identity")
    assert r"\begin{tabular}" in (summary / "settings.tex").read_text()


def test_differences_are_paired_over_patients_with_seeds_averaged(experiment, summary):
    _, metrics = experiment
    rows = {(row["optimizer.lr"], row["metric"]): row for row in rows_of(summary / "differences.csv")}
    drawn = {}
    for lr, shift, numbers in (("1e-4", 3, (0, 1)), ("3e-4", 1, (2, 3))):
        every = [match_videos(videos_of(np.random.default_rng(number), shift)) for number in numbers]
        drawn[lr] = np.mean([bootstrap_metrics(videos, 40, 0)["AP50"] for videos in every], axis=0)
    row = rows["3e-4", "AP50"]
    assert float(row["p"]) == paired_p_value(drawn["3e-4"] - drawn["1e-4"])
    expected = np.mean([metrics["3e-4", s]["AP50"] - metrics["1e-4", s]["AP50"] for s in "01"])
    assert float(row["difference"]) == pytest.approx(expected, abs=1e-9)
    assert float(row["low"]) <= float(row["difference"]) <= float(row["high"])
    assert "Paired over 6 patients" in (summary / "summary.txt").read_text()
    assert holm([0.01, 0.04, float("nan"), 0.03]) == pytest.approx([0.03, 0.06, float("nan"), 0.06], nan_ok=True)


def test_the_page_shows_metrics_first_links_to_reports_and_ends_with_hashes(summary):
    page = Page((summary / "summary.html").read_text())
    parts = [i for i in page.ids if not i.endswith("-table")]
    assert parts == ["settings", "differences", "charts", "runs", "curves", "provenance"]
    reports = {url for url in page.urls if not url.startswith("#")}
    assert len(reports) == 1 and all((summary / url).is_file() for url in reports)
    assert any(tag == "circle" for tag, _ in page.elements) and "Logarithmic axis" in page.text
    assert [row[0] for row in page.tables["runs-table"]][2:] == [
        f"{n:03d}-{n:08x}" for n in range(1, 6)
    ]  # a link comes first


@pytest.mark.slow_models
def test_the_reports_of_few_runs_are_written_once(experiment, tmp_path, capsys):
    assert summarize(experiment[0], "--bootstrap", "0", "--output-dir", tmp_path) == 0
    urls = Page((tmp_path / "summary.html").read_text()).urls
    assert len({url for url in urls if url.startswith("reports/") and (tmp_path / url).is_file()}) == 5
    assert summarize(experiment[0], "--bootstrap", "0", "--output-dir", tmp_path) == 0
    assert capsys.readouterr().out.count("Wrote") == 5 + 2


def test_runs_that_no_plan_knows_differ_in_what_their_configs_say(experiment, tmp_path, capsys):
    for number, (lr, fold) in enumerate([(0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1)]):
        run = tmp_path / f"mine/run_{number}"
        videos = videos_of(np.random.default_rng(number), 10 * lr)[3 * fold : 3 * fold + 3]
        finished(run, videos)
        (run / "config.yaml").write_text(
            f"optimizer:\n  lr: {lr}\ntrain:\n  output_dir: {run}\ndataloader:\n  train:\n    fold: {fold}\n"
            f"project_folders: [{tmp_path}/project_{number}]\n"
        )
    assert summarize(tmp_path / "mine", *METRICS, "--no-files") == 0
    out = capsys.readouterr().out
    assert re.search(r"\| 0\.1 +\| +2 \|", out) and "detections of all folds together (0, 1)" in out
    assert "output_dir" not in out and "project_folders" not in out and "Paired over 6 patients" in out
    assert (
        summarize(tmp_path / "mine", *METRICS, "--no-files", "--group-by", "fold,lr", "--reference", "lr=0.2,fold=0")
        == 0
    )
    assert "has video" in capsys.readouterr().out  # folds have other patients, so there is nothing to pair


def test_long_values_are_rounded_in_tables_and_whole_in_csv(experiment, tmp_path):
    folder, value = tmp_path / "rates", "1.234567890123456e-05"
    shutil.copytree(experiment[0], folder, ignore=shutil.ignore_patterns("predictions*"))
    (folder / "plan.json").write_text((folder / "plan.json").read_text().replace('"1e-4"', f'"{value}"'))
    assert summarize(folder, "--bootstrap", "0", "--no-reports", "--reference", "lr=1.235e-05") == 0
    out = folder / "summary"
    for name in ("summary.txt", "settings.tex"):
        assert "1.235e-05" in (out / name).read_text() and value not in (out / name).read_text()
    assert "<td>1.235e-05" in re.sub(r"<td[^>]*>", "<td>", (out / "summary.html").read_text())
    assert rows_of(out / "runs.csv")[0]["optimizer.lr"] == rows_of(out / "settings.csv")[0]["optimizer.lr"] == value
    assert value in (out / "summary.json").read_text()


def test_runs_of_one_config_in_two_experiments_are_said(experiment, tmp_path, capsys):
    shutil.copytree(experiment[0], tmp_path / "copy")
    assert summarize(experiment[0], tmp_path / "copy", "--no-files", "--bootstrap", "0") == 0
    assert capsys.readouterr().out.count("have the same config") == 5


def test_a_folder_that_is_given_twice_or_beside_one_that_holds_it_counts_once(experiment, capsys):
    assert summarize(experiment[0], "--no-files", "--bootstrap", "0") == 0
    lines = sorted(capsys.readouterr().out.splitlines()[:-1])  # the last one is the command
    for other in (experiment[0], experiment[0] / "jobs", experiment[0] / "jobs/000-00000000"):
        for folders in ((experiment[0], other), (other, experiment[0])):
            assert summarize(*folders, "--no-files", "--bootstrap", "0") == 0
            assert sorted(capsys.readouterr().out.splitlines()[:-1]) == lines


def test_a_run_whose_config_is_lost_keeps_the_settings_of_its_plan(experiment, tmp_path, capsys):
    shutil.copytree(experiment[0], tmp_path / "copy")
    assert summarize(experiment[0], tmp_path / "copy", "--no-files", "--bootstrap", "0") == 0
    out = capsys.readouterr().out
    assert re.search(r"\| 3e-4 +\| +4 \|", out) and out.count("only what its plan says of it is known") == 12


def test_a_table_fits_a_narrow_terminal_and_says_what_it_lacks(experiment, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    assert summarize(experiment[0], "--no-files", "--bootstrap", "0") == 0
    tables = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert max(map(len, tables)) <= 60
    assert any("lr" in line and "AP50" in line for line in tables)


def test_what_was_evaluated_otherwise_is_not_averaged(experiment, tmp_path, capsys):
    from ultravid.evaluation.records import write_record
    from ultravid.utils.hashing import sha256_of
    from ultravid.utils.run_folder import InferenceFolder

    for number in range(2):
        folder = tmp_path / f"runs/{number}"
        finished(folder, videos_of(np.random.default_rng(number), number))
        (folder / "config.yaml").write_text(f"train:\n  seed: {number}\n")
        inference = InferenceFolder(folder / "inference")
        names = ("metrics.json", "predictions/manifest.json")
        files = {name: sha256_of(inference.path / name) for name in names}
        content = {"by": "training", "how": "finished", "weights": {"iteration": 39}, "files": files}
        write_record(inference, {**content, "data": {"sha256": f"{number}"}})
    assert summarize(tmp_path / "runs", "--no-files", "--bootstrap", "0") == 0
    assert "data differ, so their metrics are neither averaged" in capsys.readouterr().out
    (tmp_path / "runs/0/inference/metrics.json").write_text("{}")
    assert summarize(tmp_path / "runs", "--no-files", "--bootstrap", "0") == 3
    assert "was changed or replaced" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--group-by", "optimizer.lrr"], "Did you mean 'optimizer.lr'?"),
        (["--metrics", "AP5"], "Did you mean 'AP50'?"),
        (["--reference", "optimizer.lr=2"], "there are: lr=1e-4; lr=3e-4; lr=1e-3"),
    ],
)
def test_a_mistake_is_one_message(experiment, capsys, arguments, message):
    assert summarize(experiment[0], "--no-files", *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_runs_is_refused(tmp_path, capsys):
    assert summarize(tmp_path, "--no-files") == 2
    assert "holds no run" in capsys.readouterr().err


def test_values_are_equal_however_they_are_typed():
    assert canonical("1e-4") == canonical("0.0001") and canonical("'a'") == canonical("a")
    assert canonical("None") == canonical("null") and canonical("1.0") == canonical("1") != canonical("true")


def test_a_list_at_the_beginning_of_a_latex_row_is_no_argument_of_the_line_before():
    assert latex_text("[18,34] 5% a_b **.lr<1") == r"{[}18,34] 5\% a\_b {*}{*}.lr\textless{}1"
