# SPDX-License-Identifier: Apache-2.0
"""`oakum top`, `oakum port` and `oakum diff`: what runs in a container, where its ports are, what it has changed."""

from __future__ import annotations

import os
import pwd
from typing import Any, Final

import click

from oakum.cli.complete import complete_container
from oakum.cli.lazy import TeachingCommand
from oakum.cli.output import Column, format_option, write_json, write_table
from oakum.cli.session import Session, pass_session
from oakum.cli.text import printable
from oakum.errors import FailedPrecondition, NotFound
from oakum.linux.durable import read_file
from oakum.linux.pids import stat_fields

_COLUMNS: Final = (
    Column("PID", right=True),
    Column("USER"),
    Column("STATE"),
    Column("TIME", right=True),
    Column("COMMAND", keep=True),
)


@click.command(cls=TeachingCommand, examples=(("oakum top web", "as this host sees it"),))
@format_option
@click.argument("container", shell_complete=complete_container)
@pass_session
def top(session: Session, container: str) -> int:
    """Show the processes of a container, with their ids on this host."""
    from oakum.oci.cgroups import Cgroup, detect_layout  # no other command of this module needs it

    status = session.namespace.find_container(container)
    if status.state not in ("running", "paused"):
        raise FailedPrecondition("show processes", status.config.metadata.name, f"it is {status.state}")
    rows = [row for pid in Cgroup(detect_layout(), status.cgroup_path).processes() if (row := _row(pid))]
    if session.as_json:
        write_json(rows)
    else:
        write_table(
            _COLUMNS,
            [
                (str(r["pid"]), str(r["user"]), str(r["state"]), _clock(r["cpu_s"]), " ".join(r["command"]))
                for r in rows
            ],
        )
    return 0


def _row(pid: int) -> dict[str, Any] | None:
    """What /proc says of a process; None when it is gone. Source: proc_pid_stat(5), proc_pid_cmdline(5), proc_pid_comm(5)."""
    try:
        fields = stat_fields(pid)
        words = read_file(f"/proc/{pid}/cmdline").decode(errors="replace").split("\0")[:-1]
        if not words:
            words = [f"[{read_file(f'/proc/{pid}/comm').decode(errors='replace').rstrip()}]"]
        uid = os.stat(f"/proc/{pid}").st_uid
    except (FileNotFoundError, ProcessLookupError):
        return None
    cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return {
        "pid": pid,
        "user": _user(uid),
        "state": fields[0].decode(),
        "cpu_s": cpu_s,
        "command": words,
    }


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest:02}"


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum port web", "all of them"),
        ("oakum port web 80/tcp", "where this one is: 0.0.0.0:8080"),
    ),
)
@format_option
@click.argument("container", shell_complete=complete_container)
@click.argument("wanted", metavar="[PORT[/PROTO]]", default="")
@pass_session
def port(session: Session, container: str, wanted: str) -> int:
    """Show the published ports of a container."""
    status = session.namespace.find_container(container)
    sandbox = session.namespace.find_sandbox(status.sandbox_id)
    published = [p for p in sandbox.config.port_mappings if p.host_port]
    number, _, protocol = wanted.partition("/")
    if wanted:
        published = [
            p for p in published if str(p.container_port) == number and p.protocol == (protocol or "tcp")
        ]
        if not published:
            raise NotFound(
                "find port",
                wanted,
                f"{status.config.metadata.name} does not publish it",
                hint=f"oakum port {container}",
            )
    rows = [(f"{p.container_port}/{p.protocol}", _place(p.host_ip, p.host_port)) for p in published]
    if session.as_json:
        write_json([{"container": inside, "host": host} for inside, host in rows])
    else:
        for inside, host in rows:
            click.echo(host if wanted else f"{inside} -> {host}")
    return 0


def _place(host_ip: str, host_port: int) -> str:
    address = host_ip or "0.0.0.0"  # noqa: S104 - shown, not bound
    return f"[{address}]:{host_port}" if ":" in address else f"{address}:{host_port}"


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum diff web", "A added, C changed, D deleted"),
        ("oakum diff web --format json", "for scripts"),
    ),
)
@format_option
@click.argument("container", shell_complete=complete_container)
@pass_session
def diff(session: Session, container: str) -> int:
    """List what a container has changed in its root file system: A added, C changed, D deleted. Volumes are not looked at."""
    found = session.namespace.files.changes(container)
    if session.as_json:
        write_json([{"kind": change.kind, "path": change.path} for change in found])
        return 0
    for change in found:
        click.echo(f"{change.kind} {printable(change.path)}")
    return 0
