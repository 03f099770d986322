# SPDX-License-Identifier: Apache-2.0
"""Logins are kept where docker keeps them, and what else is in its configuration stays."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from oakum.errors import InvalidArgument, Unauthenticated
from oakum.images import logins
from oakum.images.credentials import Credentials, load_docker_credentials

JO = Credentials("jo", "p:w é")


def config(directory: Path) -> dict[str, object]:
    return json.loads((directory / "config.json").read_text())


def test_a_login_is_found_again_until_it_is_forgotten(tmp_path: Path) -> None:
    directory = tmp_path / "new"
    place = logins.keep("reg.example:5000", JO, str(directory))
    assert place == str(directory / "config.json")
    assert stat.S_IMODE((directory / "config.json").stat().st_mode) == 0o600
    found = load_docker_credentials("reg.example:5000", str(directory))
    assert found is not None
    assert (found.username, found.password) == ("jo", "p:w é")
    assert logins.forget("reg.example:5000", str(directory))
    assert load_docker_credentials("reg.example:5000", str(directory)) is None
    assert not logins.forget("reg.example:5000", str(directory))


def test_what_else_is_configured_stays_and_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    real = tmp_path / "real.json"
    real.write_text('{"detachKeys": "ctrl-x", "auths": {"other": {"auth": "eDp5"}}}')
    (tmp_path / "d/config.json").symlink_to(real)
    logins.keep("docker.io", JO, str(tmp_path / "d"))
    assert (tmp_path / "d/config.json").is_symlink()
    after = json.loads(real.read_text())
    assert after["detachKeys"] == "ctrl-x"
    assert set(after["auths"]) == {"other", "https://index.docker.io/v1/"}
    assert logins.forget("docker.io", str(tmp_path / "d"))
    assert set(json.loads(real.read_text())["auths"]) == {"other"}


def test_any_spelling_of_a_registry_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"auths": {"https://reg.example/v1/": {"auth": "eDp5"}}}')
    assert logins.forget("reg.example", str(tmp_path))
    assert config(tmp_path) == {"auths": {}}


def test_a_helper_gets_what_it_is_to_keep_and_the_file_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = tmp_path / "docker-credential-test"
    helper.write_text(f'#!/bin/sh\necho "$1" >>{tmp_path}/asked; cat >>{tmp_path}/asked; echo "{{}}"\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "config.json").write_text('{"credsStore": "test"}')
    assert logins.keep("reg.example", Credentials("jo", "pw"), str(tmp_path)) == "docker-credential-test"
    assert config(tmp_path) == {"credsStore": "test", "auths": {"reg.example": {}}}
    asked = (tmp_path / "asked").read_text()
    assert asked == 'store\n{"ServerURL": "reg.example", "Username": "jo", "Secret": "pw"}'
    helper.write_text("#!/bin/sh\necho locked; exit 1\n")
    with pytest.raises(Unauthenticated, match="locked"):
        logins.keep("reg.example", Credentials("jo", "pw"), str(tmp_path))


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": []}', "null"])
def test_a_damaged_configuration_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InvalidArgument, match=r"config\.json"):
        logins.keep("reg.example", JO, str(tmp_path))
    assert (tmp_path / "config.json").read_text() == text


@pytest.mark.parametrize(
    ("text", "registry"),
    [
        ("", "docker.io"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("reg.example:5000", "reg.example:5000"),
        ("https://reg.example/v2/", "reg.example"),
    ],
)
def test_registries_as_people_write_them(text: str, registry: str) -> None:
    assert logins.registry_of(text) == registry


@pytest.mark.parametrize("text", ["/x", "user@reg.example", "reg example", "reg\n"])
def test_what_is_no_registry(text: str) -> None:
    with pytest.raises(InvalidArgument):
        logins.registry_of(text)


@pytest.mark.parametrize("name", ["", "a:b"])
def test_a_user_that_could_not_be_read_back_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgument):
        logins.keep("reg.example", Credentials(name, "x"), str(tmp_path))
    assert not (tmp_path / "config.json").exists()
