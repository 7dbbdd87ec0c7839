"""Jobs on a real Slurm, which is started here in a folder of its own; and what is refused before a job is submitted."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from tests.conftest import PHANTOM_CONFIG, ROOT, load_tool, read_rows, same_weights, small_arguments, without_times
from tests.experiments.private_slurm import SlurmMissingError, private_slurm
from tests.launch.test_cross_validate import FOLDED_CONFIG
from tests.quick_python import quick_python
from ultravid.datasets.phantom import write_phantom_dataset
from ultravid.experiments import ExperimentFolder, JobState, PlannedJob, status_of
from ultravid.experiments.slurm import SlurmLauncher, SlurmOptions, SlurmQueue, SlurmUnreachableError, running
from ultravid.experiments.slurm.options import seconds_of
from ultravid.experiments.slurm.queue import QueuedTask, SlurmFullError, SlurmRefusalError
from ultravid.experiments.slurm.script import job_script, shell_line
from ultravid.experiments.slurm.submissions import Submissions
from ultravid.utils.errors import UserError
from ultravid.utils.run_folder import RunFolder
from ultravid.utils.tool import run_tool

DEADLINE_S = 240.0


def started(**options):
    """A Slurm, or a skipped test that says why there is none."""
    context = private_slurm(**options)
    try:
        return context, context.__enter__()
    except SlurmMissingError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def slurm():
    context, slurm = started(max_array_size=4)
    yield slurm
    context.__exit__(None, None, None)


class Experiment:
    """Jobs of a launcher that does what the override ``does`` says (`tests.experiments.launcher_on_slurm`), and what was printed."""

    def __init__(self, root, does, **options):
        self.folder = ExperimentFolder(root / "my rates")
        python = root / "the python"
        fake = shlex.join([sys.executable, "-S", str(ROOT / "tests/experiments/launcher_on_slurm.py")])
        python.write_text(f'#!/bin/sh\nexec {fake} "$@"\n')
        python.chmod(0o755)
        self.said = []
        self.jobs = [
            PlannedJob(
                *(number, f"{number:064x}", (f"does={what}", 'note=it\'s "x" $HOME\nnew'), {"does": what}),
                RunFolder(self.folder.jobs / f"{number:03d}-{number:08x}"),
            )
            for number, what in enumerate(does)
        ]
        options = SlurmOptions(**{"partition": "main", "time": "5", **options})
        self.launcher = SlurmLauncher(
            *(self.folder, "a config.py", options, SlurmQueue(), self.said.append), python=str(python), restarts=2
        )

    def states(self):
        return [status_of(job.run).state.value for job in self.jobs]

    def attempts(self):
        return [len(job.run.list_attempts()) for job in self.jobs]

    def has_said(self, text):
        return any(text in line for line in self.said)


@pytest.fixture
def on_slurm(slurm, tmp_path, monkeypatch):
    """A folder with blanks and quotes in its name, Slurm's configuration, and a quick python for the tasks."""
    root = tmp_path / 'it\'s "here" 100%'
    root.mkdir()
    monkeypatch.chdir(root)
    monkeypatch.setenv("SLURM_CONF", str(slurm.config))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(sys, "executable", quick_python())
    monkeypatch.setattr(running, "_LONGEST_PAUSE_S", 1.0)
    return root


