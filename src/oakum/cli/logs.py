# SPDX-License-Identifier: Apache-2.0
"""`oakum logs`: what a container wrote, each stream back to where it came from."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from oakum.cli.complete import complete_container
from oakum.cli.flags.values import parse_since
from oakum.cli.lazy import TeachingCommand
from oakum.cli.output import format_option
from oakum.cli.session import Session, pass_session
from oakum.cli.text import iso_time
from oakum.errors import InvalidArgument

if TYPE_CHECKING:
    from oakum.engine.logs import LogLine


class LogWriter:
    """Puts pieces of long lines together again, each stream by itself."""

    def __init__(self, *, timestamps: bool, as_json: bool) -> None:
        self._timestamps = timestamps
        self._as_json = as_json
        self._inside = {"stdout": False, "stderr": False}

    def write(self, line: LogLine) -> None:
        """Write one entry of the log."""
        target = (sys.stdout if line.stream == "stdout" or self._as_json else sys.stderr).buffer
        if self._as_json:
            import json  # logs for scripts only

            record = {
                "time": iso_time(line.timestamp_ns),
                "stream": line.stream,
                "partial": line.partial,
                "text": line.data.decode("utf-8", "replace"),
            }
            target.write(json.dumps(record).encode() + b"\n")
            return
        if self._timestamps and not self._inside[line.stream]:
            target.write(iso_time(line.timestamp_ns).encode() + b" ")
        target.write(line.data if line.partial else line.data + b"\n")
        self._inside[line.stream] = line.partial


def _tail(text: str | None) -> int | None:
    if text is None or text == "all":
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) > 9:
        raise InvalidArgument(
            "parse --tail", repr(text), "not a number of lines", hint="give a number, or all"
        )
    return int(text)


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum logs web", "all of it"),
        ("oakum logs -f --tail 20 web", "the end, and what comes"),
        ("oakum logs -t --since 10m web 2>/dev/null", "the last ten minutes of its standard output"),
    ),
)
@click.option("-f", "--follow", is_flag=True, help="Go on until it ends.")
@click.option("-n", "--tail", "tail_text", metavar="N", help="Begin with the last N lines.")
@click.option("--since", metavar="TIME", help="Leave out what is older: 10m, 2h, a time.")
@click.option("--until", metavar="TIME", help="Leave out what is newer.")
@click.option("-t", "--timestamps", is_flag=True, help="With the time of each line.")
@format_option
@click.argument("container", shell_complete=complete_container)
@pass_session
def logs(
    session: Session,
    *,
    container: str,
    follow: bool,
    tail_text: str | None,
    since: str | None,
    until: str | None,
    timestamps: bool,
) -> int:
    """Show what a container wrote; its standard error goes to yours."""
    namespace = session.namespace
    tail = _tail(tail_text)
    since_ns = parse_since(since, now_ns=time.time_ns()) if since else 0
    until_ns = parse_since(until, now_ns=time.time_ns(), option="--until") if until else None
    container_id = namespace.find_container(container).id
    writer = LogWriter(timestamps=timestamps, as_json=session.as_json)
    # while following each line is shown as it comes
    flush = follow or sys.stdout.isatty()
    for line in namespace.logs(container_id, follow=follow, tail=tail, since_ns=since_ns):
        if until_ns is not None and line.timestamp_ns > until_ns:
            break
        writer.write(line)
        if flush:
            sys.stdout.buffer.flush()
            sys.stderr.buffer.flush()
    return 0
