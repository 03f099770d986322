# SPDX-License-Identifier: Apache-2.0
"""`oakum ps` and `oakum inspect`: what containers there are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from oakum.cli import text, views
from oakum.cli.complete import complete_container
from oakum.cli.each import inspect_each
from oakum.cli.flags.words import parse_pairs
from oakum.cli.images import inspected_image
from oakum.cli.lazy import TeachingCommand
from oakum.cli.output import (
    Column,
    no_trunc_option,
    quiet_option,
    template_option,
    write_json,
    write_lines,
    write_table,
)
from oakum.cli.session import Session, pass_session
from oakum.errors import ImageNotFound, InvalidArgument, NotFound

if TYPE_CHECKING:
    from oakum.backend.status import ContainerStatus, SandboxStatus

_COLUMNS: Final = (
    Column("ID", keep=True),
    Column("NAME"),
    Column("IMAGE"),
    Column("COMMAND"),
    Column("CREATED"),
    Column("STATUS"),
    Column("PORTS"),
)


def status_words(status: ContainerStatus, *, now_ns: int) -> str:
    """The state as docker's users read it: "Up 3 minutes", "Exited (1) 2 hours ago"."""
    if status.restarting:
        # Once the way back has begun, the last end is not known any more.
        since = text.human_age(status.finished_at_ns, now_ns=now_ns) if status.finished_at_ns else ""
        return f"Restarting ({status.exit_code}) {since}" if since else "Restarting"
    if status.state == "running":
        return "Up " + text.human_duration((now_ns - status.started_at_ns) / 1e9)
    if status.state == "paused":
        return "Paused"
    if status.state == "created":
        return "Created"
    if status.state == "exited":
        why = f", {status.reason}" if status.reason in ("OOMKilled", "StartError") else ""
        return f"Exited ({status.exit_code}{why}) {text.human_age(status.finished_at_ns, now_ns=now_ns)}"
    return "Unknown"


def ports_words(sandbox: SandboxStatus | None) -> str:
    """Published ports: "0.0.0.0:8080->80/tcp"."""
    if sandbox is None:
        return ""
    return ", ".join(
        f"{f'[{p.host_ip}]' if ':' in p.host_ip else p.host_ip or '0.0.0.0'}:{p.host_port}->{p.container_port}/{p.protocol}"  # noqa: S104 - what an empty address means
        for p in sandbox.config.port_mappings
        if p.host_port
    )


def container_row(status: ContainerStatus, sandbox: SandboxStatus | None) -> dict[str, Any]:
    """The container as `ps --format json` writes it."""
    return {
        "id": status.id,
        "name": status.config.metadata.name,
        "image": status.config.user_specified_image or status.config.image,
        "image_id": status.image_id,
        "command": list(status.argv),
        "state": text.shown_state(status),
        "exit_code": status.exit_code if status.state == "exited" else None,
        "reason": status.reason,
        "created_at": text.iso_time(status.created_at_ns),
        "started_at": text.iso_time(status.started_at_ns),
        "finished_at": text.iso_time(status.finished_at_ns),
        "pid": status.pid,
        "pod": status.sandbox_id,
        "pod_name": sandbox.config.metadata.name if sandbox and not sandbox.config.owner else "",
        "addresses": list(sandbox.addresses) if sandbox else [],
        "ports": ports_words(sandbox),
        "labels": status.config.labels,
    }


def _table_row(
    status: ContainerStatus, sandbox: SandboxStatus | None, *, now_ns: int, full: bool
) -> tuple[str, ...]:
    name = status.config.metadata.name
    if sandbox is not None and not sandbox.config.owner:
        name = f"{sandbox.config.metadata.name}/{name}"
    image = status.config.user_specified_image or status.config.image
    command = " ".join(status.argv)
    if not full:
        command = text.shorten(" ".join(command.split()), 32)
        image = text.short_id(image) if image.startswith("sha256:") else image
    return (
        status.id if full else text.short_id(status.id),
        name,
        image,
        command,
        text.human_age(status.created_at_ns, now_ns=now_ns),
        status_words(status, now_ns=now_ns),
        ports_words(sandbox),
    )


def _matches(status: ContainerStatus, *, states: tuple[str, ...], labels: dict[str, str], name: str) -> bool:
    kept = status.config.labels
    return (
        (not states or text.shown_state(status) in states)
        and all(key in kept and (not value or kept[key] == value) for key, value in labels.items())
        and name in status.config.metadata.name
    )


_FILTERS: Final[dict[str, Callable[[ContainerStatus, str], bool]]] = {
    "name": lambda status, value: value.lstrip("/") in status.config.metadata.name,
    "id": lambda status, value: status.id.startswith(value),
    "label": lambda status, value: _has_label(status.config.labels, value),
    "status": lambda status, value: text.shown_state(status) == value,
    "ancestor": lambda status, value: (
        value in (status.config.image, status.config.user_specified_image, status.image_id)
    ),
}


def _has_label(labels: Mapping[str, str], given: str) -> bool:
    key, equals, value = given.partition("=")
    return key in labels and (not equals or labels[key] == value)


