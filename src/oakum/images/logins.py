# SPDX-License-Identifier: Apache-2.0
"""Logins to registries as docker keeps them: tried out, written to its config.json or handed to its helpers, removed.

Reading them is `credentials`' business. Passwords are in no message.
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import json
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final, TypeVar, cast

from oakum.errors import InvalidArgument, SystemFailure, Unauthenticated
from oakum.images import credentials
from oakum.images.credentials import Credentials
from oakum.linux.durable import write_file

_HUB: Final = "docker.io"
_CONFIG_LIMIT_BYTES: Final = 4 << 20
T = TypeVar("T")


def registry_of(text: str) -> str:
    """The registry that people mean: "https://reg.example/v2/" is reg.example, nothing is Docker Hub.

    Raises:
        InvalidArgument: not the name of a server.
    """
    host = credentials.host_of(text or _HUB)
    if not host or any(c.isspace() or not c.isprintable() or c in '@"\\' for c in host):
        raise InvalidArgument(
            "log in to registry", repr(text), "not a server", hint="try registry.example:5000"
        )
    return _HUB if host in credentials.DOCKER_HUB else host


def check(registry: str, login: Credentials) -> None:
    """Have the registry say whether it takes these credentials.

    Raises:
        Unauthenticated: it does not.
        Unavailable: it cannot be reached.
    """
    from oakum.images.registry import RegistryClient  # whoever logs out needs no network

    async def at_once(_seconds: float) -> None:
        """Somebody waits at a terminal: what does not answer now is said to be so."""

    async def ask() -> None:
        async with (
            RegistryClient(registry, login, pause=at_once) as client,
            client.open("GET", "/v2/", scope="", operation="log in to", subject=registry),
        ):
            return

    try:
        asyncio.run(ask())
    except Unauthenticated as error:
        hint = "try the password where you have it from, or a token if the registry wants one"
        raise Unauthenticated("log in to", registry, error.cause, hint=hint) from error


def keep(registry: str, login: Credentials, directory: str = "") -> str:
    """Keep a login where docker would; the helper or file that has it now.

    Raises:
        InvalidArgument: docker's configuration is damaged, or the user's name cannot be written there.
        Unauthenticated: a credential helper failed.
        SystemFailure: the file cannot be written.
    """
    key = credentials.keys_of(registry)[0]
    if not login.identity_token and (":" in login.username or not login.username):
        raise InvalidArgument(
            "log in to registry",
            registry,
            "a user's name has no colon and is not empty",
            hint="give it with -u",
        )

    def change(document: dict[str, Any], path: str) -> str:
        helper = credentials.helper_for(document, registry)
        auths = document.setdefault("auths", {})
        if helper:
            credentials.tell_helper(helper, "store", _for_helper(key, login))
            auths[key] = {}  # as docker does: its `logout` looks here
            return f"docker-credential-{helper}"
        pair = f"{login.username}:{login.password}".encode()
        auths[key] = {"auth": base64.b64encode(pair).decode()}
        return path

    return _changed(directory, change)


def forget(registry: str, directory: str = "") -> bool:
    """Remove what is kept for a registry; whether there was anything. Raises as `keep`."""
    keys = credentials.keys_of(registry)
    hosts = {credentials.host_of(key) for key in keys}

    def change(document: dict[str, Any], path: str) -> bool:
        helper = credentials.helper_for(document, registry)
        known = credentials.load_docker_credentials(registry, os.path.dirname(path)) is not None
        if helper:
            credentials.tell_helper(helper, "erase", keys[0].encode())
        auths = document.get("auths")
        entries = cast("dict[str, Any]", auths) if isinstance(auths, dict) else {}
        gone = [name for name in entries if credentials.host_of(name) in hosts]
        for name in gone:
            del entries[name]
        return known or bool(gone)

    return _changed(directory, change)


def _for_helper(key: str, login: Credentials) -> bytes:
    return json.dumps({"ServerURL": key, "Username": login.username, "Secret": login.password}).encode()


def _changed(directory: str, change: Callable[[dict[str, Any], str], T]) -> T:
    """Change docker's configuration; all else in it stays, one change at a time, and a link stays a link."""
    directory = credentials.docker_directory(directory)
    path = os.path.join(directory, "config.json")
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        with _alone(directory):
            document = _read(path)
            before = json.dumps(document)
            result = change(document, path)
            if json.dumps(document) != before:
                text = json.dumps(document, indent="\t", ensure_ascii=False) + "\n"
                write_file(os.path.realpath(path), text.encode(), 0o600)
            return result
    except OSError as error:
        raise SystemFailure.from_os_error(error, "write docker configuration", path) from error


@contextmanager
def _alone(directory: str) -> Generator[None]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            document: Any = json.loads(file.read(_CONFIG_LIMIT_BYTES) or b"{}")
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(
            "read docker configuration", path, str(error), hint="mend it, or move it away"
        ) from error
    if not isinstance(document, dict) or not isinstance(
        cast("dict[str, Any]", document).get("auths", {}), dict
    ):
        raise InvalidArgument(
            "read docker configuration", path, "not an object", hint="mend it, or move it away"
        )
    return cast("dict[str, Any]", document)
