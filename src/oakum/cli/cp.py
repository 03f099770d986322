# SPDX-License-Identifier: Apache-2.0
"""`oakum cp`: files into and out of containers, and archives of them through a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Final

import click

from oakum.cli.lazy import TeachingCommand
from oakum.cli.session import Session, pass_session
from oakum.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from tarfile import TarInfo

    from oakum.engine.files import ContainerFiles

_STREAM: Final = "-"


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
        ("oakum cp web:/var/log - | tar tv", "as a tar archive; from one with oakum cp - CONTAINER:PATH"),
    ),
)
@click.option("-a", "--archive", is_flag=True, help="Keep owners; else they are yours, or root's inside.")
@click.option("-L", "--follow-link", "follow", is_flag=True, help="Copy what a link named SOURCE leads to.")
@click.argument("source")
@click.argument("target")
@pass_session
def cp(session: Session, source: str, target: str, archive: bool, follow: bool) -> int:
    """Copy files between this host and a container: CONTAINER:PATH names a place in one.

    "-" is a tar archive on standard output or input. Of a container that does not run, its volumes and other mounts are not there.
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
    if _STREAM in (source, target):
        found = find(from_container or to_container).id
        with _scratch() as scratch:
            if from_container:
                _write_archive(files, found, from_path, scratch, follow=follow)
            else:
                _read_archive(files, found, to_path, scratch)
        return 0
    if from_container:
        mine = None if archive else (os.getuid(), os.getgid())
        files.copy_out(find(from_container).id, from_path, to_path, owner=mine, follow=follow)
    else:
        owner = None if archive else (0, 0)
        files.copy_in(find(to_container).id, from_path, to_path, owner=owner, follow=follow)
    return 0


@contextmanager
def _scratch() -> Generator[str]:
    """A directory of our own for what passes through, where TMPDIR says: left by a kill, it goes as all else there."""
    import tempfile  # few copies are archives

    with tempfile.TemporaryDirectory(prefix="oakum-cp-") as scratch:
        yield scratch


def _write_archive(
    files: ContainerFiles, container_id: str, path: str, scratch: str, *, follow: bool
) -> None:
    import tarfile

    if sys.stdout.isatty():
        raise InvalidArgument(
            "copy", _STREAM, "standard output is a terminal", hint="write it to a file or a pipe"
        )
    files.copy_out(container_id, path, scratch + "/", owner=None, follow=follow)
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        if path.endswith("/."):
            archive.add(scratch, ".")
            return
        for name in os.listdir(scratch):  # one, or all of the root's
            archive.add(f"{scratch}/{name}", name)


def _read_archive(files: ContainerFiles, container_id: str, path: str, scratch: str) -> None:
    import tarfile

    tree = f"{scratch}/tree"  # the archive says who may look into it, but not who gets there
    os.mkdir(tree, 0o700)
    try:
        extract(sys.stdin.buffer, tree)
    except tarfile.TarError as error:
        raise InvalidArgument("read archive", _STREAM, str(error), hint="give a tar archive") from error
    if not files.is_directory(container_id, path):
        raise NotFound("copy to", repr(path), "no such directory", hint="make it first")
    files.copy_in(container_id, f"{tree}/.", path, owner=None)


def extract(stream: IO[bytes], directory: str) -> None:
    """Write an archive, with owners and modes, into a directory of ours; nothing of it leads out.

    Raises:
        tarfile.TarError: no archive, or a member of it goes through a link or out of the directory.
    """
    import tarfile

    with tarfile.open(fileobj=stream, mode="r|*") as archive:
        archive.extractall(directory, filter=_inside)  # noqa: S202 - each member is looked at


def _inside(member: TarInfo, directory: str) -> TarInfo:
    """A member as it is. tarfile's own filter does not look where hard links lead, and takes modes away."""
    import tarfile

    found = tarfile.tar_filter(member, directory)
    if member.islnk() and member.linkname.startswith("/"):
        raise tarfile.AbsoluteLinkError(member)
    for name in (found.name, member.linkname) if member.islnk() else (found.name,):
        place = directory
        parts = name.split("/")
        for position, part in enumerate(parts, 1):
            place = f"{place}/{part}"
            replaced = position == len(parts) and member.issym()
            if part == ".." or (os.path.islink(place) and not replaced):
                raise tarfile.OutsideDestinationError(member, place)
    return found.replace(mode=member.mode & 0o7777, deep=False)
