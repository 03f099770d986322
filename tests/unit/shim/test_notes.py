# SPDX-License-Identifier: Apache-2.0
"""Notes of processes: found again by whoever cleans up, replaced by name, and never for another process of that number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from oakum.errors import SystemFailure
from oakum.linux import pids
from oakum.shim import cleanup
from tests.support.patience import eventually


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


def test_a_note_of_an_older_version_is_a_file(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    notes = tmp_path / cleanup.PROCESSES_NAME
    notes.mkdir()
    values = {"pid": sleeper.pid, "start_time": pids.start_ticks(sleeper.pid), "cgroup_path": ""}
    (notes / "c1").write_text(json.dumps(values))
    cleanup.end_noted(str(tmp_path), "c1")
    assert sleeper.wait(10) == -9
    assert cleanup.noted(str(tmp_path)) == []
    (notes / "c1").write_text("{}")
    with pytest.raises(SystemFailure, match="damaged"):
        cleanup.end_noted(str(tmp_path), "c1")


# The exit of a thread alone, by its number for two architectures.
HEADLESS = """
import ctypes, os, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)
"""


def test_a_process_whose_first_thread_has_ended_is_ended(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-IS", "-c", HEADLESS]) as process:
        try:
            cleanup.note_process(str(tmp_path), "c1", process.pid, "")
            eventually(lambda: pids.stat_fields(process.pid)[0] == b"Z")
            assert process.poll() is None
            cleanup.end_noted(str(tmp_path), "c1")
            assert process.wait(10) == -9
        finally:
            process.kill()


def test_a_damaged_note_is_an_error(tmp_path: Path) -> None:
    (tmp_path / cleanup.PROCESSES_NAME).mkdir()
    os.symlink("nonsense", tmp_path / cleanup.PROCESSES_NAME / "c1")
    with pytest.raises(SystemFailure, match="damaged"):
        cleanup.end_noted(str(tmp_path), "c1")
