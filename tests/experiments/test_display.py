"""What is shown of jobs: lines where there is no terminal, tables that fit, and times for people."""

import io
import json
import math

import pytest

from ultravid.experiments.display import Narrator, duration, job_table, main_metric
from ultravid.experiments.local import Job
from ultravid.experiments.plan import PlannedJob
from ultravid.experiments.status import JobState, JobStatus
from ultravid.utils.run_folder import RunFolder


@pytest.fixture
def jobs(tmp_path):
    """Three jobs; two settings differ, and their keys end alike."""
    rates = ("1e-4", "3e-4", "1e-3")
    return [
        PlannedJob(
            n, f"{n}" * 64, (), {"model.a.depth": rate, "model.b.depth": str(n), "x": "1"}, RunFolder(tmp_path / f"{n}")
        )
        for n, rate in enumerate(rates)
    ]


def write_run(job, iteration, ended=None, **metrics):
    attempt = job.run.new_attempt()
    attempt.write_record({"max_iter": 100, "end": ended})
    row = {"iteration": iteration, "time": 0.5, "total_loss": 0.25}
    job.run.metrics.write_text(f"{json.dumps(row)}\n")
    if metrics:
        job.run.inference.mkdir(exist_ok=True)
        job.run.evaluation_metrics.write_text(json.dumps(metrics))


def test_a_table_shows_what_differs_by_keys_that_are_as_short_as_they_can_be(jobs):
    statuses = {job.number: JobStatus(JobState.WAITING) for job in jobs}
    table = job_table(jobs, statuses)
    assert table.headers == ["job", "a.depth", "b.depth", "state"] and table.rows[1] == ["1", "3e-4", "1", "waiting"]
    running = JobStatus(JobState.RUNNING, 19, 100, 0.5, loss=0.125)
    table = job_table(jobs[:1], {0: running}, jobs)
    assert table.headers[-4:] == ["iteration", "rate", "metric", "left"]
    assert table.rows == [["0", "1e-4", "0", "running", "20/100", "2.0 s/it", "loss 0.125", "3 min"]]


def test_a_searched_value_is_shown_with_four_digits_and_more_where_two_would_look_alike(tmp_path):
    rates = ("1.234567890123456e-05", "0.0020111111", "0.0020112222", "3e-4")
    jobs = [PlannedJob(n, "", (), {"lr": lr, "seed": "123456"}, RunFolder(tmp_path / lr)) for n, lr in enumerate(rates)]
    table = job_table(jobs, {job.number: JobStatus(JobState.WAITING) for job in jobs})
    assert [row[1] for row in table.rows] == ["1.235e-05", "0.0020111", "0.0020112", "3e-4"]


@pytest.mark.parametrize(
    ("width", "headers"),
    [
        (30, ["job", "state", "metric"]),
        (40, ["job", "note", "state", "metric"]),
        (60, ["job", "note", "kind", "state", "iteration", "metric"]),
        (200, ["job", "note", "kind", "state", "iteration", "rate", "metric", "left"]),
    ],
)
def test_where_long_values_do_not_fit_numbers_states_and_metrics_are_seen(width, headers):
    jobs = [
        PlannedJob(n, "", (), {"note": "x" * 60 + str(n), "kind": f"日本語のとても長い値{n}"}, RunFolder(f"/{n}"))
        for n in (0, 1)
    ]
    status = JobStatus(JobState.RUNNING, 310, 600, 2.3, {"AP50": 71.02})
    table, widths, left_out = job_table(jobs, {0: status, 1: status}).fitted(width, 3)
    assert table.headers == headers and sum(widths) + 3 * (len(widths) - 1) <= width
    assert len(left_out) + len(headers) == 8 and widths[0] == 3 and widths[table.state] == len("running")


def test_a_key_that_ends_as_a_column_is_called_confuses_nobody(jobs):
    odd = [
        PlannedJob(n, "", (), {"model.state": str(n), "model.left": "\x1b[31m"}, job.run) for n, job in enumerate(jobs)
    ]
    table = job_table(odd, {job.number: JobStatus(JobState.FAILED) for job in odd})
    assert table.headers == ["job", "state", "state"] and [row[table.state] for row in table.rows] == ["failed"] * 3


def test_the_metric_that_judges_is_shown_and_before_it_the_loss():
    assert main_metric(JobStatus(JobState.FINISHED, metrics={"mAP": 40.0, "AP50": 61.256}, loss=1.0)) == "AP50 61.26"
    assert main_metric(JobStatus(JobState.FINISHED, metrics={"own": math.nan})) == "own -"
    assert main_metric(JobStatus(JobState.FINISHED, metrics={"AP50": 40.0, "FP80": 2.5}), "FP80") == "FP80 2.50"
    assert main_metric(JobStatus(JobState.RUNNING)) == ""


def test_times_are_given_in_units_of_their_size():
    times = [0.4, 99, 600, 3 * 3600 + 1200, 50 * 3600, math.nan]
    assert [duration(seconds) for seconds in times] == ["0 s", "99 s", "10 min", "3 h 20 min", "2 d 2 h", ""]


def test_without_a_terminal_there_is_a_line_for_each_start_and_end_and_one_of_progress_now_and_then(jobs):
    now, out = [0.0], io.StringIO()
    statuses = {job.number: JobStatus(JobState.WAITING) for job in jobs}
    with Narrator(jobs, statuses, 1, out, clock=lambda: now[0]) as narrator:
        job = Job(jobs[0].label, ["true"], jobs[0].run.terminal)
        narrator.started(job, {"CUDA_VISIBLE_DEVICES": "3"})
        write_run(jobs[0], 49)
        for now[0] in (10.0, 31.0, 40.0, 80.0, 100.0):
            narrator.waiting()
        write_run(jobs[0], 99, {"how": "finished"}, AP50=50.0)
        narrator.ended(job, 0)
    lines = out.getvalue().splitlines()
    assert lines[0] == f"job 0: started on GPU 3, model.a.depth=1e-4 model.b.depth=0, log {job.log}"
    # 50 of 100 iterations are left at 2 a second, and two jobs of 50 s.
    progress = "2 waiting, 1 running, {} so far, about 2 min left: job 0 50/100 loss 0.25"
    assert lines[1:3] == [progress.format("31 s"), progress.format("2 min")]
    assert lines[3:] == ["job 0: finished after 2 min, AP50 50.00; 1 of 3 finished"]


def test_what_nobody_reads_is_not_printed_and_jobs_go_on(jobs):
    out = io.StringIO()
    narrator = Narrator(jobs, {job.number: JobStatus(JobState.WAITING) for job in jobs}, 1, out)
    out.close()
    job = Job(jobs[0].label, ["true"], jobs[0].run.terminal)
    narrator.started(job, {})
    narrator.ended(job, 1)
    narrator.stopping(0)
