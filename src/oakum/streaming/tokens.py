# SPDX-License-Identifier: Apache-2.0
"""Tokens: each opens one stream once, within a minute, and nobody can guess it.

A URL goes to whoever asked over the CRI socket; anybody on the machine may connect to the port, so the token is
the permission. Thread-safe. Owns no time: `now` is given.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from typing import Final

from oakum.errors import ResourceExhausted
from oakum.streaming.requests import Request

TTL_S: Final = 60.0
MAX_TOKENS: Final = 1000
_TOKEN_BYTES: Final = 24


class Tokens:
    """The tokens that were given out and not used."""

    def __init__(self, *, ttl_s: float = TTL_S, limit: int = MAX_TOKENS) -> None:
        self._ttl_s = ttl_s
        self._limit = limit
        self._lock = threading.Lock()
        self._requests: OrderedDict[str, tuple[float, Request]] = OrderedDict()

    def give(self, request: Request, now: float) -> str:
        """A new token for the request.

        Raises:
            ResourceExhausted: too many are out; they run out by themselves.
        """
        with self._lock:
            self._forget_old(now)
            if len(self._requests) >= self._limit:
                raise ResourceExhausted(
                    "make stream",
                    "",
                    f"{self._limit} streams were asked for and not used within {self._ttl_s:g} s",
                    hint="use them, or wait",
                )
            token = secrets.token_urlsafe(_TOKEN_BYTES)
            self._requests[token] = (now + self._ttl_s, request)
            return token

    def redeem(self, token: str, now: float) -> Request | None:
        """The request behind a token, which is worth nothing afterwards; None if it is not (any more) known."""
        with self._lock:
            self._forget_old(now)
            found = self._requests.pop(token, None)
            return found[1] if found is not None else None

    def _forget_old(self, now: float) -> None:
        # all live equally long: the oldest are first
        while self._requests and next(iter(self._requests.values()))[0] <= now:
            self._requests.popitem(last=False)
