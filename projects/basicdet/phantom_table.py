"""Train the three phantom configs with several seeds and print the table of projects/basicdet/README.md.

    python projects/basicdet/phantom_table.py

Finished runs are not trained again. On 2 cores the six runs take about 25 minutes.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tabulate import tabulate

from ultravid.utils.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {
    "temporal": "phantom",
    "one frame": "phantom_one_frame",
    "temporal, context of other videos": "phantom_foreign_context",
}


def train(config: str, seed: int, output: Path, threads: int) -> dict[str, float]:
    metrics = RunFolder(output).evaluation_metrics
    if not RunFolder(output).final_checkpoint() or not metrics.is_file():
        command = [
            sys.executable,
            str(ROOT / "tools/lazyconfig_train.py"),
            "--config-file",
            str(ROOT / f"projects/basicdet/configs/{config}.py"),
            f"train.seed={seed}",
            f"train.output_dir={output}",
        ]
        output.mkdir(parents=True, exist_ok=True)
        with RunFolder(output).terminal.open("w") as terminal:
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            subprocess.run(
                command,
                check=True,
                cwd=ROOT,
                env=environment,
                stdout=terminal,
                stderr=subprocess.STDOUT,
            )
    return json.loads(metrics.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--jobs", type=int, default=2, help="runs in parallel; they share the cores")
    parser.add_argument("--output", type=Path, default=Path("outputs/phantom_table"))
    args = parser.parse_args()
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = {
            (name, seed): pool.submit(train, config, seed, args.output.resolve() / f"{config}-seed{seed}", threads)
            for name, config in CONFIGS.items()
            for seed in args.seeds
        }
        rows = [[name, seed, *job.result().values()] for (name, seed), job in jobs.items()]
        header = ["", "seed", *next(iter(jobs.values())).result()]
    print(tabulate(rows, headers=header, tablefmt="pipe", floatfmt=".1f"))


if __name__ == "__main__":
    main()
