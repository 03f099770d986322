# SPDX-License-Identifier: Apache-2.0
"""The modules of the runtime kept in one file: used while they are what the sources say, and never needed."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import MAGIC_NUMBER
from pathlib import Path

import pytest

import oakum.cli.oci.start as ours
from oakum.cli.oci.keeping import bare

PROGRAM = """
import sys
from oakum.cli.oci import start
start.ROOTS = {"kind": ("oakum.always", "oakum.group")}
kept = start.Kept(sys.argv[1], "kind")
sys.meta_path.insert(0, kept)
kept.run()
ready = "oakum.always" in sys.modules
import oakum.always, oakum.group.part, _heapq
print(oakum.always.VALUE, ready, kept.missed, type(oakum.always.__spec__.loader).__name__, oakum.always.__file__)
print(oakum.group.SUM, oakum.group.part.add.__annotations__, oakum.group.part.Pair.__annotations__)
import oakum.seldom
print(oakum.seldom.VALUE, type(oakum.seldom.__spec__.loader).__name__, type(_heapq.__spec__.loader).__name__)
from oakum.cli.oci.keeping import keep
keep(kept)
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package whose start is ours: a module that is always needed, a package that imports its parts, and one seldom needed."""
    source, directory = Path(ours.__file__).parents[2], tmp_path / "oakum"
    for path in ("cli/oci", "model", "group"):
        (directory / path).mkdir(parents=True)
    for path in (directory, directory / "cli", directory / "cli/oci", directory / "model"):
        (path / "__init__.py").touch()
    for name in ("cli/oci/start.py", "cli/oci/keeping.py", "model/light.py"):
        (directory / name).write_bytes((source / name).read_bytes())
    (directory / "always.py").write_text("from __future__ import annotations\nVALUE: int = 1\n")
    (directory / "seldom.py").write_text("VALUE = 5\n")
    (directory / "group/__init__.py").write_text("from oakum.group.part import add\nSUM = add(1, 2)\n")
    (directory / "group/part.py").write_text(
        "from __future__ import annotations\n"
        'def add(a: int, b: int) -> int:\n    """The sum."""\n    return a + b\n'
        "class Pair:\n    first: int\n    second: Missing = 2\n"
    )
    return directory


def run(package: Path, kept: Path, before: str = "") -> list[list[str]]:
    done = subprocess.run(
        [sys.executable, "-IS", "-c", f"import sys; sys.path.append({str(package.parent)!r})\n{before}{PROGRAM}", str(kept)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == ""
    return [line.split() for line in done.stdout.splitlines()]


def test_the_second_start_finds_what_the_first_has_kept(package: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.bin"
    file = str(package / "always.py")
    first = run(package, kept)
    assert first[0] == ["1", "False", "True", "SourceFileLoader", file]
    assert first[2] == ["5", "SourceFileLoader", "ExtensionFileLoader"]
    second = run(package, kept)
    assert second[0] == ["1", "True", "False", "Kept", file]
    assert " ".join(second[1]) == "3 {} {'first': 'int', 'second': 'Missing'}"
    assert second[2] == ["5", "Kept", "ExtensionFileLoader"]
    (package / "always.py").write_text("VALUE = 22\n")
    assert run(package, kept)[0] == ["22", "False", "True", "SourceFileLoader", file]
    assert run(package, kept)[0] == ["22", "True", "False", "Kept", file]
    assert sorted(os.listdir(tmp_path)) == ["kept.bin", "oakum"]


@pytest.mark.parametrize("size", [0, 1, 7, 8, 20, 200, -1])
def test_a_file_that_was_cut_off_is_made_anew(package: Path, tmp_path: Path, size: int) -> None:
    kept = tmp_path / "kept.bin"
    run(package, kept)
    kept.write_bytes(kept.read_bytes()[:size])
    assert run(package, kept)[0][3] == "SourceFileLoader"
    assert run(package, kept)[0][3] == "Kept"


def test_the_file_of_an_interpreter_with_other_code_is_made_anew(package: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.bin"
    run(package, kept)
    whole = kept.read_bytes()
    assert whole.startswith(MAGIC_NUMBER)
    kept.write_bytes(bytes(reversed(MAGIC_NUMBER)) + whole[len(MAGIC_NUMBER) :])
    assert run(package, kept)[0][3] == "SourceFileLoader"
    assert run(package, kept)[0][3] == "Kept"


@pytest.mark.parametrize("size", [0, 100])
def test_a_full_disk_is_left_as_it_was(package: Path, tmp_path: Path, size: int) -> None:
    limit = f"import sys, resource\nsys.dont_write_bytecode = True\nresource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
    assert run(package, tmp_path / "kept.bin", limit)[0][3] == "SourceFileLoader"
    assert os.listdir(tmp_path) == ["oakum"]


def test_nothing_is_kept_where_python_may_keep_nothing(package: Path) -> None:
    program = """
