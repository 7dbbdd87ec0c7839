"""A search whose jobs train nothing: AP50 is best at a rate of 1e-3, and higher by the seed. As a program it is tools/experiment.py with such jobs.

Overrides say what happens: ``fake.pause`` is the time of an evaluation in seconds, ``fake.fail_above`` a rate from which jobs end with an error.
"""

import hashlib
import json
import math
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "optimizer:\n  lr: 0.1\n  name: a\ntrain:\n  output_dir: out\n  seed: 0\nfake:\n  pause: 0\n  fail_above: 1\n  least: 0\n"


def job(arguments):
    """What a launcher does, in the run's folder."""
    from ultravid.utils.run_folder import RunFolder

    values = dict(text.split("=", 1) for text in arguments if "=" in text)
    run, lr = RunFolder(values["train.output_dir"]), float(values.get("optimizer.lr", 1e-3))
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    from ultravid.utils.folder_lock import locked

    with locked(run.path, "a training"):
        attempt = run.new_attempt()
        record = {"max_iter": 40, "host": "elsewhere"}
        attempt.write_record(record)
        if lr > float(values.get("fake.fail_above", 1)):
            attempt.write_record({**record, "end": {"how": "failed", "why": "FloatingPointError: loss is nan"}})
            return 1
        best = 100 - 10 * (math.log10(lr) + 3) ** 2 + int(values.get("train.seed", 0))
        done = run.metrics.read_text().count("\n") if run.metrics.exists() else 0
        for at in (10, 20, 30, 40)[done:]:
            time.sleep(float(values.get("fake.pause", 0)))
            with run.metrics.open("a") as file:
                file.write(json.dumps({"iteration": at, "AP50": best * at / 40}) + "\n")
            while at == 10 and "fake.gate" in values and not stopped and not Path(values["fake.gate"]).exists():
                time.sleep(0.02)
            if stopped:
                attempt.write_record({**record, "end": {"how": "stopped", "why": "SIGTERM"}})
                return 75
        run.inference.mkdir(exist_ok=True)
        run.evaluation_metrics.write_text(json.dumps({"AP50": best, "Pr80": None}))
        attempt.write_record({**record, "end": {"how": "finished", "why": ""}})
    return 0


def fake_check(config_file, common, jobs, labels=()):
    """Every job is right; what it overrides is its identity."""
    from ultravid.config import Node
    from ultravid.experiments.checking import CheckedJob

    del config_file, common, labels
    return Node(), [CheckedJob(j, hashlib.sha256(repr(j.overrides).encode()).hexdigest()) for j in jobs]


def fake_command(self, config_file, python, *options):
    del config_file, options
    begin = [
        python,
        "-c",
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.experiments.fake_search import job; ",
    ]
    begin[-1] += "sys.exit(job(sys.argv[1:]))"
    return [*begin, *self.overrides, f"train.output_dir={self.run.path}"]


def search(folder, *arguments):
    """The exit code of a search in this process."""
    config = Path(folder).parent / "config.yaml"
    if not config.exists():
        config.write_text(CONFIG)
    return run(["--config-file", str(config), "--output-dir", str(folder), "--search", "optuna", *arguments])


def run(arguments):
    """The exit code of tools/experiment.py with jobs that train nothing."""
    import importlib.util

    from ultravid.experiments import checking
    from ultravid.experiments import search as module
    from ultravid.experiments.plan import PlannedJob
    from ultravid.utils.tool import run_tool

    spec = importlib.util.spec_from_file_location("search_tool", ROOT / "tools/experiment.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    real = checking.check_jobs, PlannedJob.command
    module.check_jobs, PlannedJob.command = fake_check, fake_command
    try:
        return run_tool(tool.main, arguments)
    finally:
        module.check_jobs, PlannedJob.command = real


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(search(*sys.argv[1:]))
