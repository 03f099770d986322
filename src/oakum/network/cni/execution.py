# SPDX-License-Identifier: Apache-2.0
"""Finding a plugin and running it: bounded in time and in output, with everything that it started.

A plugin runs in the network namespace of the calling thread, as the leader of a session of its own.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Final

from oakum.errors import NotFound, SystemFailure
from oakum.network.cni.chain import Answer

_OUTPUT_LIMIT_BYTES: Final = 4 << 20
_CHUNK_BYTES: Final = 1 << 16
# How long a plugin's output is waited for once it has ended: something that it left running may hold the pipe.
_LINGER_S: Final = 0.5


class TimedOut(Exception):
    """A program did not end in time; it and its process group were killed."""


def find_plugin(kind: str, directories: Sequence[str]) -> str:
    """The path of a plugin's program. Raises NotFound."""
    for directory in directories:
        path = f"{directory}/{kind}"
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    raise NotFound(
        "find CNI plugin", repr(kind), f"no such program in {', '.join(directories)}", hint="install it there"
    )


def run_program(
    path: str,
    standard_input: bytes,
    environment: Mapping[str, str],
    *,
    timeout_s: float,
    inherited_fds: Sequence[int] = (),
) -> Answer:
    """Run a program to its end.

    Raises:
        TimedOut: it did not end within `timeout_s`.
        SystemFailure: it cannot be started, or writes without end.
    """
    deadline = time.monotonic() + timeout_s
    try:
        process = subprocess.Popen(
            [path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,
            pass_fds=tuple(inherited_fds),
            cwd="/",
            bufsize=0,
        )
    except OSError as error:
        raise SystemFailure.from_os_error(error, "start CNI plugin", path) from error
    pidfd = -1
    try:
        pidfd = os.pidfd_open(process.pid)
        output, errors = _exchange(process, pidfd, standard_input, deadline, path)
        status = process.wait(max(deadline - time.monotonic(), 0.01))
    except subprocess.TimeoutExpired:
        raise TimedOut from None
    finally:
        # On every way out but the plain one; a group whose leader has ended may hold what it left behind, which
        # is its business (a plugin may start a daemon).
        if process.returncode is None:
            _kill_group(process)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        if pidfd >= 0:
            os.close(pidfd)
    return Answer(status, output, errors)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()  # it had not made its session yet
    process.wait()


def _exchange(
    process: subprocess.Popen[bytes], pidfd: int, standard_input: bytes, deadline: float, path: str
) -> tuple[bytes, bytes]:
    """Write everything, read everything until the program has ended and its pipes are closed or `_LINGER_S` is over."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    to_write, writer = memoryview(standard_input), process.stdin.fileno()
    found: dict[int, bytearray] = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    open_readers = set(found)
    os.set_blocking(writer, False)
    with selectors.DefaultSelector() as selector:
        for fd in found:
            selector.register(fd, selectors.EVENT_READ)
        selector.register(pidfd, selectors.EVENT_READ)
        selector.register(writer, selectors.EVENT_WRITE)
        has_ended = False
        while not has_ended or open_readers:
            left = deadline - time.monotonic()
            if left <= 0:
                if has_ended:
                    break
                raise TimedOut
            for key, _ in selector.select(left):
                fd = key.fd
                if fd == pidfd:
                    has_ended = True
                    deadline = min(deadline, time.monotonic() + _LINGER_S)
                    selector.unregister(pidfd)
                elif fd == writer:
                    to_write = _write(writer, to_write)
                    if not to_write:
                        selector.unregister(writer)
                        process.stdin.close()
                elif not _read(fd, found[fd], path):
                    selector.unregister(fd)
                    open_readers.discard(fd)
    return bytes(found[process.stdout.fileno()]), bytes(found[process.stderr.fileno()])


def _write(fd: int, data: memoryview) -> memoryview:
    try:
        return data[os.write(fd, data) :]
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return data[:0]  # it does not want to know; what it answers will say why


def _read(fd: int, into: bytearray, path: str) -> bool:
    """Read what is there; False at the end."""
    data = os.read(fd, _CHUNK_BYTES)
    into += data
    if len(into) > _OUTPUT_LIMIT_BYTES:
        raise SystemFailure("run CNI plugin", path, f"it wrote more than {_OUTPUT_LIMIT_BYTES} bytes")
    return bool(data)
