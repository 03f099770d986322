# SPDX-License-Identifier: Apache-2.0
"""Calls of a foreign runtime's command line: what is handed on, and what its failures become."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oakum.errors import CommandNotRunnable, DeadlineExceeded, FailedPrecondition, OakumError, SystemFailure
from oakum.shim.runtime import Runtime


def call(directory: Path, script: str, *, timeout_s: float = 60.0) -> None:
    program = directory / "runtime"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    Runtime(str(program), f"{directory}/state").call(
        ["create", "--bundle", "b", "id"], container_id="id", log=f"{directory}/log", timeout_s=timeout_s
    )


def failure(directory: Path, script: str, *, timeout_s: float = 60.0) -> OakumError:
    with pytest.raises(OakumError) as caught:
        call(directory, script, timeout_s=timeout_s)
    assert not (directory / "log").exists()
    return caught.value


def test_the_command_line_and_surroundings(tmp_path: Path) -> None:
    call(
        tmp_path, f'echo "$@" > {tmp_path}/said; cat; ls -l /proc/self/fd | wc -l >> {tmp_path}/said; exit 0'
    )
    said = (tmp_path / "said").read_text().splitlines()
    assert said[0] == f"--root {tmp_path}/state --log {tmp_path}/log --log-format json create --bundle b id"
    # "total", the three that it was given (on /dev/null, so cat ended), the script, and the directory that ls reads
    assert int(said[1]) <= 6


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ('unable to start container process: exec: \\"nope\\": executable file not found in $PATH', 127),
        ('unable to start container process: exec: \\"/no\\": stat /no: no such file or directory', 127),
        ('unable to start container process: exec: \\"/etc\\": permission denied', 126),
        ("executable file `nope` not found in $PATH: No such file or directory", 127),
        ("open executable: Permission denied", 126),
    ],
)
def test_commands_that_cannot_run(tmp_path: Path, words: str, code: int) -> None:
    error = failure(
        tmp_path, f'cat > {tmp_path}/log <<\'END\'\n{{"level": "error", "msg": "{words}"}}\nEND\nexit 1'
    )
    assert isinstance(error, CommandNotRunnable)
    assert error.exit_code == code


def test_the_last_error_counts_and_the_log_goes(tmp_path: Path) -> None:
    lines = [
        '{"level": "error", "msg": "first"}',
        '{"level": "error", "msg": "exec failed: no such file or directory: /sys/fs/cgroup"}',
        '{"level": "warning", "msg": "and so on"}',
        '"text"',
    ]
    error = failure(tmp_path, "\n".join(f"echo '{line}' >> {tmp_path}/log" for line in lines) + "\nexit 4")
    assert type(error) is SystemFailure
    assert (error.operation, error.cause) == (
        "create",
        "exec failed: no such file or directory: /sys/fs/cgroup",
    )
    assert "exit code 4" in error.hint
    assert failure(tmp_path, f"echo plain words > {tmp_path}/log; exit 1").cause == "plain words"
    assert "exit code 1, without a word" in str(failure(tmp_path, "exit 1"))
    assert "killed by signal 15" in str(failure(tmp_path, "kill $$"))


def test_one_that_hangs_is_killed(tmp_path: Path) -> None:
    error = failure(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 600", timeout_s=0.5)
    assert isinstance(error, DeadlineExceeded)
    assert not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text().strip()}")


def test_programs_that_do_not_run(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("nothing that runs")
    for mode, why in ((0o755, "Exec format error"), (0o644, "Permission denied"), (None, "No such file")):
        if mode is None:
            (tmp_path / "text").unlink()
        else:
            (tmp_path / "text").chmod(mode)
        with pytest.raises(FailedPrecondition, match=why):
            Runtime(f"{tmp_path}/text", "s").call(["x"], container_id="", log=f"{tmp_path}/l", timeout_s=60)
