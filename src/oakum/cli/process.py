# SPDX-License-Identifier: Apache-2.0
"""`oakum exec` and `oakum attach`: joining a container that runs."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from oakum.cli import foreground
from oakum.cli.complete import complete_container
from oakum.cli.flags import words
from oakum.cli.lazy import SectionOption, TeachingCommand
from oakum.cli.report import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED, EXIT_NOT_INVOKED, report
from oakum.cli.session import Session, pass_session
from oakum.cli.signals import SignalQueue
from oakum.cli.terminal import DEFAULT_DETACH_KEYS
from oakum.errors import (
    CommandNotRunnable,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    SystemFailure,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from oakum.shim.client import Exec


@click.command(
    "exec",
    cls=TeachingCommand,
    context_settings={"allow_interspersed_args": False},
    examples=(
        ("oakum exec -it web sh", "a shell beside the server"),
        ("oakum exec web cat /etc/hosts", "a single command; its exit code is kept"),
        ("tar c . | oakum exec -i web tar x -C /www", "bytes through standard input"),
    ),
)
@click.option("-i", "--interactive", is_flag=True, help="Keep standard input open.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal.")
@click.option("-d", "--detach", is_flag=True, help="Do not wait for it.")
@click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set a variable, or pass yours on.")
@click.option("--env-file", multiple=True, metavar="FILE", help="Read variables from FILE.")
@click.option("-w", "--workdir", metavar="DIR", default="", help="Working directory; else the container's.")
@click.option("-u", "--user", metavar="USER[:GROUP]", default="", help="User; else the container's.")
@click.option("--privileged", is_flag=True, help="With all capabilities.")
@click.option("--detach-keys", metavar="KEYS", default="", help="Keys that leave it running (none).")
@click.argument("container", shell_complete=complete_container)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@pass_session
def exec_(session: Session, container: str, command: tuple[str, ...], **options: Any) -> int:
    """Run COMMAND in a running container; its exit code becomes that of `oakum exec`.

    126 means that it cannot be run, or not there or not as that user; 127 that there is no such command.
    """
    wanted = foreground.Wanted(
        tty=options["tty"], stdin=options["interactive"], detach_keys=options["detach_keys"]
    )
    if not options["detach"]:
        foreground.check_terminal(tty=wanted.tty, stdin=wanted.stdin)
    if options["workdir"] and not options["workdir"].startswith("/"):
        raise InvalidArgument("parse --workdir", repr(options["workdir"]), "not an absolute path")
    namespace = session.namespace
    container_id = namespace.find_container(container).id
    start: dict[str, Any] = {
        "env": words.merge_env(options["env"], options["env_file"], os.environ),
        "cwd": options["workdir"],
        "user": words.check_user(options["user"]) if options["user"] else "",
        "privileged": options["privileged"],
    }
    launch = _Launch(session, container, partial(namespace.exec_start, container_id, command, **start))
    try:
        if options["detach"]:
            return _exec_detached(launch)
        with SignalQueue(everything=True) as signals:
            if wanted.tty:
                return _exec_terminal(launch, start["env"], wanted=wanted, signals=signals)
            return _exec_pipes(launch, wanted=wanted, signals=signals)
    except _NotStarted as refused:
        return refused.code


class _NotStarted(Exception):
    """The command did not start, and that was said; `code` is what to end with."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _Launch(NamedTuple):
    """The start of a command in a container, as far as all kinds of execs have it in common."""

    session: Session
    container: str
    start: Callable[..., Exec]

    def __call__(self, **stdio: Any) -> Exec:
        """Start it. Raises _NotStarted, OakumError."""
        try:
            return self.start(**stdio)
        except CommandNotRunnable as error:
            error.add_note(f"in container {self.container}")
            raise
        except (NotFound, InvalidArgument, SystemFailure) as error:
            # its user, its directory: shells know "cannot be run" as 126
            error.add_note(f"in container {self.container}")
            report(error, as_json=self.session.as_json)
            raise _NotStarted(EXIT_NOT_INVOKED) from error


def _exec_detached(launch: _Launch) -> int:
    null_fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        launch(stdio=(null_fd, null_fd, null_fd))
    finally:
        os.close(null_fd)
    return 0


