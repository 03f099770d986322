# SPDX-License-Identifier: Apache-2.0
"""What the demo looks like: headings, commands, facts, tables; colours on a terminal, plain text in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

console = Console(
    width=None if sys.stdout.isatty() else 110, highlight=False, soft_wrap=not sys.stdout.isatty()
)
_step = 0


def heading(title: str, why: str = "") -> None:
    """Begin a step of the story."""
    global _step  # noqa: PLW0603 - the story has one counter
    _step += 1
    console.print()
    console.rule(Text(f" {_step}. {title} ", style="bold cyan"), align="left", style="cyan")
    if why:
        console.print(Text(why, style="italic dim"))


def command(line: str) -> None:
    """Show a command as the user would type it."""
    console.print(Text.assemble(("$ ", "bold green"), (line, "bold")))


def output(text: str, *, limit: int = 12) -> None:
    """Show what a command wrote."""
    lines = text.rstrip("\n").split("\n")
    for line in lines[:limit]:
        fits = not console.is_terminal or len(line) + 2 <= console.width
        console.print(Text("  " + (line if fits else line[: console.width - 3] + "…")))
    if len(lines) > limit:
        console.print(Text(f"  ... {len(lines) - limit} more lines", style="dim"))


def fact(name: str, value: object) -> None:
    """Show one fact."""
    console.print(Text.assemble((f"  {name:<22}", "dim"), str(value)))


def good(text: str) -> None:
    """Show something that was checked and holds."""
    console.print(Text.assemble(("  ✔ ", "bold green"), text))


def bad(text: str) -> None:
    """Show something that does not hold."""
    console.print(Text.assemble(("  ✘ ", "bold red"), text))


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Show a table."""
    made = Table(box=None, pad_edge=True, header_style="bold", padding=(0, 3, 0, 1))
    for title in titles:
        made.add_column(title, justify="right" if title in right else "left", no_wrap=True)
    for row in rows:
        made.add_row(*[Text(cell) for cell in row])
    console.print(made)
