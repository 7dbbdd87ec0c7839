"""What stands for the launcher in tests of back ends: it writes what a run writes, in no time.

    python launcher_on_slurm.py ... train.output_dir=FOLDER

What it does follows from the override ``does``: "finish", "stop" (it leaves with 75, and finishes when it is resumed), "die" (it kills
itself likewise), "fail", or "wait" (until a signal stops it).
"""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path


def main(arguments: list[str]) -> int:
    settings = dict(argument.partition("=")[::2] for argument in arguments if "=" in argument)
    folder, does = Path(unquoted(settings["train.output_dir"])), settings["does"]
    (folder / "attempts").mkdir(parents=True, exist_ok=True)
    attempt = folder / "attempts" / str(len(list((folder / "attempts").iterdir())) + 1)
    attempt.mkdir()
    is_first = attempt.name == "1"
    signal.signal(signal.SIGTERM, lambda *_: None)  # interrupts the pause below
    record = {"host": os.uname().nodename, "pid": os.getpid(), "max_iter": 10, "end": None}
    (attempt / "record.json").write_text(json.dumps(record))
    (folder / "arguments.json").write_text(json.dumps([*arguments, f"WORD={os.environ.get('WORD')}", os.getcwd()]))
    if does == "die" and is_first:
        os.kill(os.getpid(), signal.SIGKILL)
    if does == "fail":
        sys.stdout.write("error: the data are not there.\n")
        return 2
    if does == "wait" and is_first:
        signal.pause()
    how = "stopped" if does in ("stop", "wait") and is_first else "finished"
    name = "model_0000004" if how == "stopped" else "model_final"
    (folder / f"{name}.pth").touch()
    (folder / "last_checkpoint").write_text(f"{name}.pth")
    (folder / "metrics.json").write_text('{"iteration": 9, "time": 0.1}\n')
    (folder / "inference").mkdir(exist_ok=True)
    (folder / "inference/metrics.json").write_text('{"AP50": 50.0}')
    record["end"] = {"how": how, "why": "SIGTERM" if how == "stopped" else "", "time": time.time()}
    (attempt / "record.json").write_text(json.dumps(record))
    return 75 if how == "stopped" else 0


def unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value[0] in "'\"" else value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
