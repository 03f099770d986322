# SPDX-License-Identifier: Apache-2.0
"""docs/cri.md: up to date, and every test that it names is there."""

from __future__ import annotations

import ast
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    loader = SourceFileLoader("gen_cri_table", str(REPOSITORY / "scripts/gen-cri-table"))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_the_page_is_what_the_descriptor_and_the_table_make(generator: ModuleType) -> None:
    assert generator.PAGE.read_text() == generator.page(), "run scripts/gen-cri-table"


def test_every_rpc_has_a_test(generator: ModuleType) -> None:
    lines = generator.mapping()
    assert [
        name for _, name in generator.rpcs() if not generator.shown(f"rpc {name}", lines).startswith("`")
    ] == []


def test_every_named_test_is_there(generator: ModuleType) -> None:
    missing = []
    for pattern, what in generator.mapping():
        if what.startswith("- "):
            continue
        path, _, name = what.partition("::")
        file = REPOSITORY / "tests" / path
        tree = ast.parse(file.read_text()) if file.exists() else ast.Module([], [])
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if name not in names:
            missing.append(f"{pattern}: {what}")
    assert missing == []


def test_no_line_of_the_table_is_idle(generator: ModuleType) -> None:
    rows = [f"rpc {name}" for _, name in generator.rpcs()]
    rows += [f"{message}.{name}" for message, name in generator.fields()]
    lines = generator.mapping()
    used = {
        next((p for p, w in lines if generator.shown(row, [(p, w)]) != generator.NONE), None) for row in rows
    }
    assert [pattern for pattern, _ in lines if pattern not in used] == []