def _parse_filters(texts: tuple[str, ...]) -> dict[str, list[str]]:
    """The wanted values of each key. Raises InvalidArgument."""
    found: dict[str, list[str]] = {}
    for given in texts:
        key, equals, value = given.partition("=")
        if not equals or key not in _FILTERS:
            raise InvalidArgument(
                "parse --filter", repr(given), "unknown filter", hint="try name=web or status=exited"
            )
        found.setdefault(key, []).append(value)
    return found


def _passes(status: ContainerStatus, wanted: dict[str, list[str]]) -> bool:
    # as docker has it: one of the values of a key, of labels all
    return all(
        (all if key == "label" else any)(_FILTERS[key](status, value) for value in values)
        for key, values in wanted.items()
    )


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum ps", "what runs"),
        ("oakum ps -a --label app=web", "all of one application, ended ones too"),
        ("oakum ps -aq | xargs oakum rm -f", "away with everything"),
        ("oakum ps --format json | jq '.[].addresses'", "for scripts"),
    ),
)
@click.option("-a", "--all", "everything", is_flag=True, help="Also those that do not run.")
@click.option("--latest", is_flag=True, help="Only the newest, in any state.")
@click.option(
    "-n", "--last", type=click.IntRange(min=1), metavar="N", help="Only the newest N, in any state."
)
@click.option("-l", "--label", multiple=True, metavar="NAME[=VALUE]", help="Only those with this label.")
@click.option("--name", "name", default="", metavar="TEXT", help="Only those whose name contains TEXT.")
@click.option(
    "--status",
    "states",
    multiple=True,
    type=click.Choice(["created", "running", "paused", "restarting", "exited", "unknown"]),
    help="Only those in this state.",
)
@click.option(
    "-f",
    "--filter",
    "filters",
    multiple=True,
    metavar="KEY=VALUE",
    help="By name, id, label, status or ancestor.",
)
@quiet_option("ids")
@no_trunc_option
@template_option()
@pass_session
def ps(
    session: Session,
    *,
    everything: bool,
    latest: bool,
    last: int | None,
    label: tuple[str, ...],
    name: str,
    states: tuple[str, ...],
    filters: tuple[str, ...],
    quiet: bool,
    no_trunc: bool,
) -> int:
    """List containers; without -a those that run."""
    namespace = session.namespace
    last = 1 if latest else last
    wanted = _parse_filters(filters)
    if not states and not everything and not last and "status" not in wanted:
        states = ("running", "paused", "restarting")
    labels = parse_pairs("--label", label)
    found = [
        status
        for status in namespace.list_containers()
        if _matches(status, states=states, labels=labels, name=name) and _passes(status, wanted)
    ][:last]
    if quiet:
        _write_ids((status.id for status in found), full=no_trunc)
        return 0
    sandboxes = {sandbox.id: sandbox for sandbox in namespace.list_sandboxes()}
    if session.template:
        write_lines(session.template, _lines(found, sandboxes, full=no_trunc), views.CONTAINER_TITLES)
        return 0
    if session.as_json:
        write_json([container_row(status, sandboxes.get(status.sandbox_id)) for status in found])
        return 0
    now_ns = time.time_ns()
    rows = [
        _table_row(status, sandboxes.get(status.sandbox_id), now_ns=now_ns, full=no_trunc) for status in found
    ]
    write_table(_COLUMNS, rows, full=no_trunc)
    return 0


def _lines(
    found: list[ContainerStatus], sandboxes: Mapping[str, SandboxStatus], *, full: bool
) -> list[dict[str, Any]]:
    now_ns = time.time_ns()
    return [
        views.container_line(
            status,
            sandboxes.get(status.sandbox_id),
            words=status_words(status, now_ns=now_ns),
            ports=ports_words(sandboxes.get(status.sandbox_id)),
            now_ns=now_ns,
            full=full,
        )
        for status in found
    ]


def _write_ids(ids: Iterable[str], *, full: bool) -> None:
    for identifier in ids:
        click.echo(identifier if full else text.short_id(identifier))


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum inspect web", "status, configuration, runtime spec, snapshot"),
        ("oakum inspect -f '{{.State.Status}} {{.NetworkSettings.IPAddress}}' web", "some of it"),
        ("oakum inspect -f '{{json .Config.Env}}' web", "a part, as JSON"),
        ("oakum inspect -f '{{range .Mounts}}{{.Source}} {{.Destination}}{{println}}{{end}}' web", "a list"),
    ),
)
@template_option("-f")
@click.argument("containers", nargs=-1, required=True, shell_complete=complete_container)
@pass_session
def inspect(session: Session, containers: tuple[str, ...]) -> int:
    """Say all there is to say about containers (or, where no container is called so, images), as a JSON list."""
    namespace = session.namespace

    def look(name: str) -> object:
        try:
            found = namespace.inspect_container(name)
        except NotFound:
            try:
                return inspected_image(session, name)
            except (ImageNotFound, InvalidArgument):
                pass
            raise
        if not session.template:
            return found
        status = namespace.find_container(name)
        sandbox = next((s for s in namespace.list_sandboxes() if s.id == status.sandbox_id), None)
        return views.container(found, status, sandbox)

    return inspect_each(containers, look, as_json=session.as_json, template=session.template)
