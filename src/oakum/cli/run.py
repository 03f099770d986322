# SPDX-License-Identifier: Apache-2.0
"""`oakum run` and `oakum create`: from the options to a container, and its end when it is in the foreground."""

from __future__ import annotations

import os
from typing import Any, Final

import click

from oakum.cli import foreground
from oakum.cli.complete import complete_image
from oakum.cli.flags.names import random_name
from oakum.cli.flags.request import RunRequest, build
from oakum.cli.lazy import TeachingCommand
from oakum.cli.report import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED, report, run_exit_code, say
from oakum.cli.run_options import RUN_OPTIONS, with_options
from oakum.cli.session import Session, pass_session
from oakum.cli.signals import SignalQueue
from oakum.errors import (
    AlreadyExists,
    Cancelled,
    FailedPrecondition,
    ImageNotFound,
    InvalidArgument,
    OakumError,
    SystemFailure,
)

_SETTINGS: Final[dict[str, Any]] = {"allow_interspersed_args": False, "help_option_names": ["--help"]}
_NAME_TRIES: Final = 8


@click.command(
    cls=TeachingCommand,
    context_settings=_SETTINGS,
    examples=(
        (
            "oakum run --rm -it docker.io/library/busybox sh",
            "a shell in a fresh container, gone when you leave it",
        ),
        ("oakum run -d --name web -p 8080:80 -v ./site:/www:ro IMAGE", "a server in the background"),
        ("oakum run --rm --memory 256m --cpus 0.5 --read-only IMAGE make test", "a job with limits"),
        ("oakum run --rm --network none --cap-drop ALL --user 65534 IMAGE", "as little power as possible"),
    ),
)
@with_options(RUN_OPTIONS)
@click.argument("image", shell_complete=complete_image)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@pass_session
def run(session: Session, image: str, command: tuple[str, ...], **options: Any) -> int:
    """Run COMMAND in a new container of IMAGE.

    Without -d it stays in the foreground: its output is yours, signals are passed on, and its exit code becomes
    that of `oakum run`. 125 means that oakum failed, 126 that the command cannot be run, 127 that there is none.
    """
    try:
        return _run(session, image, command, options)
    except OakumError as error:
        report(error, as_json=session.as_json)
        return run_exit_code(error)


@click.command(
    cls=TeachingCommand,
    context_settings=_SETTINGS,
    params=[*run.params],  # those of `run`, not made twice
    examples=(
        ("oakum create --name db -v /srv/db:/data IMAGE", "prepare it"),
        ("oakum start db", "and start it later"),
    ),
)
@pass_session
def create(session: Session, image: str, command: tuple[str, ...], **options: Any) -> int:
    """Prepare a container of IMAGE without starting it; writes its id. Options are those of `oakum run`."""
    try:
        with SignalQueue() as signals:
            container_id = _create(session, image, command, options, signals)
        click.echo(container_id)
        return 0
    except OakumError as error:
        report(error, as_json=session.as_json)
        return run_exit_code(error)


def _run(session: Session, image: str, command: tuple[str, ...], options: dict[str, Any]) -> int:
    wanted = _wanted(options)
    if not options["detach"]:
        foreground.check_terminal(tty=wanted.tty, stdin=wanted.stdin)
    with SignalQueue(everything=True) as signals:
        container_id = _create(session, image, command, options, signals)
        if options["detach"]:
            return _start_detached(session, container_id, options, signals)
        return _run_attached(session, container_id, options, wanted, signals)


def _wanted(options: dict[str, Any]) -> foreground.Wanted:
    chosen: tuple[str, ...] = options["attach"]
    if chosen and options["detach"]:
        raise InvalidArgument("parse --attach", chosen[0], "contradicts --detach")
    return foreground.Wanted(
        tty=options["tty"],
        stdin=options["interactive"] and (not chosen or "stdin" in chosen),
        stdout=not chosen or "stdout" in chosen,
        stderr=not chosen or "stderr" in chosen,
        detach_keys=options["detach_keys"],
        proxy_signals=options["sig_proxy"],
    )


