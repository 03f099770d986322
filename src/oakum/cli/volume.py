# SPDX-License-Identifier: Apache-2.0
"""`oakum volume`: directories that outlive their containers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from oakum.cli.complete import complete_volume
from oakum.cli.each import act_on_each, inspect_each
from oakum.cli.flags.words import parse_pairs
from oakum.cli.lazy import Entry, LazyGroup, TeachingCommand
from oakum.cli.output import Column, format_option, quiet_option, write_json, write_table
from oakum.cli.session import CONTEXT_SETTINGS, Session, pass_session
from oakum.cli.text import human_age

if TYPE_CHECKING:
    from oakum.engine.named_volumes import VolumeInfo

_HERE: Final = "oakum.cli.volume"
_COLUMNS: Final = (
    Column("NAME", keep=True),
    Column("CREATED"),
    Column("CONTAINERS", right=True),
    Column("DIRECTORY"),
)


@click.group(
    cls=LazyGroup,
    context_settings=CONTEXT_SETTINGS,
    table={
        "ls": Entry(f"{_HERE}:ls", "Commands", "List volumes."),
        "create": Entry(f"{_HERE}:create", "Commands", "Make volumes."),
        "inspect": Entry(f"{_HERE}:inspect", "Commands", "Say all there is to say about volumes."),
        "rm": Entry(f"{_HERE}:rm", "Commands", "Remove volumes that no container mounts."),
        "prune": Entry(f"{_HERE}:prune", "Commands", "Remove all volumes that no container mounts."),
    },
)
def volume() -> None:
    """List, create, inspect and remove volumes; oakum run -v NAME:/path mounts one, made if it is not there."""


@click.command(cls=TeachingCommand, examples=(("oakum volume ls", "and how many containers mount each"),))
@quiet_option("names")
@format_option
@pass_session
def ls(session: Session, quiet: bool) -> int:
    """List volumes."""
    found = session.namespace.volumes.list()
    if quiet:
        for info in found:
            click.echo(info.name)
    elif session.as_json:
        write_json([_row(info) for info in found])
    else:
        now_ns = time.time_ns()
        write_table(
            _COLUMNS,
            [(v.name, human_age(v.created_at_ns, now_ns=now_ns), str(len(v.used_by)), v.path) for v in found],
        )
    return 0


@click.command(
    cls=TeachingCommand,
    examples=(("oakum volume create --label app=shop db", "empty; the first container's image may fill it"),),
)
@click.option("-l", "--label", multiple=True, metavar="NAME[=VALUE]", help="Label to know it by.")
@click.argument("names", nargs=-1, required=True)
@pass_session
def create(session: Session, names: tuple[str, ...], label: tuple[str, ...]) -> int:
    """Make volumes."""
    labels = parse_pairs("--label", label)
    return act_on_each(
        names, lambda name: session.namespace.volumes.create(name, labels), as_json=session.as_json
    )


@click.command(
    cls=TeachingCommand, examples=(("oakum volume inspect db | jq -r '.[0].path'", "its directory"),)
)
@format_option
@click.argument("names", nargs=-1, required=True, shell_complete=complete_volume)
@pass_session
def inspect(session: Session, names: tuple[str, ...]) -> int:
    """Say all there is to say about volumes, as a JSON list."""
    return inspect_each(
        names, lambda name: _row(session.namespace.volumes.find(name)), as_json=session.as_json
    )


@click.command(cls=TeachingCommand, examples=(("oakum volume rm db", "with all that is in it"),))
@click.argument("names", nargs=-1, required=True, shell_complete=complete_volume)
@pass_session
def rm(session: Session, names: tuple[str, ...]) -> int:
    """Remove volumes that no container mounts, with what is in them."""
    return act_on_each(names, session.namespace.volumes.remove, as_json=session.as_json)


@click.command(cls=TeachingCommand, examples=(("oakum volume prune -f", "without a question"),))
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@pass_session
def prune(session: Session, force: bool) -> int:
    """Remove all volumes that no container mounts, with what is in them."""
    unused = tuple(info.name for info in session.namespace.volumes.list() if not info.used_by)
    if not unused:
        return 0
    if not force:
        click.confirm(f"Remove {', '.join(unused)} and all that is in them?", abort=True, err=True)
    return act_on_each(unused, session.namespace.volumes.remove, as_json=session.as_json)


def _row(info: VolumeInfo) -> dict[str, Any]:
    return msgspec.to_builtins(info)
