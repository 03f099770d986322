# SPDX-License-Identifier: Apache-2.0
"""`oakum cp`: files into and out of containers."""

from __future__ import annotations

import os

import click

from oakum.cli.lazy import TeachingCommand
from oakum.cli.session import Session, pass_session
from oakum.errors import InvalidArgument


def split(text: str) -> tuple[str, str]:
    """Container and path of "CONTAINER:PATH"; "" and the path of one on this host.

    A host path with a colon in it is told by a slash before: ./a:b.
    """
    container, colon, path = text.partition(":")
    if not colon or not container or "/" in container or container.startswith("."):
        return "", text
    return container, path


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum cp web:/etc/nginx/nginx.conf .", "out of a container, running or not"),
        ("oakum cp site/. web:/www", "what is in site, into a directory of the container"),
        ("oakum cp -a data db:/var/lib", "with their owners"),
    ),
)
@click.option("-a", "--archive", is_flag=True, help="Keep owners; else they are yours, or root's inside.")
@click.argument("source")
@click.argument("target")
@pass_session
def cp(session: Session, source: str, target: str, archive: bool) -> int:
    """Copy files between this host and a container: CONTAINER:PATH names a place in one.

    Of a container that does not run, its volumes and other mounts are not there.
    """
    (from_container, from_path), (to_container, to_path) = split(source), split(target)
    if bool(from_container) == bool(to_container):
        both = "both are in containers" if from_container else "neither is in a container"
        raise InvalidArgument("copy", f"{source} to {target}", both, hint="write one as CONTAINER:PATH")
    for path in (from_path, to_path):
        if not path or "\0" in path:
            raise InvalidArgument(
                "copy", f"{source} to {target}", "a path is empty", hint="use / for the root"
            )
    files, find = session.namespace.files, session.namespace.find_container
    if from_container:
        mine = None if archive else (os.getuid(), os.getgid())
        files.copy_out(find(from_container).id, from_path, to_path, owner=mine)
    else:
        files.copy_in(find(to_container).id, from_path, to_path, owner=None if archive else (0, 0))
    return 0
