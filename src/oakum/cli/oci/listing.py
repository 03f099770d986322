# SPDX-License-Identifier: Apache-2.0
"""`oakum oci list` and `oakum oci ps`: tables and JSON as runc writes them."""

from __future__ import annotations

import os
import sys

from oakum.cli.oci.log import Caller
from oakum.errors import FailedPrecondition, InvalidArgument, OakumError
from oakum.model import jsontext
from oakum.model.light import TYPE_CHECKING
from oakum.oci.runtime.container import Container, containers, owner_name

if TYPE_CHECKING:
    from typing import Final

_COLUMNS: Final = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")
_LEAST_WIDTH: Final = 12
_GAP: Final = 3


def write_list(root: str, form: str, caller: Caller, *, quiet: bool) -> int:
    """Write all containers. Raises OakumError."""
    if form not in ("table", "json"):
        raise InvalidArgument("list containers", f"--format {form}", "neither table nor json")
    states: list[dict[str, object]] = []
    for container in containers(root):
        if isinstance(container, OakumError):
            caller.warning(f"load container: {container}")
            continue
        states.append({**container.state(), "owner": owner_name(container.record.owner_uid)})
    if quiet:
        sys.stdout.write("".join(f"{state['id']}\n" for state in states))
    elif form == "json":
        sys.stdout.write(jsontext.dumps(states) + "\n")
    else:
        rows = [_COLUMNS, *(tuple(str(state[c.lower()]) for c in _COLUMNS) for state in states)]
        sys.stdout.write(table(rows))
    return 0


def table(rows: list[tuple[str, ...]]) -> str:
    """Columns of at least 12 characters with 3 between; the last one is not filled up. Pure."""
    widths = [max(_LEAST_WIDTH, *(len(row[i]) + _GAP for row in rows)) for i in range(len(rows[0]) - 1)]
    lines = (
        "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + row[-1] for row in rows
    )
    return "".join(f"{line}\n" for line in lines)


def write_processes(root: str, container_id: str, form: str, arguments: list[str]) -> int:
    """Write the processes of a container: their ids, or what `ps` says of them. Raises OakumError."""
    if form not in ("table", "json"):
        raise InvalidArgument("list processes", f"--format {form}", "neither table nor json")
    container = Container.find(root, container_id)
    if container.status() == "stopped":
        raise FailedPrecondition("use container", container_id, "container not running")
    pids = container.processes()
    if form == "json":
        sys.stdout.write(jsontext.dumps(pids))
        return 0
    sys.stdout.write(_select(_ps(arguments or ["-ef"]), frozenset(pids)))
    return 0


def _select(text: str, pids: frozenset[int]) -> str:
    lines = text.splitlines(keepends=True)
    if not lines or "PID" not in lines[0].split():
        raise InvalidArgument("list processes", "ps", "its output has no column PID")
    column = lines[0].split().index("PID")
    kept = [lines[0]]
    for line in lines[1:]:
        fields = line.split()
        if len(fields) > column and fields[column].isdecimal() and int(fields[column]) in pids:
            kept.append(line)
    return "".join(kept)


def _ps(arguments: list[str]) -> str:
    import subprocess  # this command only

    done = subprocess.run(
        ["ps", *arguments],
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
        env=dict(os.environ),
    )
    if done.returncode:
        raise InvalidArgument("list processes", f"ps {' '.join(arguments)}", done.stderr.strip())
    return done.stdout
