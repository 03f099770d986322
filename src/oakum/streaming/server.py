# SPDX-License-Identifier: Apache-2.0
"""The streaming server: an event loop in a thread of its own, a port that only answers to tokens.

    api/cri ── url(request) ─► token          client ── GET or POST /exec/TOKEN, upgrade ─► exec, attach or port-forward

Owns the listening socket, the connections and their bounds. Streams end with the server; containers do not.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple, Self

from oakum.errors import InvalidArgument, SystemFailure
from oakum.streaming.attach import serve_attach
from oakum.streaming.carrier import Plain, Tunnel
from oakum.streaming.channel_forward import ChannelForward
from oakum.streaming.command import command_streams
from oakum.streaming.conversation import Conversation, first_of
from oakum.streaming.dial import Dialer
from oakum.streaming.exec import serve_exec
from oakum.streaming.forward import Forward
from oakum.streaming.http import HttpRequest, HttpUpgrade, Refusal
from oakum.streaming.link import READ_BYTES, ClientGone, Link
from oakum.streaming.negotiate import Protocol, negotiate
from oakum.streaming.requests import KINDS, AttachRequest, ExecRequest, ForwardRequest, Request
from oakum.streaming.source import StreamSource
from oakum.streaming.tokens import Tokens

log = logging.getLogger(__name__)

MAX_STREAMS: Final = 1024
MAX_WAITING: Final = 256
"""Connections that have not asked for anything yet. One more, and the oldest must go: a client with a token asks at
once, so idle ones, however many there are, keep nobody out."""
_REQUEST_S: Final = 15.0
_THREADS: Final = 64
_BACKLOG: Final = 256
_STOP_S: Final = 5.0
# how long a refused client may take to read why
_REFUSED_S: Final = 1.0
_LATER: Final = (("Retry-After", "5"),)


class StreamingConfig(NamedTuple):
    """Where to listen, and how."""

    address: str = "127.0.0.1"
    port: int = 0
    tls_cert: str = ""
    tls_key: str = ""
    idle_timeout_s: float = 4 * 3600.0


class StreamingServer:
    """The server; `start` it (or enter it), ask it for URLs from any thread, `stop` it."""

    def __init__(
        self,
        source: StreamSource,
        config: StreamingConfig = StreamingConfig(),  # noqa: B008 - frozen
        *,
        tokens: Tokens | None = None,
        max_streams: int = MAX_STREAMS,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._source = source
        self._config = config
        self._tokens = tokens or Tokens()
        self._max_streams = max_streams
        self._max_waiting = max_waiting
        self._tls = _tls(config)
        self._base = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._stopping = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        self._waiting: dict[Link, asyncio.Timeout] = {}
        self._stream_count = 0

    # -- from other threads -------------------------------------------------------------------------------------

    @property
    def base_url(self) -> str:
        """What every URL begins with, such as "http://127.0.0.1:40000"."""
        return self._base

    def start(self) -> None:
        """Listen. Raises SystemFailure when that is not possible."""
        where = f"{self._config.address}:{self._config.port}"
        family = socket.AF_INET6 if ":" in self._config.address else socket.AF_INET
        try:
            listening = socket.create_server(
                (self._config.address, self._config.port), family=family, backlog=_BACKLOG
            )
        except OSError as error:
            raise SystemFailure.from_os_error(error, "listen for streams", where) from error
        # a client whose machine has gone is noticed some time
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._base = _base_url(self._config, listening.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._run, args=(self._loop, listening), name="streaming", daemon=True
        )
        self._thread.start()
        self._ready.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def url(self, request: Request) -> str:
        """A URL that answers to `request` once, within a minute.

        Raises:
            ResourceExhausted: too many URLs wait for their clients.
        """
        token = self._tokens.give(request, time.monotonic())
        return f"{self._base}/{KINDS[type(request)]}/{token}"

    def stop(self) -> None:
        """End every stream and the server."""
        if self._thread is not None and self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()

    # -- in the loop --------------------------------------------------------------------------------------------

    def _run(self, loop: asyncio.AbstractEventLoop, listening: socket.socket) -> None:
        asyncio.set_event_loop(loop)
        pool = ThreadPoolExecutor(_THREADS, "streaming")
        loop.set_default_executor(pool)
        try:
            loop.run_until_complete(self._serve(listening))
        finally:
            self._ready.set()
            # a call that still runs answers nobody any more
            pool.shutdown(wait=False, cancel_futures=True)
            listening.close()
            loop.close()

    async def _serve(self, listening: socket.socket) -> None:
        handshake_s = _REQUEST_S if self._tls else None
        server = await asyncio.start_server(
            self._connected,
            sock=listening,
            limit=READ_BYTES,
            ssl=self._tls,
            ssl_handshake_timeout=handshake_s,
        )
        self._ready.set()
        await self._stopping.wait()
        server.close()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=_STOP_S)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        link = Link(reader, writer, self._config.idle_timeout_s)
        try:
            await self._converse(link)
        except ClientGone as gone:
            log.debug("stream broke off", extra={"fields": {"error": str(gone)}})
        except asyncio.CancelledError:
            pass  # the server stops; asyncio would log a cancelled handler as an error
        except Exception:
            # the edge of the process: a bug in one stream must not end the others
            log.exception("stream failed by a bug")
        finally:
            self._connections.discard(task)
            await link.close()

    async def _converse(self, link: Link) -> None:
        upgrade, promised = HttpUpgrade(), None
        try:
            request = await self._request(link, upgrade)
            promised = self._redeem(request)
            choice = negotiate(request, forward=isinstance(promised, ForwardRequest))
            if self._stream_count >= self._max_streams:
                raise Refusal(503, f"{self._max_streams} streams are open already", _LATER)
        except Refusal as refusal:
            # anybody can knock without a token; that is not worth a line
            level = logging.INFO if promised else logging.DEBUG
            log.log(
                level, "stream refused", extra={"fields": {"status": refusal.status, "error": refusal.text}}
            )
            await link.send(upgrade.refuse(refusal))
            await link.linger(_REFUSED_S)
            return
        self._stream_count += 1
        try:
            await link.send(upgrade.switch(choice.headers))
            link.unread(upgrade.trailing())
            began = time.monotonic()
            await first_of(self._stream(link, promised, choice.protocol), link.until_idle())
        finally:
            self._stream_count -= 1
        fields = {"kind": KINDS[type(promised)], "id": promised[0], "protocol": choice.protocol.name}
        log.info("stream ended", extra={"fields": {**fields, "s": round(time.monotonic() - began, 3)}})
        await link.linger()

    async def _request(self, link: Link, upgrade: HttpUpgrade) -> HttpRequest:
        while len(self._waiting) >= self._max_waiting:
            oldest = next(iter(self._waiting))
            self._waiting.pop(oldest).reschedule(0)
        try:
            async with asyncio.timeout(_REQUEST_S) as patience:
                self._waiting[link] = patience
                while True:
                    data = await link.read()
                    request = upgrade.feed(data)
                    if request is not None:
                        return request
                    if not data:
                        raise ClientGone("it left before it asked for anything")
        except TimeoutError:
            if link not in self._waiting:
                raise Refusal(503, "too many connections wait", _LATER) from None
            raise Refusal(408, f"no request within {_REQUEST_S:g} s") from None
        finally:
            self._waiting.pop(link, None)

    def _redeem(self, request: HttpRequest) -> Request:
        if request.method not in ("GET", "POST"):
            raise Refusal(405, "a stream begins with GET or POST", [("Allow", "GET, POST")])
        kind, _, token = request.path.partition("?")[0].removeprefix("/").partition("/")
        promised = self._tokens.redeem(token, time.monotonic())
        if promised is None or KINDS[type(promised)] != kind:
            raise Refusal(404, "no such stream: its token is wrong, used, or has run out")
        return promised

    async def _stream(self, link: Link, promised: Request, protocol: Protocol) -> None:
        if isinstance(promised, ForwardRequest):
            dialer = Dialer(self._source, promised.sandbox_id)
            if protocol.version:
                await ChannelForward(link, protocol, promised.ports, dialer).serve()
            else:
                carrier = Plain() if protocol.carrier == "spdy" else Tunnel()
                await Forward(link, carrier, dialer).serve()
            return
        conversation = Conversation(link, command_streams(protocol, promised.wanted))
        if not await conversation.open():
            raise ClientGone("it did not open its streams")
        try:
            match promised:
                case ExecRequest():
                    await serve_exec(conversation, promised, self._source)
                case AttachRequest():
                    await serve_attach(conversation, link, promised, self._source)
        except asyncio.CancelledError:
            conversation.cut_short(
                "the server stops" if self._stopping.is_set() else "nothing moved for too long"
            )
            raise


def _base_url(config: StreamingConfig, port: int) -> str:
    address = ipaddress.ip_address(config.address)
    if address.is_unspecified:  # listens everywhere: the kubelet is on this machine
        address = ipaddress.ip_address("::1" if address.version == 6 else "127.0.0.1")
    host = f"[{address}]" if address.version == 6 else str(address)
    return f"{'https' if config.tls_cert else 'http'}://{host}:{port}"


def _tls(config: StreamingConfig) -> ssl.SSLContext | None:
    try:
        ipaddress.ip_address(config.address)
    except ValueError:
        raise InvalidArgument("listen for streams", repr(config.address), "not an IP address") from None
    if not config.tls_cert and not config.tls_key:
        return None
    if not config.tls_cert or not config.tls_key:
        raise InvalidArgument("listen for streams", "tls_cert, tls_key", "one is given without the other")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise InvalidArgument("listen for streams", config.tls_cert, f"{config.tls_key}: {error}") from error
    return context