def wait_until(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_what_keeps_jobs_from_starting_is_said_once_for_each_change(slurm, on_slurm):
    experiment = Experiment(on_slurm, ["finish", "finish"])
    slurm.command("scontrol", "update", "PartitionName=main", "State=DOWN")
    try:
        experiment.launcher.submit(experiment.jobs)
        array = experiment.launcher.ids_in_queue()[0]

        def clear():
            wait_until(
                lambda: experiment.has_said("jobs 0, 1 can't start yet; Slurm's reason: PartitionDown (the part")
            )
            slurm.command("scontrol", "hold", f"{array}_1")
            slurm.command("scontrol", "update", "PartitionName=main", "State=UP")
            wait_until(
                lambda: (
                    experiment.has_said("job 1 can't start yet; Slurm's reason: JobHeld")
                    and experiment.has_said(f"'scontrol release {array}_1'")
                )
            )
            slurm.command("scontrol", "release", f"{array}_1")

        thread = threading.Thread(target=clear)
        thread.start()
        assert experiment.launcher.wait(experiment.jobs) is False
        thread.join()
    finally:
        slurm.command("scontrol", "update", "PartitionName=main", "State=UP")
    assert experiment.states() == ["finished", "finished"]
    assert sum("can't start" in line for line in experiment.said) == 2


def test_a_job_that_waits_for_its_turn_has_no_obstacle():
    task = QueuedTask("7", 3, "PENDING", "ReqNodeNotAvail, UnavailableNodes:node[1-4]")
    assert task.obstacle == "ReqNodeNotAvail" and task.obstacle_text.endswith(
        "(nodes that it needs are down, drained or reserved)"
    )
    assert "a limit of the account" in QueuedTask("7", 3, "PENDING", "AssocGrpCpuLimit").obstacle_text
    assert "cancel it and ask for less" in QueuedTask("7", 3, "PENDING", "PartitionConfig").obstacle_text
    for state, reason in (
        ("PENDING", "Priority"),
        ("PENDING", "Resources"),
        ("RUNNING", "None"),
        ("FAILED", "NonZeroExitCode"),
    ):
        assert QueuedTask("7", 3, state, reason).obstacle == ""


def test_jobs_that_stop_and_die_are_resumed_alone_and_one_that_was_cancelled_is_left_to_the_next_command(
    slurm, on_slurm
):
    does = ["finish", "stop", "die", "wait", "fail"]
    experiment = Experiment(on_slurm, does, setup=["export WORD='two words'"])
    experiment.launcher.submit(experiment.jobs)
    scripts = sorted(experiment.folder.slurm.glob("*/job.sh"))
    assert ["--array=0-3\n" in s.read_text() for s in scripts] == [True, False]  # at most four tasks in an array

    def disturb():
        slurm.stop_controller()
        time.sleep(1)
        slurm.start_controller()
        wait_until(lambda: experiment.states()[3] == "running")
        array = experiment.launcher.ids_in_queue()[0]
        slurm.command("scancel", f"{array}_3")

    thread = threading.Thread(target=disturb)
    thread.start()
    assert experiment.launcher.wait(experiment.jobs) is True
    thread.join()
    assert experiment.states() == ["finished", "finished", "finished", "stopped", "failed"], experiment.said
    assert experiment.attempts() == [1, 2, 2, 1, 1], experiment.said
    assert experiment.has_said("_1 was interrupted and requeued"), experiment.said
    assert experiment.has_said("killed by SIGKILL; submitted again, 1 of at most 2 times"), experiment.said
    assert experiment.has_said("was cancelled in Slurm's queue; the same command resumes it"), experiment.said
    arguments = json.loads((experiment.jobs[0].run.path / "arguments.json").read_text())
    assert 'note=it\'s "x" $HOME\nnew' in arguments and arguments[-2:] == ["WORD=two words", str(on_slurm)]
    assert status_of(experiment.jobs[4].run).error == "the data are not there."
    again = Experiment(on_slurm, does)
    again.launcher.submit([again.jobs[3]])
    assert again.launcher.wait([again.jobs[3]]) is False
    assert again.states()[3] == "finished" and again.attempts() == [1, 2, 2, 2, 1]


def test_a_command_that_was_killed_while_it_submitted_is_continued_and_submits_nothing_twice(
    slurm, on_slurm, monkeypatch
):
    first = Experiment(on_slurm, ["wait", "wait", "wait", "finish", "finish"], at_once=3)
    submit, calls = first.launcher._queue.submit, []

    def killed_after_the_first(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        submit(*arguments)
        raise KeyboardInterrupt  # before the id is known

    monkeypatch.setattr(first.launcher._queue, "submit", killed_after_the_first)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            first.launcher.submit(first.jobs[:3] if not calls else first.jobs[3:])
    second = Experiment(on_slurm, ["wait", "wait", "wait", "finish", "finish"], at_once=3)
    submitted, statuses = second.launcher.read(second.jobs)
    assert second.has_said("which an earlier command submitted") and sorted(submitted) == [0, 1, 2]
    assert {statuses[n].state for n in (3, 4)} == {JobState.WAITING}
    wait_until(lambda: first.states()[:3] == ["running"] * 3)

    class Interrupted:
        def __getattr__(self, name):
            return lambda *_: signal.raise_signal(signal.SIGTERM) if name == "waiting" else None

    second.launcher._listener = Interrupted()
    assert second.launcher.wait(second.jobs[:3]) is True
    (array,) = second.launcher.ids_in_queue()
    assert f"to cancel: scancel {array}" in second.said[-1] and first.attempts() == [1, 1, 1, 0, 0]
    with pytest.raises(UserError, match=f"3 jobs of .* are in Slurm's queue.*scancel {array}"):
        running.refuse_queued(
            second.folder, second.jobs, {n: status_of(second.jobs[n].run) for n in range(5)} | {0: statuses[3]}
        )
    slurm.command("scancel", array)


def test_what_ends_before_the_job_starts_is_reported_and_slurms_refusals_are_shown(slurm, on_slurm):
    bad_setup = Experiment(on_slurm, ["finish"], setup=["echo no such module; false"])
    bad_setup.launcher.submit(bad_setup.jobs)
    assert bad_setup.launcher.wait(bad_setup.jobs) is False
    status = status_of(bad_setup.jobs[0].run)
    assert (status.state, status.error) == (JobState.FAILED, "the last line of --setup ended with exit code 1.")
    folder = on_slurm / "other"
    folder.mkdir()
    refused = Experiment(folder, ["finish"], gpus_per_job=1)
    with pytest.raises(UserError, match=r"Slurm refuses the jobs: .*Invalid generic resource"):
        refused.launcher.submit(refused.jobs)
    assert Submissions(refused.folder.slurm).read() == []
    with pytest.raises(UserError, match="Slurm has no partition 'mian'; did you mean main"):
        SlurmQueue().check_partition("mian")
    assert SlurmQueue().max_array_size() == 4 and not SlurmQueue().requeues_exit_code(75)


def tool(*arguments):
    return run_tool(load_tool("experiment").main, [str(a) for a in arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--launcher", "slurm", "--gpus", "0,1"],
            "--gpus 0,1: is of jobs on this machine; with --launcher slurm, say",
        ),
        (["--partition", "main"], "--partition: is an option of Slurm; add --launcher slurm."),
        (["--launcher", "slurm", "--search", "optuna"], "--search optuna: a search starts its jobs on the machine"),
        (["--no-wait"], "--no-wait: is an option of Slurm; add --launcher slurm."),
        (["--launcher", "slurm"], "the command sbatch is not on the PATH. Start this on a login node"),
    ],
)
def test_options_of_the_other_launcher_and_a_machine_without_slurm_are_refused(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = tmp_path / "out"
    assert tool("--config-file", PHANTOM_CONFIG, "--output-dir", folder, *arguments, "train.seed=1,2") == 2
    assert message in capsys.readouterr().err and not (folder / "plan.json").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"time": "2h"}, "--time 2h: is not a time limit of Slurm's; write HOURS:MINUTES:SECONDS as 2:00:00"),
        ({"time": "0:30"}, "--time 0:30: is less than a minute"),
        ({"time": "10", "save_seconds": 600}, "--save-seconds 600: is not less than --time 10"),
        ({"nodes": 0}, "--nodes 0: must be a whole number of at least 1"),
        ({"nodes": 2, "gpus_per_job": 3}, "--gpus-per-job 3: can't be divided among --nodes 2"),
        ({"mem": 'a"b'}, "must be a text without quotes"),
        ({"sbatch": ["--array=0-3"]}, "--array is set for each array of jobs"),
        ({"sbatch": ["--partition=a"]}, "say --partition instead"),
        ({"sbatch": ["exclusive"]}, "is not an option of sbatch"),
        ({"partitoin": "a"}, "slurm.partitoin: there is no such option. Did you mean slurm.partition?"),
    ],
)
def test_an_option_that_slurm_would_not_take_is_refused(values, message):
    with pytest.raises(UserError) as error:
        SlurmOptions.of(values, {})
    assert message in str(error.value)


