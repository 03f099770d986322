# SPDX-License-Identifier: Apache-2.0
"""Results as tables or JSON on standard output.

On a terminal a table fits its width (rich); elsewhere columns are aligned, nothing is cut, and rich is not imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

import click

from oakum.cli.lazy import SectionOption
from oakum.cli.session import Session
from oakum.cli.text import printable
from oakum.errors import InvalidArgument


class Column(NamedTuple):
    """A table's column: its title, and how it behaves where the terminal is narrow."""

    title: str
    keep: bool = False  # never cut
    right: bool = False


def format_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --format to a command; it overrides the global one."""

    def remember(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            ctx.ensure_object(Session).format = value

    return click.option(
        "--format",
        cls=SectionOption,
        section="Output",
        type=click.Choice(["table", "json"]),
        callback=remember,
        expose_value=False,
        help="Write a table (default) or JSON.",
    )(function)


def template_option(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """As `format_option`, and takes a template, too; `names` are further names of the option."""

    def remember(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
        session = ctx.ensure_object(Session)
        if value in ("table", "json"):
            session.format = value
        elif value is not None:
            if "{{" not in value:
                from oakum.cli.template import HINT

                raise InvalidArgument(
                    "read --format", repr(value), "neither table nor json nor a template", hint=HINT
                )
            session.template = value

    return click.option(
        *names,
        "--format",
        cls=SectionOption,
        section="Output",
        metavar="table|json|TEMPLATE",
        callback=remember,
        expose_value=False,
        help="Write a table, JSON, or what a template says: '{{.Name}}'.",
    )


def shown(value: str) -> str:
    """What comes from outside as it may be written: to a terminal without what could move its cursor."""
    if not sys.stdout.isatty():
        return value
    return "\n".join(printable(line) for line in value.split("\n"))


def write_lines(template: str, lines: Sequence[Mapping[str, Any]], titles: Mapping[str, Any]) -> None:
    """Write each of `lines` as a template says; "table ..." has columns, apart by tabs, under titles.

    Raises:
        InvalidArgument: it is no template.
        NotFound: it names what is not there.
    """
    from oakum.cli.template import Template  # few lists are asked for so

    as_table = template.startswith("table ")
    parsed = Template(template.removeprefix("table ") if as_table else template, escapes=True)
    # a wrong field is one where there is nothing to list, too
    heads = parsed.render(titles).split("\t")
    rows = [parsed.render(line, show=str if as_table else shown) for line in lines]
    if not as_table:
        sys.stdout.write("".join(f"{row}\n" for row in rows))
        return
    cells = [row.split("\t", len(heads) - 1) for row in rows]
    padded = [row + [""] * (len(heads) - len(row)) for row in cells]
    write_table([Column(head) for head in heads], padded)


def no_trunc_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --no-trunc to a command."""
    return click.option(
        "--no-trunc",
        cls=SectionOption,
        section="Output",
        is_flag=True,
        help="Write ids and commands in full.",
    )(function)


def quiet_option(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add -q to a command, which then writes `what` only."""
    return click.option(
        "-q", "--quiet", cls=SectionOption, section="Output", is_flag=True, help=f"Write {what} only."
    )


def write_json(value: object) -> None:
    """Write `value` as indented JSON; types of the backend become plain objects with all their fields."""
    import msgspec  # the engine has it loaded already

    text = msgspec.json.format(msgspec.json.encode(_plain(value)), indent=2).decode()
    sys.stdout.write(text + "\n")


def _plain(value: Any) -> Any:
    import msgspec

    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("list[Any]", value)]
    return value


def aligned(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    """The table as plain text: columns aligned, three blanks apart, nothing cut."""
    cells = [[column.title for column in columns], *[[printable(cell) for cell in row] for row in rows]]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    lines: list[str] = []
    for row in cells:
        parts = [
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ]
        lines.append("   ".join(parts).rstrip())
    return "\n".join(lines)


def write_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, full: bool = False) -> None:
    """Write a table; with `full` nothing is cut even on a terminal."""
    if full or not sys.stdout.isatty():
        sys.stdout.write(aligned(columns, rows) + "\n")
        return
    from rich.console import Console  # 50 ms that only a terminal is worth
    from rich.text import Text

    console = Console(highlight=False)
    console.print(rich_table(columns, rows, Text, width=console.width))


_GAP: Final = 2
_NARROWEST: Final = 4


def column_widths(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """How wide each column may be in a terminal of `width`: the widest that may be cut give way first."""
    widths = [
        max(len(column.title), *(len(printable(row[index])) for row in rows)) if rows else len(column.title)
        for index, column in enumerate(columns)
    ]
    loose = [index for index, column in enumerate(columns) if not column.keep]
    room = width - _GAP * (len(columns) - 1)
    while sum(widths) > room and loose:
        widest = max(loose, key=lambda index: widths[index])
        if widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
    return widths


def rich_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], text: Callable[..., Any], *, width: int
) -> Any:
    """The table for rich; `text` is rich's Text, whose content is never read as markup."""
    from rich.table import Table

    # rich itself would cut the columns that must stay whole
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for column, cells in zip(columns, column_widths(columns, rows, width), strict=True):
        table.add_column(
            column.title,
            no_wrap=True,
            overflow="ellipsis",
            width=cells,
            justify="right" if column.right else "left",
        )
    for row in rows:
        table.add_row(*[text(printable(cell), style=_style(cell)) for cell in row])
    return table


def _style(cell: str) -> str:
    word = cell.partition(" ")[0]
    return {
        "Up": "green",
        "running": "green",
        "ready": "green",
        "ok": "green",
        "Paused": "yellow",
        "warn": "yellow",
        "fail": "red",
    }.get(word, "")
