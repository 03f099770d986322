# SPDX-License-Identifier: Apache-2.0
"""The keeper's first supervisor: made as soon as a process can be made, and the end where none can be."""

from __future__ import annotations

import subprocess
import sys

import pytest

# In a process of its own: a keeper reaps whatever children there are, and handles signals.
PROGRAM = """
import errno, sys
from oakum.linux import process
from oakum.shim import keeper
real, left = process.fork, [int(sys.argv[1])]
def fork():
    if left[0]:
        left[0] -= 1
        raise OSError(errno.EAGAIN, "no more processes")
    return real()
process.fork = fork
keeper._RETRY_S = 0
print(keeper.Keeper(lambda link, before: 7, []).run())
"""


@pytest.mark.parametrize(("failures", "status"), [(0, "7"), (3, "7"), (1_000_000, "1")])
def test_the_first_supervisor_is_tried_for_again_but_not_for_ever(failures: int, status: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(failures)], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == [status]
