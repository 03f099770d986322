# SPDX-License-Identifier: Apache-2.0
"""Speaks to one registry: authenticated requests with retries and redirects, and nothing about images.

Plain HTTP only for loopback and hosts named insecure, and only where TLS is not spoken there. Credentials go to the
registry's own origin and to the token server that it names, never along a redirect.
Source: OCI distribution-spec v1.1; RFC 9110 (Retry-After, Range).
"""

from __future__ import annotations

import asyncio
import email.utils
import functools
import ipaddress
import json
import os
import random
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple, Self, cast
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from oakum.errors import (
    DataLoss,
    NotFound,
    OakumError,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from oakum.images.auth import Authenticator, TokenRequest, parse_challenges
from oakum.images.credentials import Credentials
from oakum.images.reference import DEFAULT_DOMAIN

_HUB_HOST: Final = "registry-1.docker.io"
_USER_AGENT: Final = "oakum"
_ATTEMPTS: Final = 5
_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 30.0
_RETRY_AFTER_LIMIT_S: Final = 60.0
_REDIRECTS: Final = 6
_ERROR_BODY_BYTES: Final = 8192
_TOKEN_BODY_BYTES: Final = 1 << 20
_READ_BUFFER_BYTES: Final = 1 << 20
_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, connect=60, sock_connect=20, sock_read=60)
_REDIRECT_STATUSES: Final = (301, 302, 303, 307, 308)

# Errors of the line, after which the same request may succeed
LINE_ERRORS: Final = (aiohttp.ClientError, TimeoutError, ConnectionError)

Body = Callable[[], Any]


def tls_context() -> ssl.SSLContext:
    """The system's certificate authorities; one for all registries until the host's change, for it weighs megabytes."""
    paths = ssl.get_default_verify_paths()
    seen: list[tuple[str, int]] = []
    for path in (paths.cafile, paths.capath):
        try:
            seen.append((path or "", os.stat(path).st_mtime_ns if path else 0))
        except OSError:
            seen.append((path or "", 0))  # none there: OpenSSL passes over it, too
    return _tls_context(tuple(seen))


@functools.lru_cache(maxsize=1)
def _tls_context(_authorities: tuple[tuple[str, int], ...]) -> ssl.SSLContext:
    return ssl.create_default_context()


class Interrupted(Exception):
    """A request that must not simply be repeated broke off in the middle; `failure` is the error to tell."""

    def __init__(self, failure: OakumError) -> None:
        super().__init__(str(failure))
        self.failure = failure


class _Task(NamedTuple):
    """One request, as often as it takes."""

    method: str
    address: str
    scope: str
    operation: str
    subject: str
    headers: dict[str, str]
    body: Body | None
    accept: Collection[int]
    once: bool


