# SPDX-License-Identifier: Apache-2.0
"""Commands that are imported only when they are called, and help texts that teach.

A group knows its commands from a table of lines, so that `oakum run` never imports what `oakum image` needs and
`oakum --help` imports nothing. Owns no command.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import click


class Entry(NamedTuple):
    """One line of a group's table: "module:attribute", its section in the help, its one-line help."""

    target: str
    section: str
    help: str


class LazyGroup(click.Group):
    """A group whose commands come from a table of `Entry`."""

    def __init__(
        self, *args: Any, table: Mapping[str, Entry], also: Mapping[str, str] | None = None, **kwargs: Any
    ) -> None:
        """`also` are targets by names that are answered and not listed: what fingers know from elsewhere."""
        super().__init__(*args, **kwargs)
        self._table = table
        self._also = also or {}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names, in the table's order."""
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import the command called `cmd_name`."""
        entry = self._table.get(cmd_name)
        target = entry.target if entry else self._also.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        return getattr(importlib.import_module(module), attribute)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; what is misspelt gets a suggestion."""
        if args and args[0] not in self._table and args[0] not in self._also and not args[0].startswith("-"):
            import difflib  # misspelt commands only

            close = difflib.get_close_matches(args[0], self._table, n=1)
            ahead = f" Did you mean {close[0]!r}?" if close else ""
            ctx.fail(f"There is no command {args[0]!r}.{ahead}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """Write the table by section, importing nothing."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, entry in self._table.items():
            sections.setdefault(entry.section, []).append((name, entry.help))
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)


class SectionOption(click.Option):
    """An option that belongs to a section of its command's help."""

    def __init__(self, *args: Any, section: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class TeachingCommand(click.Command):
    """A command whose help groups its options and ends with examples."""

    def __init__(self, *args: Any, examples: tuple[tuple[str, str], ...] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, one section after the other."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if not isinstance(parameter, click.Option):
                continue  # arguments are in the usage line, and told in the text
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(parameter, "section", "Options"), []).append(record)
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they are typed."""
        super().format_epilog(ctx, formatter)
        if not self.examples:
            return
        with formatter.section("Examples"):
            for number, (line, what) in enumerate(self.examples):
                if number:
                    formatter.write_paragraph()
                formatter.write(f"{'':>{formatter.current_indent}}# {what}\n")
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
