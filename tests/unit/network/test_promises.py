# SPDX-License-Identifier: Apache-2.0
"""docs/networking.md: every promise and every requirement of CNI names tests, and they are there."""

from __future__ import annotations

import ast
import re
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parents[2]
PAGE = TESTS.parent / "docs/networking.md"


def sections() -> tuple[str, str]:
    """The part about the built-in network, and that about CNI."""
    ours, _, plugins = PAGE.read_text().partition("\n## CNI")
    return ours, plugins


def rows(text: str) -> list[tuple[str, str]]:
    """What each row of the tables of tests promises, and its tests."""
    found: list[tuple[str, str]] = []
    table = ""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not line.startswith("|"):
            table = ""
        elif not table:
            table = cells[-1]
        elif table in ("tests", "test") and not line.startswith("|---") and cells[-1].strip(" |"):
            found.append((cells[0], cells[-1]))
    return found


@cache
def names_in(name: str) -> tuple[str, ...]:
    """The tests in the one file of that name that is about networks."""
    (path,) = (
        path
        for path in TESTS.glob(f"**/{name}")
        if path.parent.name in ("kernel", "faults") or path.parts[-3:-1] == ("unit", "network")
    )
    body = ast.parse(path.read_text()).body
    return tuple(node.name.removeprefix("test_") for node in body if isinstance(node, ast.FunctionDef))


def letters(text: str) -> dict[str, str]:
    """The file that each letter stands for."""
    return {letter: Path(path).name for letter, path in re.findall(r"\b([A-Z])\s+=\s+`([^`]+\.py)`", text)}


def test_every_promise_of_the_built_in_network_names_tests_that_are_there() -> None:
    wrong: list[str] = []
    promises = rows(sections()[0])
    for promise, cell in promises:
        file = ""
        named = re.findall(r"`([^`]+)`", cell)
        if not named:
            wrong.append(f"{promise}: no test")
        for text in named:
            written, _, name = text.partition("::")
            file = written or file
            if name.removeprefix("test_") not in names_in(file) and (name or not names_in(file)):
                wrong.append(f"{promise}: {text}")
    assert wrong == []
    assert len(promises) > 20


def test_every_requirement_of_cni_names_tests_that_are_there() -> None:
    wrong: list[str] = []
    text = sections()[1]
    files = letters(text)
    requirements = rows(text)
    for requirement, cell in requirements:
        letter = ""
        named = re.findall(r"\b([A-Z])\b|`([^`]+)`", cell)
        if not named:
            wrong.append(f"{requirement}: no test")
        for other, name in named:
            letter = other or letter
            known = names_in(files[letter])
            if name and not any(fnmatchcase(each, name.replace("…", "*")) for each in known):
                wrong.append(f"{requirement}: {letter} {name}")
    assert wrong == []
    assert len(requirements) > 35
