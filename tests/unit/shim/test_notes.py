# SPDX-License-Identifier: Apache-2.0
"""Notes of processes: found again by whoever cleans up, replaced by name, and never for another process of that number."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from oakum.errors import SystemFailure
from oakum.shim import cleanup


@pytest.fixture
def sleeper():
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def test_a_noted_process_is_ended_and_forgotten(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    cleanup.note_process(str(tmp_path), "c1", sleeper.pid, "")
    assert cleanup.noted(str(tmp_path)) == ["c1"]
    cleanup.end_noted(str(tmp_path), "c1")
    assert sleeper.wait(10) == -9
    assert cleanup.noted(str(tmp_path)) == []


def test_a_second_note_replaces_the_first(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    cleanup.note_process(str(tmp_path), "c1", os.getpid(), "")
    os.symlink("half", tmp_path / cleanup.PROCESSES_NAME / ".c1")  # its writer was killed
    cleanup.note_process(str(tmp_path), "c1", sleeper.pid, "")
    assert cleanup.noted(str(tmp_path)) == ["c1"]
    cleanup.end_noted(str(tmp_path), "c1")
    assert sleeper.wait(10) == -9


def test_another_process_of_that_number_lives_on(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    (tmp_path / cleanup.PROCESSES_NAME).mkdir()
    os.symlink(f"{sleeper.pid} 1 ", tmp_path / cleanup.PROCESSES_NAME / "c1")
    cleanup.end_noted(str(tmp_path), "c1")
    assert sleeper.poll() is None
    assert cleanup.noted(str(tmp_path)) == []


def test_a_damaged_note_is_an_error(tmp_path: Path) -> None:
    (tmp_path / cleanup.PROCESSES_NAME).mkdir()
    os.symlink("nonsense", tmp_path / cleanup.PROCESSES_NAME / "c1")
    with pytest.raises(SystemFailure, match="damaged"):
        cleanup.end_noted(str(tmp_path), "c1")
