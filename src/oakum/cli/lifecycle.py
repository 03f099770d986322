# SPDX-License-Identifier: Apache-2.0
"""`oakum start`, `stop`, `kill`, `rm`, `pause`, `unpause`, `wait`, `update`: verbs that take many containers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

from oakum.cli import foreground, text
from oakum.cli.complete import complete_container
from oakum.cli.flags.request import ANNOTATION_REMOVE, ANNOTATION_STOP_TIMEOUT, resources_of
from oakum.cli.lazy import TeachingCommand
from oakum.cli.report import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED, report, run_exit_code
from oakum.cli.run_options import LIMIT_OPTIONS, restart_option, with_options
from oakum.cli.session import Session, pass_session
from oakum.cli.signals import SignalQueue
from oakum.errors import FailedPrecondition, InvalidArgument, NotFound, OakumError
from oakum.model.restarts import parse_policy
from oakum.model.signals import parse_signal

if TYPE_CHECKING:
    from oakum.backend.status import ContainerStatus

DEFAULT_STOP_S: Final = 10

_containers = click.argument("containers", nargs=-1, required=True, shell_complete=complete_container)
_patience = click.option(
    "-t",
    "--time",
    "--timeout",
    "seconds",
    type=click.IntRange(min=0),
    metavar="SECONDS",
    help="Kill after so long [10].",
)


def each(
    session: Session,
    names: tuple[str, ...],
    act: Callable[[ContainerStatus], str | None],
    *,
    missing_is_fine: bool = False,
) -> int:
    """Do `act` for every container, write what it returns (else the name as given), and go on after a failure."""
    code = 0
    for name in names:
        try:
            status = session.namespace.find_container(name)
        except NotFound as error:
            if not missing_is_fine:
                code = report(error, as_json=session.as_json)
            continue
        except OakumError as error:
            code = report(error, as_json=session.as_json)
            continue
        try:
            line = act(status)
        except OakumError as error:
            code = report(error, as_json=session.as_json)
        else:
            click.echo(name if line is None else line)
    return code


def stop_seconds(status: ContainerStatus, given: int | None) -> float:
    """How long to wait between signal and kill: as given, as the container was made with, or ten seconds."""
    if given is not None:
        return float(given)
    kept = status.config.annotations.get(ANNOTATION_STOP_TIMEOUT, "")
    return float(kept) if kept.isascii() and kept.isdecimal() and len(kept) < 10 else float(DEFAULT_STOP_S)


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum start db", "what was created, or has ended"),
        ("oakum start -ai job", "and stay with it"),
    ),
)
@click.option("-a", "--attach", is_flag=True, help="Stay in the foreground.")
@click.option("-i", "--interactive", is_flag=True, help="With its standard input.")
@_containers
@pass_session
def start(session: Session, containers: tuple[str, ...], attach: bool, interactive: bool) -> int:
    """Start containers that were created, or have ended: with what they wrote, their name, volumes and ports."""
    if not attach and not interactive:
        return each(session, containers, lambda status: _begin(session, status))
    if len(containers) != 1:
        raise InvalidArgument("start", " ".join(containers), "only one can be in the foreground")
    try:
        return _start_attached(session, containers[0], interactive)
    except OakumError as error:
        report(error, as_json=session.as_json)
        return run_exit_code(error)


def _begin(session: Session, status: ContainerStatus) -> None:
    if status.state == "running":
        return  # as docker does
    session.namespace.rearm_container(status.id)
    session.namespace.start_container(status.id)
    _leave_reaper(session, status)


def _leave_reaper(session: Session, status: ContainerStatus) -> None:
    """Have it removed after its end, where it was made with --rm."""
    if ANNOTATION_REMOVE in status.config.annotations:
        from oakum.cli.reaper import leave_reaper  # few containers have one

        leave_reaper(session, status.id, status.sandbox_id)


def _start_attached(session: Session, name: str, interactive: bool) -> int:
    namespace = session.namespace
    status = namespace.find_container(name)
    wanted = foreground.Wanted(tty=status.config.tty, stdin=interactive and status.config.stdin)
    foreground.check_terminal(tty=wanted.tty, stdin=wanted.stdin)
    with SignalQueue(everything=True) as signals:
        namespace.rearm_container(status.id)
        rows, columns = foreground.terminal.size(foreground.terminal_fd(tty=wanted.tty))
        sock = namespace.start_attached(status.id, stdin=wanted.stdin, rows=rows, columns=columns)
        outcome = foreground.follow(namespace, status.id, sock, wanted, signals)
    if outcome.record is not None:
        if ANNOTATION_REMOVE in status.config.annotations:
            namespace.remove_container(status.id)
        return outcome.record.exit_code
    _leave_reaper(session, status)
    if outcome.broken_pipe:
        return EXIT_BROKEN_PIPE
    foreground.let_go_message(outcome, name)
    return EXIT_INTERRUPTED if signals.stop_requests else 0


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum stop web", "its stop signal, then kill after 10 seconds"),
        ("oakum stop -t 60 db web", "with more patience"),
    ),
)
@_patience
@_containers
@pass_session
def stop(session: Session, containers: tuple[str, ...], seconds: int | None) -> int:
    """Stop containers: their stop signal, and after a while the kill of all that is in them."""

    def end(status: ContainerStatus) -> None:
        session.namespace.stop_container(status.id, timeout_s=stop_seconds(status, seconds))

    return each(session, containers, end)


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum restart web", "its stop signal, kill after 10 seconds, and anew"),
        ("oakum restart -t 0 web", "without a word"),
    ),
)
@_patience
@_containers
@pass_session
def restart(session: Session, containers: tuple[str, ...], seconds: int | None) -> int:
    """Stop containers and start them again; what has ended is only started."""

    def again(status: ContainerStatus) -> None:
        from oakum.cli.reaper import held  # what else is done here needs no lock

        with held(session.root, session.state, status.id):
            session.namespace.stop_container(status.id, timeout_s=stop_seconds(status, seconds))
            session.namespace.rearm_container(status.id)
            session.namespace.start_container(status.id)
        if status.state != "running":
            _leave_reaper(session, status)

    return each(session, containers, again)


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum kill web", "at once"),
        ("oakum kill -s HUP web", "ask it to read its configuration again"),
    ),
)
@click.option("-s", "--signal", "name", default="KILL", show_default=True, help="Signal by name or number.")
@_containers
@pass_session
def kill(session: Session, containers: tuple[str, ...], name: str) -> int:
    """Send a signal to the first process of containers."""
    number = parse_signal(name)
    return each(session, containers, lambda status: session.namespace.kill(status.id, number))


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum rm job", "what has ended"),
        ("oakum rm -f web", "killed first if it runs"),
        ("oakum rm --ended", "all that have ended"),
    ),
)
@click.option("-f", "--force", is_flag=True, help="Also what runs; what is not there is no failure.")
@click.option("--ended", is_flag=True, help="All containers that have ended.")
@click.option(
    "-v",
    "--volumes",
    is_flag=True,
    expose_value=False,
    help="Nothing more: volumes without a name go anyway.",
)
@click.argument("containers", nargs=-1, shell_complete=complete_container)
@pass_session
def rm(session: Session, containers: tuple[str, ...], force: bool, ended: bool) -> int:
    """Remove containers and what they wrote."""
    if bool(containers) == ended:
        raise InvalidArgument("remove containers", "", "name containers, or give --ended")

    def remove(status: ContainerStatus) -> None:
        if (status.state in ("running", "paused") or status.restarting) and not force:
            raise FailedPrecondition(
                "remove container",
                status.config.metadata.name,
                f"it is {text.shown_state(status)}",
                hint="stop it first, or use -f",
            )
        session.namespace.remove_container(status.id)

    if not ended:
        return each(session, containers, remove, missing_is_fine=force)
    found = [status for status in session.namespace.list_containers() if text.shown_state(status) == "exited"]
    return each(session, tuple(status.id for status in found), remove, missing_is_fine=True)


@click.command(
    cls=TeachingCommand, examples=(("oakum rename web old-web", "make room for a new one of that name"),)
)
@click.argument("container", shell_complete=complete_container)
@click.argument("name")
@pass_session
def rename(session: Session, container: str, name: str) -> int:
    """Give a container another name, running or not; others in its networks find it by that one."""
    session.namespace.rename_container(container, name)
    return 0


@click.command(cls=TeachingCommand, examples=(("oakum pause web", "stop the clock for it"),))
@_containers
@pass_session
def pause(session: Session, containers: tuple[str, ...]) -> int:
    """Freeze every process of containers."""
    return each(session, containers, lambda status: session.namespace.pause(status.id))


@click.command(cls=TeachingCommand, examples=(("oakum unpause web", "let it go on"),))
@_containers
@pass_session
def unpause(session: Session, containers: tuple[str, ...]) -> int:
    """Let frozen containers go on."""
    return each(session, containers, lambda status: session.namespace.resume(status.id))


@click.command(cls=TeachingCommand, examples=(("oakum wait job", "writes its exit code once it has ended"),))
@_containers
@pass_session
def wait(session: Session, containers: tuple[str, ...]) -> int:
    """Wait for containers to end; writes their exit codes."""
    return each(session, containers, lambda status: str(session.namespace.wait(status.id).exit_code))


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum update --memory 1g --cpus 2 web", "more room, without a restart"),
        ("oakum update --restart unless-stopped web", "from now on it comes back"),
    ),
)
@with_options(LIMIT_OPTIONS)
@restart_option
@_containers
@pass_session
def update(session: Session, containers: tuple[str, ...], **options: Any) -> int:
    """Change limits and the restart policy of containers; what is not given stays as it is."""
    policy: str | None = options["restart"]
    resources = resources_of({**options, "oom_score_adj": None})
    limited = resources != type(resources)()
    if not limited and policy is None:
        raise InvalidArgument(
            "update containers", " ".join(containers), "nothing is given", hint="try --memory 512m"
        )

    def change(status: ContainerStatus) -> None:
        if policy is not None:
            if parse_policy(policy).to_text() and ANNOTATION_REMOVE in status.config.annotations:
                raise InvalidArgument("parse --restart", repr(policy), "the container was made with --rm")
            session.namespace.change_restart_policy(status.id, policy)
        if limited:
            session.namespace.update_container_resources(status.id, resources)

    return each(session, containers, change)
