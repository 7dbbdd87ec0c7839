"""Every reader, on files that are damaged or lie: it reads what is there, or says in one message why it does not.

pytest tests/fuzz --inputs 3000            more inputs
pytest tests/fuzz -k png --fuzz-input 137  one input of one family, in this process
"""

import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.families import FAMILIES
from tests.fuzz.harness import Family, Summary, input_folder, run_family, run_one


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_no_input_is_read_wrongly_or_ends_in_a_traceback(
    family: Family, request: pytest.FixtureRequest, record_property: Any, tmp_path: Path
) -> None:
    option = request.config.getoption
    seed, only = option("--fuzz-seed", 0), option("--fuzz-input", None)
    if only is not None:
        record_property("outcome", run_one(family, seed, only, tmp_path / "input"))
        return
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # conversions flush their files to the disk
    with tempfile.TemporaryDirectory(dir=in_memory) as scratch:
        summary = run_family(family, seed, range(option("--inputs", 200)), Path(scratch))
    record_property("outcomes", dict(summary.outcomes))
    sys.stdout.write(f"{family.name}: {dict(summary.outcomes)}\n")
    if summary.failures:
        pytest.fail(report(family, seed, summary, tmp_path / "failed"), pytrace=False)


def report(family: Family, seed: int, summary: Summary, folder: Path) -> str:
    """One failing input of each kind, where it was written, and the command that reads it again."""
    by_kind = {}
    for failure in summary.failures:
        by_kind.setdefault(failure.kind, []).append(failure)
    lines = [f"{len(summary.failures)} of {sum(summary.outcomes.values())} inputs of {family.name} fail:"]
    for kind, failures in by_kind.items():
        first = failures[0]
        shutil.rmtree(folder / str(first.number), ignore_errors=True)
        files = input_folder(family, seed, first.number, folder / str(first.number))
        command = ["pytest", "tests/fuzz", "-k", f"[{family.name}]", "--fuzz-seed", seed, "--fuzz-input", first.number]
        lines += [
            f"- {len(failures)} times: {kind}",
            f"  {first.detail.strip()}",
            f"  the input: {files}",
            f"  again: {shlex.join(map(str, command))}",
            f"  others: {[failure.number for failure in failures[1:11]]}",
        ]
    return "\n".join(lines)
