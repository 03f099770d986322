# SPDX-License-Identifier: Apache-2.0
"""The real command line over one installation of its own, and a user's terminal to type into."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oakum.engine.context import network_suffix
from oakum.network.builtin import BuiltinNetwork
from tests.conftest import Directories
from tests.support.images import busybox_layer
from tests.support.patience import patient
from tests.support.registry import Registry

TIMEOUT_S = 20.0


class Terminal:
    """A terminal with `oakum` in it: what is typed goes in, what appears is searched."""

    def __init__(self, argv: list[str], *, rows: int = 24, columns: int = 80) -> None:
        self.master, slave = os.openpty()
        termios.tcsetwinsize(slave, (rows, columns))
        self.text = ""
        self._seen = 0
        self.modes_before = termios.tcgetattr(slave)
        self.slave = slave
        env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *argv],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=env,
        )

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        termios.tcsetwinsize(self.slave, (rows, columns))

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self.master], [], [], timeout_s)[0]:
            return False
        self.text += os.read(self.master, 65536).decode(errors="replace")
        return True

    def expect(self, pattern: str, timeout_s: float = TIMEOUT_S) -> re.Match[str]:
        """Wait until `pattern` appears behind what was expected before."""
        deadline = time.monotonic() + patient(timeout_s)
        while True:
            match = re.compile(pattern).search(self.text, self._seen)
            if match:
                self._seen = match.end()
                return match
            left = deadline - time.monotonic()
            if left <= 0 or (self.process.poll() is not None and not self._read(0.2)):
                raise AssertionError(f"{pattern!r} did not appear; the terminal has:\n{self.text}")
            self._read(min(left, 0.2))

    def wait(self, timeout_s: float = TIMEOUT_S) -> int:
        """The exit code of `oakum`."""
        deadline = time.monotonic() + patient(timeout_s)
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"still running; the terminal has:\n{self.text}"
            self._read(0.05)
        while self._read(0):
            pass
        return self.process.returncode

    def raw(self) -> bool:
        """Whether keys are passed on unread."""
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON

    def restored(self) -> bool:
        """Whether the terminal is as it was before."""
        return termios.tcgetattr(self.slave) == self.modes_before

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


class Box:
    """One installation, and its commands."""

    def __init__(self, directories: Directories, address: str) -> None:
        self.root, self.state = directories
        self.address = address
        self.image = f"{address}/cli/busybox:1"

    def argv(self, *arguments: str) -> list[str]:
        return [
            *[sys.executable, "-m", "oakum.cli.main", "--root", self.root, "--state", self.state],
            *arguments,
        ]

    def __call__(self, *arguments: str, code: int | None = 0, stdin: bytes = b"", **options) -> str:
        """Run a command; its standard output. `code` None accepts any exit code."""
        done = self.full(*arguments, stdin=stdin, **options)
        assert code is None or done.returncode == code, (
            f"oakum {' '.join(arguments)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done.stdout.decode(errors="replace")

    def full(self, *arguments: str, stdin: bytes = b"", **options) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self.argv(*arguments),
            input=stdin,
            capture_output=True,
            timeout=patient(TIMEOUT_S),
            check=False,
            **options,
        )

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command with pipes."""
        return subprocess.Popen(
            self.argv(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    @contextmanager
    def terminal(self, *arguments: str, rows: int = 24, columns: int = 80) -> Iterator[Terminal]:
        """Start a command in a terminal."""
        made = Terminal(self.argv(*arguments), rows=rows, columns=columns)
        try:
            yield made
        finally:
            made.close()

    def containers(self) -> list[str]:
        """Ids of all containers."""
        return self("ps", "-aq", "--no-trunc").split()

    def clear(self) -> None:
        """Remove all containers."""
        if ids := self.containers():
            self("rm", "-f", *ids)


@contextmanager
def opened(directories: Directories, parent: Path) -> Iterator[Box]:
    """A box with its image pulled and its bridge made; everything is gone afterwards."""
    with Registry(parent) as registry:
        registry.push_image("cli/busybox", "1", [busybox_layer()])
        box = Box(directories, registry.address)
        box("image", "pull", "-q", box.image)
        box("run", "--rm", box.image, "true")
        try:
            yield box
        finally:
            box.clear()
            network = BuiltinNetwork(f"{box.root}/network.db", name_suffix=network_suffix(box.root))
            network.remove_network()
            network.close()
