# SPDX-License-Identifier: Apache-2.0
"""An attach: the shim's frames become the client's streams and the other way round."""

from __future__ import annotations

import json
import time

import pytest

from oakum.errors import ResourceExhausted
from oakum.shim import frames
from oakum.streaming.requests import AttachRequest, Wanted
from oakum.streaming.server import StreamingServer
from tests.support.local_source import LocalSource
from tests.support.patience import patient
from tests.support.streams import Command

PROTOCOLS = ["spdy4", "v4.channel.k8s.io", "v5.channel.k8s.io"]


def attached(
    server: StreamingServer, protocol: str, *, stdin: bool = False, tty: bool = False, container: str = "c"
) -> Command:
    url = server.url(AttachRequest(container, Wanted(stdin, stdout=True, stderr=not tty, tty=tty)))
    return Command(url, protocol, stdin=stdin, stderr=not tty, tty=tty)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_output_to_the_end_of_the_container(
    server: StreamingServer, source: LocalSource, protocol: str
) -> None:
    client = attached(server, protocol)
    source.say(frames.STDOUT, b"out")
    source.say(frames.STDERR, b"err")
    source.end(code=3)
    done = client.finish()
    # the exit code of a container is told by its status, and an attach has gone well when it saw the end
    assert (done.stdout, done.stderr, done.exit_code) == (b"out", b"err", 0)
    # one who only looks on must not hold the container up
    assert source.attached == [{"stdin": False, "stdout": True, "stderr": True, "backpressure": False}]


@pytest.mark.parametrize("protocol", ["spdy4", "v5.channel.k8s.io"])
def test_input_sizes_and_the_end_of_the_input(
    server: StreamingServer, source: LocalSource, protocol: str
) -> None:
    client = attached(server, protocol, stdin=True, tty=True)
    client.resize(24, 80)
    client.send(b"hello")
    client.flush()
    said = source.said(2)
    assert sorted(kind for kind, _ in said) == [frames.STDIN, frames.RESIZE]
    assert json.loads(dict(said)[frames.RESIZE]) == {"rows": 24, "columns": 80}
    assert dict(said)[frames.STDIN] == b"hello"
    client.end_input()
    source.say(frames.STDOUT, b"there")
    client.until(lambda: client.received[1] == b"there")
    assert source.said(1) == [(frames.CLOSE_STDIN, b"")]
    assert source.attached[0]["backpressure"]
    source.end()
    assert client.finish().exit_code == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_that_is_told_to_go_hears_why(
    server: StreamingServer, source: LocalSource, protocol: str
) -> None:
    client = attached(server, protocol)
    error = ResourceExhausted("attach", "container c", "the reader is too far behind")
    source.say(frames.ERROR, json.dumps(error.to_dict()).encode())
    assert "too far behind" in client.finish().status["message"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_shim_that_vanishes_and_a_container_that_is_not_there(
    server: StreamingServer, source: LocalSource, protocol: str
) -> None:
    client = attached(server, protocol)
    assert source.attached_event.wait(60)
    assert source.container is not None
    source.container.close()
    assert "has ended" in client.finish().status["message"]
    assert "no such container" in attached(server, protocol, container="x").finish().status["message"]


def test_a_client_that_leaves_lets_go_of_the_container(server: StreamingServer, source: LocalSource) -> None:
    client = attached(server, "spdy4", stdin=True)
    client.send(b"x")
    client.flush()
    assert source.said(1) == [(frames.STDIN, b"x")]
    client.close()
    assert source.container is not None
    assert source.container.recv(100) == b""


def test_a_looker_on_that_is_slow_is_given_some_room(server: StreamingServer, source: LocalSource) -> None:
    client = attached(server, "v5.channel.k8s.io")
    began = time.monotonic()
    for _ in range(64):  # nobody reads yet: 4 MiB more than sockets hold
        source.say(frames.STDOUT, b"x" * 65536)
    assert time.monotonic() - began < patient(5)
    source.end()
    assert len(client.finish().stdout) == 64 * 65536
