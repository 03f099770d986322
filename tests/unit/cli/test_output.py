# SPDX-License-Identifier: Apache-2.0
"""Tables that line up and fit, JSON that is whole, progress that suits where it goes."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import termios
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.backend.config import ContainerConfig, ContainerMetadata
from oakum.backend.status import ContainerStats, ContainerStatus, CpuUsage, Image
from oakum.cli import checks, credentials, images
from oakum.cli.containers import status_words
from oakum.cli.host import lines_of
from oakum.cli.logs import LogWriter
from oakum.cli.output import Column, aligned, column_widths, write_json
from oakum.cli.progress import Lines, view_for
from oakum.cli.stats import cpu_percent
from oakum.engine.logs import LogLine
from oakum.errors import InvalidArgument

COLUMNS = (Column("NAME"), Column("SIZE", right=True))


def test_columns_line_up() -> None:
    assert aligned(COLUMNS, [("a", "1"), ("longer", "1000")]).splitlines() == [
        "NAME     SIZE",
        "a           1",
        "longer   1000",
    ]


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=8))
def test_a_row_stays_a_line(rows: list[tuple[str, str]]) -> None:
    assert len(aligned(COLUMNS, rows).split("\n")) == len(rows) + 1


def test_a_table_fits_the_terminal() -> None:
    script = (
        "from oakum.cli.output import Column, write_table; "
        "write_table((Column('ID', keep=True), Column('COMMAND')), [('0123456789ab', 'x' * 200 + '[red]')])"
    )
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 60))
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}
    subprocess.run([sys.executable, "-c", script], stdout=slave, env=env, check=True, timeout=60)
    os.close(slave)
    text = b""
    while True:
        try:
            piece = os.read(master, 4096)
        except OSError:
            break
        text += piece
    os.close(master)
    assert b"0123456789ab" in text
    import re

    plain = re.sub(r"\x1b\[[0-9;]*m", "", text.decode())
    assert all(len(line) <= 60 for line in plain.splitlines())
    assert "…" in plain


@given(
    st.lists(st.tuples(*[st.text("ab", max_size=60)] * 3), min_size=1, max_size=5),
    st.integers(40, 120),
)
def test_whole_columns_stay_whole_and_the_rest_shares_what_is_left(rows, width: int) -> None:
    columns = (Column("ID", keep=True), Column("NAME"), Column("COMMAND"))
    whole = max(2, *(len(row[0]) for row in rows))
    widths = column_widths(columns, rows, width)
    assert widths[0] == whole
    assert sum(widths) + 4 <= max(width, whole + 4 + 4 + 7)


def test_json_has_every_field_of_a_value(capsys) -> None:
    write_json([Image(id="sha256:1")])
    (found,) = json.loads(capsys.readouterr().out)
    assert found["repo_tags"] == []
    assert found["size_bytes"] == 0


def _status(**changes) -> ContainerStatus:
    values = {
        "id": "1" * 64,
        "sandbox_id": "2" * 64,
        "config": ContainerConfig(metadata=ContainerMetadata(name="web"), image="busybox"),
        "state": "running",
        "created_at_ns": 1,
    }
    return ContainerStatus(**(values | changes))


def test_states_in_words() -> None:
    now_ns = 10**12
    assert status_words(_status(started_at_ns=now_ns - 5 * 10**9), now_ns=now_ns) == "Up 5 seconds"
    ended = _status(state="exited", exit_code=137, reason="OOMKilled", finished_at_ns=now_ns - 90 * 10**9)
    assert status_words(ended, now_ns=now_ns) == "Exited (137, OOMKilled) 1 minute ago"
    assert status_words(_status(state="paused"), now_ns=now_ns) == "Paused"
    assert status_words(_status(state="created"), now_ns=now_ns) == "Created"
    due = _status(state="exited", restarting=True, exit_code=1, finished_at_ns=now_ns - 3 * 10**9)
    assert status_words(due, now_ns=now_ns) == "Restarting (1) 3 seconds ago"
    assert (
        status_words(_status(state="created", restarting=True, finished_at_ns=0), now_ns=now_ns)
        == "Restarting"
    )


def test_processor_use_needs_two_samples() -> None:
    config = ContainerConfig(metadata=ContainerMetadata(name="web"), image="busybox")

    def sample(at_ns: int, used_ns: int) -> ContainerStats:
        return ContainerStats(id="1", config=config, cpu=CpuUsage(timestamp_ns=at_ns, usage_core_ns=used_ns))

    assert cpu_percent(None, sample(10, 5)) is None
    assert cpu_percent(sample(0, 0), sample(1000, 1500)) == 150.0
    assert cpu_percent(sample(1000, 0), sample(1000, 10)) is None
    assert cpu_percent(sample(0, 100), sample(1000, 10)) is None  # it was started anew


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("docker.io/library/busybox:1", ("docker.io/library/busybox", "1")),
        ("127.0.0.1:5000/app:2", ("127.0.0.1:5000/app", "2")),
        ("127.0.0.1:5000/app", ("127.0.0.1:5000/app", "<none>")),
    ],
)
def test_image_names_split(name: str, parts: tuple[str, str]) -> None:
    assert images.split_name(name) == parts


def test_docker_names_are_short() -> None:
    assert images.familiar("docker.io/library/busybox") == "busybox"
    assert images.familiar("docker.io/me/app") == "me/app"
    assert images.familiar("quay.io/library/app") == "quay.io/library/app"


def test_credentials(monkeypatch) -> None:
    found = credentials.parse_credentials("me:se:cret")
    assert found is not None
    assert (found.username, found.password) == ("me", "se:cret")
    monkeypatch.setattr(sys, "stdin", io.StringIO("me:typed\n"))
    typed = credentials.parse_credentials("-")
    assert typed is not None
    assert typed.password == "typed"
    with pytest.raises(InvalidArgument) as caught:
        credentials.parse_credentials("secret-without-colon")
    assert "secret-without-colon" not in str(caught.value)


# logs


class _Out:
    def __init__(self) -> None:
        self.buffer = io.BytesIO()


def test_pieces_of_a_long_line_become_one_again(monkeypatch) -> None:
    out, err = _Out(), _Out()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    writer = LogWriter(timestamps=True, as_json=False)
    writer.write(LogLine(1767323045_000000000, "stdout", True, b"begin "))
    writer.write(LogLine(1767323046_000000000, "stderr", False, b"between"))
    writer.write(LogLine(1767323047_000000000, "stdout", False, b"end"))
    assert out.buffer.getvalue() == b"2026-01-02T03:04:05.000000000Z begin end\n"
    assert err.buffer.getvalue() == b"2026-01-02T03:04:06.000000000Z between\n"


# progress


def test_a_log_gets_lines_not_bars() -> None:
    said: list[str] = []
    with Lines("pulling app", said.append) as view:
        for done in range(0, 1000, 100):
            view("sha256:" + "a" * 64, "downloading", done, 1000)
        view("sha256:" + "a" * 64, "unpacking", 0, 1000)
        view("sha256:" + "a" * 64, "done", 1000, 1000)
        view("sha256:" + "b" * 64, "exists", 500, 500)
    assert said[0] == "pulling app"
    assert said[1:5] == [
        "  aaaaaaaaaaaa: downloading 1kB",
        "  aaaaaaaaaaaa: unpacking 1kB",
        "  aaaaaaaaaaaa: done 1kB",
        "  bbbbbbbbbbbb: exists 500B",
    ]
    assert said[5].startswith("  2 blobs, 1.5kB in ")


def test_quiet_is_quiet(capsys) -> None:
    with view_for("pulling", quiet=True) as view:
        view("sha256:1", "downloading", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_a_layer_and_one_for_all() -> None:
    script = (
        "from oakum.cli.progress import view_for\n"
        "with view_for('pulling [app]', quiet=False) as view:\n"
        "    for n in 'ab':\n"
        "        view('sha256:' + n * 64, 'downloading', 50, 100)\n"
        "        view('sha256:' + n * 64, 'done', 100, 100)\n"
    )
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 110))
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}
    subprocess.run([sys.executable, "-c", script], stderr=slave, env=env, check=True, timeout=60)
    os.close(slave)
    text = b""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            piece = os.read(master, 65536)
        except OSError:
            break
        text += piece
    os.close(master)
    for part in (b"pulling [app]", b"aaaaaaaaaaaa", b"bbbbbbbbbbbb", b"all", b"done"):
        assert part in text


# info and doctor


def test_facts_become_indented_lines() -> None:
    facts = {
        "root": "/r",
        "cgroups": {"mode": "v2", "controllers": ["cpu", "memory"]},
        "empty": "",
        "yes": True,
        "zero": 0,
    }
    assert list(lines_of(facts)) == [
        "root: /r",
        "cgroups:",
        "  mode: v2",
        "  controllers: cpu, memory",
        "empty: -",
        "yes: yes",
        "zero: 0",
    ]


@pytest.mark.parametrize(
    ("release", "version"), [("6.1.0-18-amd64", (6, 1)), ("5.4", (5, 4)), ("custom", (0, 0)), ("", (0, 0))]
)
def test_kernel_releases(release: str, version: tuple[int, int]) -> None:
    assert checks.parse_release(release) == version


def test_capability_sets() -> None:
    assert checks.parse_effective("Name:\tx\nCapEff:\t000001ffffffffff\n") == 0x1FFFFFFFFFF
    assert checks.parse_effective("") == 0


def test_the_doctor_answers_every_question(tmp_path) -> None:
    found = checks.run_checks(str(tmp_path / "root"), str(tmp_path / "state"))
    names = {check.name for check in found}
    assert names >= {
        "user",
        "kernel",
        "capabilities",
        "namespaces",
        "cgroups",
        "seccomp",
        "snapshots",
        "space",
        "state",
    }
    assert all(check.advice for check in found if check.level != "ok")
    assert list(tmp_path.iterdir()) == []  # it changed nothing
