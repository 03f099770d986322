# SPDX-License-Identifier: Apache-2.0
"""The stand-in for `os` does what `os` does."""

from __future__ import annotations

import itertools
import os
import posix
import subprocess
import sys
from pathlib import Path

import pytest

import oakum
from oakum.cli.oci import light_os

SYSTEM, PATH = light_os.stand_in()
PARTS = ["", "/", "//", "a", "bc", ".", "..", "a/", "/a", "é\udcff", " "]


@pytest.mark.parametrize(
    "name", [f.__name__ for f in light_os.PATHS if f.__name__ not in ("join", "abspath")]
)
def test_paths_are_taken_apart_in_the_same_way(name: str) -> None:
    ours, theirs = getattr(PATH, name), getattr(os.path, name)
    for parts in itertools.product(PARTS, repeat=4):
        path = "/".join(parts)
        assert ours(path) == theirs(path), path
        assert ours("".join(parts)) == theirs("".join(parts)), parts
    assert ours(b"/a/../b") == theirs(b"/a/../b")
    assert ours(Path("/usr")) == theirs(Path("/usr"))


def test_paths_are_put_together_in_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for parts in itertools.product(PARTS, repeat=3):
        assert PATH.join(*parts) == os.path.join(*parts), parts
        assert PATH.abspath("/".join(parts)) == os.path.abspath("/".join(parts)), parts
    assert PATH.join(b"a", b"b") == b"a/b"


def test_what_is_there_is_found_in_the_same_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "broken").symlink_to("nowhere")
    for name in ("file", "directory", "link", "broken", "none", "file/below", "nul\0"):
        path = str(tmp_path / name)
        for function in ("exists", "lexists", "isdir", "isfile"):
            assert getattr(PATH, function)(path) == getattr(os.path, function)(path), (function, name)


def test_directories_are_made_in_the_same_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("a/b/c", "a/b/c", "d/", "a/b/d/", "file", "file/below"):
        for exist_ok in (True, False):
            results: list[object] = []
            for side, make in (("ours", SYSTEM.makedirs), ("theirs", os.makedirs)):
                top = tmp_path / side
                top.mkdir(exist_ok=True)
                (top / "file").touch()
                try:
                    make(f"{top}/{name}", 0o711, exist_ok=exist_ok)
                    results.append("made")
                except OSError as failure:
                    results.append(failure.errno)
            assert results[0] == results[1], (name, exist_ok, results)
    listings = [
        sorted((str(p.relative_to(tmp_path / side)), p.stat().st_mode) for p in (tmp_path / side).rglob("*"))
        for side in ("ours", "theirs")
    ]
    assert listings[0] == listings[1]


def test_texts_and_bytes_are_exchanged_in_the_same_way() -> None:
    for value in ("a", "é", "\udcff", b"\xff", b"", Path("/a")):
        assert SYSTEM.fsencode(value) == os.fsencode(value)
        assert SYSTEM.fsdecode(value) == os.fsdecode(value)


def test_all_of_posix_is_what_os_has_of_it() -> None:
    for name in vars(posix):
        if not name.startswith("_") or name == "_exit":
            assert getattr(SYSTEM, name) is getattr(os, name), name


def test_whoever_asks_for_more_gets_the_real_one() -> None:
    program = """
import sys
assert "os" not in sys.modules
import oakum.cli.oci.light_os
import os
first = os
assert "posixpath" not in sys.modules and os.path.join("a", "b") == "a/b"
import os.path
assert "posixpath" not in sys.modules
from os import environ, open
assert "posixpath" in sys.modules and environ["HOME"] == first.environ["HOME"] == "/here"
import os
assert os is not first and sys.modules["os.path"] is sys.modules["posixpath"]
assert first.path.commonpath(["/a/b", "/a/c"]) == "/a" and isinstance(first.fspath("a"), str)
import pathlib, subprocess, tempfile, shutil
print(subprocess.run(["true"]).returncode, first.environ is os.environ)
try:
    first.no_such_name
except AttributeError:
    print("none")
"""
    source = str(Path(oakum.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-IS", "-c", f"import sys; sys.path.insert(0, {source!r})\n{program}"],
        env={"HOME": "/here", "PATH": "/bin:/usr/bin"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.stdout.split(), done.stderr) == (["0", "True", "none"], "")
