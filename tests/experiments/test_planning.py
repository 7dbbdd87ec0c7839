"""Which jobs a command of tools/experiment.py consists of, and which folders it goes on with; nothing is trained here."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.conftest import PHANTOM_CONFIG, ROOT, load_tool
from ultravid.config import LazyConfig, importable_project, project_folders
from ultravid.config.command_line import load_with_overrides
from ultravid.config.identity import check_identity
from ultravid.experiments.plan import ExperimentFolder
from ultravid.experiments.planning import ExperimentRequest, plan_experiment
from ultravid.experiments.settings import parse_named_edits, read_jobs
from ultravid.utils.errors import UserError
from ultravid.utils.tool import run_tool

CONFIG = """
from ultravid.config import LazyCall as L

def build(lr: float = 0.1, seed: int = 0, depth: int = 3, kind: str = "", tags: list | None = None): ...

SMALL, LARGE = L(build)(depth=1), L(build)(depth=9)
train = dict(output_dir="out", device="cpu", seed=0, init_checkpoint="", max_iter=10)
model = L(build)(kind="x", depth=3, tags=None)
dataloader = dict(train=L(build)(tags=["a"]), test=L(build)(), evaluator=L(build)(), num_workers=0)
optimizer = dict(lr=0.1, note="")
trainer = L(build)(lr="${optimizer.lr}", seed="${train.seed}", depth="${train.max_iter}")
"""
GRID = ["optimizer.lr=1e-1,2e-1", "train.seed=range(2)"]


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def plan(config, tmp_path):
    """Plans jobs in a folder and writes the plan."""

    def make(*overrides, **options):
        request = ExperimentRequest(str(config), tmp_path / "out", overrides=overrides, **options)
        with importable_project(config):
            planned = plan_experiment(request)
        planned.write()
        return planned

    return make


@pytest.fixture
def tool(config, tmp_path, capsys):
    """The exit code, stdout and stderr of the tool."""
    main = load_tool("experiment").main

    def call(*arguments):
        given = ["--config-file", config, "--output-dir", tmp_path / "out", *arguments]
        try:
            code = run_tool(main, [str(each) for each in given])
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return call


def settings_of(planned):
    return [dict(job.settings) for job in planned.jobs]


def write_run(run, cfg, how="finished"):
    """What a run leaves that ended in this way."""
    attempt = run.new_attempt()
    attempt.write_record({"end": {"how": how}, "max_iter": 10})
    for path in (attempt.config, run.config):
        LazyConfig.save(cfg, path)
    run.checkpoint("model_final" if how == "finished" else "model_0000004").touch()
    run.evaluation_metrics.parent.mkdir()
    run.evaluation_metrics.write_text('{"AP50": 50.0}')


def finish(config, job, *more, how="finished"):
    write_run(job.run, load_with_overrides(str(config), [*job.overrides, *more]), how)


def test_the_last_sweep_varies_fastest_and_jobs_and_edits_vary_slowest(plan, tmp_path):
    (tmp_path / "jobs.csv").write_text(
        "\ufeff\r\nname; model.depth;optimizer.note\r\nshallow;1;\r\n;;\r\ndeep;9;\"'a b'\"\r\n"
    )
    edits = ["fast=train.max_iter=5 model.kind=y", "slow=", "data/all=+dataloader.train.seed=4"]
    planned = plan(*GRID, "dataloader.num_workers=1", jobs_file=str(tmp_path / "jobs.csv"), edits=edits)
    assert len(planned.jobs) == 2 * 2 * 1 * 4
    first, last = settings_of(planned)[0], settings_of(planned)[-1]
    common = {"set": "fast", "data": "all", "optimizer.lr": "1e-1", "train.seed": "0"}
    assert first == {"name": "shallow", "model.depth": "1", **common}
    assert last == {
        "name": "deep",
        "model.depth": "9",
        "optimizer.note": "'a b'",
        "set": "slow",
        "data": "all",
        "optimizer.lr": "2e-1",
        "train.seed": "1",
    }
    assert planned.jobs[1].settings["train.seed"] == "1" and planned.jobs[1].name == "shallow fast all"
    assert planned.jobs[0].overrides[-3:] == ("optimizer.lr=1e-1", "train.seed=0", "dataloader.num_workers=1")
    written = json.loads((tmp_path / "out/plan.json").read_text())
    assert [job["number"] for job in written["jobs"]] == list(range(16)) and written["swept"][:2] == [
        "name",
        "model.depth",
    ]
    assert {job["folder"] for job in written["jobs"]} == {f"jobs/{j.number:03d}-{j.identity[:8]}" for j in planned.jobs}


def test_jobs_of_a_yaml_file_keep_their_types(tmp_path):
    path = tmp_path / "jobs.yaml"
    path.write_text(
        "- {name: a, optimizer.lr: 1e-4, optimizer.note: '1e-4 or so', train.seed: 3}\n"
        "- {model.tags: [a, 'b,c', 2], optimizer.note: '5', model.kind: null}\n"
        "- [optimizer.lr=1, ~optimizer.note]\n"
        "- optimizer.lr=2 'optimizer.note=a b'\n"
        "- {}\n"
    )
    jobs = read_jobs(path)
    assert (
        jobs[0].overrides == ("optimizer.lr=0.0001", "optimizer.note=1e-4 or so", "train.seed=3")
        and jobs[0].name == "a"
    )
    assert jobs[1].overrides == ("model.tags=[a,'b,c',2]", "optimizer.note='5'", "model.kind=null")
    assert jobs[2].settings == {"optimizer.lr": "1", "optimizer.note": "(deleted)"}
    assert jobs[3].overrides == ("optimizer.lr=2", "optimizer.note=a b") and jobs[4].overrides == ()


def test_a_config_lists_its_jobs_itself_with_objects_and_numbers_of_numpy(plan, config):
    config.write_text(
        CONFIG
        + "import numpy as np\nexperiment = [dict(name='a', model=SMALL), {'optimizer.lr': np.float64(0.5)}, 'train.seed=4',"
        " ['train.seed=5'], {'model': L(build)(depth=2, tags=('a', 1)), 'optimizer.note': '${train.device}'}]\n"
    )
    planned = plan("train.max_iter=3")
    assert [job.name for job in planned.jobs] == ["a", "", "", "", ""]
    cfgs = [load_with_overrides(str(config), job.overrides) for job in planned.jobs]
    assert [cfg.model.get("depth") for cfg in cfgs] == [1, 3, 3, 3, 2] and cfgs[1].optimizer.lr == 0.5
    assert [cfg.train.seed for cfg in cfgs] == [0, 0, 4, 5, 0] and cfgs[4].optimizer.raw["note"] == "${train.device}"
    assert all(cfg.train.max_iter == 3 for cfg in cfgs)
    planned = plan("train.max_iter=3", "train.seed=7,8")
    assert len(planned.jobs) == 2 and "--jobs" in planned.remarks[0] and "5 jobs of the plan" in planned.remarks[1]
    assert [job.number for job in planned.jobs] == [5, 6]


def test_a_sweep_over_objects_of_a_file_makes_each_a_job(plan, config):
    planned = plan(f"model={config}:SMALL,{config}:LARGE", "train.seed=0,1")
    assert [load_with_overrides(str(config), job.overrides).model.depth for job in planned.jobs] == [1, 1, 9, 9]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["optimizer.lrr=1,2,3"],
            "every job: optimizer.lrr: Unknown key 'optimizer.lrr'. Did you mean 'optimizer.lr'?",
        ),
        (
            ["optimizer.lr=1,2,abc,3,4"],
            "1 of 5 jobs can't run:\n  job 2: optimizer.lr: 'optimizer.lr' is 0.1, a float; 'abc' is text",
        ),
        (["model.depth=1.5,2", "train.seed=0,1"], "  job 0, job 1: "),
        ([], "This names no job. Sweep a key"),
        (["optimizer.lr=0.1,1e-1"], "Jobs 0 (optimizer.lr=0.1) and 1 (optimizer.lr=1e-1) are the same run"),
        (["optimizer.lr=1,1"], "names 1 twice"),
        (["optimizer.note=[a,choice(b,c)]"], "a sweep inside a list or dict"),
        (["train.seed=1,2", "train.seed=3"], "train.seed is set twice"),
        (["optimizer.lr=interval(1,2)"], "search it (--search optuna), or name some"),
        (["train.output_dir=a,b"], "each job has its own folder in --output-dir"),
        (["--set", "a=train.output_dir=b"], "each job has its own folder in --output-dir"),
        (["hydra.sweep.dir=x", "train.seed=1,2"], "the folder of all jobs is --output-dir"),
        (["hydra/launcher=submitit_slurm", "train.seed=1,2"], "--launcher slurm"),
        (
            ["train.seed=range(1000)", "optimizer.lr=1,2,3"],
            "3,000 jobs (1000 of train.seed x 3 of optimizer.lr), more than 1,000",
        ),
        (["train.seed=range(4)", "--max-jobs", "3"], "--max-jobs 4"),
        (["--multirun", "train.seed=1,2"], "Every command here runs all jobs: leave --multirun out."),
        (["-m", "train.seed=1,2"], "leave -m out"),
        (["--config-name", "x", "train.seed=1,2"], "--config-file FILE"),
        (["--set", "optimizer.lr=3"], "gives a key where a name belongs; write --set NAME=optimizer.lr=3"),
        (["--set", "a=optimizer.lr=1,2"], "a job sets one"),
        (["--set", "a='optimizer.lr=1"], "a quote is left open"),
        (["--set", "a=optimizer.lr=1", "--set", "a=optimizer.lr=2"], "a is defined twice"),
        (["--set", "a=optimizer.lr=1", "optimizer.lr=2"], "optimizer.lr is set by --set and by the command line"),
        (
            ["--set", "a=optimizer.lr=1", "optimizer={lr:2,note:x}"],
            "optimizer.lr is set by --set, and optimizer, which includes it, by the command line",
        ),
        (
            ["--set", "a=optimizer.lr=1", "**.lr=2"],
            "optimizer.lr is set by --set, and **.lr, which includes it, by the command line",
        ),
        (["--set", "a=optimizer.lr=1 optimizer.lr=2"], "--set a: sets optimizer.lr twice"),
        (["--jobs", "nowhere.csv"], "there is no such file"),
        (["--jobs", "config.py"], "defines no list 'experiment'"),
        (["--jobs", "empty.yaml"], "holds no job"),
        (["--jobs", "map.yaml"], "is not a list of jobs; begin each with '- '"),
        (["--jobs", "wrong.yaml"], "wrong.yaml, job 1: is 5; a job is a mapping"),
        (["--jobs", "broken.yaml"], "broken.yaml:2: is not YAML"),
        (["--jobs", "short.csv"], "short.csv, line 4: has 1 cell where the first row has 2"),
        (["--jobs", "sweep.csv"], "optimizer.lr=1,2. If it is the number 1.2, write it with a point."),
        (["--jobs", "sweep.csv"], "sweep.csv, job 0 (line 2): optimizer.lr=1,2 names several values"),
        (["--jobs", "open.csv"], "open.csv, line 3: a quote is left open."),
        (["--jobs", "open_at_end.csv"], "open_at_end.csv, line 3: a quote is left open."),
        (["--jobs", "open_twice.csv"], "open_twice.csv, line 2: a quote is left open, or a cell holds a line break"),
        (["--jobs", "twice.csv"], "twice.csv, line 1: the column 'train.seed' is there twice"),
        (["--jobs", "keyless.csv"], "keyless.csv, line 1: column 2 has no key"),
        (["--jobs", "empty.csv"], "empty.csv: holds no job"),
        (["--jobs", "names.csv"], "two jobs have the name 'a'"),
    ],
)
def test_a_mistake_is_one_message_and_nothing_is_written(tool, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    files = {
        "empty.yaml": "[]",
        "map.yaml": "a: 1",
        "wrong.yaml": "- {}\n- 5",
        "broken.yaml": "- {a\n- b: ]",
        "short.csv": "train.seed,optimizer.lr\n1,2\n\n3\n",
        "open.csv": 'train.seed,optimizer.note\n0,a\n1,"b\n2,"c"\n3,d\n',
        "open_at_end.csv": 'train.seed,optimizer.note\n0,a\n1,"b\n2,c\n',
        "open_twice.csv": 'train.seed,optimizer.note\n1,"b\n2,c"\n3,d\n',
        "twice.csv": "train.seed,optimizer.lr, train.seed\n1,2,3\n",
        "keyless.csv": "train.seed,,\n1,2,\n",
        "empty.csv": "\ufeff\n\n",
        "sweep.csv": 'optimizer.lr\n"1,2"\n',
        "names.csv": "name,train.seed\na,1\na,2\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    code, out, err = tool(*arguments)
    assert code == 2 and message in err and out == "" and not (tmp_path / "out").exists()


def test_folders_of_something_else_are_refused(tool, tmp_path):
    for name, message in (
        ("run", "is the folder of a run"),
        ("fold_0", "holds a cross-validation"),
        ("file", "is a file"),
    ):
        folder = tmp_path / "out"
        if name == "file":
            folder.touch()
        else:
            (folder / name).mkdir(parents=True)
        if name == "run":
            (folder / "config.yaml").write_text("a: 1")
        code, _, err = tool(*GRID)
        assert code == 2 and message in err
        if folder.is_dir():
            shutil.rmtree(folder)
        else:
            folder.unlink()


def test_a_dry_run_prints_the_table_and_writes_nothing(tool, tmp_path):
    code, out, err = tool(*GRID, "--dry-run")
    assert code == 0 and "4 jobs, checked; nothing was started." in out and err == "" and out.count("waiting") == 4
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("look", ["", "--dry-run", "--print-jobs"])
def test_numbers_that_no_run_takes_are_refused_by_whatever_looks_at_the_jobs(tool, tmp_path, look):
    for option, message in (
        (["--threads", "0"], "--threads 0: is below 1"),
        (["--restarts", "-1"], "--restarts -1: is below 0"),
        (["--slots", "0"], "--slots 0: is below 1"),
        (["--per-gpu", "2"], "--per-gpu 2: needs --gpus"),
    )[: 2 if look == "--print-jobs" else 4]:  # which starts nothing in slots
        code, _, err = tool(*GRID, *option, *filter(None, [look]))
        assert code == 2 and message in err and not (tmp_path / "out").exists()


def test_printed_commands_are_those_of_jobs_that_are_left_and_their_configs_are_the_planned_ones(
    tool, config, tmp_path
):
    config.write_text(f"print('a config that talks')\n{CONFIG}")
    code, out, err = tool(*GRID, "optimizer.note='it\\'s, 5 %'", "--print-jobs")
    assert err == "a config that talks\n" * err.count("\n")
    commands = [shlex.split(line) for line in out.splitlines()]
    assert code == 0 and len(commands) == 4
    jobs = ExperimentFolder(tmp_path / "out").read_plan().jobs
    for job, (python, launcher, *arguments) in zip(jobs, commands, strict=True):
        assert python == sys.executable and launcher == str(ROOT / "tools/lazyconfig_train.py")
        args = load_launcher_arguments(arguments)
        cfg = load_with_overrides(args.config_file, args.opts)
        check_identity(cfg, args.identity)
        assert cfg.optimizer.note == "it's, 5 %" and cfg.train.output_dir == str(job.run.path) and args.resume
    config.write_text(CONFIG.replace("max_iter=10", "max_iter=11"))
    assert run_tool(load_tool("lazyconfig_train").main, arguments) == 2  # it is not the config that was planned
    config.write_text(CONFIG)
    finish(config, jobs[1])
    code, out, err = tool(*GRID, "optimizer.note='it\\'s, 5 %'", "--print-jobs")
    assert out.count("lazyconfig_train") == 3 and "1 finished" in err and jobs[1].label not in out


def load_launcher_arguments(arguments):
    from ultravid.config.command_line import default_argument_parser

    return default_argument_parser(quick=True, identity=True).parse_args(arguments)


def test_jobs_keep_their_numbers_whatever_is_added_and_left_out(plan):
    first = plan(*GRID)
    more = plan("optimizer.lr=3e-1,1e-1", "train.seed=1,0,2")
    assert [job.number for job in more.jobs] == [4, 5, 6, 1, 0, 7] and len(more.plan.jobs) == 8
    assert more.remarks == ["2 jobs of the plan not in this command: left as they are."]
    again = plan(*GRID, "dataloader.num_workers=3")  # which changes no result
    assert [(j.number, j.run, j.identity) for j in again.jobs] == [(j.number, j.run, j.identity) for j in first.jobs]
    assert plan("optimizer.lr=1e-1,2e-1", "train.seed=range(2)", "train.max_iter=10").jobs[0].number == 0


def test_a_part_of_a_grid_keeps_the_settings_of_the_whole_and_looking_changes_no_plan(plan, tool, tmp_path):
    plan(*GRID)
    files = [tmp_path / "out" / name for name in ("plan.json", "base_config.yaml")]
    before = [file.read_bytes() for file in files]
    for part in ("optimizer.lr=2e-1", "optimizer.lr=0.1"):
        for look in ("--print-jobs", "--dry-run"):
            code, out, _ = tool(part, "train.seed=range(2)", look)
            assert code == 0 and "seed" in out and [file.read_bytes() for file in files] == before
    assert tool("train.seed=range(2)", "--print-jobs")[0] == 0  # the rate of the config is one of the grid
    assert [file.read_bytes() for file in files] == before
    whole = settings_of(plan(*GRID))
    more = plan("optimizer.lr=2e-1", "train.seed=range(3)")  # a seed more for one rate is a job of the same table
    assert [job.number for job in more.jobs] == [2, 3, 4]
    assert settings_of(more) == [*whole[2:], {"optimizer.lr": "2e-1", "train.seed": "2"}]
    assert plan("train.seed=range(2)").plan.jobs[0].settings == whole[0]
    assert plan("optimizer.lr=1e-1", "train.seed=2").jobs[0].number == 5


def test_a_rate_that_is_that_of_a_named_edit_is_not_what_further_jobs_are_compared_with(plan):
    edits = ["a=optimizer.lr=0.3", "b="]
    plan(edits=edits)
    assert plan("optimizer.lr=0.3").jobs[0].settings == {"set": "a"}
    assert [job.number for job in plan(edits=[*edits, "c=train.max_iter=5"]).jobs] == [0, 1, 2]


def test_a_job_shows_the_config_s_value_of_a_key_that_only_others_set(plan, config, tool, tmp_path):
    first = plan("train.seed=0,1", edits=["large=model.depth=9", "small="]).jobs
    plan("train.seed=0", "optimizer.lr=0.2,0.3", "model.tags=[a],[b]", edits=["small="])
    plan("train.seed=1", "+dataloader.test.lr=5,6", "optimizer.note=a,b", edits=["small="])
    plan("train.seed=7", "trainer.lr=8,9", edits=["small="])
    jobs = ExperimentFolder(tmp_path / "out").read_plan().jobs
    assert jobs[0].settings == first[0].settings == {"set": "large", "train.seed": "0"}
    keys = ["set", "train.seed", "optimizer.lr", "model.tags", "optimizer.note", "dataloader.test.lr", "trainer.lr"]
    values = [[job.values.get(key) for key in keys] for job in jobs]
    assert values[0] == ["large", "0", "0.1", "null", "''", "0.1", "0.1"] and values[2][:3] == ["small", "0", "0.1"]
    assert values[4] == ["small", "0", "0.2", "[a]", "''", "0.1", "0.2"]  # trainer.lr refers to optimizer.lr
    assert values[-1] == ["small", "7", "0.1", "null", "''", "0.1", "9"]
    config.write_text(CONFIG.replace("lr=0.1, note", "lr=0.4, note"))
    finish(config, jobs[0])
    now = plan("train.seed=0,1", edits=["large=model.depth=9", "small="], allowed=["optimizer.lr"]).jobs
    assert [job.number for job in now] == [0, 1, 2, 3]
    assert [job.values["optimizer.lr"] for job in now] == ["0.1", "0.4", "0.4", "0.4"]  # one was finished before
    assert tool("--status")[1].count(" 0.4 ") == 6  # trainer.lr too


def test_a_pattern_that_all_jobs_had_can_be_swept_and_tables_show_its_value(plan):
    plan("train.seed=0,1", "**.lr=0.2")
    plan("train.seed=0,1", "**.lr=0.2,0.3")
    jobs = plan("train.seed=7").plan.jobs  # with the rate of the config
    assert [(job.values["train.seed"], job.values["**.lr"]) for job in jobs] == [
        *(("0", "0.2"), ("1", "0.2"), ("0", "0.3"), ("1", "0.3"), ("7", "0.1"))
    ]


def test_another_config_is_refused_by_key_and_allowed_by_key(plan, config, tool, tmp_path):
    jobs = plan(*GRID).jobs
    finish(config, jobs[0])
    finish(config, jobs[1], how="stopped")
    config.write_text(CONFIG.replace("max_iter=10", "max_iter=20"))
    code, _, err = tool(*GRID, "--dry-run")
    assert (
        code == 2 and "~ train.max_iter: 10 -> 20" in err and "--allow-change train.max_iter" in err and "lr" not in err
    )
    code, _, err = tool("train.seed=5,6", "optimizer.lr=0.3", "--dry-run")  # new jobs would not be comparable either
    assert code == 2 and "~ train.max_iter: 10 -> 20" in err
    code, out, err = tool(*GRID, "--print-jobs", "--allow-change", "train.max_iter")
    assert code == 0, err
    assert (
        "finished and left as before: job 0; resumed with the new values: job 1; not begun" in err
        and "jobs 2-3." in err
    )
    assert len(out.splitlines()) == 3 and all("--allow-change train.max_iter" in line for line in out.splitlines())
    now = ExperimentFolder(tmp_path / "out").read_plan()
    assert [job.run for job in now.jobs] == [job.run for job in jobs] and now.jobs[0].identity != jobs[0].identity
    assert now.notes[0].startswith("Finished with the values before a change: job 0")
    code, _, err = tool(*GRID, "--dry-run")  # what was allowed once stays so
    assert code == 0, err


def test_an_experiment_goes_on_and_grows_after_its_project_was_moved(tmp_path):
    jobs = []
    for place in ("first", "second"):
        config = tmp_path / place / "configs" / "own.py"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(CONFIG + "extra = dict(pair=(build, L(build)()), of=build)\n")
        request = ExperimentRequest(str(config), tmp_path / "out", ["train.seed=range(2)"])
        if place == "second":
            shutil.rmtree(tmp_path / "first")
            (jobs[0].run.path.parent.parent / "verified.json").unlink(missing_ok=True)
            request = replace(request, overrides=["train.seed=range(3)"])
        with importable_project(config):
            planned = plan_experiment(request)
            planned.write()
            jobs = planned.jobs
            if place == "first":
                cfg = load_with_overrides(str(config), jobs[0].overrides)
                cfg.project_folders = project_folders(config)
                write_run(jobs[0].run, cfg, how="stopped")
    assert [job.number for job in jobs] == [0, 1, 2]


def test_a_named_edit_that_was_rewritten_is_refused_by_key(plan, config):
    plan("train.seed=0,1", edits=["a=optimizer.lr=0.3", "b="])
    with pytest.raises(UserError, match=r"~ optimizer.lr: 0.3 -> 0.4 \(job 0, set=a, train.seed=0\)"):
        plan("train.seed=0,1", edits=["a=optimizer.lr=0.4", "b="])
    planned = plan("train.seed=0,1", edits=["a=optimizer.lr=0.4", "b="], allowed=["optimizer.lr"])
    assert [job.number for job in planned.jobs] == [0, 1, 2, 3]


def test_a_default_that_only_some_jobs_set_counts(plan, config, tmp_path):
    (tmp_path / "jobs.csv").write_text("optimizer.lr,train.seed\n0.5,0\n,1\n")
    jobs_file = str(tmp_path / "jobs.csv")
    plan(jobs_file=jobs_file)
    config.write_text(CONFIG.replace("lr=0.1, note", "lr=0.2, note"))
    with pytest.raises(UserError, match=r"~ optimizer.lr: 0.1 -> 0.2"):
        plan(jobs_file=jobs_file)
    (tmp_path / "jobs.csv").write_text("optimizer.lr,train.seed\n0.5,0\n")
    assert plan(jobs_file=jobs_file).jobs[0].number == 0


def test_a_run_of_something_else_in_a_jobs_folder_is_refused_by_key_and_each_is_read_once(plan, config, monkeypatch):
    jobs = plan(*GRID).jobs
    for job in jobs:
        finish(config, job)
    plan(*GRID)
    monkeypatch.setattr(
        "ultravid.experiments.verification.load_config", lambda path: pytest.fail(f"{path} was read again")
    )
    plan(*GRID)
    monkeypatch.undo()
    shutil.rmtree(jobs[2].run.path)
    finish(config, jobs[2], "model.depth=7")
    with pytest.raises(UserError, match=rf"job 2, {jobs[2].label}: . model.depth") as caught:
        plan(*GRID)
    assert "--allow-change model.depth" in str(caught.value)
    plan(*GRID, allowed=["model.depth"])
    plan(*GRID)


def test_runs_whose_launcher_compared_their_config_are_not_read_again_unless_it_was_edited(plan, config, monkeypatch):
    jobs = plan("train.seed=0,1").jobs
    for job in jobs:
        finish(config, job)
        (attempt,) = job.run.list_attempts()
        attempt.write_record({"command": shlex.join(job.command("f", "p")), "end": {"how": "finished"}})
    read = []
    monkeypatch.setattr("ultravid.experiments.verification._differences", lambda job, *_: read.append(job.number) or [])
    plan_again = ["train.seed=0,1", "train.max_iter=10"]
    plan(*plan_again)
    assert read == []
    (folder,) = {job.run.path.parent.parent for job in jobs}
    (folder / "verified.json").unlink()
    (attempt,) = jobs[1].run.list_attempts()
    now = attempt.record.stat().st_mtime_ns + 10**9
    os.utime(attempt.config, ns=(now, now))
    plan(*plan_again)
    assert read == [1]


def test_a_plan_that_is_damaged_or_lost_is_made_again_with_the_same_numbers(plan, tool, tmp_path):
    plan("train.seed=3,4")
    jobs = plan("train.seed=0,3,4").jobs
    assert [job.number for job in jobs] == [2, 0, 1]
    for job in jobs:
        job.run.path.mkdir(parents=True)
    path = tmp_path / "out/plan.json"
    whole = path.read_text()
    path.write_text(whole[:100])
    code, _, err = tool("train.seed=0,3,4", "--dry-run")
    assert code == 2 and f"mv {path} {path}.damaged" in err
    content = json.loads(whole)
    for changed in (
        {"jobs": [*content["jobs"], content["jobs"][0]]},  # a number twice
        {"jobs": [{**content["jobs"][0], "folder": "../../elsewhere/000-00000000"}]},
        {"jobs": [{**content["jobs"][0], "number": "zero"}]},
    ):
        path.write_text(json.dumps({**content, **changed}))
        code, _, err = tool("--status")
        assert code == 2 and "is damaged: ValueError" in err
    path.unlink()
    assert [job.number for job in plan("train.seed=0,3,4,5").jobs] == [2, 0, 1, 3]


def test_plans_of_other_versions(plan, tool, tmp_path):
    plan("train.seed=0,1")
    path = tmp_path / "out/plan.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "format": 99, "ultravid": "9.9"}))
    code, _, err = tool("--status")
    assert code == 2 and "written by ultravid 9.9, which is newer" in err
    path.write_text(json.dumps({**content, "ultravid": "0.0.1", "unknown": 1}))
    assert [job.number for job in plan("train.seed=0,1").jobs] == [0, 1]


def test_without_the_base_config_known_jobs_go_on_and_others_are_refused(plan, config, tmp_path):
    plan("train.seed=0,1")
    base = tmp_path / "out/base_config.yaml"
    base.unlink()
    plan("train.seed=0,1")
    assert base.is_file()
    base.unlink()
    with pytest.raises(UserError, match=r"base_config.yaml is missing, and 1 job of this command is not in plan.json"):
        plan("train.seed=0,1,2")


def test_yaml_of_the_older_kind_is_planned_with_the_identities_that_the_launcher_finds(tmp_path):
    yaml = PHANTOM_CONFIG.with_suffix(".yaml")
    request = ExperimentRequest(str(yaml), tmp_path / "out", overrides=["train.seed=1,2", "optimizer.lr=0.5"])
    with importable_project(yaml):
        for job in plan_experiment(request).jobs:
            args = load_launcher_arguments(job.command(str(yaml), sys.executable)[2:])
            check_identity(load_with_overrides(args.config_file, args.opts), args.identity)


def test_folds_that_are_all_tested_on_the_same_videos_are_noted(plan, config):
    split = CONFIG.replace("depth: int = 3,", "depth: int = 3, fold: int = 0,").replace(
        'tags=["a"]', 'tags=["a"], fold=0'
    )
    config.write_text(split)
    (note,) = plan("dataloader.train.fold=range(2)", "train.seed=0,1").remarks
    assert note.startswith("WARNING: dataloader.test does not change with dataloader.train.fold: the jobs of all folds")
    held_out = "+dataloader.test.fold=${dataloader.train.fold}"
    assert "WARNING" not in "".join(
        plan("dataloader.train.fold=range(2)", "train.seed=3,4", held_out, allowed=["dataloader.test.fold"]).remarks
    )


def test_edits_are_grouped_and_a_group_is_an_axis():
    edits = parse_named_edits(["a=x=1 y='b c'", "b=", "size/s=+z=1", "size/l=~z"])
    assert [(e.name, e.overrides) for e in edits["set"]] == [("a", ("x=1", "y=b c")), ("b", ())]
    assert [e.overrides for e in edits["size"]] == [("+z=1",), ("~z",)]


def test_status_starts_without_torch_and_needs_no_config(plan, tmp_path):
    plan(*GRID)
    code = (
        "import sys, runpy; sys.argv = ['x', '--status', '--output-dir', sys.argv[1]]\n"
        "try: runpy.run_path('tools/experiment.py', run_name='__main__')\n"
        "except SystemExit as error: assert not error.code\n"
        "print(*({'torch', 'numpy', 'cv2', 'hydra'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "out"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "4 jobs: 4 waiting" in done.stdout and done.stdout.splitlines()[-1] == "", done


@pytest.mark.parametrize(
    ("grid", "most"),
    [
        (["train.seed=range(10)", "optimizer.lr=range(1,11)", "train.max_iter=5,6,7", "+optimizer.extra=3"], 4),
        (["train.seed=range(100)", "**.lr=1,2,3", "**.max_iter=7"], 4),
        (["train.seed=range(100)", "**.lr=1,2,3", "+optimizer.extra=3", "**.max_iter=7"], 8),
    ],
)
def test_a_thousand_jobs_are_mostly_checked_by_what_they_change(plan, monkeypatch, grid, most):
    from ultravid.config import variants

    checks = []
    monkeypatch.setattr(variants, "all_faults", lambda *a, **k: checks.append(1) or [])
    planned = plan(*grid)
    assert len({job.identity for job in planned.jobs}) == 300 and len(checks) <= most
