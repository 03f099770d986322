# SPDX-License-Identifier: Apache-2.0
"""`oakum login` and `oakum logout`: who we are to a registry, kept where docker and others keep it.

Needs neither root nor an engine: logins belong to a user, not to a root directory.
"""

from __future__ import annotations

import os
import sys
from typing import Final

import click

from oakum.cli.lazy import TeachingCommand
from oakum.cli.report import say
from oakum.errors import InvalidArgument, Unauthenticated
from oakum.images import logins
from oakum.images.credentials import Credentials

_PASSWORD_LIMIT_BYTES: Final = 64 << 10


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum login registry.example:5000", "asks for user and password"),
        ("pass show registry | oakum login -u jo --password-stdin registry.example", "for scripts"),
    ),
)
@click.option("-u", "--username", metavar="NAME", default="", help="Who you are there.")
@click.option(
    "-p", "--password", metavar="TEXT", help="Shows in `ps`: better leave it out, or --password-stdin."
)
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.argument("registry", default="", metavar="[REGISTRY]")
def login(*, username: str, password: str | None, password_stdin: bool, registry: str) -> int:
    """Try a user and password at a registry (docker.io if none is named), and keep them for pull and push.

    They go into docker's configuration (~/.docker/config.json, or its credential helper), which docker, skopeo and others read, too.
    """
    server = logins.registry_of(registry)
    given = _given(server, username, password, from_stdin=password_stdin)
    logins.check(server, given)
    place = logins.keep(server, given)
    click.echo(f"logged in to {server} as {given.username}")
    if place.endswith(".json"):
        say(f"       kept in {place}, where the password can be read; a credential helper would hide it")
    return 0


def _given(server: str, username: str, password: str | None, *, from_stdin: bool) -> Credentials:
    if from_stdin:
        if password is not None:
            raise InvalidArgument("parse --password-stdin", server, "contradicts --password")
        if not username:
            raise InvalidArgument("parse --password-stdin", server, "no user", hint="give one with -u")
        password = sys.stdin.read(_PASSWORD_LIMIT_BYTES).rstrip("\r\n")
    elif (password is None or not username) and not os.isatty(0):
        raise Unauthenticated(
            "log in to",
            server,
            "standard input is no terminal to ask at",
            hint="oakum login -u USER --password-stdin REGISTRY < FILE",
        )
    if not username:
        username = str(click.prompt(f"User at {server}", err=True))
    if password is None:
        password = str(click.prompt("Password", hide_input=True, err=True))
    if not password:
        raise InvalidArgument("log in to", server, "the password is empty")
    return Credentials(username, password)


@click.command(cls=TeachingCommand, examples=(("oakum logout registry.example:5000", "forget it"),))
@click.argument("registry", default="", metavar="[REGISTRY]")
def logout(registry: str) -> int:
    """Forget the user and password for a registry (docker.io if none is named)."""
    server = logins.registry_of(registry)
    if logins.forget(server):
        click.echo(f"logged out of {server}")
    else:
        say(f"oakum: nobody was logged in to {server}")
    return 0
