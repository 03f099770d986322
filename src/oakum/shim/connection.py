# SPDX-License-Identifier: Apache-2.0
"""The serving side of one client: requests in, answers out, never blocking on the client.

One request is served at a time; a client that vanishes is noticed also while its request is under way
(`when_gone`), and when its answer cannot be delivered any more. Owns the socket until `hand_over`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Final

from oakum.errors import Internal, InvalidArgument, OakumError
from oakum.linux import sockets
from oakum.shim import wire
from oakum.shim.loop import Loop, report

# What a client may send ahead while its request is served; honest ones send nothing.
_AHEAD_BYTES: Final = 64 << 10

Handler = Callable[["Connection", dict[str, Any], list[int]], None]


class Connection:
    """One client. `handler` gets each request and answers now or later with `answer` or `fail`."""

    def __init__(
        self, loop: Loop, sock: sockets.Socket, handler: Handler, closed: Callable[[Connection], None]
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._handler = handler
        self._closed = closed
        self._decoder = sockets.FrameDecoder()
        self._out = memoryview(b"")
        self._out_fds: list[int] = []
        self._ahead_bytes = 0
        self._open = True
        self.busy = False
        self.when_gone: Callable[[], None] | None = None
        sock.settimeout(0)
        loop.watch(sock.fileno(), read=self._readable)

    @property
    def open(self) -> bool:
        """Whether the client is still there as far as is known."""
        return self._open

    @property
    def socket(self) -> sockets.Socket:
        """The socket, lent."""
        return self._sock

    def answer(self, value: Any, fds: Sequence[int] = ()) -> None:
        """Tell the client of success; `fds` are duplicated."""
        self._send(wire.encode_answer(value), fds)

    def fail(self, error: OakumError) -> None:
        """Tell the client of failure."""
        self._send(wire.encode_error(error), ())

    def close(self) -> None:
        """End the connection; tells `when_gone` if a request is under way."""
        if not self._open:
            return
        self._loop.watch(self._sock.fileno())
        self._release()
        self._sock.close()
        gone, self.when_gone = self.when_gone, None
        if gone is not None:
            gone()

    def hand_over(self) -> tuple[sockets.Socket, bytes]:
        """Give the socket away, with what was received but not used; the answer must have been sent."""
        self._loop.watch(self._sock.fileno())
        rest = self._decoder.rest()
        self._release()
        return self._sock, rest

    def forget(self) -> None:
        """Close the descriptors only: for a forked child that shares the loop with its parent."""
        self._open = False
        self._decoder.close()
        self._sock.close()

    def keep_only_socket(self) -> sockets.Socket:
        """The socket, for the forked child that serves this request from now on."""
        self._open = False
        self._decoder.close()
        return self._sock

    def _release(self) -> None:
        self._open = False
        self._decoder.close()
        sockets.close_all(self._out_fds)
        self._out_fds = []
        self._closed(self)

    def _readable(self) -> None:
        try:
            data, fds = sockets.receive_with_fds(self._sock)
        except BlockingIOError:
            return
        except OSError:  # reset by the peer, or too many descriptors: of no use any more
            self.close()
            return
        if not data:
            self.close()
            return
        self._decoder.feed(data, fds)
        self._ahead_bytes += len(data)
        if self.busy:
            if self._ahead_bytes > _AHEAD_BYTES:
                self.close()
            return
        self._serve()

    def _serve(self) -> None:
        while self._open and not self.busy:
            try:
                found = self._decoder.next()
            except sockets.FrameTooLarge:
                self.close()
                return
            if found is None:
                return
            payload, fds = found
            self.busy = True
            self._ahead_bytes = 0
            self._serve_one(payload, fds)

    def _serve_one(self, payload: bytes, fds: list[int]) -> None:
        try:
            self._handler(self, wire.decode(payload), fds)
        except OakumError as error:
            self.fail(error)
        except (KeyError, TypeError, ValueError) as error:
            report()
            self.fail(InvalidArgument("read request", "", f"{type(error).__name__}: {error}"))
        except OSError as error:
            report()
            self.fail(Internal("serve request", str(error.filename or ""), str(error)))
        finally:
            sockets.close_all(fds)

    def _send(self, payload: bytes, fds: Sequence[int]) -> None:
        if not self._open:
            return
        self._out = memoryview(sockets.frame(payload))
        self._out_fds = [os.dup(fd) for fd in fds]
        self._writable()

    def _writable(self) -> None:
        try:
            while self._out:
                sent = sockets.send_with_fds(self._sock, self._out, self._out_fds)
                self._out = self._out[sent:]
                sockets.close_all(self._out_fds)
                self._out_fds = []
        except BlockingIOError:
            self._loop.watch(self._sock.fileno(), read=self._readable, write=self._writable)
            return
        except OSError:  # the client has gone, and does not know what became of its request
            self.close()
            return
        self.when_gone = None
        self.busy = False
        self._loop.watch(self._sock.fileno(), read=self._readable)
        # Requests that came ahead are served from a fresh stack, not from inside the answer to this one.
        if self._ahead_bytes:
            self._loop.later(0, self._serve)