def _create(
    session: Session, image: str, command: tuple[str, ...], options: dict[str, Any], signals: SignalQueue
) -> str:
    """The id of a new container. Nothing is left when it fails, nor when a request to stop came meanwhile."""
    cidfile: str | None = options["cidfile"]
    if cidfile and os.path.lexists(cidfile):
        raise AlreadyExists(
            "write --cidfile", cidfile, "the file is there", hint="remove it, or name another"
        )
    name: str | None = options["name"]
    request = build(image, command, options, name=name or random_name(), cwd=os.getcwd())
    if options["pull"] == "always":
        _pull(session, image, options, signals)
    for _ in range(_NAME_TRIES):
        try:
            container_id = _create_pulling(session, request, options, signals)
            break
        except AlreadyExists as error:
            # a port that is taken is no reason to draw another name
            if name or request.container.metadata.name not in error.subject:
                raise
            request = build(image, command, options, name=random_name(), cwd=os.getcwd())
    else:
        raise AlreadyExists(
            "name container", image, "every name drawn was taken", hint="give one with --name"
        )
    try:
        if signals.cancelled():
            raise Cancelled("run", image, "interrupted")
        if cidfile:
            _write_cidfile(cidfile, container_id)
    except OakumError:
        session.namespace.remove_container(container_id)
        raise
    return container_id


def _create_pulling(
    session: Session, request: RunRequest, options: dict[str, Any], signals: SignalQueue
) -> str:
    handler: str = options["runtime"] or ""
    try:
        return session.namespace.create_standalone(
            request.sandbox, request.container, runtime_handler=handler
        )
    except ImageNotFound:
        if options["pull"] != "missing":
            raise
    _pull(session, request.container.image, options, signals)
    return session.namespace.create_standalone(request.sandbox, request.container, runtime_handler=handler)


def _pull(session: Session, image: str, options: dict[str, Any], signals: SignalQueue) -> None:
    # the registry client and rich are only for those who pull
    from oakum.cli.progress import pull_with_progress

    pull_with_progress(session.namespace, image, quiet=options["quiet"], cancelled=signals.cancelled)


def _write_cidfile(path: str, container_id: str) -> None:
    try:
        with open(path, "x", encoding="ascii") as file:
            file.write(container_id)
    except OSError as error:
        raise SystemFailure.from_os_error(error, "write --cidfile", path) from error


def _start_detached(
    session: Session, container_id: str, options: dict[str, Any], signals: SignalQueue
) -> int:
    try:
        session.namespace.start_container(container_id)
        if signals.cancelled():
            raise Cancelled("run", container_id[:12], "interrupted")
    except OakumError:
        if options["rm"]:
            session.namespace.remove_container(container_id)
        raise
    if options["rm"]:
        _leave_reaper(session, container_id)
    click.echo(container_id)
    return 0


def _run_attached(
    session: Session,
    container_id: str,
    options: dict[str, Any],
    wanted: foreground.Wanted,
    signals: SignalQueue,
) -> int:
    namespace = session.namespace
    rows, columns = foreground.terminal.size(foreground.terminal_fd(tty=wanted.tty))
    keep = not options["rm"]
    try:
        sock = namespace.start_attached(container_id, stdin=wanted.stdin, rows=rows, columns=columns)
        outcome = foreground.follow(namespace, container_id, sock, wanted, signals)
        if outcome.record is not None:
            return outcome.record.exit_code
        if outcome.broken_pipe:
            return EXIT_BROKEN_PIPE
        if signals.stop_requests and not keep:
            say("\noakum: it ignores the signal: killed and removed")
            return EXIT_INTERRUPTED
        keep = True
        if options["rm"]:
            _leave_reaper(session, container_id)
        foreground.let_go_message(outcome, options["name"] or container_id[:12])
        return EXIT_INTERRUPTED if signals.stop_requests else 0
    finally:
        if not keep:
            namespace.remove_container(container_id)


def _leave_reaper(session: Session, container_id: str) -> None:
    from oakum.cli.reaper import leave_reaper

    try:
        sandbox_id = session.namespace.container_status(container_id).sandbox_id
    except FailedPrecondition:
        return
    leave_reaper(session, container_id, sandbox_id)
