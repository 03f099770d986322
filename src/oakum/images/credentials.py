# SPDX-License-Identifier: Apache-2.0
"""Registry credentials: from docker's config.json and its helpers, or from the fields of a CRI AuthConfig.

Secrets stay out of messages and reprs. Sending them is `auth.py`'s business.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from typing import Any, Final, cast

from oakum.errors import InvalidArgument, Unauthenticated

DOCKER_HUB: Final = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")
_HELPER = re.compile(r"[A-Za-z0-9_.-]+")
_HELPER_TIMEOUT_S: Final = 30.0
_TOKEN_USER: Final = "<token>"  # noqa: S105 - what helpers say in place of a user name for an identity token


class Credentials:
    """Who we are to one registry: user and password, or an identity token, or a ready bearer token."""

    __slots__ = ("identity_token", "password", "registry_token", "username")

    def __init__(
        self, username: str = "", password: str = "", *, identity_token: str = "", registry_token: str = ""
    ) -> None:
        self.username = username
        self.password = password
        self.identity_token = identity_token
        self.registry_token = registry_token

    def __bool__(self) -> bool:
        return bool(self.username or self.identity_token or self.registry_token)

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r}, ...)"

    @property
    def basic(self) -> str:
        """The value of a basic Authorization header."""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()


def from_auth_config(
    *,
    username: str = "",
    password: str = "",
    auth: str = "",
    identity_token: str = "",
    registry_token: str = "",
) -> Credentials:
    """Credentials from the fields of a CRI AuthConfig or a docker `auths` entry.

    Raises:
        InvalidArgument: `auth` is not base64 of user:password.
    """
    if auth and not username:
        username, password = _decode_auth(auth)
    return Credentials(username, password, identity_token=identity_token, registry_token=registry_token)


def docker_directory(directory: str = "") -> str:
    """Where docker's configuration is: `directory` if given, else $DOCKER_CONFIG, then ~/.docker."""
    return directory or os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")


def load_docker_credentials(domain: str, directory: str = "") -> Credentials | None:
    """What docker's configuration has for the registry `domain`; None when nothing.

    For `directory` see `docker_directory`.

    Raises:
        InvalidArgument: the file is there but damaged.
        Unauthenticated: a credential helper failed.
    """
    path = os.path.join(docker_directory(directory), "config.json")
    try:
        with open(path, "rb") as file:
            document = json.load(file)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except ValueError as error:
        raise InvalidArgument("read docker configuration", path, str(error)) from error
    if not isinstance(document, dict):
        raise InvalidArgument("read docker configuration", path, "not an object")
    return _from_document(cast("dict[str, Any]", document), domain, path)


def _from_document(document: dict[str, Any], domain: str, path: str) -> Credentials | None:
    keys = keys_of(domain)
    helpers = document.get("credHelpers")
    if isinstance(helpers, dict):
        for key in keys:
            if isinstance(helper := cast("dict[str, Any]", helpers).get(key), str):
                return _ask_helper(helper, key)
    auths = document.get("auths")
    entries = cast("dict[str, Any]", auths) if isinstance(auths, dict) else {}
    for name, entry in entries.items():
        if host_of(name) not in {host_of(key) for key in keys} or not isinstance(entry, dict):
            continue
        fields = {k: str(v) for k, v in cast("dict[str, Any]", entry).items() if isinstance(v, str)}
        try:
            found = from_auth_config(
                username=fields.get("username", ""),
                password=fields.get("password", ""),
                auth=fields.get("auth", ""),
                identity_token=fields.get("identitytoken", ""),
                registry_token=fields.get("registrytoken", ""),
            )
        except InvalidArgument as error:
            raise InvalidArgument(
                "read docker configuration", path, f"auth of {name!r} is damaged"
            ) from error
        if found:
            return found
    store = document.get("credsStore")
    if isinstance(store, str) and store:
        return _ask_helper(store, keys[0])
    return None


def helper_for(document: dict[str, Any], domain: str) -> str:
    """The name of the helper that keeps what belongs to a registry; "" where the file does. Raises InvalidArgument."""
    helpers = document.get("credHelpers")
    chosen: Any = document.get("credsStore")
    if isinstance(helpers, dict):
        known = cast("dict[str, Any]", helpers)
        chosen = next((known[key] for key in keys_of(domain) if key in known), chosen)
    return chosen if isinstance(chosen, str) else ""


def keys_of(domain: str) -> tuple[str, ...]:
    """What a registry may be called in docker's configuration, the name that docker writes first."""
    return DOCKER_HUB if domain in DOCKER_HUB else (domain, f"https://{domain}", f"https://{domain}/v1/")


def host_of(key: str) -> str:
    """The server of "https://host:port/path" or "host:port/path"."""
    return key.partition("://")[2].partition("/")[0] if "://" in key else key.partition("/")[0]


def _ask_helper(helper: str, server: str) -> Credentials | None:
    answer_text = tell_helper(helper, "get", server.encode())
    if answer_text is None:
        return None
    try:
        answer = cast("dict[str, Any]", json.loads(answer_text))
        username, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError) as error:
        raise Unauthenticated(
            "ask credential helper", f"docker-credential-{helper}", "its answer is not understood"
        ) from error
    if username == _TOKEN_USER:
        return Credentials(identity_token=secret)
    return Credentials(username, secret)


def tell_helper(helper: str, action: str, given: bytes) -> bytes | None:
    """What a credential helper answers to "get", "store" or "erase"; None: it has nothing for that registry.

    Raises:
        InvalidArgument: that is no name of a helper.
        Unauthenticated: it is not there, or fails.
    """
    if not _HELPER.fullmatch(helper):
        raise InvalidArgument(
            "read docker configuration", repr(helper), "not the name of a credential helper"
        )
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, action],
            input=given,
            capture_output=True,
            timeout=_HELPER_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise Unauthenticated("ask credential helper", program, "not found on PATH") from error
    except subprocess.TimeoutExpired as error:
        raise Unauthenticated(
            "ask credential helper", program, f"no answer in {_HELPER_TIMEOUT_S:g} s"
        ) from error
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace").strip()
        if "not found" in said:
            return None  # helpers say so for a registry they have nothing for
        raise Unauthenticated("ask credential helper", program, said[:300] or f"exit code {done.returncode}")
    return done.stdout


def _decode_auth(auth: str) -> tuple[str, str]:
    try:
        text = base64.b64decode(auth, validate=True).decode().rstrip("\0")
    except ValueError as error:  # of base64, of what is not ASCII, of what is not UTF-8
        raise InvalidArgument("read credentials", "auth", "not base64 text") from error
    username, colon, password = text.partition(":")
    if not colon:
        raise InvalidArgument("read credentials", "auth", "not user:password")
    return username, password
