# SPDX-License-Identifier: Apache-2.0
"""`oakum network`: the networks that containers can be attached to. Those of CNI plugins are shown, not made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from oakum.cli.complete import complete_container, complete_network
from oakum.cli.lazy import Entry, LazyGroup, TeachingCommand
from oakum.cli.output import Column, format_option, quiet_option, write_json, write_table
from oakum.cli.report import report
from oakum.cli.session import CONTEXT_SETTINGS, Session, pass_session
from oakum.errors import NotFound, OakumError

if TYPE_CHECKING:
    from oakum.network.attachment import Attachment
    from oakum.network.protocol import NetworkInfo

_HERE: Final = "oakum.cli.network"
_COLUMNS: Final = (
    Column("NAME", keep=True),
    Column("MADE BY"),
    Column("SUBNETS", keep=True),
    Column("MTU", right=True),
    Column("ATTACHED", right=True),
    Column("NOTE"),
)


@click.group(
    cls=LazyGroup,
    context_settings=CONTEXT_SETTINGS,
    table={
        "ls": Entry(f"{_HERE}:ls", "Commands", "List networks."),
        "create": Entry(f"{_HERE}:create", "Commands", "Make a network."),
        "inspect": Entry(f"{_HERE}:inspect", "Commands", "Say all there is to say about networks."),
        "connect": Entry(f"{_HERE}:connect", "Commands", "Connect a container to a network."),
        "disconnect": Entry(f"{_HERE}:disconnect", "Commands", "Disconnect a container from a network."),
        "rm": Entry(f"{_HERE}:rm", "Commands", "Remove networks that nothing is attached to."),
    },
)
def network() -> None:
    """Networks of containers: choose one with oakum run --network NAME, or connect containers later."""


@click.command(cls=TeachingCommand, examples=(("oakum network ls", "the first is the default one"),))
@quiet_option("names")
@format_option
@pass_session
def ls(session: Session, quiet: bool) -> int:
    """List networks, the default one first, and what is wrong with them."""
    found = session.engine.networks.list_networks()
    if quiet:
        for info in found:
            if info.name:
                click.echo(info.name)
    elif session.as_json:
        write_json([_row(info) for info in found])
    else:
        write_table(_COLUMNS, [_cells(info) for info in found])
    return 0


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum network create back", "a subnet that is free is chosen"),
        ("oakum network create back --subnet 10.9.0.0/24 --subnet fd00:9::/64", "these subnets"),
        ("oakum network create vault --internal", "no way out, and none in"),
    ),
)
@click.option(
    "--subnet", multiple=True, metavar="ADDRESS/LENGTH", help="At most one for IPv4 and one for IPv6."
)
@click.option(
    "--mtu", type=click.IntRange(68, 65535), default=None, help="Largest packet; else the uplink's."
)
@click.option(
    "--internal", is_flag=True, help="Nothing but containers of this network and the host is reached."
)
@click.argument("name")
@pass_session
def create(session: Session, name: str, subnet: tuple[str, ...], mtu: int | None, internal: bool) -> int:
    """Make a network with a bridge and addresses of its own, apart from all others."""
    info = session.engine.networks.create_network(name, subnets=subnet, mtu=mtu or 0, internal=internal)
    if session.as_json:
        write_json(_row(info))
    else:
        click.echo(name)
    return 0


@click.command(
    cls=TeachingCommand, examples=(("oakum network inspect back | jq '.[0].subnets'", "its subnets"),)
)
@format_option
@click.argument("names", nargs=-1, required=True, shell_complete=complete_network)
@pass_session
def inspect(session: Session, names: tuple[str, ...]) -> int:
    """Say all there is to say about networks, as a JSON list."""
    known = {info.name: info for info in reversed(session.engine.networks.list_networks())}
    places = session.engine.networks.attachments()
    code = 0
    found: list[dict[str, Any]] = []
    for name in names:
        if name in known:
            info = known[name]
            attached = [
                _place(each)
                for each in places
                if (each.network == name if info.driver == "bridge" else each.sandbox_id in info.attached)
            ]
            found.append({**_row(info), "attached": attached})
        else:
            code = report(_unknown("inspect network", name), as_json=session.as_json)
    write_json(found)
    return code


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum network connect back web", "web has an interface in it, now and when it starts again"),
        ("oakum network connect --ip 10.9.0.5 --alias db back web", "others of back find it as db, too"),
    ),
)
@click.option("--ip", metavar="ADDRESS", default="", help="This address of the network.")
@click.option("--ip6", metavar="ADDRESS", default="", help="This IPv6 address of it.")
@click.option("--alias", multiple=True, metavar="NAME", help="A name that others of the network find it by.")
@click.option("--mac-address", metavar="MAC", default="", help="MAC of its interface.")
@click.argument("name", metavar="NETWORK", shell_complete=complete_network)
@click.argument("container", shell_complete=complete_container)
@pass_session
def connect(
    session: Session,
    name: str,
    container: str,
    *,
    ip: str,
    ip6: str,
    alias: tuple[str, ...],
    mac_address: str,
) -> int:
    """Connect a container, running or not, to a further network."""
    from oakum.backend.config import NetworkRequest
    from oakum.cli.flags.hosts import check_host_name

    request = NetworkRequest(
        network=name,
        addresses=tuple(filter(None, (ip, ip6))),
        mac=mac_address,
        aliases=tuple(check_host_name(text, "--alias") for text in alias),
    )
    session.namespace.connect_network(session.namespace.find_container(container).id, request)
    return 0


@click.command(
    cls=TeachingCommand, examples=(("oakum network disconnect back web", "its interface goes at once"),)
)
@click.option("-f", "--force", is_flag=True, help="No error where the container is not in the network.")
@click.argument("name", metavar="NETWORK", shell_complete=complete_network)
@click.argument("container", shell_complete=complete_container)
@pass_session
def disconnect(session: Session, name: str, container: str, force: bool) -> int:
    """Disconnect a container, running or not, from a network."""
    session.namespace.disconnect_network(session.namespace.find_container(container).id, name, force=force)
    return 0


@click.command(cls=TeachingCommand, examples=(("oakum network rm back", "once nothing is attached to it"),))
@click.argument("names", nargs=-1, required=True, shell_complete=complete_network)
@pass_session
def rm(session: Session, names: tuple[str, ...]) -> int:
    """Remove networks that nothing is attached to; the default one comes back with its next container."""
    code = 0
    for name in names:
        try:
            if name not in {
                info.name for info in session.engine.networks.list_networks() if info.driver == "bridge"
            }:
                raise _unknown("remove network", name)
            session.engine.networks.remove_network(name)
        except OakumError as error:
            code = report(error, as_json=session.as_json)
        else:
            click.echo(name)
    return code


def _unknown(operation: str, name: str) -> NotFound:
    return NotFound(operation, repr(name), "no such network made by oakum", hint="oakum network ls")


def _made_by(info: NetworkInfo) -> str:
    return "oakum" if info.driver == "bridge" else info.driver


def _row(info: NetworkInfo) -> dict[str, Any]:
    row = dict(info._asdict())
    row["made_by"] = _made_by(info)
    del row["driver"]
    return row


def _place(attached: Attachment) -> dict[str, Any]:
    name = attached.names[1] if len(attached.names) > 1 else ""
    return {"container": name, **attached._asdict()}


def _cells(info: NetworkInfo) -> tuple[str, ...]:
    note = info.problem or ("internal" if info.internal else info.source)
    return (
        info.name or "-",
        _made_by(info),
        ", ".join(info.subnets) or "-",
        str(info.mtu or "-"),
        str(len(info.attached)),
        note,
    )
