# SPDX-License-Identifier: Apache-2.0
"""An interpreter that runs from a sealed copy of its file, by both ways that lead there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import oakum

SOURCES = str(Path(oakum.__file__).parent.parent)
REPORT = """
import os, sys, fcntl
exe = os.open("/proc/self/exe", os.O_RDONLY)
seals = fcntl.fcntl(exe, fcntl.F_GET_SEALS)
try:
    os.open("/proc/self/exe", os.O_WRONLY)
    wrote = True
except OSError:
    wrote = False
child = os.fork()
if child == 0:
    os._exit(0 if os.readlink("/proc/self/exe").startswith("/memfd:oakum") else 1)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(seals & 15, wrote, code, sum(n * n for n in range(1000)), sys.argv[-1])
"""


def run(program: str) -> list[str]:
    text = f"import sys; sys.path[:0] = [{SOURCES!r}]\n{program}"
    done = subprocess.run(
        [sys.executable, "-IS", "-c", text, "word"], check=False, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_started_anew_from_the_copy() -> None:
    program = f"""
from oakum.linux.sealed import execute_sealed, runs_sealed
assert not runs_sealed()
execute_sealed({REPORT!r}, sys.argv[1:])
"""
    assert run(program) == ["15", "False", "0", "332833500", "word"]


def test_exchanged_in_place_or_nothing_has_changed() -> None:
    """An interpreter that is all in its own file (Debian's) cannot be; it says so and goes on."""
    program = f"""
from oakum.linux.sealed import runs_sealed, seal_in_place
import os
done = seal_in_place()
assert done == runs_sealed()
if done:
{"".join(f"    {line}" for line in REPORT.splitlines(keepends=True))}
else:
    small = os.stat("/proc/self/exe").st_size < 1 << 20
    assert not small, "an interpreter with its library apart can be exchanged by root"
    print(15, False, 0, 332833500, "word")
"""
    assert run(program) == ["15", "False", "0", "332833500", "word"]


def test_without_the_right_nothing_changes() -> None:
    program = """
from oakum.linux.capabilities import set_sets
from oakum.linux.sealed import runs_sealed, seal_in_place
set_sets(effective=0, permitted=0, inheritable=0)
print(seal_in_place(), runs_sealed(), sum(range(1000)))
"""
    assert run(program) == ["False", "False", "499500"]
