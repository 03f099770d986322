# SPDX-License-Identifier: Apache-2.0
"""Reading the runtime's command lines as Go programs read theirs: "--name value", "--name=value", one dash or two. Pure.

argparse and click take longer to import than a container takes to start.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple


class Usage(Exception):
    """The command line is wrong."""


class Option(NamedTuple):
    """An option: `kind` is "flag", "text", "number" or "list"."""

    kind: str
    names: tuple[str, ...]
    help: str

    @property
    def key(self) -> str:
        """Its name in the result."""
        return self.names[0]


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


def parse(arguments: list[str], table: tuple[Option, ...], *, stop_at_word: bool) -> Parsed:
    """Sort `arguments`; with `stop_at_word` the first word ends the options. Raises Usage."""
    known = {name: option for option in table for name in option.names}
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
        option = known.get(name)
        if option is None:
            raise Usage(f"flag provided but not defined: -{name}")
        if option.kind == "flag":
            options[option.key] = _truth(name, value) if separator else True
            continue
        if not separator:
            if not rest:
                raise Usage(f"flag needs an argument: -{name}")
            value = rest.pop()
        _store(options, option, name, value)
    return Parsed(options, words)


def _store(options: dict[str, Any], option: Option, name: str, value: str) -> None:
    if option.kind == "list":
        options.setdefault(option.key, []).append(value)
    elif option.kind == "number":
        try:
            options[option.key] = int(value, 0)
        except ValueError:
            raise Usage(f'invalid value "{value}" for flag -{name}: not a whole number') from None
    else:
        options[option.key] = value


def _truth(name: str, value: str) -> bool:
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise Usage(f'invalid boolean value "{value}" for -{name}')


def option_lines(options: tuple[Option, ...]) -> list[str]:
    """The options as lines of a help text."""
    return [f"  {_option_names(option):<28} {option.help}" for option in options]


def _option_names(option: Option) -> str:
    names = ", ".join(f"--{n}" if len(n) > 1 else f"-{n}" for n in option.names)
    return names + ("" if option.kind == "flag" else " value")
