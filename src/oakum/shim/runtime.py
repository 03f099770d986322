# SPDX-License-Identifier: Apache-2.0
"""One call of a foreign OCI runtime's command line (runc, crun): run with a deadline, its own words as our error.

Runs in workers only, which may wait. Owns no state of containers: what is called for is `foreign`'s business.
Source: runc(8), crun(1): global options --root, --log, --log-format come before the command.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
from typing import Any, Final, NoReturn, cast

from oakum.errors import CommandNotRunnable, DeadlineExceeded, FailedPrecondition, OakumError, SystemFailure
from oakum.linux import pids, process
from oakum.linux.fd import Fd, pipe
from oakum.oci.command import DEFAULT_PATH
from oakum.oci.credentials import duplicate_stdio

Stdio = tuple[int, int, int]

_LOG_LIMIT_BYTES: Final = 64 << 10
_TEXT_LIMIT: Final = 2000
# What runc and crun say when a command cannot be executed, and how it goes on; they have no number for it.
_OF_COMMANDS: Final = ('exec: "', "executable file", "open executable")
_MISSING: Final = ("not found", "no such file or directory", "not a directory")
_FORBIDDEN: Final = ("permission denied", "is a directory", "exec format error")


class Runtime:
    """A runtime's binary, and the directory where it keeps its containers."""

    def __init__(self, path: str, state: str) -> None:
        self.path = path
        self.state = state

    def call(
        self,
        arguments: list[str],
        *,
        container_id: str,
        log: str,
        timeout_s: float,
        stdio: Stdio | None = None,
    ) -> None:
        """Run one command to its end; `stdio` is what it hands on.

        Raises:
            FailedPrecondition: the binary cannot be executed.
            CommandNotRunnable: the runtime says so of the container's command.
            SystemFailure: it failed; the cause is what it wrote to `log`, which is gone afterwards.
            DeadlineExceeded: it was killed after `timeout_s`.
        """
        options = ["--root", self.state, "--log", log, "--log-format", "json"]
        operation, subject = arguments[0], f"container {container_id[:12]} by {self.path}"
        try:
            child, pidfd = self._spawn([self.path, *options, *arguments], stdio)
            with pidfd:
                poll = select.poll()
                poll.register(pidfd.fileno(), select.POLLIN)
                late = not poll.poll(timeout_s * 1000)
                if late:
                    pids.pidfd_send_signal(pidfd.fileno(), signal.SIGKILL)
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if late:
                raise DeadlineExceeded(
                    operation, subject, f"it was not done after {timeout_s:g} s and killed"
                )
            if code:
                raise _failure(operation, subject, code, _last_words(log))
        finally:
            _remove(log)

    def _spawn(self, argv: list[str], stdio: Stdio | None) -> tuple[int, Fd]:
        hear, tell = pipe()
        try:
            with tell:
                child = process.clone(pidfd=True)
                if child == 0:
                    process.run_and_exit(lambda: _become(argv, stdio, tell.fileno()))
            assert child.pidfd is not None
            with hear:
                said = os.read(hear.fileno(), 16)  # nothing, when execve closes the other end
        except OSError as failure:
            hear.close()
            raise SystemFailure.from_os_error(failure, "clone", self.path) from failure
        if said:
            child.pidfd.close()
            os.waitpid(child, 0)
            number = int(said)
            raise FailedPrecondition(
                "run OCI runtime",
                self.path,
                f"{os.strerror(number)} ({errno.errorcode.get(number, number)})",
                hint="install it, or name another one for this runtime handler",
            )
        return int(child), child.pidfd


def _become(argv: list[str], stdio: Stdio | None, tell_fd: int) -> NoReturn:
    # A worker that is killed may not leave a runtime that goes on to make what nobody knows of.
    process.set_parent_death_signal(signal.SIGKILL)
    try:
        null_fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        duplicate_stdio(stdio or (null_fd, null_fd, null_fd))
        process.close_from(3, cloexec=True)
        process.reset_signals()
        os.umask(0o022)
        environment = {"PATH": os.environ.get("PATH", DEFAULT_PATH), "LC_ALL": "C.UTF-8"}
        os.execve(argv[0], argv, environment)  # noqa: S606 - a list, and no shell is wanted
    except OSError as failure:
        os.write(tell_fd, str(failure.errno or errno.EIO).encode())
    os._exit(1)


def _failure(operation: str, subject: str, code: int, said: str) -> OakumError:
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    lowered = said.lower()
    if any(word in lowered for word in _OF_COMMANDS):
        for number, words in ((errno.ENOENT, _MISSING), (errno.EACCES, _FORBIDDEN)):
            if any(word in lowered for word in words):
                return CommandNotRunnable("execute", subject, said, errno=number)
    return SystemFailure(
        operation,
        subject,
        said or f"{how}, without a word why",
        hint=f"the runtime's own words, {how}" if said else "",
    )


def _last_words(log: str) -> str:
    """The last error in a runtime's log, or its last line where that is no JSON."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_LIMIT_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return ""
    last = ""
    for line in lines:
        try:
            entry: Any = json.loads(line)
        except ValueError:
            last = line
            continue
        if isinstance(entry, dict):
            words = cast("dict[str, Any]", entry)
            if words.get("level") in ("error", "fatal", "panic"):
                last = str(words.get("msg", ""))
    return last.strip()[:_TEXT_LIMIT]


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # it had nothing to say
