# SPDX-License-Identifier: Apache-2.0
"""docs/runtime-spec.md: every requirement names tests, and they are there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parents[2]
PAGE = TESTS.parent / "docs/runtime-spec.md"


def rows() -> list[tuple[str, list[str]]]:
    """Each requirement and the tests that it names."""
    found: list[tuple[str, list[str]]] = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and cells[0] != "demanded":
            found.append((cells[0], re.findall(r"`([^`]+)`", cells[1])))
    return found


@cache
def names_in(name: str) -> frozenset[str]:
    """The tests in the one file of that name."""
    (path,) = (path for path in TESTS.glob(f"**/{name}") if path.parent.name in ("oci", "kernel", "security"))
    return frozenset(n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef))


def test_every_requirement_names_tests_that_are_there() -> None:
    wrong: list[str] = []
    for requirement, named in rows():
        if not named:
            wrong.append(f"{requirement}: no test")
        for text in named:
            file, _, name = text.partition("::")
            if name not in names_in(file):
                wrong.append(f"{requirement}: {text}")
    assert len(rows()) > 80
    assert wrong == []


def test_every_part_of_the_specification_for_linux_is_there() -> None:
    headings = re.findall(r"^## (.*)$", PAGE.read_text(), re.MULTILINE)
    parts = ["bundle.md", "runtime.md", "runtime-linux.md", "config.md", "config-linux.md"]
    assert headings == [*parts, "features.md, features-linux.md", "Deviations"]
