# SPDX-License-Identifier: Apache-2.0
"""`oakum history`: the steps that an image was made in, the newest first, and what each of them added."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from oakum.cli import text
from oakum.cli.complete import complete_image
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

if TYPE_CHECKING:
    from oakum.images.config import HistoryEntry

_COLUMNS: Final = (
    Column("IMAGE", keep=True),
    Column("CREATED"),
    Column("CREATED BY"),
    Column("SIZE", right=True, keep=True),
    Column("COMMENT"),
)
_TITLES: Final = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}
_MISSING: Final = "<missing>"
_BY_LENGTH: Final = 45


def steps_of(history: Sequence[HistoryEntry], sizes: Sequence[int], image_id: str) -> list[dict[str, Any]]:
    """The steps, the newest first; sizes belong to those that made a layer, as far as an image's word goes."""
    left = list(sizes)
    found: list[dict[str, Any]] = []
    for entry in history:
        size = 0 if entry.empty_layer or not left else left.pop(0)
        found.append(
            {
                "id": "",
                "created_at": entry.created or "",
                "created_by": entry.created_by,
                "comment": entry.comment,
                "size_bytes": size,
            }
        )
    # layers that the history says nothing of: one line for each, so that the sizes add up
    found += [
        {"id": "", "created_at": "", "created_by": "", "comment": "", "size_bytes": size} for size in left
    ]
    if found:
        found[-1]["id"] = image_id
    return found[::-1]


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum history busybox", "what made it, and which step made it large"),
        ("oakum history --no-trunc --format '{{.Size}}\\t{{.CreatedBy}}' busybox", "commands in full"),
    ),
)
@quiet_option("ids")
@no_trunc_option
@template_option()
@click.argument("image", shell_complete=complete_image)
@pass_session
def history(session: Session, image: str, quiet: bool, no_trunc: bool) -> int:
    """Show the steps that an image was made in, the newest first. Steps have no ids of their own: "<missing>"."""
    namespace = session.namespace
    found = steps_of(
        namespace.image_config(image).history,
        namespace.image_layer_sizes(image),
        namespace.inspect_image(image)["id"],
    )
    now_ns = time.time_ns()
    lines = [_line(step, now_ns=now_ns, full=no_trunc) for step in found]
    if quiet:
        for line in lines:
            click.echo(line["ID"])
    elif session.template:
        write_lines(session.template, lines, _TITLES)
    elif session.as_json:
        write_json(found)
    else:
        rows = [
            (line["ID"], line["CreatedSince"], line["CreatedBy"], line["Size"], line["Comment"])
            for line in lines
        ]
        write_table(_COLUMNS, rows, full=no_trunc)
    return 0


def _line(step: dict[str, Any], *, now_ns: int, full: bool) -> dict[str, str]:
    identifier = step["id"] or _MISSING
    by = " ".join(str(step["created_by"]).split())
    return {
        "ID": identifier if full or identifier == _MISSING else text.short_id(identifier),
        "CreatedSince": text.human_age(_moment_ns(step["created_at"]), now_ns=now_ns),
        "CreatedAt": step["created_at"],
        "CreatedBy": by if full else text.shorten(by, _BY_LENGTH),
        "Size": text.human_size(step["size_bytes"]),
        "Comment": step["comment"],
    }


def _moment_ns(moment: str) -> int:
    """Nanoseconds since the epoch; 0 for what an image calls a time and is none."""
    import datetime as dt  # this command only

    try:
        return max(0, int(dt.datetime.fromisoformat(moment).timestamp())) * 1_000_000_000
    except (ValueError, OverflowError, OSError):
        return 0
