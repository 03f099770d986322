# SPDX-License-Identifier: Apache-2.0
"""Starting a real server as a child, waiting until it answers, and ending it with all it started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from tests.support.patience import patient


class Daemon:
    """A server process in a session of its own, its output in `log_path`."""

    def __init__(
        self, name: str, argv: Sequence[str], log_path: str, *, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log_path = log_path
        with open(log_path, "ab") as log:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(env or {})},
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self, last_bytes: int = 4000) -> str:
        """The end of what it wrote."""
        with open(self.log_path, "rb") as f:
            return f.read()[-last_bytes:].decode(errors="replace")

    def wait_until(self, answers: Callable[[], bool], *, timeout_s: float = 30.0) -> None:
        """Return once `answers`; raises with the end of the log when the server ends or `timeout_s`, with patience, is over."""
        limit_s = patient(timeout_s)
        deadline = time.monotonic() + limit_s
        while not answers():
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}:\n{self.log()}")
            if time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"{self.name} did not answer in {limit_s:g} s:\n{self.log()}")
            time.sleep(0.02)

    def stop(self, *, grace_s: float = 10.0) -> int:
        """Ask it to end, kill it after `grace_s`, with patience; its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(patient(grace_s))
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.wait()

    def kill(self) -> None:
        """As `kill -9` does; returns when it is gone."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
