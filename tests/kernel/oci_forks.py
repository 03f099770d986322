# SPDX-License-Identifier: Apache-2.0
"""`oakum oci` a hundred times a second: each command line in a fork of one warm process that never enters a container.

`QuickRuntime` is `Runtime` by these means. It does what the program does but for the start of a sealed interpreter, which
would take longer than everything else; what is about that start belongs into tests of `Runtime`.
As a program (`python -m tests.kernel.oci_forks`): a JSON array of arguments a line in, an object a line out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.kernel.oci_cli_box import Runtime

REPOSITORY = Path(__file__).parents[2]


class Forks:
    """The warm process; a context manager."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.kernel.oci_forks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one command line."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return subprocess.CompletedProcess(arguments, answer["code"], answer["stdout"], answer["stderr"])

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


class QuickRuntime(Runtime):
    """The command line on a state directory of its own, each command a fork of `forks`."""

    def __init__(self, directory: Path, forks: Forks) -> None:
        self._forks = forks
        super().__init__(directory)

    def __call__(
        self, *arguments: str, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run one command; what only a program of its own can have (`options`) is not to be had."""
        assert not options, options
        done = self._forks("--root", self.root, *arguments)
        if check and done.returncode:
            raise AssertionError(f"{arguments} ended with {done.returncode}: {done.stderr}")
        return done


def main(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Run each command line."""
    # Warm before the first fork.
    import oakum.oci.runtime.create
    import oakum.oci.runtime.execs  # noqa: F401 - imported for the forks
    from oakum.cli.oci.commands import dispatch

    for line in lines:
        # Files of its own: a container that is left waiting keeps them open.
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            pid = os.fork()
            if pid == 0:
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(stdout.fileno(), 1)
                os.dup2(stderr.fileno(), 2)
                code = 70
                try:
                    code = dispatch(json.loads(line), sealed=True)
                    sys.stdout.flush()
                    sys.stderr.flush()
                finally:
                    os._exit(code)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            said: list[str] = []
            for file in (stdout, stderr):
                file.seek(0)
                said.append(file.read().decode(errors="replace"))
        yield {"code": code, "stdout": said[0], "stderr": said[1]}


if __name__ == "__main__":
    for answer in main(iter(sys.stdin.readline, "")):
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
