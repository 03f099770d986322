# SPDX-License-Identifier: Apache-2.0
"""Answers a registry's demand for credentials: basic, or a bearer token from the server that it names.

Pure parsing and the token's cache; requests are made by what `registry.py` hands in.
Source: RFC 9110, 11.6.1 "WWW-Authenticate"; distribution's token authentication specification.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple, cast
from urllib.parse import urlencode, urlsplit

from oakum.errors import DataLoss, Unauthenticated
from oakum.images.credentials import Credentials

_CLIENT_ID: Final = "oakum"
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110's word for a name
_SCHEME = re.compile(rf"\s*,*\s*({_TOKEN})(?=\s|,|$)")
_PARAMETER = re.compile(rf'\s*,*\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))')
_HEADER_LIMIT: Final = 8192


class Challenge(NamedTuple):
    """One way in that the registry offers: "basic" or "bearer" (lower case), and its parameters."""

    scheme: str
    parameters: Mapping[str, str]


class TokenRequest(NamedTuple):
    """What to ask a token server: GET with basic credentials, or POST of a form."""

    url: str
    form: dict[str, str] | None
    authorization: str


def parse_challenges(header: str) -> list[Challenge]:
    """The challenges of a WWW-Authenticate header; what cannot be read ends the list."""
    challenges: list[Challenge] = []
    text, position = header[:_HEADER_LIMIT], 0
    while match := _SCHEME.match(text, position):
        position = match.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(text, position):
            quoted = parameter[2]
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else parameter[3]
            parameters.setdefault(parameter[1].lower(), value)
            position = parameter.end()
        challenges.append(Challenge(match[1].lower(), parameters))
    return challenges


def token_request(
    challenge: Challenge, scope: str, credentials: Credentials | None, *, secure: bool
) -> TokenRequest:
    """What to ask for a token of `scope`; `secure` is whether the registry itself was asked over TLS.

    Raises:
        Unauthenticated: the challenge names no usable token server, or one that would get our secrets in the clear.
    """
    realm = challenge.parameters.get("realm", "")
    try:
        parts = urlsplit(realm)
        usable = parts.scheme in ("https", "http") and parts.hostname and parts.username is None
        _ = parts.port  # raises, too, where it is none
    except ValueError:
        parts, usable = urlsplit(""), False
    if not usable:
        raise Unauthenticated("authenticate", repr(realm[:200]), "the registry names no usable token server")
    if parts.scheme == "http" and secure:
        raise Unauthenticated("authenticate", repr(realm[:200]), "the token server is not protected by TLS")
    service = challenge.parameters.get("service", "")
    if credentials and credentials.identity_token:
        form = {
            "grant_type": "refresh_token",
            "service": service,
            "client_id": _CLIENT_ID,
            "scope": scope,
            "refresh_token": credentials.identity_token,
        }
        return TokenRequest(realm, form, "")
    query = [(name, value) for name, value in (("service", service), ("scope", scope)) if value]
    authorization = ""
    if credentials and credentials.username:
        query.append(("account", credentials.username))
        authorization = credentials.basic
    separator = "&" if parts.query else "?"
    return TokenRequest(realm + separator + urlencode(query), None, authorization)


def read_token(body: bytes, realm: str) -> str:
    """The token in a token server's answer. Raises DataLoss when there is none."""
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DataLoss("authenticate", realm, "the token server's answer is not JSON") from error
    if isinstance(document, dict):
        fields = cast("dict[str, Any]", document)
        for key in ("token", "access_token"):
            token = fields.get(key)
            if isinstance(token, str) and token and token.isprintable() and " " not in token:
                return token
    raise DataLoss("authenticate", realm, "the token server's answer has no token")


class Authenticator:
    """Remembers, for one registry, what got us in. `ask` sends a `TokenRequest` and gives the answer's body."""

    def __init__(
        self, credentials: Credentials | None, ask: Callable[[TokenRequest], Awaitable[bytes]]
    ) -> None:
        self._credentials = credentials
        self._ask = ask
        self._headers: dict[str, str] = {}

    def header(self, scope: str) -> str:
        """The Authorization header for a request of this scope; empty when none is known to be needed."""
        return self._headers.get(scope) or self._headers.get("", "")

    async def answer(self, challenges: list[Challenge], scope: str, rejected: str, *, secure: bool) -> None:
        """Find the header that the challenges ask for; `rejected` is the one that was just turned down.

        Raises:
            Unauthenticated: we have no credentials, or they were turned down.
        """
        if self.header(scope) != rejected:
            return  # another request was faster
        by_scheme = {challenge.scheme: challenge for challenge in challenges}
        credentials = self._credentials
        if "bearer" in by_scheme:
            if credentials and credentials.registry_token:
                header = f"Bearer {credentials.registry_token}"
                if header == rejected:
                    raise Unauthenticated("authenticate", "", "the registry turned down the given token")
                self._headers[scope] = header
                return
            request = token_request(by_scheme["bearer"], scope, credentials, secure=secure)
            token = read_token(await self._ask(request), urlsplit(request.url).hostname or "")
            self._headers[scope] = f"Bearer {token}"
            return
        if "basic" in by_scheme:
            if not credentials or not credentials.username:
                raise Unauthenticated(
                    "authenticate",
                    "",
                    "the registry wants a user and password",
                    hint="oakum login, or give credentials",
                )
            if credentials.basic == rejected:
                raise Unauthenticated("authenticate", "", "the registry turned down the user or password")
            self._headers[""] = credentials.basic
            return
        schemes = ", ".join(by_scheme) or "no scheme"
        raise Unauthenticated("authenticate", "", f"the registry asks for {schemes}, which is not understood")
