"""`ultravid.utils.memory`: freed memory is kept for the next tensor."""

import os
import platform
import subprocess
import sys

import pytest

from ultravid.utils.memory import keep_freed_memory

FAULTS = """
import ctypes
import resource
import numpy as np
from ultravid.utils.memory import keep_freed_memory

PR_SET_THP_DISABLE = 41  # with huge pages the count depends on how an array happens to be aligned
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
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


LIBC, VERSION = platform.libc_ver()


@pytest.mark.skipif(
    LIBC != "glibc" or tuple(map(int, VERSION.split("."))) < (2, 35), reason="glibc 2.35 and later keep arrays of 40 MB"
)
def test_freed_memory_is_used_again_unless_the_environment_says_how_memory_is_allocated():
    usual = faults(keep=False)
    if usual < 10_000:
        pytest.skip(f"pages of freed memory are kept here in any case ({usual} page faults)")
    assert faults(keep=True) < usual / 5
    assert faults(keep=True, MALLOC_ARENA_MAX="2", MALLOC_MMAP_THRESHOLD_="131072") > usual / 2


def test_a_c_library_that_refuses_the_threshold_is_asked_for_the_most_that_earlier_ones_take(monkeypatch):
    asked = []

    class Library:
        def __init__(self, name, most):
            self.mallopt = lambda option, value: asked.append((option, value)) or int(option == -1 or value <= most)

    for name in [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "platform", "linux")
    for most, expected in ((32 << 20, [-3, -3, -1]), (0, [-3, -3])):
        asked.clear()
        monkeypatch.setattr("ctypes.CDLL", lambda name, most=most: Library(name, most))
        keep_freed_memory()
        assert [option for option, _ in asked] == expected and asked[1] == (-3, 32 << 20)
