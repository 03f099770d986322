# SPDX-License-Identifier: Apache-2.0
"""Credentials come from wherever docker keeps them, and stay out of messages."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from oakum.errors import InvalidArgument, Unauthenticated
from oakum.images.credentials import Credentials, from_auth_config, load_docker_credentials

AUTH = base64.b64encode(b"jo:p:w").decode()


def load(directory: Path, document: Any, domain: str) -> Credentials | None:
    (directory / "config.json").write_text(json.dumps(document))
    return load_docker_credentials(domain, str(directory))


def helper(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    path = directory / "docker-credential-test"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")


@pytest.mark.parametrize(
    "key", ["reg.example:5000", "https://reg.example:5000", "https://reg.example:5000/v1/"]
)
def test_auths_by_any_spelling_of_the_registry(tmp_path: Path, key: str) -> None:
    found = load(tmp_path, {"auths": {"other": {"auth": "eA=="}, key: {"auth": AUTH}}}, "reg.example:5000")
    assert found is not None
    assert (found.username, found.password) == ("jo", "p:w")
    assert "p:w" not in repr(found)


def test_docker_hub_has_a_name_of_its_own(tmp_path: Path) -> None:
    found = load(tmp_path, {"auths": {"https://index.docker.io/v1/": {"auth": AUTH}}}, "docker.io")
    assert found is not None
    assert found.username == "jo"


def test_nothing_is_nothing(tmp_path: Path) -> None:
    assert load_docker_credentials("reg.example", str(tmp_path / "missing")) is None
    assert load(tmp_path, {}, "reg.example") is None
    assert load(tmp_path, {"auths": {"reg.example": {}}}, "reg.example") is None


def test_an_identity_token_is_found(tmp_path: Path) -> None:
    found = load(tmp_path, {"auths": {"reg.example": {"identitytoken": "it"}}}, "reg.example")
    assert found is not None
    assert found.identity_token == "it"


@pytest.mark.parametrize(
    "auth", ["%%%", base64.b64encode(b"no colon").decode(), base64.b64encode(b"\xff:").decode()]
)
def test_a_damaged_auth_names_the_file(tmp_path: Path, auth: str) -> None:
    with pytest.raises(InvalidArgument, match=r"config\.json"):
        load(tmp_path, {"auths": {"reg.example": {"auth": auth}}}, "reg.example")


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InvalidArgument, match=r"config\.json"):
        load_docker_credentials("reg.example", str(tmp_path))
    with pytest.raises(InvalidArgument, match="not an object"):
        load(tmp_path, [], "reg.example")


@pytest.mark.parametrize("how", [{"credsStore": "test"}, {"credHelpers": {"reg.example": "test"}}])
def test_helpers_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]) -> None:
    helper(tmp_path, monkeypatch, 'read server; printf \'{"Username":"u","Secret":"%s"}\' "$server"')
    found = load(tmp_path, how, "reg.example")
    assert found is not None
    assert (found.username, found.password) == ("u", "reg.example")


def test_a_helper_may_give_an_identity_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(tmp_path, monkeypatch, 'echo \'{"Username":"<token>","Secret":"it"}\'')
    found = load(tmp_path, {"credsStore": "test"}, "reg.example")
    assert found is not None
    assert found.identity_token == "it"


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("echo secrets locked; exit 1", "secrets locked"),
        ("echo garbage", "not understood"),
        ("echo '[]'", "understood"),
    ],
)
def test_a_helper_that_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, text: str
) -> None:
    helper(tmp_path, monkeypatch, script)
    with pytest.raises(Unauthenticated, match=text):
        load(tmp_path, {"credsStore": "test"}, "reg.example")


def test_a_helper_that_knows_nothing_means_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(tmp_path, monkeypatch, "echo credentials not found in native keychain; exit 1")
    assert load(tmp_path, {"credsStore": "test"}, "reg.example") is None


@pytest.mark.parametrize("name", ["../../bin/sh", "a b", "a;b"])
def test_only_a_name_becomes_a_helper(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgument):
        load(tmp_path, {"credsStore": name}, "reg.example")
    with pytest.raises(Unauthenticated, match="not found on PATH"):
        load(tmp_path, {"credsStore": "surely-missing"}, "reg.example")


def test_the_fields_of_cri() -> None:
    assert from_auth_config(auth=AUTH).username == "jo"
    assert from_auth_config(username="u", password="p", auth=AUTH).username == "u"
    assert not from_auth_config()
    assert from_auth_config(registry_token="t")
    with pytest.raises(InvalidArgument):
        from_auth_config(auth="***")