def test_the_command_line_replaces_options_of_the_config_one_by_one():
    config = {"partition": "a", "time": 90, "setup": "module load cuda", "gpus_per_job": 4}
    options = SlurmOptions.of(config, {"partition": "b", "setup": [], "nodes": 2, "time": None})
    assert (options.partition, options.time, options.setup) == ("b", "90", ("module load cuda",))
    assert "--gpus-per-node=2" in options.lines() and options.lead_s == 120
    assert [seconds_of(text) for text in ("90", "1:30", "2:00:00", "1-12", "1-0:30", "infinite")] == [
        *(5400, 90, 7200, 129600, 88200, None)
    ]


def test_a_limit_of_jobs_at_a_time_holds_over_several_arrays(tmp_path):
    jobs = Experiment.__new__(Experiment), [PlannedJob(n, "", (), {}, RunFolder(tmp_path / str(n))) for n in range(10)]
    of = running.Arrays.of
    assert [len(chunk) for chunk in of(jobs[1], 4, None).jobs] == [4, 4, 2]
    assert of(jobs[1], 4, 5).at_once == (2, 2, 1) and not of(jobs[1], 4, 5).is_chained
    assert of(jobs[1], 4, 2).at_once == (2, 2, 2) and of(jobs[1], 4, 2).is_chained


