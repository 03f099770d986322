# SPDX-License-Identifier: Apache-2.0
"""Exit records: what a wait status becomes, and that the file says the same."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.errors import CommandNotRunnable, SystemFailure
from oakum.shim import exits


@pytest.mark.parametrize(
    ("status", "oom", "expected"),
    [
        (0, False, (0, 0, "Completed", False)),
        (3 << 8, False, (3, 0, "Error", False)),
        (9, False, (137, 9, "Error", False)),
        (9, True, (137, 9, "OOMKilled", True)),
        (1 << 8, True, (1, 0, "OOMKilled", True)),
        # A child of the container was the victim, and the container itself did its work.
        (0, True, (0, 0, "Completed", False)),
    ],
)
def test_wait_status(status: int, oom: bool, expected: tuple[int, int, str, bool]) -> None:
    record = exits.from_wait_status(status, oom_killed=oom, started_at_ns=1, finished_at_ns=2)
    assert (record.exit_code, record.signal, record.reason, record.oom_killed) == expected


def test_a_command_that_is_missing_exits_as_in_a_shell() -> None:
    missing = CommandNotRunnable("execve", "/nope", "No such file or directory", errno=2)
    assert exits.from_start_error(missing, 5).exit_code == 127
    other = exits.from_start_error(SystemFailure("mount", "/x", "EPERM"), 5)
    assert (other.exit_code, other.reason, other.started_at_ns) == (128, "StartError", 0)
    assert "mount /x" in other.message


@given(code=st.integers(0, 255), oom=st.booleans())
def test_the_file_brings_the_record_back(
    code: int, oom: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = tmp_path_factory.mktemp("bundle")
    record = exits.from_wait_status(code << 8, oom_killed=oom, started_at_ns=7, finished_at_ns=9)
    assert exits.read(str(bundle)) is None
    exits.write(str(bundle), record)
    assert exits.read(str(bundle)) == record


def test_a_damaged_file_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / exits.FILE_NAME).write_text('{"exit_code": 3')
    assert exits.read(str(tmp_path)) is None


def test_a_bundle_that_has_gone_is_reported(tmp_path: Path) -> None:
    record = exits.from_wait_status(0, oom_killed=False, started_at_ns=0, finished_at_ns=0)
    with pytest.raises(SystemFailure, match=r"write exit record"):
        exits.write(str(tmp_path / "gone"), record)