def _exec_terminal(
    launch: _Launch, env: tuple[tuple[str, str], ...], *, wanted: foreground.Wanted, signals: SignalQueue
) -> int:
    rows, columns = foreground.terminal.size(foreground.terminal_fd(tty=True))
    if os.environ.get("TERM") and not any(name == "TERM" for name, _ in env):
        env = (*env, ("TERM", os.environ["TERM"]))
    process = launch(tty=True, rows=rows, columns=columns, env=env)
    try:
        assert process.console_fd is not None
        os.set_blocking(process.console_fd.fileno(), False)
        return foreground.follow_exec(process, (-1, -1, -1), wanted, signals, close_stdin=lambda: None)
    finally:
        process.close()


class _Pipes:
    """Three pipes to a process: never our own descriptors, which may be a terminal or a file of the host's."""

    def __init__(self, *, stdin: bool) -> None:
        self._fds: set[int] = set()
        if stdin:
            self.stdin_theirs, self.stdin_ours = self._pipe()
            os.set_blocking(self.stdin_ours, False)
        else:
            self.stdin_theirs, self.stdin_ours = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), -1
            self._fds.add(self.stdin_theirs)
        self.stdout_ours, self.stdout_theirs = self._pipe()
        self.stderr_ours, self.stderr_theirs = self._pipe()

    def _pipe(self) -> tuple[int, int]:
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        self._fds |= {read_fd, write_fd}
        return read_fd, write_fd

    def close(self, *fds: int) -> None:
        """Close these, or all that are open."""
        for fd in fds or tuple(self._fds):
            if fd in self._fds:
                self._fds.remove(fd)
                os.close(fd)


def _exec_pipes(launch: _Launch, *, wanted: foreground.Wanted, signals: SignalQueue) -> int:
    pipes = _Pipes(stdin=wanted.stdin)
    try:
        stdio = (pipes.stdin_theirs, pipes.stdout_theirs, pipes.stderr_theirs)
        process = launch(stdio=stdio)
        pipes.close(*stdio)
        return foreground.follow_exec(
            process,
            (pipes.stdin_ours, pipes.stdout_ours, pipes.stderr_ours),
            wanted,
            signals,
            close_stdin=lambda: pipes.close(pipes.stdin_ours),
        )
    finally:
        pipes.close()


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum attach web", "see what it writes from now on; ctrl-p ctrl-q leaves"),
        ("oakum attach --no-stdin web", "only look"),
    ),
)
@click.option("--no-stdin", is_flag=True, help="Only look.")
@click.option(
    "--sig-proxy/--no-sig-proxy", cls=SectionOption, default=True, help="Pass signals on to it (default)."
)
@click.option(
    "--detach-keys",
    metavar="KEYS",
    default=DEFAULT_DETACH_KEYS,
    show_default=True,
    help="Keys that leave it running.",
)
@click.argument("container", shell_complete=complete_container)
@pass_session
def attach(session: Session, container: str, no_stdin: bool, sig_proxy: bool, detach_keys: str) -> int:
    """Join the input and output of a running container; its exit code becomes that of `oakum attach`."""
    namespace = session.namespace
    status = namespace.find_container(container)
    if status.state not in ("running", "paused"):
        raise FailedPrecondition(
            "attach to container", container, f"it is {status.state}", hint="see `oakum logs`"
        )
    stdin = status.config.stdin and not no_stdin
    wanted = foreground.Wanted(
        tty=status.config.tty, stdin=stdin, detach_keys=detach_keys, proxy_signals=sig_proxy
    )
    foreground.check_terminal(tty=wanted.tty, stdin=wanted.stdin)
    with SignalQueue(everything=True) as signals:
        sock = namespace.attach(status.id, stdin=stdin, backpressure=False)
        outcome = foreground.follow(namespace, status.id, sock, wanted, signals)
    if outcome.record is not None:
        return outcome.record.exit_code
    if outcome.broken_pipe:
        return EXIT_BROKEN_PIPE
    foreground.let_go_message(outcome, status.config.metadata.name)
    return EXIT_INTERRUPTED if signals.stop_requests else 0
