# SPDX-License-Identifier: Apache-2.0
"""tests/security/README.md: every attack has its tests, its control and what is still allowed; all of them are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SECURITY = Path(__file__).parents[1] / "security"
LISTED = [
    "2019-5736",
    "2019-16884",
    "2019-19921",
    "2021-30465",
    "2021-43784",
    "2022-29162",
    "2023-25809",
    "2023-27561",
    "2023-28642",
    "2024-21626",
    "2024-45310",
    "2025-31133",
    "2025-52565",
    "2025-52881",
    "2026-41579",
    "2024-40635",
    "2026-53488",
    "2026-53492",
    "2026-50195",
    "2022-0811",
    "2024-3154",
    "2026-15809",
]
_ROW = re.compile(r"^\| (\d{4}-\d+) \| [^|]+ \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


def rows() -> dict[str, list[list[tuple[str, str]]]]:
    """For each CVE its attacks, controls and allowed things: file and test."""
    found: dict[str, list[list[tuple[str, str]]]] = {}
    for cve, *columns in _ROW.findall((SECURITY / "README.md").read_text()):
        file = ""
        found[cve] = []
        for column in columns:
            tests: list[tuple[str, str]] = []
            for text in re.findall(r"`([^`]+)`", column):
                if text.startswith("…"):
                    name = f"test_cve_{cve.replace('-', '_')}_{text[1:]}"
                else:
                    file, _, name = text.partition("::")
                tests.append((file, name))
            found[cve].append(tests)
    return found


def test_every_attack_that_the_project_promises_to_withstand_is_in_the_table() -> None:
    assert sorted(rows()) == sorted(LISTED)


@pytest.mark.parametrize("cve", LISTED)
def test_each_has_an_attack_a_control_and_something_allowed_and_they_exist(cve: str) -> None:
    columns = rows()[cve]
    assert all(columns), "a column is empty"
    for file, name in (test for column in columns for test in column):
        tree = ast.parse((SECURITY / file).read_text())
        assert name in [n.name for n in tree.body if isinstance(n, ast.FunctionDef)], f"{file}::{name}"


def test_no_test_of_an_attack_is_forgotten_in_the_table() -> None:
    named = {test for columns in rows().values() for column in columns for test in column}
    for path in SECURITY.glob("test_*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_cve_"):
                assert (path.name, node.name) in named