import sys
from oakum.cli.oci import start
here, missing = start.Kept(sys.argv[1], "kind"), start.Kept(sys.argv[1] + "/no/such/file", "kind")
here.find_spec("oakum.other")
missing.find_spec("oakum.other")
print(here.missed, here.lacks(), missing.missed, missing.lacks())
sys.dont_write_bytecode = True
print(here.missed, here.lacks())
"""
    done = subprocess.run(
        [sys.executable, "-IS", "-c", f"import sys; sys.path.append({str(package.parent)!r})\n{program}", str(package / "kept.bin")],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["True True True False", "True False"]


def test_a_source_that_is_gone_counts_as_changed(package: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.bin"
    run(package, kept)
    (package / "always.py").rename(package / "other.py")
    (package / "always").mkdir()
    (package / "always/__init__.py").write_text("VALUE = 3\n")
    assert run(package, kept)[0][:2] == ["3", "False"]


def test_where_nothing_can_be_kept_nothing_is_and_all_works(package: Path) -> None:
    missing = package / "no/such/kept.bin"
    assert run(package, missing)[0][3] == "SourceFileLoader"
    assert not missing.parent.exists()


def test_what_is_taken_away_is_for_readers_only() -> None:
    text = '''
"""A module."""
from __future__ import annotations
LIMIT: int = 3
unset: int
class Fields:
    """Has fields."""
    one: Missing = 1
    def twice(self: Missing, *rest: Missing, key: Missing = 2, **named: Missing) -> Missing:
        """Told."""
        local: Missing = self.one * key
        assert local == 2, "kept"
        return local
class Empty:
    """Nothing else."""
def nothing() -> None:
    """Nothing else."""
class Document(TypedDict, total=False):
    """A dict."""
    member: Missing
'''
    names: dict[str, object] = {"TypedDict": dict}
    exec(compile(bare(text), "file", "exec", flags=ours_annotations(), dont_inherit=True), names)
    assert names["Document"] is dict
    fields = names["Fields"]
    assert isinstance(fields, type)
    assert (names["LIMIT"], "unset" in names) == (3, False)
    assert fields.__annotations__ == {"one": "Missing"}
    twice = fields.__dict__["twice"]
    assert (twice(fields()), twice.__annotations__, twice.__doc__) == (2, {}, None)
    with pytest.raises(AssertionError, match="kept"):
        twice(fields(), key=3)


def ours_annotations() -> int:
    import __future__

    return __future__.annotations.compiler_flag


def test_sources_that_change_meanwhile_do_not_fail_a_command(package: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.bin"
    program = """
import sys
from oakum.cli.oci import start, entry
start.ROOTS = {"kind": ("oakum.always",)}
sys.meta_path.insert(0, start.Kept(sys.argv[1], "kind"))
import oakum.always
open(oakum.always.__file__, "w").write("VALUE = (")
entry._keep()
print("done")
"""
    for name in ("cli/oci/entry.py", "linux/sealed.py", "linux/control.py", "linux/fd.py"):
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_bytes((Path(ours.__file__).parents[2] / name).read_bytes())
    done = subprocess.run(
        [sys.executable, "-IS", "-c", f"import sys; sys.path.append({str(tmp_path)!r})\n{program}", str(kept)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr, kept.exists()) == ("done\n", "", False)
