# SPDX-License-Identifier: Apache-2.0
"""Reading logs: every line once, in order, over rotations, whatever else is in the file."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.engine.logs import LogLine, parse_line, parse_time, read_log, tail_offset
from oakum.errors import NotFound


def entry(number: int, *, stream: str = "stdout", tag: str = "F") -> bytes:
    return b"2026-01-02T03:04:05.%09dZ %s %s line %d\n" % (number, stream.encode(), tag.encode(), number)


def read(path: Path, *, tail: int | None = None, since_ns: int = 0) -> list[LogLine]:
    return list(read_log(str(path), follow=False, tail=tail, since_ns=since_ns, ended=lambda: True))


def test_lines_come_as_they_were_written(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(entry(1) + entry(2, stream="stderr", tag="P") + b"garbage\n\n" + entry(3) + b"2026-torn")
    lines = read(log)
    assert [line.data for line in lines] == [b"line 1", b"line 2", b"line 3"]
    assert [line.partial for line in lines] == [False, True, False]
    assert lines[1].stream == "stderr"
    assert lines[0].timestamp_ns == int(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()) * 10**9 + 1


def test_tail_and_since(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"".join(entry(n) for n in range(10)))
    assert [line.data for line in read(log, tail=3)] == [b"line 7", b"line 8", b"line 9"]
    assert read(log, tail=0) == []
    since = read(log)[8].timestamp_ns
    assert [line.data for line in read(log, since_ns=since)] == [b"line 8", b"line 9"]


def test_no_log_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read(tmp_path / "none")


@given(
    lines=st.lists(st.binary(max_size=200).map(lambda b: b.replace(b"\n", b"")), max_size=40),
    count=st.integers(0, 50),
    torn=st.booleans(),
)
def test_the_last_lines_of_any_file(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], count: int, torn: bool
) -> None:
    path = tmp_path_factory.mktemp("t") / "f"
    content = b"\n".join(lines) + (b"" if torn or not lines else b"\n")
    path.write_bytes(content)
    with path.open("rb") as file:
        offset = tail_offset(file, count)
    whole = content.split(b"\n")
    if content.endswith(b"\n") or not content:
        whole = whole[:-1]
    assert content[offset:].removesuffix(b"\n").split(b"\n") == (whole[-count:] if count and whole else [b""])


@given(st.binary(max_size=100))
def test_no_text_breaks_the_parser(text: bytes) -> None:
    line = parse_line(text)
    assert line is None or line.stream in ("stdout", "stderr")


@given(
    st.integers(0, 7_000_000_000),
    st.integers(0, 999_999_999),
)
def test_times_are_exact(seconds: int, nanoseconds: int) -> None:
    moment = datetime.fromtimestamp(seconds, UTC)
    text = f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"
    assert parse_time(text.encode()) == int(moment.timestamp()) * 10**9 + nanoseconds


def test_zones_are_understood() -> None:
    assert parse_time(b"2026-01-02T03:04:05+02:00") == parse_time(b"2026-01-02T01:04:05Z")
    assert parse_time(b"2026-01-02T03:04:05.5-01:30") == parse_time(b"2026-01-02T04:34:05.500000000Z")
    for bad in (b"", b"2026", b"2026-13-02T03:04:05Z", b"2026-01-02T03:04:05", b"2026-01-02T03:04:05.Z"):
        assert parse_time(bad) is None


class Writer:
    """Appends numbered lines and rotates now and then, as a shim does on request: rename first, reopen later."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.done = threading.Event()

    def run(self, rounds: int) -> None:
        number = 0
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for turn in range(rounds):
            for _ in range(50):
                os.write(fd, entry(number))
                number += 1
            self.pause()
            os.rename(self._path, f"{self._path}.{turn}")
            for _ in range(5):  # before it is told to reopen, it still writes to the renamed file
                os.write(fd, entry(number))
                number += 1
            os.close(fd)
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(fd, entry(number))
            number += 1
            self.pause()
        os.close(fd)
        self.done.set()

    def pause(self) -> None:
        threading.Event().wait(0.12)


def test_following_loses_no_line_and_doubles_none_over_rotations(tmp_path: Path) -> None:
    log = tmp_path / "log"
    writer = Writer(log)
    thread = threading.Thread(target=writer.run, args=(6,))
    thread.start()
    lines: Iterator[LogLine] = read_log(
        str(log), follow=True, tail=None, since_ns=0, ended=writer.done.is_set
    )
    assert [line.data for line in lines] == [b"line %d" % n for n in range(6 * 56)]
    thread.join()


def test_following_survives_a_file_that_is_cut_in_place(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(entry(1) + entry(2))
    ended = threading.Event()
    lines = read_log(str(log), follow=True, tail=None, since_ns=0, ended=ended.is_set)
    assert [next(lines).data for _ in range(2)] == [b"line 1", b"line 2"]
    os.truncate(log, 0)
    log.write_bytes(entry(3))
    ended.set()
    assert [line.data for line in lines] == [b"line 3"]


def test_following_waits_for_a_log_that_is_not_there_yet(tmp_path: Path) -> None:
    log = tmp_path / "log"
    ended = threading.Event()

    def later() -> None:
        log.write_bytes(entry(1))
        ended.set()

    threading.Timer(0.1, later).start()
    lines = read_log(str(log), follow=True, tail=None, since_ns=0, ended=ended.is_set)
    assert [line.data for line in lines] == [b"line 1"]
