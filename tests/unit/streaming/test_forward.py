# SPDX-License-Identifier: Apache-2.0
"""Port-forward into a pod of the host's network: many connections, IPv4 and IPv6, and failures that stay their own."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from oakum.streaming.requests import ForwardRequest
from oakum.streaming.server import StreamingServer
from tests.support.local_source import LocalSource
from tests.support.ports import free_port
from tests.support.streams import ChannelForwardClient, ForwardClient, listening

CARRIERS = [False, True]


def echo(client: socket.socket) -> None:
    """Everything back, and a last word after the client's own end."""
    while data := client.recv(65536):
        client.sendall(data)
    client.sendall(b"bye")


def listening_many(answer: Callable[[socket.socket], None]) -> AbstractContextManager[int]:
    """As `listening`, each client in a thread of its own."""

    def start(sock: socket.socket) -> None:
        kept = sock.dup()

        def talk() -> None:
            with kept:
                answer(kept)
                kept.shutdown(socket.SHUT_RDWR)

        threading.Thread(target=talk).start()

    return listening(start)


def forward(
    server: StreamingServer, *, tunnel: bool = False, pod: str = "p", windows: bool = True
) -> ForwardClient:
    return ForwardClient(server.url(ForwardRequest(pod)), tunnel=tunnel, windows=windows)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("tunnel", CARRIERS)
def test_a_connection_with_a_half_close(
    server: StreamingServer, tunnel: bool, family: socket.AddressFamily
) -> None:
    client = forward(server, tunnel=tunnel)
    with listening(echo, family) as port:
        stream = client.connect(port)
        client.session.send(stream, b"hello")
        client.until(lambda: client.data[stream] == b"hello")
        client.session.finish(stream)
        client.until(lambda: client.gone(stream))
        assert client.data[stream] == b"hellobye"
        assert not client.was_reset
    client.close()


@pytest.mark.parametrize("tunnel", CARRIERS)
def test_a_failed_connection_does_not_end_the_forward(server: StreamingServer, tunnel: bool) -> None:
    client = forward(server, tunnel=tunnel)
    nobody = client.connect(free_port())
    client.until(lambda: client.gone(nobody))
    # told by a reset: a word on the error stream would make the usual client give up everything
    assert nobody in client.was_reset
    assert client.errors[nobody] == b""

    def rude(sock: socket.socket) -> None:
        sock.sendall(b"some")
        sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with listening(rude) as broken, listening(echo) as port:
        first = client.connect(broken)
        client.session.send(first, b"x")
        client.until(lambda: client.gone(first))
        assert first in client.was_reset
        second = client.connect(port)
        client.session.send(second, b"still here")
        client.until(lambda: client.data[second] == b"still here")
        assert client.errors[first] == client.errors[second] == b""
        client.session.finish(second)
        client.until(lambda: client.gone(second))
    client.close()


@pytest.mark.parametrize("windows", [True, False])
@pytest.mark.parametrize("tunnel", CARRIERS)
def test_much_in_both_directions_over_several_connections_arrives_whole(
    server: StreamingServer, tunnel: bool, windows: bool
) -> None:
    client = forward(server, tunnel=tunnel, windows=windows)
    with listening_many(echo) as port:
        streams = [client.connect(port) for _ in range(3)]
        sums = {stream: hashlib.sha256() for stream in streams}
        for _ in range(32):
            for stream in streams:
                block = os.urandom(65536)
                sums[stream].update(block)
                client.session.send(stream, block)
            client.step()
        for stream in streams:
            client.session.finish(stream)
        client.until(lambda: all(client.gone(stream) for stream in streams), within_s=60)
        for stream in streams:
            sums[stream].update(b"bye")
            assert hashlib.sha256(client.data[stream]).digest() == sums[stream].digest()
    client.close()


def test_a_connection_that_is_reset_by_the_client_lets_go_of_the_pods_side(server: StreamingServer) -> None:
    ended = threading.Event()

    def watch(sock: socket.socket) -> None:
        sock.sendall(b"ready")
        try:
            sock.recv(1)
        finally:
            ended.set()

    client = forward(server)
    with listening(watch) as port:
        stream = client.connect(port)
        client.until(lambda: client.data[stream] == b"ready")
        client.session.reset(stream, 5)
        client.flush()
        assert ended.wait(60)
        # and its error stream ends, which is what the usual client waits for
        client.until(lambda: stream - 2 in client.ended)
    client.close()


def test_a_client_that_leaves_lets_go_of_every_connection(server: StreamingServer) -> None:
    ended = threading.Event()

    def watch(sock: socket.socket) -> None:
        sock.sendall(b"ready")
        assert sock.recv(1) == b""
        ended.set()

    client = forward(server)
    with listening(watch) as port:
        stream = client.connect(port)
        client.until(lambda: client.data[stream] == b"ready")
        client.close()
        assert ended.wait(60)


@pytest.mark.parametrize("tunnel", CARRIERS)
def test_what_concerns_the_pod_is_said_on_the_error_stream(
    server: StreamingServer, source: LocalSource, tunnel: bool
) -> None:
    client = forward(server, pod="gone", tunnel=tunnel)
    stream = client.connect(80)
    client.until(lambda: client.gone(stream))
    assert b"no such sandbox" in client.errors[stream]
    client.close()
    source.pod_state = "stopped"
    client = forward(server, tunnel=tunnel)
    stream = client.connect(80)
    client.until(lambda: client.gone(stream))
    assert b"not ready" in client.errors[stream]
    client.close()


def test_streams_that_make_no_sense_are_refused_one_by_one(server: StreamingServer) -> None:
    client = forward(server)
    bad = [
        client.session.open(headers)
        for headers in (
            (("streamType", "data"), ("port", "0")),
            (("streamType", "data"), ("port", "65536")),
            (("streamType", "data"), ("port", "\xb2")),
            (("streamType", "data"), ("port", "http")),
            (("streamType", "data"),),
            (("streamType", "video"), ("port", "80")),
        )
    ]
    client.until(lambda: client.was_reset >= set(bad))
    with listening(echo) as port:
        stream = client.connect(port)
        client.session.send(stream, b"fine")
        client.until(lambda: client.data[stream] == b"fine")
        client.close()


def test_old_clients_that_number_no_requests(server: StreamingServer) -> None:
    client = forward(server)
    with listening(echo) as port:
        headers = (("port", str(port)),)
        client.session.open((("streamType", "error"), *headers), fin=True)
        stream = client.session.open((("streamType", "data"), *headers))
        client.data[stream] = bytearray()
        client.session.send(stream, b"hello")
        client.until(lambda: client.data[stream] == b"hello")
        client.close()


@pytest.mark.parametrize("protocol", ["v4.channel.k8s.io", "v4.base64.channel.k8s.io"])
def test_channels_one_connection_a_port(server: StreamingServer, protocol: str) -> None:
    def greet(sock: socket.socket) -> None:
        sock.sendall(b"got " + sock.recv(100))

    nobody = free_port()
    with listening(greet) as port:
        client = ChannelForwardClient(server.url(ForwardRequest("p", (port, nobody))), protocol)
        client.channels.send(0, b"hello")
        client.until_closed()
        assert [client.port_of(channel) for channel in range(4)] == [port, port, nobody, nobody]
        assert client.received[0][2:] == b"got hello"
        assert client.received[1][2:] == b""
        assert b"refused" in client.received[3][2:]
