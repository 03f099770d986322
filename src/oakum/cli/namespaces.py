# SPDX-License-Identifier: Apache-2.0
"""`oakum ns`: namespaces of containers and image names; content is shared between them."""

from __future__ import annotations

from typing import Final

import click

from oakum.cli.complete import complete_namespace
from oakum.cli.each import act_on_each
from oakum.cli.lazy import Entry, LazyGroup, TeachingCommand
from oakum.cli.output import Column, format_option, quiet_option, write_json, write_table
from oakum.cli.session import CONTEXT_SETTINGS, Session, pass_session

_HERE: Final = "oakum.cli.namespaces"
_COLUMNS: Final = (
    Column("NAME", keep=True),
    Column("PODS", right=True),
    Column("CONTAINERS", right=True),
    Column("IMAGES", right=True),
)


@click.group(
    cls=LazyGroup,
    context_settings=CONTEXT_SETTINGS,
    table={
        "ls": Entry(f"{_HERE}:ls", "Commands", "List namespaces and how much is in them."),
        "create": Entry(f"{_HERE}:create", "Commands", "Make an empty namespace."),
        "rm": Entry(f"{_HERE}:rm", "Commands", "Remove empty namespaces."),
    },
)
def ns() -> None:
    """List, create and remove namespaces; choose one with oakum -n NAME."""


@click.command(cls=TeachingCommand, examples=(("oakum ns ls", "who has what"),))
@quiet_option("names")
@format_option
@pass_session
def ls(session: Session, quiet: bool) -> int:
    """List namespaces and how much is in them."""
    names = session.engine.namespaces()
    if quiet:
        for name in names:
            click.echo(name)
        return 0
    rows: list[tuple[str, int, int, int]] = []
    for name in names:
        namespace = session.engine.namespace(name)
        pods = [sandbox for sandbox in namespace.list_sandboxes() if not sandbox.config.owner]
        rows.append((name, len(pods), len(namespace.list_containers()), len(namespace.list_images())))
    if session.as_json:
        write_json([{"name": n, "pods": p, "containers": c, "images": i} for n, p, c, i in rows])
    else:
        write_table(_COLUMNS, [(n, str(p), str(c), str(i)) for n, p, c, i in rows])
    return 0


@click.command(cls=TeachingCommand, examples=(("oakum ns create ci", "a place for the build's containers"),))
@click.argument("name")
@pass_session
def create(session: Session, name: str) -> int:
    """Make an empty namespace. Not needed before its use: the first object brings it into being."""
    session.engine.create_namespace(name)
    click.echo(name)
    return 0


@click.command(cls=TeachingCommand, examples=(("oakum ns rm ci", "once nothing is in it"),))
@click.argument("names", nargs=-1, required=True, shell_complete=complete_namespace)
@pass_session
def rm(session: Session, names: tuple[str, ...]) -> int:
    """Remove namespaces that hold nothing."""
    return act_on_each(names, session.engine.remove_namespace, as_json=session.as_json)
