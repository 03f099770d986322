# SPDX-License-Identifier: Apache-2.0
"""Which protocol a stream will speak: what the client proposes, against what there is for this kind of stream.

    SPDY/3.1    exec, attach   channel.k8s.io and v2, v3, v4 of it      X-Stream-Protocol-Version
                port-forward   portforward.k8s.io
    WebSocket   exec, attach   channel.k8s.io, v4, v5; base64, v4       Sec-WebSocket-Protocol
                port-forward   SPDY/3.1+portforward.k8s.io (a tunnel); v4 and v4.base64 channels

A client that names no sub-protocol gets the oldest, as ever. The client's order decides.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from oakum.streaming.http import Headers, HttpRequest, Refusal, websocket_accept

TUNNEL: Final = "SPDY/3.1+portforward.k8s.io"
_FORWARD: Final = "portforward.k8s.io"
_SPDY: Final = "SPDY/3.1"
_VERSION_HEADER: Final = "X-Stream-Protocol-Version"


class Protocol(NamedTuple):
    """What is spoken after the switch; `version` is that of the channels, 0 for the streams of a port-forward."""

    carrier: Literal["spdy", "websocket"]
    name: str
    version: int
    base64: bool = False


_SPDY_COMMAND: Final = {
    f"{prefix}channel.k8s.io": Protocol("spdy", f"{prefix}channel.k8s.io", version)
    for prefix, version in (("v4.", 4), ("v3.", 3), ("v2.", 2), ("", 1))
}
_SPDY_FORWARD: Final = {_FORWARD: Protocol("spdy", _FORWARD, 0)}
_V4_CHANNELS: Final = {
    "v4.channel.k8s.io": Protocol("websocket", "v4.channel.k8s.io", 4),
    "v4.base64.channel.k8s.io": Protocol("websocket", "v4.base64.channel.k8s.io", 4, base64=True),
}
_WEBSOCKET_COMMAND: Final = {
    "v5.channel.k8s.io": Protocol("websocket", "v5.channel.k8s.io", 5),
    **_V4_CHANNELS,
    "channel.k8s.io": Protocol("websocket", "channel.k8s.io", 1),
    "base64.channel.k8s.io": Protocol("websocket", "base64.channel.k8s.io", 1, base64=True),
}
_WEBSOCKET_FORWARD: Final = {TUNNEL: Protocol("websocket", TUNNEL, 0), **_V4_CHANNELS}


class Choice(NamedTuple):
    """The protocol, and the headers of the answer that switches to it."""

    protocol: Protocol
    headers: Headers


def negotiate(request: HttpRequest, *, forward: bool) -> Choice:
    """The protocol for a port-forward, or for an exec or attach.

    Raises:
        Refusal: the request asks for no switch, or for protocols that there are not.
    """
    switch = "upgrade" in {word.lower() for word in request.words("connection")}
    upgrades = {word.lower() for word in request.words("upgrade") if switch}
    if "websocket" in upgrades:
        return _websocket(request, _WEBSOCKET_FORWARD if forward else _WEBSOCKET_COMMAND, forward=forward)
    if _SPDY.lower() in upgrades:
        return _spdy(request, _SPDY_FORWARD if forward else _SPDY_COMMAND, forward=forward)
    raise Refusal(
        400,
        f"an upgrade to {_SPDY} or websocket is needed",
        [("Upgrade", f"{_SPDY}, websocket"), ("Connection", "Upgrade")],
    )


def _spdy(request: HttpRequest, known: dict[str, Protocol], *, forward: bool) -> Choice:
    proposed = request.words(_VERSION_HEADER.lower())
    headers = [("Connection", "Upgrade"), ("Upgrade", _SPDY)]
    if not proposed:
        return Choice(known[_FORWARD if forward else "channel.k8s.io"], headers)
    chosen = next((known[name] for name in proposed if name in known), None)
    if chosen is None:
        accepted = [("X-Accepted-Stream-Protocol-Versions", name) for name in known]
        raise Refusal(403, f"none of the protocols {', '.join(proposed)} is known", accepted)
    return Choice(chosen, [*headers, (_VERSION_HEADER, chosen.name)])


def _websocket(request: HttpRequest, known: dict[str, Protocol], *, forward: bool) -> Choice:
    if request.method != "GET":
        raise Refusal(405, "a WebSocket begins with GET", [("Allow", "GET")])
    accept = websocket_accept(request)
    headers = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Accept", accept)]
    proposed = request.words("sec-websocket-protocol")
    if not proposed:
        return Choice(known["v4.channel.k8s.io" if forward else "channel.k8s.io"], headers)
    chosen = next((known[name] for name in proposed if name in known), None)
    if chosen is None:
        raise Refusal(
            403, f"none of the protocols {', '.join(proposed)} is known; there are {', '.join(known)}"
        )
    return Choice(chosen, [*headers, ("Sec-WebSocket-Protocol", chosen.name)])
