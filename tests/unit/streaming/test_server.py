# SPDX-License-Identifier: Apache-2.0
"""The server itself: tokens, refusals, bounds, TLS, silence, and its end."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from oakum.errors import InvalidArgument, ResourceExhausted, SystemFailure
from oakum.streaming.requests import AttachRequest, ExecRequest, ForwardRequest, Request, Wanted
from oakum.streaming.server import StreamingConfig, StreamingServer
from oakum.streaming.tokens import Tokens
from tests.support.local_source import LocalSource
from tests.support.patience import eventually
from tests.support.streams import Answer, Command, Wire, spdy_headers, websocket_headers

ECHO = ExecRequest("c", ("echo", "hi"), Wanted(stdout=True))


def asked(url: str, method: str = "POST", *headers: str) -> Answer:
    wire = Wire(url)
    try:
        return wire.ask(method, *(headers or spdy_headers("v4.channel.k8s.io")))
    finally:
        wire.close()


def test_it_listens_on_loopback_only(server: StreamingServer) -> None:
    assert server.base_url.startswith("http://127.0.0.1:")
    port = int(server.base_url.rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=5)


def test_a_url_answers_once(server: StreamingServer) -> None:
    url = server.url(ECHO)
    assert Command(url, "spdy4", stderr=False).finish().stdout == b"hi\n"
    assert asked(url).status == 404


def test_a_token_is_for_one_kind_of_stream_and_is_used_up_by_a_wrong_one(server: StreamingServer) -> None:
    url = server.url(ECHO)
    assert asked(url.replace("/exec/", "/attach/")).status == 404
    assert asked(url).status == 404
    assert asked(f"{server.base_url}/exec/guess").status == 404
    assert asked(f"{server.base_url}/").status == 404
    assert asked(server.url(ForwardRequest("p")).replace("portforward", "exec")).status == 404


def test_requests_that_are_no_streams_are_refused(server: StreamingServer) -> None:
    assert asked(server.url(ECHO), "DELETE").status == 405
    assert asked(server.url(ECHO), "GET", "Accept: text/html").status == 400
    assert asked(server.url(ECHO), "POST", *spdy_headers("v9.channel.k8s.io")).status == 403
    assert asked(server.url(ECHO), "GET", *websocket_headers("v9.channel.k8s.io")).status == 403
    with socket.create_connection(("127.0.0.1", int(server.base_url.rpartition(":")[2]))) as sock:
        sock.sendall(b"\x16\x03\x01 not HTTP\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 400 ")


class Aging(Tokens):
    """Tokens of whom a test says how much time has gone by."""

    gone_by_s = 0.0

    def give(self, request: Request, now: float) -> str:
        return super().give(request, now + self.gone_by_s)

    def redeem(self, token: str, now: float) -> Request | None:
        return super().redeem(token, now + self.gone_by_s)


def test_tokens_run_out_and_there_are_only_so_many(source: LocalSource) -> None:
    tokens = Aging(ttl_s=600.0, limit=2)
    with StreamingServer(source, tokens=tokens) as server:
        urls = [server.url(ECHO), server.url(ECHO)]
        with pytest.raises(ResourceExhausted):
            server.url(ECHO)
        tokens.gone_by_s = 600.0
        assert asked(urls[0]).status == 404
        assert Command(server.url(ECHO), "spdy4", stderr=False).finish().exit_code == 0


def test_idle_connections_keep_nobody_out_and_are_refused_politely(source: LocalSource) -> None:
    with StreamingServer(source, max_waiting=5) as server:
        port = int(server.base_url.rpartition(":")[2])
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]
        assert Command(server.url(ECHO), "spdy4", stderr=False).finish().exit_code == 0
        refused = 0
        for sock in idle[:290]:
            sock.settimeout(60)
            refused += sock.recv(1000).startswith(b"HTTP/1.1 503 ")
        assert refused == 290
        for sock in idle:
            sock.close()


def test_streams_beyond_the_limit_are_refused_until_one_ends(source: LocalSource) -> None:
    with StreamingServer(source, max_streams=2) as server:
        open_ones = [
            Command(
                server.url(ExecRequest("c", ("cat",), Wanted(stdin=True))),
                "spdy4",
                stdin=True,
                stdout=False,
                stderr=False,
            )
            for _ in range(2)
        ]
        for client in open_ones:
            client.step()
        assert asked(server.url(ECHO)).status == 503
        open_ones[0].end_input()
        assert open_ones[0].finish().exit_code == 0
        # its place is free a moment after its last word
        eventually(lambda: asked(server.url(ECHO)).status == 101)
        open_ones[1].close()


@pytest.mark.parametrize("protocol", ["spdy4", "v5.channel.k8s.io"])
def test_a_stream_on_which_nothing_moves_is_ended(source: LocalSource, protocol: str) -> None:
    with StreamingServer(source, StreamingConfig(idle_timeout_s=1.6)) as server:
        script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 0.2; echo $i; done; exec sleep 60"
        client = Command(
            server.url(ExecRequest("c", ("sh", "-c", script), Wanted(stdout=True))), protocol, stderr=False
        )
        done = client.finish()
        # it moved for longer than the limit, and then it did not
        assert done.stdout == b"1\n2\n3\n4\n5\n6\n7\n8\n9\n"
        assert "nothing moved" in done.status["message"]


@pytest.mark.parametrize("protocol", ["spdy4", "v5.channel.k8s.io"])
def test_streams_hear_that_the_server_stops(source: LocalSource, protocol: str) -> None:
    server = StreamingServer(source)
    server.start()
    request = ExecRequest("c", ("sh", "-c", "echo ready; exec sleep 60"), Wanted(stdout=True))
    client = Command(server.url(request), protocol, stderr=False)
    client.until(lambda: client.received[1])
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    assert "server stops" in client.finish().status["message"]
    stopping.join(60)
    assert not stopping.is_alive()
    server.stop()  # a second time is nothing


def test_rubbish_after_the_switch_ends_that_stream_only(server: StreamingServer) -> None:
    for headers, rubbish in (
        (spdy_headers("v4.channel.k8s.io"), b"\x80\x03\x00\x01\x00\xff\xff\xff" * 10),
        (websocket_headers("v4.channel.k8s.io"), b"\xff" * 100),
    ):
        wire = Wire(server.url(AttachRequest("c", Wanted(stdin=True))))
        assert wire.ask("GET", *headers).status == 101
        wire.sock.sendall(rubbish)
        wire.sock.settimeout(60)
        while True:
            try:
                if not wire.sock.recv(1000):
                    break
            except ConnectionResetError:
                break
        wire.close()
    assert Command(server.url(ECHO), "spdy4", stderr=False).finish().exit_code == 0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    directory = tmp_path_factory.mktemp("tls")
    cert, key = str(directory / "cert.pem"), str(directory / "key.pem")
    subject = ["-subj", "/CN=oakum", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subprocess.run([*command, *subject, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


@pytest.mark.parametrize("protocol", ["spdy4", "v5.channel.k8s.io"])
def test_streams_in_tls(source: LocalSource, certificate: tuple[str, str], protocol: str) -> None:
    cert, key = certificate
    with StreamingServer(source, StreamingConfig(tls_cert=cert, tls_key=key)) as server:
        assert server.base_url.startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cafile=cert)
        request = ExecRequest("c", ("sh", "-c", "head -c 3000000 /dev/zero; exit 8"), Wanted(stdout=True))
        done = Command(server.url(request), protocol, stderr=False, tls=context).finish()
        assert (len(done.stdout), done.exit_code) == (3_000_000, 8)
        # who speaks no TLS is not answered
        plain = server.url(ECHO).replace("https", "http")
        with pytest.raises((AssertionError, ConnectionResetError)):
            asked(plain)


def test_a_configuration_that_cannot_be_is_refused(
    source: LocalSource, certificate: tuple[str, str], tmp_path: Path
) -> None:
    for config, cause in (
        (StreamingConfig(address="localhost"), "not an IP address"),
        (StreamingConfig(tls_cert=certificate[0]), "without the other"),
        (StreamingConfig(tls_cert=certificate[0], tls_key=str(tmp_path / "none")), "No such file"),
        (StreamingConfig(tls_cert=certificate[1], tls_key=certificate[1]), "PEM"),
    ):
        with pytest.raises(InvalidArgument, match=cause):
            StreamingServer(source, config)


def test_an_address_in_use_is_told(source: LocalSource, server: StreamingServer) -> None:
    port = int(server.base_url.rpartition(":")[2])
    with pytest.raises(SystemFailure, match="in use"):
        StreamingServer(source, StreamingConfig(port=port)).start()


@pytest.mark.parametrize(
    ("address", "base"), [("0.0.0.0", "http://127.0.0.1:"), ("::1", "http://[::1]:"), ("::", "http://[::1]:")]
)
def test_urls_name_an_address_that_the_kubelet_can_reach(
    source: LocalSource, address: str, base: str
) -> None:
    with StreamingServer(source, StreamingConfig(address=address)) as server:
        assert server.base_url.startswith(base)
        assert Command(server.url(ECHO), "spdy4", stderr=False).finish().exit_code == 0