def test_a_script_and_its_commands_are_bash_whatever_paths_hold(tmp_path):
    words = ["it's", 'a "b"', "$HOME", "new\nline", "tab\t\\", "ü", ""]
    line = f"printf '%s\\0' {shell_line(words)}"
    assert "\n" not in line
    assert (
        subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout.decode().split("\0")[:-1] == words
    )
    options = SlurmOptions(partition="gpu", nodes=2, gpus_per_job=4, setup=["module load cuda"], sbatch=["--exclusive"])
    assert "export OMP_NUM_THREADS=3\n" in job_script(
        tmp_path, "n", 3, SlurmOptions(threads=3, cpus_per_job=2), None, tmp_path, "python"
    )
    text = job_script(tmp_path / "slurm/001", "n", 3, options, 2, tmp_path / "a b", "/usr/bin/python3")
    assert f'#SBATCH --chdir="{tmp_path}/a b"\n' in text and "#SBATCH --exclusive\n" in text
    assert subprocess.run(["bash", "-n"], input=text.encode(), check=True).returncode == 0


NO_CLUSTER = (
    "sinfo: error: fetch_config: DNS SRV lookup failed\nsinfo: fatal: Could not establish a configuration source"
)


def test_a_machine_whose_slurm_has_no_cluster_is_refused_with_what_to_do(tmp_path, monkeypatch, capsys):
    for command in ("sbatch", "squeue", "scontrol", "sinfo"):
        (tmp_path / command).write_text(f"#!/bin/sh\necho '{NO_CLUSTER}' >&2; exit 1\n")
        (tmp_path / command).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    folder = tmp_path / "out"
    arguments = ["--config-file", PHANTOM_CONFIG, "--output-dir", folder, "--launcher", "slurm", "train.seed=1,2"]
    assert tool(*arguments) == 2
    said = capsys.readouterr().err
    assert "find no cluster. Start this on a login node" in said and not (folder / "plan.json").exists()
    with pytest.raises(SlurmUnreachableError):  # of a command that waits: its configuration server may be away
        SlurmQueue().tasks(["a"])


class FullQueue:
    """Takes so many jobs at a time, which end at once; sbatch's own words for more."""

    limit = 3
    policy = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
    words = f"sbatch: error: QOSMaxSubmitJobPerUserLimit sbatch: error: Batch job submission failed: {policy}"

    def __init__(self, jobs):
        self.jobs, self.names, self.finished = jobs, {}, set()

    def max_array_size(self):
        return 1001

    def submit(self, script, *_):
        record = json.loads((script.parent / "submission.json").read_text())
        numbers = [task["job"] for task in record["tasks"]]
        in_queue = {n for each in self.names.values() for n in each} - self.finished
        if len(in_queue) + len(numbers) > self.limit:
            raise SlurmFullError(self.words)
        self.names[record["name"]] = numbers
        return str(100 + len(self.names))

    def tasks(self, names):
        self.finish_one()
        ids = {name: str(101 + index) for index, name in enumerate(self.names)}
        return [
            QueuedTask(ids[name], index, "COMPLETED" if number in self.finished else "RUNNING")
            for name in names
            for index, number in enumerate(self.names[name])
        ]

    def finish_one(self):
        waiting = [n for each in self.names.values() for n in each if n not in self.finished]
        for number in waiting[:1]:
            run = self.jobs[number].run
            run.path.mkdir(parents=True)
            run.checkpoint("model_final").touch()
            run.job_record.write_text('{"starts": [], "exit_code": 0}')
            self.finished.add(number)


