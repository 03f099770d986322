# SPDX-License-Identifier: Apache-2.0
"""What the attacks have in common: a name that is a directory now and a link then, and ways that a naive runtime would go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

REPOSITORY: Final = Path(__file__).parents[2]
# Races are run this often; scripts/test asks for less in an emulated machine, where every try takes twenty times as long.
TRIES: Final = int(os.environ.get("OAKUM_TESTS_RACES", "4000"))
# renameat2 with RENAME_EXCHANGE: the name is there at every moment, and is one thing or the other
_SWAPPER: Final = """
import ctypes, os, sys
os.chdir(sys.argv[1])
exchange = ctypes.CDLL(None, use_errno=True).renameat2
names = [os.fsencode(name) for name in sys.argv[2:]]
while exchange(-100, names[0], -100, names[1], 2) == 0:
    pass
sys.exit(f"renameat2: {os.strerror(ctypes.get_errno())}")
"""


class Race(NamedTuple):
    """A root whose entry "name" is now a directory, now a link to `outside`."""

    root: Path
    outside: Path


class Outcome(NamedTuple):
    """How often it was done and refused, and what of it lies outside."""

    done: int
    refused: int
    outside: list[str]


@contextmanager
def swapping(directory: Path, one: str, other: str) -> Iterator[None]:
    """Two entries of a directory change places all the time."""
    swapper = subprocess.Popen([sys.executable, "-I", "-S", "-c", _SWAPPER, str(directory), one, other])
    try:
        yield
        ended = swapper.poll()
    finally:
        swapper.send_signal(signal.SIGKILL)
        swapper.wait()
    assert ended is None, "the race was over before the test was"


def in_mount_namespace(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program as root in a mount namespace of its own that nobody else sees."""
    return subprocess.run(
        ["unshare", "--mount", "--propagation", "private", *argv],
        check=False, capture_output=True, text=True, timeout=300, cwd=REPOSITORY, **options,
    )  # fmt: skip


def naive(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What a runtime would do that goes by paths, as a shell script."""
    return in_mount_namespace("sh", "-c", script, "sh", *arguments)


def race_steps(kind: str, race: Race, *, careful: bool) -> Outcome:
    """Thousands of steps of one kind on the racing name, by us or naively (then until the first that went astray)."""
    way = "careful" if careful else "naive"
    done = in_mount_namespace(
        sys.executable,
        "-m",
        "tests.security.race_steps",
        kind,
        way,
        str(race.root),
        str(race.outside),
        str(TRIES),
    )
    assert done.returncode == 0, done.stderr
    return Outcome(**json.loads(done.stdout))


def without_dev(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The mounts of a spec that leaves /dev to the image."""
    return [mount for mount in spec["mounts"] if not mount["destination"].startswith("/dev")]