class RegistryClient:
    """Requests to one registry. Use as an async context manager, inside one event loop.

    `scopes` of requests are the token specification's: "repository:NAME:pull".
    """

    def __init__(
        self,
        domain: str,
        credentials: Credentials | None,
        *,
        insecure_hosts: Collection[str] = (),
        pause: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        self.host = _HUB_HOST if domain == DEFAULT_DOMAIN else domain
        self._may_be_plain = domain in insecure_hosts or is_loopback(domain)
        self._scheme = "https"
        self._scheme_known = not self._may_be_plain
        self._auth = Authenticator(credentials, self._ask_token)
        self._auth_lock = asyncio.Lock()
        self._scheme_lock = asyncio.Lock()
        self._pause = pause
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # Reading the system's certificate authorities takes some 10 ms; a thread hides it behind the name look-up.
        context = await asyncio.to_thread(tls_context)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit_per_host=16, ssl=context),
            cookie_jar=aiohttp.DummyCookieJar(),
            # Digests are of what is stored, so nothing may be packed for the way.
            headers={"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"},
            auto_decompress=False,
            read_bufsize=_READ_BUFFER_BYTES,
            timeout=_TIMEOUT,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def base(self) -> str:
        """The registry's origin."""
        return f"{self._scheme}://{self.host}"

    @asynccontextmanager
    async def open(
        self,
        method: str,
        address: str,
        *,
        scope: str,
        operation: str,
        subject: str,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        accept: Collection[int] = (200,),
        once: bool = False,
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """One request, repeated while that may help; the response has a status of `accept`.

        `address` is a path of the registry or a whole URL that it gave us; `body` makes the body anew for each try.
        With `once`, a request that broke off, or that the server failed at, is not repeated.

        Raises:
            Interrupted: only with `once`.
            NotFound, PermissionDenied, Unauthenticated, ResourceExhausted, Unavailable, DataLoss: by the last answer.
        """
        task = _Task(method, address, scope, operation, subject, dict(headers or {}), body, accept, once)
        response = await self._persist(task)
        try:
            yield response
        finally:
            # What was not read is cut off rather than downloaded for nothing.
            response.close() if not response.content.at_eof() else response.release()

    async def _persist(self, task: _Task) -> aiohttp.ClientResponse:
        answered = 0
        attempt = 0
        while True:
            attempt += 1
            used = self._auth.header(task.scope)
            try:
                response = await self._follow(task, used)
            except LINE_ERRORS as error:
                failure = unavailable(task.operation, task.subject, self.host, error)
                if attempt >= _ATTEMPTS or isinstance(error, aiohttp.ClientConnectorCertificateError):
                    raise failure from error
                if task.once:
                    raise Interrupted(failure) from error
                await self._pause(pause_before(attempt))
                continue
            if response.status in task.accept:
                return response
            try:
                if response.status == 401 and answered < 2 and self._is_own(response.url):
                    answered += 1
                    attempt -= 1
                    await self._authenticate(response, task, used)
                    continue
                failure, wait_s = await self._judge(response, task.operation, task.subject)
            finally:
                response.close()
            if wait_s is None or attempt >= _ATTEMPTS:
                raise failure
            if task.once and isinstance(failure, Unavailable):
                raise Interrupted(failure)
            await self._pause(max(wait_s, pause_before(attempt)))

    async def _follow(self, task: _Task, authorization: str) -> aiohttp.ClientResponse:
        await self._find_scheme()
        url = _led_to(self.base, task.address, task)
        for _ in range(_REDIRECTS):
            sent = dict(task.headers)
            if authorization and self._is_own(url):
                sent["Authorization"] = authorization
            response = await self._send(task.method, url, sent, task.body)
            if response.status not in _REDIRECT_STATUSES or "Location" not in response.headers:
                return response
            response.close()
            url = _led_to(str(url), response.headers["Location"], task)
        raise Unavailable(task.operation, task.subject, f"more than {_REDIRECTS} redirects in a row")

    async def _send(
        self, method: str, url: URL, headers: dict[str, str], body: Body | None
    ) -> aiohttp.ClientResponse:
        assert self._session is not None
        return await self._session.request(
            method,
            url,
            headers=headers,
            data=body() if body is not None else None,
            allow_redirects=False,
            proxy=None if is_loopback(self.host) else proxy_for(url),
        )

    async def _find_scheme(self) -> None:
        """Whether a loopback or insecure host speaks TLS: asked once."""
        if self._scheme_known:
            return
        async with self._scheme_lock:
            if self._scheme_known:
                return
            try:
                response = await self._send("GET", URL(f"https://{self.host}/v2/"), {}, None)
                response.close()
            except aiohttp.ClientConnectorCertificateError:
                pass  # it does; that its certificate is not trusted is said by the request itself
            except LINE_ERRORS:
                self._scheme = "http"
            self._scheme_known = True

    def _is_own(self, url: URL) -> bool:
        own = URL(self.base)
        return (url.scheme, url.host, url.port) == (own.scheme, own.host, own.port)

    async def _authenticate(self, response: aiohttp.ClientResponse, task: _Task, used: str) -> None:
        header = ", ".join(response.headers.getall("WWW-Authenticate", []))
        async with self._auth_lock:
            try:
                challenges = parse_challenges(header)
                await self._auth.answer(challenges, task.scope, used, secure=self._scheme == "https")
            except OakumError as error:
                raise type(error)(task.operation, task.subject, error.cause, hint=error.hint) from error

    async def _ask_token(self, request: TokenRequest) -> bytes:
        url = URL(request.url, encoded=True)
        host = url.host or ""
        headers = {"Authorization": request.authorization} if request.authorization else {}
        form = request.form
        body = (lambda: aiohttp.FormData(form)) if form is not None else None
        attempt = 0
        while True:
            attempt += 1
            try:
                response = await self._send("POST" if body else "GET", url, headers, body)
                try:
                    if response.status == 200:
                        return await read_bounded(response, _TOKEN_BODY_BYTES, "authenticate", host)
                    failure, wait_s = await self._judge(response, "authenticate", host)
                finally:
                    response.close()
            except LINE_ERRORS as error:
                failure, wait_s = unavailable("authenticate", host, host, error), 0.0
            if response_is_refusal(failure):
                raise Unauthenticated("authenticate", host, failure.cause, hint=failure.hint)
            if wait_s is None or attempt >= _ATTEMPTS:
                raise failure
            await self._pause(max(wait_s, pause_before(attempt)))

    async def _judge(
        self, response: aiohttp.ClientResponse, operation: str, subject: str
    ) -> tuple[OakumError, float | None]:
        """The error that the answer means, and after how many seconds a retry may help; None: never."""
        status = response.status
        said = await _explanation(response)
        if status == 401:
            hint = "the repository may not exist, or needs credentials"
            return Unauthenticated(
                operation, subject, said or "the registry wants credentials", hint=hint
            ), None
        if status == 403:
            return PermissionDenied(operation, subject, said or "the registry says no"), None
        if status == 404:
            return NotFound(operation, subject, said or "the registry does not have it"), None
        if status == 429:
            wait_s = retry_after_s(response.headers.get("Retry-After", ""), time.time())
            limited = ResourceExhausted(
                operation,
                subject,
                said or "the registry counts too many requests",
                hint=f"try again in {wait_s:.0f} s"
                if wait_s
                else "try again later, or log in for a higher limit",
            )
            return limited, wait_s if wait_s <= _RETRY_AFTER_LIMIT_S else None
        cause = f"{self.host} answered {status}" + (f": {said}" if said else "")
        if status in (408, 425) or status >= 500:
            wait_s = retry_after_s(response.headers.get("Retry-After", ""), time.time())
            return Unavailable(operation, subject, cause), wait_s if wait_s <= _RETRY_AFTER_LIMIT_S else None
        return Unavailable(operation, subject, cause), None


def _led_to(base: str, location: str, task: _Task) -> URL:
    """Where the registry sends us from `base`. Raises DataLoss for what is no address, and for an open line behind TLS."""
    try:
        url = URL(urljoin(base, location), encoded=True)
        usable = (
            url.scheme in ("https", "http") and bool(url.host) and url.user is None and url.port is not None
        )
    except ValueError:
        usable = False
        url = URL()
    if not usable:
        raise DataLoss(task.operation, task.subject, f"the registry leads to no address: {location[:200]!r}")
    if base.startswith("https:") and url.scheme != "https":
        raise DataLoss(
            task.operation, task.subject, f"the registry leads to an open line: {location[:200]!r}"
        )
    return url


def proxy_for(url: URL) -> str | None:
    """The proxy that the environment names for an address. Not aiohttp's own look, which takes passwords from ~/.netrc, too."""
    if proxy_bypass(url.host or ""):
        return None
    proxy = getproxies().get(url.scheme, "")
    return (proxy if "://" in proxy else f"http://{proxy}") if proxy else None


def response_is_refusal(error: OakumError) -> bool:
    """Whether a token server's answer means that it does not accept us."""
    return isinstance(error, Unauthenticated | PermissionDenied)


def is_loopback(domain: str) -> bool:
    """Whether `domain` ("host[:port]") is this machine by name or number."""
    host = urlsplit(f"//{domain}").hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def retry_after_s(value: str, now_s: float) -> float:
    """The seconds that a Retry-After header asks for; 0 when it says nothing useful."""
    value = value.strip()
    if value.isdecimal() and value.isascii():
        return float(value[:9])
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError):
        return 0.0
    return max(0.0, moment.timestamp() - now_s)


