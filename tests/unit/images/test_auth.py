# SPDX-License-Identifier: Apache-2.0
"""Challenges are read as servers write them, and secrets go only where they may."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.errors import DataLoss, Unauthenticated
from oakum.images.auth import (
    Authenticator,
    Challenge,
    TokenRequest,
    parse_challenges,
    read_token,
    token_request,
)
from oakum.images.credentials import Credentials

REALM = Challenge("bearer", {"realm": "https://auth.example/token?x=1", "service": "reg"})
SCOPE = "repository:a/b:pull"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Basic realm="x"', [("basic", {"realm": "x"})]),
        (
            'Bearer realm="https://a/t",service="s",scope="repository:a:pull,push"',
            [("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:a:pull,push"})],
        ),
        ('BASIC Realm="x", Bearer realm=y', [("basic", {"realm": "x"}), ("bearer", {"realm": "y"})]),
        (r'Basic realm="a\"b, c=d"', [("basic", {"realm": 'a"b, c=d'})]),
        ("Negotiate", [("negotiate", {})]),
        ("", []),
        ("=,=", []),
    ],
)
def test_challenges(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [
        (challenge.scheme, dict(challenge.parameters)) for challenge in parse_challenges(header)
    ] == expected


@given(st.text(max_size=200))
def test_any_header_is_read_without_end_or_error(header: str) -> None:
    assert all(challenge.scheme for challenge in parse_challenges(header))


def test_a_token_is_asked_for_with_basic_credentials() -> None:
    request = token_request(REALM, SCOPE, Credentials("jo", "pw"), secure=True)
    query = parse_qs(urlsplit(request.url).query)
    assert query == {"x": ["1"], "service": ["reg"], "scope": [SCOPE], "account": ["jo"]}
    assert request.authorization == Credentials("jo", "pw").basic
    assert token_request(REALM, SCOPE, None, secure=True).authorization == ""


def test_an_identity_token_is_traded_in() -> None:
    request = token_request(REALM, SCOPE, Credentials(identity_token="it"), secure=True)
    assert request.form is not None
    assert (request.form["grant_type"], request.form["refresh_token"]) == ("refresh_token", "it")
    assert "it" not in request.url


@pytest.mark.parametrize(
    "realm", ["", "file:///etc/passwd", "auth.example", "https://", "https://user@host/"]
)
def test_token_servers_that_are_none(realm: str) -> None:
    with pytest.raises(Unauthenticated):
        token_request(Challenge("bearer", {"realm": realm}), SCOPE, None, secure=False)


def test_a_token_server_without_tls_gets_nothing_from_a_registry_with_it() -> None:
    challenge = Challenge("bearer", {"realm": "http://auth.example/token"})
    with pytest.raises(Unauthenticated, match="not protected"):
        token_request(challenge, SCOPE, Credentials("jo", "pw"), secure=True)
    assert token_request(challenge, SCOPE, None, secure=False).url


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"token": ""}', b'{"token": 1}', b'{"token": "a\\r\\nX: y"}', b"[" * 9999]
)
def test_answers_without_a_token(body: bytes) -> None:
    with pytest.raises(DataLoss):
        read_token(body, "auth")


def test_both_names_of_a_token_are_known() -> None:
    assert (
        read_token(b'{"access_token": "a"}', "")
        == read_token(b'{"token": "a", "access_token": "b"}', "")
        == "a"
    )


def authenticator(credentials: Credentials | None) -> tuple[Authenticator, list[TokenRequest]]:
    asked: list[TokenRequest] = []

    async def ask(request: TokenRequest) -> bytes:
        asked.append(request)
        return json.dumps({"token": f"t{len(asked)}"}).encode()

    return Authenticator(credentials, ask), asked


def test_a_token_serves_its_scope_until_it_is_rejected() -> None:
    auth, asked = authenticator(None)

    async def story() -> None:
        await auth.answer([REALM], SCOPE, "", secure=True)
        assert auth.header(SCOPE) == "Bearer t1"
        assert auth.header("other") == ""
        await auth.answer([REALM], SCOPE, "", secure=True)  # a late one, which was sent without
        assert len(asked) == 1
        await auth.answer([REALM], SCOPE, "Bearer t1", secure=True)
        assert auth.header(SCOPE) == "Bearer t2"

    asyncio.run(story())


def test_basic_credentials_are_tried_once() -> None:
    auth, _ = authenticator(Credentials("jo", "pw"))
    basic = [Challenge("basic", {"realm": "x"})]

    async def story() -> None:
        await auth.answer(basic, SCOPE, "", secure=True)
        assert auth.header("any") == Credentials("jo", "pw").basic
        with pytest.raises(Unauthenticated, match="turned down"):
            await auth.answer(basic, SCOPE, auth.header(SCOPE), secure=True)

    asyncio.run(story())


@pytest.mark.parametrize(
    ("challenges", "text"), [([Challenge("basic", {})], "user and password"), ([], "no scheme")]
)
def test_what_cannot_be_answered_is_told(challenges: list[Challenge], text: str) -> None:
    auth, _ = authenticator(None)
    with pytest.raises(Unauthenticated, match=text):
        asyncio.run(auth.answer(challenges, SCOPE, "", secure=True))


def test_a_ready_token_is_used_as_it_is() -> None:
    auth, asked = authenticator(Credentials(registry_token="rt"))
    asyncio.run(auth.answer([REALM], SCOPE, "", secure=True))
    assert auth.header(SCOPE) == "Bearer rt"
    assert asked == []
