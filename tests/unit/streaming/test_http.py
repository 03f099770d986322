# SPDX-License-Identifier: Apache-2.0
"""The request that a stream begins with, and which protocol comes of it."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.streaming.http import MAX_REQUEST_BYTES, HttpRequest, HttpUpgrade, Refusal, websocket_accept
from oakum.streaming.negotiate import TUNNEL, Choice, negotiate

KEY = base64.b64encode(b"0123456789abcdef").decode()
WEBSOCKET = (
    ("connection", "keep-alive, Upgrade"),
    ("upgrade", "WebSocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", KEY),
)
SPDY = (("connection", "Upgrade"), ("upgrade", "SPDY/3.1"))


def request(*headers: tuple[str, str], method: str = "GET") -> HttpRequest:
    return HttpRequest(method, "/exec/x", headers)


def chosen(*headers: tuple[str, str], forward: bool = False, method: str = "GET") -> Choice:
    return negotiate(request(*headers, method=method), forward=forward)


def refused(*headers: tuple[str, str], forward: bool = False, method: str = "GET") -> Refusal:
    with pytest.raises(Refusal) as caught:
        chosen(*headers, forward=forward, method=method)
    return caught.value


def test_a_request_in_pieces_and_what_follows_it() -> None:
    upgrade = HttpUpgrade()
    text = b"POST /exec/abc?x=1 HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
    text += (
        b"X-Stream-Protocol-Version: v4.channel.k8s.io\r\nX-Stream-Protocol-Version: v3.channel.k8s.io, x\r\n"
    )
    text += b"Content-Length: 0\r\n\r\n"
    for at in range(len(text) - 1):
        assert upgrade.feed(text[at : at + 1]) is None
    found = upgrade.feed(text[-1:] + b"\x80\x03more")
    assert found is not None
    assert (found.method, found.path) == ("POST", "/exec/abc?x=1")
    assert found.words("x-stream-protocol-version") == ["v4.channel.k8s.io", "v3.channel.k8s.io", "x"]
    answer = upgrade.switch([("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")])
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert upgrade.trailing() == b"\x80\x03more"


@given(st.binary(min_size=1, max_size=200))
def test_any_bytes_are_a_request_or_not_yet_or_refused(data: bytes) -> None:
    upgrade, refusal = HttpUpgrade(), None
    try:
        upgrade.feed(data)
    except Refusal as error:
        refusal = error
    if refusal is not None:
        assert upgrade.refuse(refusal).startswith(b"HTTP/1.1 4")


def test_a_request_without_end_and_one_with_a_body_are_refused() -> None:
    with pytest.raises(Refusal) as caught:
        HttpUpgrade().feed(b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * (MAX_REQUEST_BYTES + 1))
    assert caught.value.status == 431
    head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n"
    with pytest.raises(Refusal) as caught:
        HttpUpgrade().feed(head + b"x" * (MAX_REQUEST_BYTES + 1))
    assert caught.value.status == 413


def test_a_refusal_says_why_in_text() -> None:
    upgrade = HttpUpgrade()
    upgrade.feed(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    answer = upgrade.refuse(Refusal(404, "no such stream", [("X-Y", "z")]))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 ")
    assert b"X-Y: z" in head
    assert body == b"no such stream\n"


def test_the_key_of_the_rfc_gets_the_answer_of_the_rfc() -> None:
    asked = request(("sec-websocket-version", "13"), ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="))
    assert websocket_accept(asked) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ((("sec-websocket-key", KEY),), 426),
        ((("sec-websocket-version", "12"), ("sec-websocket-key", KEY)), 426),
        ((("sec-websocket-version", "13"),), 400),
        ((("sec-websocket-version", "13"), ("sec-websocket-key", "short")), 400),
        ((("sec-websocket-version", "13"), ("sec-websocket-key", "YWJj")), 400),
        ((("sec-websocket-version", "13"), ("sec-websocket-key", "\xe9" * 24)), 400),
    ],
)
def test_a_websocket_without_its_headers_is_refused(
    headers: tuple[tuple[str, str], ...], status: int
) -> None:
    assert refused(("connection", "upgrade"), ("upgrade", "websocket"), *headers).status == status


@pytest.mark.parametrize(
    ("proposed", "name", "version", "base64_form"),
    [
        (["v5.channel.k8s.io", "v4.channel.k8s.io"], "v5.channel.k8s.io", 5, False),
        (["v4.channel.k8s.io, channel.k8s.io"], "v4.channel.k8s.io", 4, False),
        (["unknown", "v4.base64.channel.k8s.io"], "v4.base64.channel.k8s.io", 4, True),
        (["channel.k8s.io"], "channel.k8s.io", 1, False),
        (["base64.channel.k8s.io"], "base64.channel.k8s.io", 1, True),
    ],
)
def test_websocket_sub_protocols(proposed: list[str], name: str, version: int, base64_form: bool) -> None:
    protocol, headers = chosen(*WEBSOCKET, *(("sec-websocket-protocol", p) for p in proposed))
    assert protocol == ("websocket", name, version, base64_form)
    assert ("Sec-WebSocket-Protocol", name) in headers


@pytest.mark.parametrize(
    ("proposed", "name", "version"),
    [
        (["v4.channel.k8s.io", "v3.channel.k8s.io"], "v4.channel.k8s.io", 4),
        (["v9.channel.k8s.io", "v2.channel.k8s.io", "v4.channel.k8s.io"], "v2.channel.k8s.io", 2),
        (["channel.k8s.io"], "channel.k8s.io", 1),
    ],
)
def test_spdy_versions_are_chosen_in_the_clients_order(proposed: list[str], name: str, version: int) -> None:
    headers = tuple(("x-stream-protocol-version", p) for p in proposed)
    protocol, answer = chosen(*SPDY, *headers, method="POST")
    assert (protocol.carrier, protocol.version) == ("spdy", version)
    assert ("X-Stream-Protocol-Version", name) in answer


def test_port_forward_has_protocols_of_its_own() -> None:
    spdy = chosen(*SPDY, ("x-stream-protocol-version", "portforward.k8s.io"), forward=True)
    assert spdy.protocol[:3] == ("spdy", "portforward.k8s.io", 0)
    tunnel = chosen(*WEBSOCKET, ("sec-websocket-protocol", TUNNEL), forward=True)
    assert tunnel.protocol[:3] == ("websocket", TUNNEL, 0)
    channels = chosen(*WEBSOCKET, ("sec-websocket-protocol", "v4.base64.channel.k8s.io"), forward=True)
    assert channels.protocol == ("websocket", "v4.base64.channel.k8s.io", 4, True)
    assert refused(*WEBSOCKET, ("sec-websocket-protocol", "v5.channel.k8s.io"), forward=True).status == 403
    assert refused(*SPDY, ("x-stream-protocol-version", "v4.channel.k8s.io"), forward=True).status == 403


def test_who_names_no_protocol_gets_the_oldest() -> None:
    assert chosen(*SPDY).protocol.version == 1
    assert chosen(*WEBSOCKET).protocol.version == 1
    assert not [h for h in chosen(*WEBSOCKET).headers if h[0] == "Sec-WebSocket-Protocol"]
    assert chosen(*SPDY, forward=True).protocol.name == "portforward.k8s.io"
    assert chosen(*WEBSOCKET, forward=True).protocol.name == "v4.channel.k8s.io"


def test_a_refusal_names_what_there_is() -> None:
    unknown = refused(*SPDY, ("x-stream-protocol-version", "v9.channel.k8s.io"))
    assert unknown.status == 403
    assert ("X-Accepted-Stream-Protocol-Versions", "v4.channel.k8s.io") in unknown.headers
    assert refused().status == 400
    assert refused(("upgrade", "websocket")).status == 400  # without Connection: Upgrade
    assert refused(("connection", "upgrade"), ("upgrade", "h2c")).status == 400
    assert refused(*WEBSOCKET, method="POST").status == 405
