"""Searches of jobs that train nothing."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from tests.experiments.fake_search import CONFIG, ROOT, search
from ultravid.config import LazyConfig, Node
from ultravid.config.errors import OverrideError
from ultravid.evaluation import DatasetEvaluators, VideoDetectionEvaluator
from ultravid.experiments import searchers
from ultravid.experiments.plan import ExperimentFolder
from ultravid.experiments.search import Search, SearchOptions, _pruning_note
from ultravid.experiments.search_options import objective_of
from ultravid.experiments.search_space import search_space
from ultravid.experiments.status import JobState, status_of
from ultravid.utils.errors import UserError

optuna = pytest.importorskip("optuna")
RATE = "optimizer.lr=tag(log, interval(1e-5, 1e-1))"


def study_of(folder):
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
    return optuna.load_study(study_name="search", storage=optuna.storages.JournalStorage(backend))


def trials_of(folder):
    return [(t.state.name, t.params, t.value) for t in study_of(folder).get_trials()]


def in_background(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = [sys.executable, str(ROOT / "tests/experiments/fake_search.py"), str(folder), *arguments]
    return subprocess.Popen(program, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)


def wait_until(done):
    for _ in range(600):
        if done():
            return
        time.sleep(0.05)
    raise AssertionError("it takes too long")


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched") / "search"
    assert search(folder, "--trials", "4", RATE, "optimizer.name=a,b") == 0
    return folder


def test_trials_are_jobs_of_the_plan_and_the_best_one_is_a_config(searched, capsys):
    trials = trials_of(searched)
    assert [state for state, _, _ in trials] == ["COMPLETE"] * 4
    plan = ExperimentFolder(searched).read_plan()
    assert [job.number for job in plan.jobs] == [0, 1, 2, 3]
    assert all(status_of(job.run).state == JobState.FINISHED for job in plan.jobs)
    _, params, value = max(trials, key=lambda trial: trial[2])
    best = LazyConfig.load(searched / "best.yaml")
    assert best.optimizer.lr == params["optimizer.lr"] and best.optimizer.name == params["optimizer.name"]
    assert best.train.output_dir == "out" and str(searched.parent) in best.project_folders  # whose modules it needs
    rows = (searched / "summary.csv").read_text().splitlines()
    assert rows[0] == "number,optimizer.lr,optimizer.name,AP50,Pr80" and len(rows) == 5
    assert objective_of(ExperimentFolder(searched)) == "AP50"  # as the table of --status shows it
    assert objective_of(ExperimentFolder(searched.parent)) == ""
    assert search(searched, "--trials", "4", RATE, "optimizer.name=a,b") == 0  # nothing is left to do
    assert trials_of(searched) == trials and f"AP50 {value:.4f}" in capsys.readouterr().out


def test_a_search_refuses_what_it_can_not_continue(searched, tmp_path, capsys):
    assert search(searched, "--trials", "5", RATE) == 2
    assert "optimizer.name: a, b -> (not searched)" in capsys.readouterr().err
    assert search(tmp_path / "s", "--trials", "5", "--jobs", "jobs.csv", RATE) == 2
    assert search(tmp_path / "s", "--trials", "5", "optimizer.lr=1") == 2
    assert "nothing varies" in capsys.readouterr().err
    assert search(tmp_path / "s", "--trials", "5", RATE, "train.seed=interval(0, 9)") == 2
    assert "a search would choose the seed that happens to give the best value" in capsys.readouterr().err
    assert search(tmp_path / "s", "--objective", "AP5", "--trials", "1", RATE) == 2
    assert "no such metric. Did you mean 'AP50'?" in capsys.readouterr().err


@pytest.mark.parametrize("target", [VideoDetectionEvaluator, "ultravid.evaluation.VideoDetectionEvaluator"])
def test_an_objective_is_compared_with_what_the_evaluator_computes_before_anything_runs(target, tmp_path, monkeypatch):
    base = Node(dataloader=Node(evaluator=Node(_target_=DatasetEvaluators, evaluators=[Node(_target_=target)])))
    monkeypatch.setattr("ultravid.experiments.search.check_jobs", lambda *_, **__: (base, []))
    options = SearchOptions("AP5", "maximize", 5)
    with pytest.raises(UserError, match=r"computes no such metric\. Did you mean 'AP50'\?"):
        Search(ExperimentFolder(tmp_path), "config.py", search_space([RATE], {}), options).check()
    options = SearchOptions("lesion/FROC@1", "maximize", 5)
    assert _pruning_note(base, options).startswith("No job will be pruned: lesion/FROC@1 is known only at the end")
    for change in ({"objective": "FP80"}, {"pruner": "none"}):
        assert _pruning_note(base, replace(options, **change)) == ""
    assert _pruning_note(Node(), options) == ""  # of another evaluator nothing is known


def test_a_failed_job_is_a_failed_trial_and_is_tried_again_when_asked(tmp_path, capsys):
    arguments = ["--trials", "3", "optimizer.lr=1e-3,1e-1", "fake.fail_above=1e-2", "--sampler", "random"]
    assert search(tmp_path / "s", *arguments) == 1
    out = capsys.readouterr().out
    assert "failed: FloatingPointError: loss is nan" in out
    states = [state for state, _, _ in trials_of(tmp_path / "s")]
    assert states.count("FAIL") >= 1 and len(ExperimentFolder(tmp_path / "s").read_plan().jobs) == 2
    assert search(tmp_path / "s", *arguments, "--retry-failed") == 1
    starts = [
        json.loads(job.run.job_record.read_text())["starts"]
        for job in ExperimentFolder(tmp_path / "s").read_plan().jobs
    ]
    assert sorted(map(len, starts)) == [1, 2]


def add_good_trials(folder, value, intermediate_values):
    """Five trials of the rate 1e-3, so that others are pruned beside them."""
    rates = optuna.distributions.CategoricalDistribution(["1e-3", "1e-1"])
    for _ in range(5):
        study_of(folder).add_trial(
            optuna.create_trial(
                params={"optimizer.lr": "1e-3"},
                distributions={"optimizer.lr": rates},
                value=value,
                intermediate_values=intermediate_values,
            )
        )


def test_a_trial_that_does_badly_is_pruned(tmp_path):
    folder = tmp_path / "s"
    assert search(folder, "--trials", "1", "optimizer.lr=1e-3,1e-1", "--sampler", "random") == 0
    add_good_trials(folder, 100.0, {10: 90.0, 20: 95.0, 30: 99.0, 40: 100.0})
    (tmp_path / "config.yaml").write_text(CONFIG)
    gate = f"fake.gate={tmp_path / 'gate'}"
    wanted = [state for state, _, _ in trials_of(folder)]
    assert search(folder, "--trials", str(len(wanted) + 6), "optimizer.lr=1e-3,1e-1", "--sampler", "random", gate) == 0
    states = [state for state, _, _ in trials_of(folder)]
    assert "PRUNED" in states
    plan = ExperimentFolder(folder).read_plan()
    assert JobState.PRUNED in [status_of(job.run).state for job in plan.jobs]


def test_a_trial_over_several_seeds_has_their_mean(tmp_path, capsys):
    folder, arguments = tmp_path / "s", ["optimizer.lr=1e-3,1e-2", "train.seed=range(3)"]
    assert search(folder, "--trials", "1", *arguments) == 0
    ((_, first, value),) = trials_of(folder)
    best = 100 if first["optimizer.lr"] == "1e-3" else 90
    assert (
        value == best + 1 and f"AP50 {value:.4f}, the mean of {best}.0000, {best + 1}.0000" in capsys.readouterr().out
    )
    steps = study_of(folder).trials[0].intermediate_values
    assert list(steps) == list(range(10, 121, 10)) and steps[80] == best + 0.5 and steps[120] == value
    jobs = ExperimentFolder(folder).read_plan().jobs
    assert [job.settings["train.seed"] for job in jobs] == ["0", "1", "2"]
    assert search(tmp_path / "other", "--trials", "1", "optimizer.lr=1e-3,1e-2", "train.seed=0,1", "train.seed=3") == 2
    assert search(folder, "--trials", "2", arguments[0], "train.seed=0,1") == 2
    assert "train.seed: the mean over 0, 1, 2 -> the mean over 0, 1" in capsys.readouterr().err


@pytest.mark.slow_models
def test_a_trial_over_several_seeds_that_was_killed_goes_on_with_the_seed_where_it_was(tmp_path):
    folder = tmp_path / "s"  # 30 trials: proposals are repeated until both rates were run
    arguments = ["--trials", "30", "optimizer.lr=1e-3,1e-2", "train.seed=range(3)", "fake.pause=0.02"]
    (tmp_path / "config.yaml").write_text(CONFIG)
    process = in_background(folder, *arguments)
    wait_until(lambda: len(list((folder / "jobs").glob("*/inference"))) == 4)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert search(folder, *arguments) == 0
    assert {value for _, _, value in trials_of(folder)} == {101, 91}
    records = [json.loads(job.run.job_record.read_text()) for job in ExperimentFolder(folder).read_plan().jobs]
    assert len(records) == 6 and [len(record["starts"]) for record in records[:4]] == [1] * 4


@pytest.mark.slow_models
def test_a_trial_over_several_seeds_that_does_badly_is_pruned_and_its_other_seeds_are_not_run(tmp_path):
    folder, arguments = tmp_path / "s", ["optimizer.lr=1e-3,1e-1", "train.seed=0,1", "--sampler", "random"]
    assert search(folder, "--trials", "1", *arguments) == 0
    add_good_trials(folder, 200.0, dict.fromkeys(range(10, 81, 10), 150.0))
    assert search(folder, "--trials", "40", *arguments) == 0
    states = [status_of(job.run).state for job in ExperimentFolder(folder).read_plan().jobs]
    assert len(states) == 4 and states[3] == JobState.PRUNED  # of the seed that was not run


@pytest.mark.slow_models
def test_a_search_that_was_killed_goes_on_where_it_was_and_proposes_the_same(tmp_path):
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    arguments = ["--trials", "3", RATE, "fake.pause=0.02"]
    assert search(alone, *arguments) == 0
    process = in_background(killed, "--trials", "3", RATE, "fake.pause=0.02")
    journal = killed / "study.journal"
    wait_until(lambda: journal.exists() and journal.read_text().count('"job"') >= 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with journal.open("a") as file:
        file.write('{"op_code": 8, "wor')  # as a power failure leaves it
    with contextlib.suppress(FileNotFoundError):
        (killed / "study.journal.lock").unlink()  # Optuna waits for 30 s before it breaks a dead one
    assert search(killed, *arguments) == 0
    assert trials_of(killed) == trials_of(alone)
    assert len(list((killed / "jobs").iterdir())) == 3


@pytest.mark.slow_models
def test_two_commands_share_a_study_and_no_job_runs_twice(tmp_path):
    folder = tmp_path / "s"
    arguments = ["--trials", "5", RATE, "fake.pause=0.03"]
    (tmp_path / "config.yaml").write_text(CONFIG)
    process = in_background(folder, *arguments)
    wait_until(lambda: (folder / "plan.json").exists())
    assert search(folder, *arguments) == 0
    assert process.wait(60) == 0
    assert [state for state, _, _ in trials_of(folder)] == ["COMPLETE"] * 5
    jobs = ExperimentFolder(folder).read_plan().jobs
    assert [job.number for job in jobs] == list(range(5)) and len({job.identity for job in jobs}) == 5
    assert all(len(json.loads(job.run.job_record.read_text())["starts"]) == 1 for job in jobs)


@pytest.mark.slow_models
def test_several_slots_are_as_many_commands(tmp_path, monkeypatch, capsys):
    program = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom tests.experiments.fake_search import run\n"
    (tmp_path / "experiment.py").write_text(f"{program}sys.exit(run(sys.argv[1:]))\n")
    monkeypatch.setattr(searchers, "tools_folder", lambda: tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert search(tmp_path / "s", "--trials", "4", RATE, "fake.pause=0.1", "--slots", "2") == 0
    assert [state for state, _, _ in trials_of(tmp_path / "s")] == ["COMPLETE"] * 4
    jobs = ExperimentFolder(tmp_path / "s").read_plan().jobs
    starts = [json.loads(job.run.job_record.read_text())["starts"] for job in jobs]
    assert [len(of_job) for of_job in starts] == [1] * 4
    assert "slot 1, trial" in capsys.readouterr().out


def test_what_varies_is_read_from_sweeps():
    space = search_space(["a.x=range(2, 9, 2)", "b=range(0, 1, 0.25)", "c=interval(1, 5)", "d=1,2,x", "e=3"], {})
    assert space.described() == {
        "a.x": "whole numbers from 2 to 8 in steps of 2",
        "b": "numbers from 0 to 0.75 in steps of 0.25",
        "c": "whole numbers from 1 to 5 in steps of 1",
        "d": "1, 2, x",
    }
    assert space.plain == ["e=3"] and space.size == 4 * 4 * 5 * 3
    trial = optuna.trial.FixedTrial({"a.x": 4, "b": 0.5, "c": 2, "d": "x"})
    texts = {d.key: d.suggest(trial) for d in space.dimensions}
    assert space.settings(texts)[0].overrides == ("a.x=4", "b=0.5", "c=2", "d=x", "e=3")
    with pytest.raises(UserError, match="a is set twice"):
        search_space(["a=1,2", "a=3"], {})
    with pytest.raises(OverrideError, match="begins below its end"):
        search_space(["a=interval(2, 1)"], {})