def pause_before(attempt: int) -> float:
    """How long to wait after the failed try number `attempt`: longer each time, and never all clients at once."""
    return min(_FIRST_PAUSE_S * 2 ** (attempt - 1), _LONGEST_PAUSE_S) * random.uniform(0.75, 1.25)


def unavailable(operation: str, subject: str, host: str, error: Exception) -> Unavailable:
    """The error for a registry that does not answer, with what the line said."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = f"the certificate of {host} is not trusted: {error.certificate_error}"
        return Unavailable(operation, subject, cause, hint="add its certificate authority to the system's")
    if isinstance(error, TimeoutError):
        return Unavailable(operation, subject, f"{host} did not answer in time")
    return Unavailable(operation, subject, f"no answer from {host}: {str(error) or type(error).__name__}")


async def read_bounded(
    response: aiohttp.ClientResponse, limit_bytes: int, operation: str, subject: str
) -> bytes:
    """The whole body, if it is not longer than `limit_bytes`. Raises DataLoss."""
    chunks: list[bytes] = []
    total = 0
    async for chunk in response.content.iter_any():
        total += len(chunk)
        if total > limit_bytes:
            raise DataLoss(operation, subject, f"the answer is longer than {limit_bytes} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


async def _explanation(response: aiohttp.ClientResponse) -> str:
    """What the registry says about its error: the first message of the spec's error object."""
    try:
        body = await response.content.read(_ERROR_BODY_BYTES)
        document: Any = json.loads(body)
        first = cast("dict[str, Any]", document["errors"][0])
        return str(first.get("message") or first.get("code") or "")[:300]
    except (*LINE_ERRORS, ValueError, KeyError, IndexError, TypeError, RecursionError, AttributeError):
        return ""  # many errors carry no such object
