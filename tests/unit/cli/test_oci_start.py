# SPDX-License-Identifier: Apache-2.0
"""The modules of the runtime kept in one file: used while they are what the sources say, and never needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from app.cli.oci import start
kept = start.Kept(sys.argv[1])
sys.meta_path.insert(0, kept)
import app.part
print(app.part.VALUE, kept.missed, type(app.part.__spec__.loader).__name__, app.part.__file__)
kept.keep()
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package whose start is ours."""
    import oakum.cli.oci.start as ours

    directory = tmp_path / "oakum"
    (directory / "cli/oci").mkdir(parents=True)
    for place in (directory, directory / "cli", directory / "cli/oci"):
        (place / "__init__.py").touch()
    (directory / "cli/oci/start.py").write_bytes(Path(ours.__file__).read_bytes())
    (directory / "part.py").write_text("VALUE = 1\n")
    return directory


def run(package: Path, kept: Path) -> list[str]:
    program = PROGRAM.replace("app.", "oakum.")
    done = subprocess.run(
        [sys.executable, "-IS", "-c", f"import sys; sys.path.append({str(package.parent)!r})\n{program}", str(kept)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


def test_the_second_start_finds_what_the_first_has_kept(package: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.bin"
    file = str(package / "part.py")
    assert run(package, kept) == ["1", "True", "SourceFileLoader", file]
    assert run(package, kept) == ["1", "False", "Kept", file]
    (package / "part.py").write_text("VALUE = 22\n")
    assert run(package, kept) == ["22", "True", "SourceFileLoader", file]
    assert run(package, kept) == ["22", "False", "Kept", file]
    assert sorted(os.listdir(tmp_path)) == ["kept.bin", "oakum"]


@pytest.mark.parametrize("size", [0, 1, 7, 8, 20, 200, -1])
def test_a_file_that_was_cut_off_is_made_anew(package: Path, tmp_path: Path, size: int) -> None:
    kept = tmp_path / "kept.bin"
    run(package, kept)
    kept.write_bytes(kept.read_bytes()[:size])
    assert run(package, kept)[2] == "SourceFileLoader"
    assert run(package, kept)[2] == "Kept"


def test_a_source_that_is_gone_counts_as_changed(package: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.bin"
    run(package, kept)
    (package / "part.py").rename(package / "other.py")
    (package / "part").mkdir()
    (package / "part/__init__.py").write_text("VALUE = 3\n")
    assert run(package, kept)[:2] == ["3", "True"]


def test_where_nothing_can_be_kept_nothing_is_and_all_works(package: Path) -> None:
    missing = package / "no/such/kept.bin"
    assert run(package, missing)[2] == "SourceFileLoader"
    assert not missing.parent.exists()
