# SPDX-License-Identifier: Apache-2.0
"""An exec from the URL to the exit status, in every protocol, with commands of this machine."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path

import pytest

from oakum.streaming.requests import ExecRequest, Wanted
from oakum.streaming.server import StreamingServer
from tests.support.local_source import LocalSource
from tests.support.patience import eventually, patient
from tests.support.streams import Command, Finished

ALL_PROTOCOLS = [
    "spdy1",
    "spdy2",
    "spdy3",
    "spdy4",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "v5.channel.k8s.io",
]
HALF_CLOSING = ["spdy4", "v5.channel.k8s.io"]
STRUCTURED = ["spdy4", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "v5.channel.k8s.io"]


def command(
    server: StreamingServer,
    protocol: str,
    *argv: str,
    stdin: bool = False,
    stderr: bool = True,
    tty: bool = False,
    windows: bool = True,
) -> Command:
    wanted = Wanted(stdin, stdout=True, stderr=stderr and not tty, tty=tty)
    url = server.url(ExecRequest("c", argv, wanted))
    return Command(url, protocol, stdin=stdin, stderr=stderr and not tty, tty=tty, windows=windows)


def sh(server: StreamingServer, protocol: str, script: str, **options: bool) -> Command:
    return command(server, protocol, "sh", "-c", script, **options)


@pytest.mark.parametrize("protocol", ALL_PROTOCOLS)
def test_output_and_status_in_every_protocol(server: StreamingServer, protocol: str) -> None:
    done = sh(server, protocol, "echo out; echo err >&2; exit 7").finish()
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")
    if protocol in STRUCTURED:
        assert done.exit_code == 7
    else:
        assert done.error == b"command terminated with exit code 7"
    well = sh(server, protocol, "echo out").finish()
    assert well.stdout == b"out\n"
    assert well.exit_code == 0 if protocol in STRUCTURED else well.error == b""


@pytest.mark.parametrize("protocol", ALL_PROTOCOLS)
def test_input_in_every_protocol(server: StreamingServer, protocol: str) -> None:
    client = sh(server, protocol, "head -c 300000 | md5sum", stdin=True)
    data = os.urandom(300_000)
    client.send(data)
    assert client.finish().stdout.split()[0].decode() == hashlib.md5(data).hexdigest()


@pytest.mark.parametrize("protocol", HALF_CLOSING)
def test_the_end_of_the_input_is_told_and_output_goes_on(server: StreamingServer, protocol: str) -> None:
    client = sh(server, protocol, "cat; echo then; sleep 0.2; echo last; exit 3", stdin=True)
    client.send(b"some\n")
    client.until(lambda: b"some" in client.received[1])
    client.end_input()
    done = client.finish()
    assert done.stdout == b"some\nthen\nlast\n"
    assert done.exit_code == 3


@pytest.mark.parametrize("protocol", STRUCTURED)
def test_a_command_that_cannot_be_run_is_told_why(server: StreamingServer, protocol: str) -> None:
    done = command(server, protocol, "no-such-command").finish()
    assert done.status["status"] == "Failure"
    assert "no-such-command" in done.status["message"]


@pytest.mark.parametrize("windows", [True, False])
@pytest.mark.parametrize("protocol", STRUCTURED)
def test_much_in_both_directions_at_once_arrives_whole(
    server: StreamingServer, protocol: str, windows: bool
) -> None:
    size = 16 << 20
    client = sh(server, protocol, "cat; exit 9", stdin=True, windows=windows)
    block = bytes(range(256)) * 1024
    sent, got = hashlib.sha256(), 0
    left = size
    while left:
        client.send(block)
        sent.update(block)
        left -= len(block)
        client.step()
        while client.waiting_bytes > 4 << 20:
            client.step()
    if protocol in HALF_CLOSING:
        client.end_input()
        done = client.finish()
        got = len(done.stdout)
        assert hashlib.sha256(done.stdout).digest() == sent.digest()
        assert done.exit_code == 9
    else:
        client.until(lambda: len(client.received[1]) == size)
        got = len(client.received[1])
        assert hashlib.sha256(client.received[1]).digest() == sent.digest()
        client.close()
    assert got == size


@pytest.mark.parametrize("protocol", HALF_CLOSING)
def test_output_of_a_slow_reader_is_whole_before_the_status_comes(
    server: StreamingServer, protocol: str
) -> None:
    # more than every buffer between holds: the command ends long after it was first made to wait
    client = sh(server, protocol, "head -c 12000000 /dev/zero; echo end >&2; exit 5", windows=False)
    time.sleep(1.5)
    done = client.finish()
    assert (len(done.stdout), done.stderr, done.exit_code) == (12_000_000, b"end\n", 5)
    assert client.order[-1] == 3


@pytest.mark.parametrize("protocol", HALF_CLOSING)
def test_a_child_that_keeps_the_pipe_does_not_hold_the_stream(server: StreamingServer, protocol: str) -> None:
    began = time.monotonic()
    done = sh(server, protocol, "sleep 600 & echo $!; exit 4").finish()
    assert done.exit_code == 4
    assert time.monotonic() - began < patient(5)
    os.kill(int(done.stdout), signal.SIGKILL)


@pytest.mark.parametrize("protocol", HALF_CLOSING)
def test_a_command_that_reads_nothing_ends_all_the_same(server: StreamingServer, protocol: str) -> None:
    client = sh(server, protocol, "exec <&-; echo deaf; sleep 0.3; exit 6", stdin=True)
    client.until(lambda: client.received[1])
    client.send(b"x" * 500_000)
    done = client.finish()
    assert done.exit_code == 6


@pytest.mark.parametrize("protocol", STRUCTURED)
def test_a_terminal_has_the_clients_size_and_follows_it(server: StreamingServer, protocol: str) -> None:
    script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done"
    client = sh(server, protocol, script, stdin=True, tty=True)
    client.until(lambda: b"ready" in client.received[1])
    for rows, columns in ((24, 80), (50, 132)):
        client.resize(rows, columns)
        client.until(lambda rows=rows, columns=columns: f"{rows} {columns}".encode() in client.received[1])
    client.send(b"\x03")
    assert client.finish().exit_code in (130, 2)


@pytest.mark.parametrize("protocol", HALF_CLOSING)
def test_a_client_that_leaves_hangs_up_the_terminal(
    server: StreamingServer, source: LocalSource, protocol: str
) -> None:
    client = sh(server, protocol, "echo ready; exec sleep 60", stdin=True, tty=True)
    client.until(lambda: b"ready" in client.received[1])
    client.close()
    assert source.execs[-1].process.wait(60) != 0
    assert source.execs[-1].closed


@pytest.mark.parametrize("protocol", HALF_CLOSING)
def test_a_client_that_leaves_ends_the_commands_input_and_does_not_kill_it(
    server: StreamingServer, tmp_path: Path, protocol: str
) -> None:
    mark = tmp_path / "mark"
    client = sh(server, protocol, f"echo ready; cat >/dev/null; echo done > {mark}", stdin=True)
    client.until(lambda: client.received[1])
    client.close()
    eventually(lambda: mark.exists() and mark.read_text() == "done\n")


def test_only_the_streams_that_were_asked_for(server: StreamingServer) -> None:
    url = server.url(ExecRequest("c", ("sh", "-c", "echo out; echo err >&2; cat"), Wanted(stderr=True)))
    done = Command(url, "spdy4", stdout=False).finish()
    assert isinstance(done, Finished)
    assert (done.stdout, done.stderr, done.exit_code) == (b"", b"err\n", 0)
