"""`ultravid.utils.memory`: freed memory is kept for the next tensor."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource
import numpy as np
from ultravid.utils.memory import keep_freed_memory

{keep}
for turn in range(6):
    if turn == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(10_000_000, np.float32)  # 40 MB, which glibc maps anew each time
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep, **environment):
    """Pages that were set up while five arrays were filled, after a first one."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", FAULTS.format(keep="keep_freed_memory()" if keep else "")]
    return int(
        subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True, timeout=60).stdout
    )


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is meant")
def test_freed_memory_is_used_again_unless_the_environment_says_how_memory_is_allocated():
    usual = faults(keep=False)
    if usual < 100:
        pytest.skip(f"pages of freed memory are kept here in any case ({usual} page faults)")
    assert faults(keep=True) < usual / 5
    assert faults(keep=True, MALLOC_ARENA_MAX="2", MALLOC_MMAP_THRESHOLD_="131072") > usual / 2
