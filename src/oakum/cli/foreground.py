# SPDX-License-Identifier: Apache-2.0
"""A container or an exec in the foreground: terminal, signals, and what is left when it ends.

Owns the decisions (which signal goes where, what --rm means); the bytes go through `relay`.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from oakum.cli import terminal
from oakum.cli.relay import ExecRelay, LocalStreams, Outcome, StreamRelay
from oakum.cli.report import EXIT_BROKEN_PIPE, say
from oakum.cli.signals import SignalQueue
from oakum.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable

if TYPE_CHECKING:
    from oakum.engine.namespace import Namespace
    from oakum.shim.client import Exec

# so many requests to stop that the container ignores, and the user is taken at their word
_PATIENCE: Final = 3
_RECORD_WAIT_S: Final = 5.0


class Wanted(NamedTuple):
    """How a container is to be followed."""

    tty: bool
    stdin: bool
    stdout: bool = True
    stderr: bool = True
    detach_keys: str = terminal.DEFAULT_DETACH_KEYS
    proxy_signals: bool = True


def check_terminal(*, tty: bool, stdin: bool) -> None:
    """Refuse -it where standard input is no terminal, as a script that does so waits for nobody.

    Raises:
        InvalidArgument: standard input is no terminal.
    """
    if tty and stdin and not os.isatty(0):
        raise InvalidArgument(
            "use a terminal",
            "standard input",
            "it is not a terminal",
            hint="leave out -t, or run it from a terminal",
        )


def terminal_fd(*, tty: bool) -> int:
    """The descriptor whose size a container's terminal follows, -1 for none."""
    if not tty:
        return -1
    return next((fd for fd in (0, 1, 2) if os.isatty(fd)), -1)


def local_streams(wanted: Wanted) -> LocalStreams:
    """Our side of the relay."""
    sequence = terminal.parse_detach_keys(wanted.detach_keys)
    watched = wanted.stdin and wanted.tty and bool(sequence)
    return LocalStreams(
        stdin_fd=0 if wanted.stdin else -1,
        stdout_fd=1 if wanted.stdout else -1,
        stderr_fd=2 if wanted.stderr else -1,
        terminal_fd=terminal_fd(tty=wanted.tty),
        detach=terminal.DetachKeys(sequence) if watched else None,
    )


def _passer(signals: SignalQueue, send: Callable[[int], None], *, proxy: bool) -> Callable[[int], bool]:
    """What to do with a signal: pass it on; False once the user has asked too often."""

    def handle(number: int) -> bool:
        if number in (signal.SIGINT, signal.SIGTERM) and (not proxy or signals.stop_requests >= _PATIENCE):
            return False
        if proxy:
            try:
                send(number)
            except (FailedPrecondition, NotFound):
                # it has ended meanwhile; the stream says so next
                return True
        return True

    return handle


def follow(
    namespace: Namespace, container_id: str, sock: socket.socket, wanted: Wanted, signals: SignalQueue
) -> Outcome:
    """Relay an attached container until it ends or is let go; the terminal is raw meanwhile.

    Raises:
        Unavailable: its shim is gone and left no record.
    """
    sys.stdout.flush()
    handle = _passer(signals, lambda number: namespace.kill(container_id, number), proxy=wanted.proxy_signals)
    with sock, terminal.RawMode(0 if wanted.tty and wanted.stdin else -1):
        try:
            return StreamRelay(sock, local_streams(wanted), signals, handle).run()
        except Unavailable:
            # the stream broke, but the record may be on disk
            return Outcome(record=namespace.wait(container_id, timeout_s=_RECORD_WAIT_S))


def let_go_message(outcome: Outcome, name: str) -> None:
    """Say that the container goes on without us."""
    if outcome.detached:
        say(f"\r\noakum: {name} goes on in the background; back to it: oakum attach {name}")


def follow_exec(
    process: Exec,
    pipes: tuple[int, int, int],
    wanted: Wanted,
    signals: SignalQueue,
    *,
    close_stdin: Callable[[], None],
) -> int:
    """Relay an exec until it ends; its exit code."""
    sys.stdout.flush()

    def send(number: int) -> None:
        try:
            os.kill(process.pid, number)
        except ProcessLookupError as error:
            raise NotFound("signal exec", str(process.pid), "it has ended") from error

    handle = _passer(signals, send, proxy=wanted.proxy_signals)
    with terminal.RawMode(0 if wanted.tty and wanted.stdin else -1):
        relay = ExecRelay(process, pipes, local_streams(wanted), signals, handle, close_stdin=close_stdin)
        try:
            outcome = relay.run()
        finally:
            relay.close()
    if outcome.record is not None:
        return outcome.record.exit_code
    if outcome.broken_pipe:
        process.kill()
        return EXIT_BROKEN_PIPE
    if signals.stop_requests >= _PATIENCE:
        process.kill()
        return 128 + signal.SIGINT
    return 0
