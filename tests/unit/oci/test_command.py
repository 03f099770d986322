# SPDX-License-Identifier: Apache-2.0
"""Finding the command in the container's PATH, with the words users search for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oakum.errors import CommandNotRunnable
from oakum.oci.command import find
from oakum.oci.handover import parse_env


def _file(path: Path, mode: int) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return str(path)


def test_the_first_directory_that_has_it_wins(tmp_path: Path) -> None:
    _file(tmp_path / "a/other", 0o755)
    wanted = _file(tmp_path / "b/tool", 0o755)
    _file(tmp_path / "c/tool", 0o755)
    path = f"{tmp_path}/a:relative::{tmp_path}/b:{tmp_path}/c"
    assert find("tool", {"PATH": path}) == wanted
    assert find(wanted, {}) == wanted


def test_without_a_path_the_usual_one_is_searched() -> None:
    assert os.path.basename(find("sh", {})) == "sh"


@pytest.mark.parametrize(
    ("name", "message", "code"),
    [
        ("nothing", 'exec: "nothing": executable file not found in $PATH', 127),
        ("", 'exec: "": executable file not found in $PATH', 127),
        ("plain", 'exec: "plain": permission denied', 126),
    ],
)
def test_names_that_cannot_be_run(tmp_path: Path, name: str, message: str, code: int) -> None:
    # nobody may execute it, not even root
    _file(tmp_path / "a/plain", 0o644)
    with pytest.raises(CommandNotRunnable) as caught:
        find(name, {"PATH": f"{tmp_path}/a"})
    assert (caught.value.brief, caught.value.exit_code) == (message, code)


def test_the_working_directory_is_never_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _file(tmp_path / "tool", 0o755)
    monkeypatch.chdir(tmp_path)
    for path in (".", "", ":"):
        with pytest.raises(CommandNotRunnable):
            find("tool", {"PATH": path})


def test_environment_entries() -> None:
    assert parse_env(["A=1", "B=x=y", "A=2", "odd", "C="]) == {"A": "2", "B": "x=y", "C": ""}
