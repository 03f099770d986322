# SPDX-License-Identifier: Apache-2.0
"""`oakum pod`: sandboxes that the kubelet, or another client, made. Those of `oakum run` are left out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

from oakum.cli import text
from oakum.cli.complete import complete_pod
from oakum.cli.each import inspect_each
from oakum.cli.flags.words import parse_pairs
from oakum.cli.lazy import Entry, LazyGroup, TeachingCommand
from oakum.cli.output import (
    Column,
    format_option,
    no_trunc_option,
    quiet_option,
    write_json,
    write_table,
)
from oakum.cli.report import report
from oakum.cli.session import CONTEXT_SETTINGS, Session, pass_session
from oakum.errors import NotFound, OakumError

if TYPE_CHECKING:
    from oakum.backend.status import ContainerStatus, SandboxStatus

_HERE: Final = "oakum.cli.pods"
_COLUMNS: Final = (
    Column("ID", keep=True),
    Column("NAMESPACE"),
    Column("NAME"),
    Column("STATE"),
    Column("CREATED"),
    Column("ADDRESS"),
    Column("CONTAINERS"),
)

_pods = click.argument("pods", nargs=-1, required=True, shell_complete=complete_pod)


@click.group(
    cls=LazyGroup,
    context_settings=CONTEXT_SETTINGS,
    table={
        "ls": Entry(f"{_HERE}:ls", "Commands", "List pods."),
        "inspect": Entry(f"{_HERE}:inspect", "Commands", "Say all there is to say about pods."),
        "stop": Entry(f"{_HERE}:stop", "Commands", "Stop pods with all their containers."),
        "rm": Entry(f"{_HERE}:rm", "Commands", "Remove pods with all their containers."),
    },
)
def pod() -> None:
    """List, inspect, stop and remove pods. The kubelet's lie in another namespace: oakum -n k8s.io pod ls."""


def _each(
    session: Session, names: tuple[str, ...], act: Callable[[SandboxStatus], None], *, force: bool
) -> int:
    code = 0
    for name in names:
        try:
            act(session.namespace.find_sandbox(name))
        except NotFound as error:
            if not force:
                code = report(error, as_json=session.as_json)
        except OakumError as error:
            code = report(error, as_json=session.as_json)
        else:
            click.echo(name)
    return code


def pod_row(sandbox: SandboxStatus, containers: list[ContainerStatus]) -> dict[str, Any]:
    """The pod as `pod ls --format json` writes it."""
    meta = sandbox.config.metadata
    return {
        "id": sandbox.id,
        "name": meta.name,
        "namespace": meta.namespace,
        "uid": meta.uid,
        "attempt": meta.attempt,
        "state": sandbox.state,
        "created_at": text.iso_time(sandbox.created_at_ns),
        "addresses": list(sandbox.addresses),
        "runtime_handler": sandbox.runtime_handler,
        "shim_pid": sandbox.shim_pid,
        "labels": sandbox.config.labels,
        "containers": [
            {"id": c.id, "name": c.config.metadata.name, "state": c.state} for c in reversed(containers)
        ],
    }


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum -n k8s.io pod ls", "the kubelet's pods"),
        ("oakum pod ls --label app=web -q", "ids of one application's"),
    ),
)
@click.option("-l", "--label", multiple=True, metavar="NAME[=VALUE]", help="Only those with this label.")
@quiet_option("ids")
@no_trunc_option
@format_option
@pass_session
def ls(session: Session, *, label: tuple[str, ...], quiet: bool, no_trunc: bool) -> int:
    """List pods, newest first."""
    labels = parse_pairs("--label", label)
    found = [
        sandbox
        for sandbox in session.namespace.list_sandboxes()
        if not sandbox.config.owner
        and all(
            k in sandbox.config.labels and (not v or sandbox.config.labels[k] == v) for k, v in labels.items()
        )
    ]
    if quiet:
        for sandbox in found:
            click.echo(sandbox.id if no_trunc else text.short_id(sandbox.id))
        return 0
    inside: dict[str, list[ContainerStatus]] = {}
    for status in session.namespace.list_containers():
        inside.setdefault(status.sandbox_id, []).append(status)
    if session.as_json:
        write_json([pod_row(sandbox, inside.get(sandbox.id, [])) for sandbox in found])
        return 0
    now_ns = time.time_ns()
    rows = [
        (
            sandbox.id if no_trunc else text.short_id(sandbox.id),
            sandbox.config.metadata.namespace,
            sandbox.config.metadata.name,
            sandbox.state.replace("_", " "),
            text.human_age(sandbox.created_at_ns, now_ns=now_ns),
            ", ".join(sandbox.addresses),
            ", ".join(f"{c.config.metadata.name} ({c.state})" for c in reversed(inside.get(sandbox.id, []))),
        )
        for sandbox in found
    ]
    write_table(_COLUMNS, rows, full=no_trunc)
    return 0


@click.command(cls=TeachingCommand, examples=(("oakum pod inspect web | jq '.[0].status'", "its status"),))
@format_option
@_pods
@pass_session
def inspect(session: Session, pods: tuple[str, ...]) -> int:
    """Say all there is to say about pods, as a JSON list."""
    return inspect_each(pods, session.namespace.inspect_sandbox, as_json=session.as_json)


@click.command(
    cls=TeachingCommand, examples=(("oakum -n k8s.io pod stop 3f2a", "by the beginning of its id"),)
)
@_pods
@pass_session
def stop(session: Session, pods: tuple[str, ...]) -> int:
    """Stop the containers of pods and take down their network; they can be looked at until they are removed."""
    return _each(session, pods, lambda sandbox: session.namespace.stop_sandbox(sandbox.id), force=False)


@click.command(cls=TeachingCommand, examples=(("oakum pod rm -f web", "no failure when it is gone already"),))
@click.option("-f", "--force", is_flag=True, help="What is not there is no failure.")
@_pods
@pass_session
def rm(session: Session, pods: tuple[str, ...], force: bool) -> int:
    """Stop and remove pods with all their containers."""
    return _each(session, pods, lambda sandbox: session.namespace.remove_sandbox(sandbox.id), force=force)