@pytest.mark.parametrize("at_once", [None, 2])
def test_jobs_beyond_a_limit_of_submitted_jobs_are_submitted_as_others_end(tmp_path, monkeypatch, at_once):
    for name in ("_SHORTEST_PAUSE_S", "_LONGEST_PAUSE_S"):
        monkeypatch.setattr(running, name, 0.01)
    (tmp_path / "bin").mkdir()
    for command in ("sbatch", "squeue", "scontrol", "sinfo"):
        (tmp_path / "bin" / command).touch(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    experiment = Experiment(tmp_path, ["finish"] * 8, at_once=at_once)
    launcher, queue = experiment.launcher, FullQueue(experiment.jobs)
    launcher._queue = queue
    launcher.submit(experiment.jobs)
    assert len(launcher.held) == 5 and sorted(n for each in queue.names.values() for n in each) == [0, 1, 2]
    assert launcher.wait(experiment.jobs) is False
    assert experiment.states() == ["finished"] * 8 and not launcher.held
    assert sum("takes no more jobs for now: 5 jobs can be" in line for line in experiment.said) == 1


def test_sbatchs_words_for_a_limit_are_told_from_those_for_a_job_that_can_never_run(tmp_path, monkeypatch):
    for command in ("sbatch", "squeue", "scontrol", "sinfo"):
        (tmp_path / command).write_text('#!/bin/sh\necho "sbatch: error: $WORDS" >&2; exit 1\n')
        (tmp_path / command).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for words, error in (
        (FullQueue.words, SlurmFullError),
        ("AssocMaxSubmitJobLimit", SlurmFullError),
        ("AssocGrpSubmitJobsLimit", SlurmFullError),
        (f"QOSMaxWallDurationPerJobLimit: {FullQueue.policy}", SlurmRefusalError),
        ("Batch job submission failed: Requested node configuration is not available", SlurmRefusalError),
    ):
        monkeypatch.setenv("WORDS", words)
        with pytest.raises(SlurmRefusalError) as caught:
            SlurmQueue().submit(tmp_path / "job.sh")
        assert type(caught.value) is error


def test_a_controller_that_does_not_answer_is_told_from_a_refusal(tmp_path, monkeypatch):
    for command in ("sbatch", "squeue", "scontrol", "sinfo"):
        (tmp_path / command).write_text(
            "#!/bin/sh\necho 'sbatch: error: Unable to contact slurm controller (connect failure)' >&2; exit 1\n"
        )
        (tmp_path / command).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for question in (lambda q: q.submit(tmp_path / "job.sh"), lambda q: q.tasks(["a"]), lambda q: q.state_of("1")):
        with pytest.raises(SlurmUnreachableError, match="Unable to contact"):
            question(SlurmQueue())


SLOW_HOOK = """
import time
from ultravid.engine import HookBase

class Slow(HookBase):
    def after_step(self):
        time.sleep(0.7)
"""


@pytest.fixture
def slow_steps(tmp_path, monkeypatch):
    """An override that makes a step take so long that a run can be disturbed in the middle, without work for the processor."""
    (tmp_path / "slow.py").write_text(SLOW_HOOK)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    return "+trainer.hooks.slow={_target_: slow.Slow}"


@pytest.mark.slow_models
def test_a_cross_validation_on_slurm_that_is_disturbed_in_every_way_has_the_bits_of_a_local_one(
    tmp_path, slow_steps, monkeypatch
):
    """Four folds by two seeds."""
    list(write_phantom_dataset(tmp_path / "phantom", 16, 6, 64, seed=3, test_fraction=0.25, num_workers=2))
    config = tmp_path / "folded.py"
    config.write_text(FOLDED_CONFIG.replace("num_folds = 0, 3", "num_folds = 0, 4"))
    command = [quick_python(), str(ROOT / "tools/experiment.py"), "--config-file", str(config), "train.max_iter=16"]
    command += [f"data.root={tmp_path / 'phantom'}", "dataloader.train.fold=range(4)", "train.seed=1,2", slow_steps]
    command += ["--threads", "1", "--output-dir"]
    local = subprocess.run(
        [*command, str(tmp_path / "local"), "--slots", "4"], capture_output=True, text=True, check=False
    )
    assert local.returncode == 0, local.stdout + local.stderr
    context, slurm = started(requeue_exit=True)
    try:
        monkeypatch.setenv("SLURM_CONF", str(slurm.config))
        command += [str(tmp_path / "slurm"), *shlex.split("--launcher slurm --partition main --time 10 --at-once 2")]
        said = disturbed(slurm, command, tmp_path / "slurm/jobs")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        context.__exit__(None, None, None)
    assert done.returncode == 0, said + done.stdout + done.stderr
    assert (tmp_path / "slurm/summary.csv").read_text() == (tmp_path / "local/summary.csv").read_text()
    for folder in sorted((tmp_path / "local/jobs").iterdir()):
        other = tmp_path / "slurm/jobs" / folder.name
        rows = [without_times(read_rows(run / "metrics.json")) for run in (folder, other)]
        assert rows[0] == rows[1] and same_weights(folder / "model_final.pth", other / "model_final.pth")
    attempts = Counter(len(RunFolder(run).list_attempts()) for run in (tmp_path / "slurm/jobs").iterdir())
    assert attempts[2] >= 3, said


def pid_in_training(jobs, number):
    """The process that trains a job; None if there is none."""
    for path in jobs.glob(f"{number:03d}-*"):
        record = RunFolder(path).newest_record()
        if record is not None and record["end"] is None and len(RunFolder(path).checkpoints()) > 0:
            return record["pid"]
    return None


def near_its_limit(slurm, index):
    """Send a task what Slurm sends it before its time limit."""
    for line in slurm.command("squeue", "--noheader", "--states=running", "--format=%K %A").splitlines():
        task, job_id = line.split()
        if task == str(index):  # scancel has delivered the signal at once, and may try again for a minute
            slurm.command("timeout", "2", "scancel", "--batch", "--signal=TERM", job_id)


def disturbed(slurm, command, jobs):
    """Run the command, disturb it, and return what it printed; it ends as stopped."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    wait_until(lambda: pid_in_training(jobs, 0))
    near_its_limit(slurm, 0)
    wait_until(lambda: pid_in_training(jobs, 1) or pid_in_training(jobs, 2))
    os.kill(pid_in_training(jobs, 1) or pid_in_training(jobs, 2), signal.SIGKILL)
    slurm.stop_controller()
    time.sleep(2)
    slurm.start_controller()
    wait_until(lambda: any(pid_in_training(jobs, number) for number in range(3, 8)))
    number = next(number for number in range(3, 8) if pid_in_training(jobs, number))
    first_array = min(map(int, slurm.command("squeue", "--noheader", "--format=%F").split()))
    slurm.command("scancel", f"{first_array}_{number}")
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 75, said
    return said


@pytest.mark.slow_models
def test_a_job_of_two_nodes_saves_a_checkpoint_before_its_limit_and_is_resumed(
    phantom, tmp_path, slow_steps, monkeypatch
):
    context, slurm = started(requeue_exit=True)
    try:
        monkeypatch.setenv("SLURM_CONF", str(slurm.config))
        command = [quick_python(), str(ROOT / "tools/experiment.py"), *small_arguments(phantom, tmp_path / "unused")]
        command = [argument for argument in command if not argument.startswith("train.output_dir")]
        command += [
            "train.seed=1",
            slow_steps,
            "train.max_iter=16",
            "--output-dir",
            str(tmp_path / "out"),
            "--launcher",
            "slurm",
        ]
        process = subprocess.Popen(
            [*command, "--nodes", "2"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        wait_until(lambda: pid_in_training(tmp_path / "out/jobs", 0))
        near_its_limit(slurm, 0)
        said, _ = process.communicate(timeout=900)
    finally:
        context.__exit__(None, None, None)
    assert process.returncode == 0, said
    run = RunFolder(next((tmp_path / "out/jobs").glob("000-*")))
    records = [attempt.read_record() for attempt in run.list_attempts()]
    assert [(r["processes"], r["end"]["how"]) for r in records] == [(2, "stopped"), (2, "finished")]
    assert "was interrupted and requeued" in said
