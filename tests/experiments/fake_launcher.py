"""A launcher that writes what a run writes and trains nothing: its weights are a number that depends on each iteration.

Overrides say what happens: ``fake.iterations=20``, ``fake.seconds=0.01`` (of one), ``fake.die_at=7`` (SIGKILL, at each attempt),
``fake.exit=2`` (at once, with an error), ``fake.deaf=1`` (to SIGTERM), ``fake.gate=7:PATH`` (waits before iteration 7 until the file is there).
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from ultravid.utils.folder_lock import locked
from ultravid.utils.process_facts import process_facts
from ultravid.utils.run_folder import RunFolder

PERIOD = 5  # iterations between checkpoints


def main() -> int:
    values = dict(text.split("=", 1) for text in sys.argv[1:] if "=" in text)
    run = RunFolder(values["train.output_dir"])
    iterations, pause = int(values.get("fake.iterations", 20)), float(values.get("fake.seconds", 0.01))
    if "fake.exit" in values:
        sys.stderr.write("Traceback (most recent call last):\nerror: the config is wrong: \x1b[31mred\n")
        return int(values["fake.exit"])
    gate_at, _, gate = values.get("fake.gate", "-1:").partition(":")
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: received.append(n))
    with locked(run.path, "a training"):
        attempt = run.new_attempt()
        newest = run.newest_checkpoint()
        begin, state = (0, 0) if newest is None else json.loads(newest.read_text())
        record = {**process_facts(), "start_iter": begin, "max_iter": iterations, "end": None}
        attempt.write_record(record)
        rows = [row for row in read_rows(run.metrics) if row["iteration"] < begin]
        run.metrics.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        for iteration in range(begin, iterations):
            time.sleep(pause)
            while iteration == int(gate_at) and not received and not Path(gate).exists():
                time.sleep(0.02)
            if iteration == int(values.get("fake.die_at", -1)):
                os.kill(os.getpid(), signal.SIGKILL)
            state = (state * 31 + int(values.get("train.seed", 0)) + iteration) % 1_000_003
            with run.metrics.open("a") as file:
                file.write(json.dumps({"iteration": iteration, "time": pause, "total_loss": state / 7}) + "\n")
            stops = bool(received) and "fake.deaf" not in values and iteration + 1 < iterations
            if (iteration + 1) % PERIOD == 0 or stops:
                save(run, f"model_{iteration:07d}", iteration + 1, state)
            if stops:
                attempt.write_record({**record, "end": {"how": "stopped", "why": "SIGTERM"}})
                return 75
        run.inference.mkdir(exist_ok=True)
        run.evaluation_metrics.write_text(json.dumps({"AP50": state / 13, "multi": None}))
        save(run, "model_final", iterations, state)
        attempt.write_record({**record, "end": {"how": "finished", "why": ""}})
    return 0


def read_rows(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []


def save(run: RunFolder, name: str, iteration: int, state: int) -> None:
    run.checkpoint(name, ".tmp").write_text(json.dumps([iteration, state]))
    run.checkpoint(name, ".tmp").replace(run.checkpoint(name))
    run.last_checkpoint.with_suffix(".tmp").write_text(f"{name}.pth")
    run.last_checkpoint.with_suffix(".tmp").replace(run.last_checkpoint)


if __name__ == "__main__":
    sys.exit(main())
