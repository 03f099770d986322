# SPDX-License-Identifier: Apache-2.0
"""The CRI log: every byte of output once, in order, in lines the kubelet can read, also around rotation and ENOSPC."""

import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.errors import InvalidArgument, SystemFailure
from oakum.shim.logs import MAX_PIECE_BYTES, LineEncoder, Log, LogFile, timestamp
from tests.support.patience import patient

STAMP = b"2026-01-02T03:04:05.123456789Z"
LINE = re.compile(rb"(\S+) (stdout|stderr) ([FP]) (.*)", re.DOTALL)


def read_back(log: bytes) -> bytes:
    """What the kubelet makes of it: F ends a line, P does not."""
    assert not log or log.endswith(b"\n")
    text = b""
    for line in log.split(b"\n")[:-1]:
        match = LINE.fullmatch(line)
        assert match, line
        assert len(match[4]) <= MAX_PIECE_BYTES
        text += match[4] + (b"\n" if match[3] == b"F" else b"")
    return text


TEXT = st.binary(max_size=200) | st.just(b"\n") | st.just(b"x" * 9000) | st.just(b"y" * 40000 + b"\n")


@given(st.lists(TEXT, max_size=12))
def test_output_comes_back_exactly(chunks: list[bytes]) -> None:
    encoder = LineEncoder("stdout")
    log = b"".join(encoder.feed(chunk, STAMP) for chunk in chunks if chunk) + encoder.flush(STAMP)
    assert read_back(log) == b"".join(chunks)


def test_a_line_looks_as_the_kubelet_wants_it() -> None:
    encoder = LineEncoder("stderr")
    assert encoder.feed(b"hello\nwor", STAMP) == STAMP + b" stderr F hello\n"
    assert encoder.feed(b"ld\n\n", STAMP) == STAMP + b" stderr F world\n" + STAMP + b" stderr F \n"
    assert encoder.flush(STAMP) == b""


def test_long_lines_become_pieces_of_16_kib_and_end_full() -> None:
    encoder = LineEncoder("stdout")
    out = encoder.feed(b"a" * (2 * MAX_PIECE_BYTES) + b"\n", STAMP)
    tags = [LINE.fullmatch(line)[3] for line in out.split(b"\n")[:-1]]  # type: ignore[index]
    assert tags == [b"P", b"F"]


@given(st.integers(0, 4_102_444_800_000_000_000))
def test_timestamps_are_utc_with_nine_digits(now_ns: int) -> None:
    text = timestamp(now_ns).decode()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", text)
    parsed = datetime.strptime(text[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    assert int(parsed.timestamp()) * 1_000_000_000 + int(text[20:29]) == now_ns


def test_the_log_is_readable_by_group_only_and_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    for word in (b"one\n", b"two\n"):
        log = Log(str(path))
        log.write("stdout", word)
        log.finish()
    assert path.stat().st_mode & 0o777 == 0o640
    assert read_back(path.read_bytes()) == b"one\ntwo\n"


def test_rotation_neither_loses_nor_doubles_a_line(tmp_path: Path) -> None:
    path, old = tmp_path / "0.log", tmp_path / "0.log.1"
    log = Log(str(path))
    log.write("stdout", b"first\nhalf a ")
    path.rename(old)
    log.write("stdout", b"line\n")
    log.reopen()
    log.write("stdout", b"after\nend")
    log.finish()
    assert read_back(old.read_bytes()) + read_back(path.read_bytes()) == b"first\nhalf a line\nafter\nend"


def test_when_the_directory_has_gone_the_old_file_stays_in_use(tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    path = directory / "0.log"
    log = Log(str(path))
    kept = os.open(path, os.O_RDONLY)
    path.unlink()
    directory.rmdir()
    with pytest.raises(SystemFailure, match="open log"):
        log.reopen()
    log.write("stdout", b"still here\n")
    assert log.error == ""
    assert read_back(os.read(kept, 4096)) == b"still here\n"
    os.close(kept)
    log.finish()


def test_a_fifo_or_link_in_place_of_the_log_is_refused_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    keeper = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    (tmp_path / "link").symlink_to("/etc/passwd")
    before = time.monotonic()
    with pytest.raises(InvalidArgument, match="not a regular file"):
        LogFile(str(tmp_path / "fifo"))
    with pytest.raises(SystemFailure):
        LogFile(str(tmp_path / "link"))
    assert time.monotonic() - before < patient(1)
    os.close(keeper)


class Disk:
    """os.write on a disk with so much space left."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.write = os.write

    def __call__(self, fd: int, data: bytes) -> int:
        if self.room == 0:
            raise OSError(28, "No space left on device")
        done = self.write(fd, bytes(data)[: self.room])
        self.room -= done
        return done


@given(room=st.integers(0, 400), lines=st.integers(1, 6))
def test_a_full_disk_is_reported_and_lines_stay_whole(
    room: int, lines: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "0.log"
    log = LogFile(str(path))
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(room)
        patch.setattr("oakum.shim.logs.os.write", disk)
        written = b"".join(STAMP + b" stdout F line %d\n" % n for n in range(lines))
        log.write(written)
        full = room < len(written)
        assert bool(log.error) == full
        disk.room = 1 << 20
        log.write(STAMP + b" stdout F later\n")
        assert log.error == ""
    log.close()
    content = path.read_bytes()
    text = read_back(content)
    assert text.endswith(b"later\n")
    assert len(content) + log.lost_bytes == len(written) + len(STAMP + b" stdout F later\n")
