# SPDX-License-Identifier: Apache-2.0
"""Rules of this repository that no linter knows, each checked on every file it binds."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from oakum import errors

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "src/oakum"
GENERATED = PACKAGE / "api/cri/_proto"

MAX_MODULE_LINES = 600
MAX_README_LINES = 150
# one for every so many lines of the package; each names its rule and its reason
LINES_PER_IGNORE = 250

_IGNORE = re.compile(r"#\s*(noqa|type:\s*ignore|pyright:\s*ignore)(.*)$")
_REASONED = re.compile(r"(: [A-Z]+\d+(, ?[A-Z]+\d+)*|\[[\w, -]+\]) - \S+")


def written_files(*folders: str) -> list[Path]:
    """The Python files that people wrote."""
    found = [path for folder in folders for path in sorted((REPOSITORY / folder).rglob("*.py"))]
    return [path for path in found if GENERATED not in path.parents]


def named(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


OURS = written_files("src", "tests", "benchmarks", "demo", "scripts")
SOURCES = written_files("src")


def test_every_file_begins_with_its_licence() -> None:
    scripts = [p for p in (REPOSITORY / "scripts").rglob("*") if p.is_file() and p.suffix != ".pyc"]
    scripts += [REPOSITORY / ".ci/run"]
    bare = [
        named(p)
        for p in {*OURS, *scripts}
        if not any("SPDX-License-Identifier: Apache-2.0" in line for line in p.read_text().splitlines()[:2])
    ]
    assert not bare


def test_every_module_says_what_it_owns() -> None:
    silent = [
        named(p) for p in OURS if p.name != "__init__.py" and not ast.get_docstring(ast.parse(p.read_text()))
    ]
    assert not silent


def test_modules_stay_short_enough_to_read() -> None:
    long = {named(p): n for p in OURS if (n := len(p.read_text().splitlines())) > MAX_MODULE_LINES}
    assert not long


def test_the_readme_stays_a_page() -> None:
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= MAX_README_LINES


def test_the_makefile_has_at_most_eight_targets() -> None:
    targets = re.findall(r"^([a-z][a-z-]*):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert {"setup", "demo", "test", "check", "bench", "faults"} <= set(targets)
    assert len(set(targets)) <= 8


def test_the_drawing_of_the_error_tree_is_the_tree() -> None:
    drawn = re.findall(r"^( *[│ ]*)(?:├── |└── )?([A-Z]\w+)(?:  .*)?$", errors.__doc__ or "", re.MULTILINE)
    parents: dict[str, str] = {}
    open_at: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^([ │├└─]*)([A-Z][A-Za-z]+)(?:  +\S.*)?$", line)
        if match is None or not line.startswith("    "):
            continue
        depth = len(match[1])
        shallower = [d for d in open_at if d < depth]
        parents[match[2]] = open_at[max(shallower)] if shallower else ""
        open_at = {d: n for d, n in open_at.items() if d < depth} | {depth: match[2]}
    assert drawn
    assert parents == dict(_tree(errors.OakumError, ""))


def _tree(cls: type, parent: str) -> Iterator[tuple[str, str]]:
    yield cls.__name__, parent
    for sub in cls.__subclasses__():
        if sub.__module__ == "oakum.errors":
            yield from _tree(sub, cls.__name__)


def test_every_error_class_is_defined_in_the_one_tree() -> None:
    elsewhere: list[str] = []
    for path in SOURCES:
        if path == PACKAGE / "errors.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and any(
                isinstance(b, ast.Name) and hasattr(errors, b.id) and b.id != "Any" for b in node.bases
            ):
                elsewhere.append(f"{named(path)}:{node.lineno} {node.name}")
    assert not elsewhere


def test_ignores_are_few_and_each_has_its_reason() -> None:
    found: list[str] = []
    unreasoned: list[str] = []
    lines = 0
    for path in SOURCES:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            lines += 1
            if match := _IGNORE.search(line):
                found.append(named(path))
                if not _REASONED.match(match[2].strip() if match[2].startswith("[") else match[2]):
                    unreasoned.append(f"{named(path)}:{number}: {line.strip()}")
    assert not unreasoned
    assert len(found) <= max(10, lines // LINES_PER_IGNORE), sorted(set(found))


def test_an_import_inside_a_function_says_why() -> None:
    silent: list[str] = []
    for path in SOURCES:
        if PACKAGE / "cli" in path.parents:
            continue  # there it is the rule, for the time of every start (ARCHITECTURE.md, cli)
        text = path.read_text()
        lines = text.splitlines()
        for function in ast.walk(ast.parse(text)):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for node in function.body:
                modules = (
                    [node.module or ""] if isinstance(node, ast.ImportFrom)
                    else [a.name for a in node.names] if isinstance(node, ast.Import)
                    else []
                )  # fmt: skip
                if not any(m.split(".")[0] == "oakum" for m in modules):
                    continue
                # one comment speaks for a whole block of imports: on one of its lines, or above it
                first = last = node
                while (place := function.body.index(first)) and isinstance(
                    function.body[place - 1], ast.Import | ast.ImportFrom
                ):
                    first = function.body[place - 1]
                while (place := function.body.index(last) + 1) < len(function.body) and isinstance(
                    function.body[place], ast.Import | ast.ImportFrom
                ):
                    last = function.body[place]
                block = lines[first.lineno - 2 : last.end_lineno]
                if not any("#" in line for line in block):
                    silent.append(f"{named(path)}:{node.lineno}")
    assert not silent


def test_every_bound_call_names_its_manual_page() -> None:
    silent = [
        f"{named(path)}: {call}"
        for path in sorted((PACKAGE / "linux").glob("*.py"))
        for call in re.findall(r"\bbind(?:_call)?\(\s*\"(\w+)\"", path.read_text())
        if not re.search(rf"\b{call}\(\d\)", path.read_text())
    ]
    assert not silent


def test_a_broad_handler_that_does_not_raise_again_says_why() -> None:
    silent: list[str] = []
    for path in SOURCES:
        text = path.read_text()
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.ExceptHandler) or isinstance(node.body[-1], ast.Raise):
                continue
            kind = node.type
            if kind is not None and not (
                isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException")
            ):
                continue
            if not any("#" in line for line in lines[node.lineno - 2 : node.lineno + 1]):
                silent.append(f"{named(path)}:{node.lineno}")
    assert not silent


@pytest.mark.parametrize("word", ["TODO", "FIXME", "XXX", "NotImplementedError"])
def test_nothing_is_left_for_later(word: str) -> None:
    found = [
        f"{named(p)}:{n}"
        for p in OURS
        if p != Path(__file__)
        for n, line in enumerate(p.read_text().splitlines(), 1)
        if re.search(rf"\b{word}\b", line)
    ]
    assert not found


def test_skips_have_a_kernels_reason() -> None:
    """A skip is written with a reason that begins so; the run itself compares it with skips.txt."""
    call = re.compile(r"pytest\.(skip|mark\.skip|mark\.xfail|xfail|importorskip)\b")
    allowed = "kernel: "
    wrong: list[str] = []
    for path in written_files("tests"):
        if path == Path(__file__):
            continue
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines, 1):
            if call.search(line) and allowed not in "".join(lines[number - 1 : number + 3]):
                wrong.append(f"{named(path)}:{number}")
    assert not wrong


def test_scripts_are_sound_shell() -> None:
    scripts = [p for p in (REPOSITORY / "scripts").rglob("*") if p.is_file() and p.suffix != ".pyc"]
    shell = [p for p in [*scripts, REPOSITORY / ".ci/run"] if re.match(r"#!.*\b(ba)?sh\b", p.read_text())]
    assert shell
    for path in shell:
        done = subprocess.run(["bash", "-n", path], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
