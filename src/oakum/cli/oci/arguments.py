# SPDX-License-Identifier: Apache-2.0
"""Reading the runtime's command lines as Go programs read theirs: "--name value", "--name=value", one dash or two. Pure.

argparse and click take longer to import than a container takes to start.
"""

from __future__ import annotations

from oakum.model.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any, Final

    # An option: its kind ("flag", "text", "number" or "list"), its names (the first is its key), its help.
    Row = tuple[str, tuple[str, ...], str]


class Usage(Exception):
    """The command line is wrong."""


class Parsed(NamedTuple):
    """What was given: options by their first name, and the other words."""

    options: dict[str, Any]
    words: list[str]

    def text(self, name: str) -> str:
        """A text option, "" when it was not given."""
        return self.options.get(name, "")

    def flag(self, name: str) -> bool:
        """Whether a flag was given."""
        return bool(self.options.get(name))

    def number(self, name: str) -> int:
        """A number option, 0 when it was not given."""
        return self.options.get(name, 0)

    def texts(self, name: str) -> list[str]:
        """All values of a list option."""
        return self.options.get(name, [])


_TRUE: Final = ("1", "t", "true", "T", "TRUE", "True")
_FALSE: Final = ("0", "f", "false", "F", "FALSE", "False")


def parse(arguments: list[str], table: tuple[Row, ...], *, stop_at_word: bool) -> Parsed:
    """Sort `arguments`; with `stop_at_word` the first word ends the options. Raises Usage."""
    known = {name: row for row in table for name in row[1]}
    options: dict[str, Any] = {}
    words: list[str] = []
    rest = list(arguments)[::-1]
    while rest:
        word = rest.pop()
        if word == "--":
            words += rest[::-1]
            break
        if not word.startswith("-") or word == "-":
            words.append(word)
            if stop_at_word:
                words += rest[::-1]
                break
            continue
        name, separator, value = word.lstrip("-").partition("=")
        row = known.get(name)
        if row is None:
            raise Usage(f"flag provided but not defined: -{name}")
        if row[0] == "flag":
            options[row[1][0]] = _truth(name, value) if separator else True
            continue
        if not separator:
            if not rest:
                raise Usage(f"flag needs an argument: -{name}")
            value = rest.pop()
        _store(options, row, name, value)
    return Parsed(options, words)


def _store(options: dict[str, Any], row: Row, name: str, value: str) -> None:
    kind, names, _ = row
    if kind == "list":
        options.setdefault(names[0], []).append(value)
    elif kind == "number":
        try:
            options[names[0]] = int(value, 0)
        except ValueError:
            raise Usage(f'invalid value "{value}" for flag -{name}: not a whole number') from None
    else:
        options[names[0]] = value


def _truth(name: str, value: str) -> bool:
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise Usage(f'invalid boolean value "{value}" for -{name}')


def option_lines(rows: tuple[Row, ...]) -> list[str]:
    """The options as lines of a help text."""
    return [f"  {_option_names(row):<28} {row[2]}" for row in rows]


def _option_names(row: Row) -> str:
    names = ", ".join(f"--{n}" if len(n) > 1 else f"-{n}" for n in row[1])
    return names + ("" if row[0] == "flag" else " value")
