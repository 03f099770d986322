# SPDX-License-Identifier: Apache-2.0
"""Files into and out of containers, as `oakum cp` moves them. Owns the way to a container's root, by descriptor.

A container may change its tree while it is copied. Every path in it is resolved by the kernel below its root, so a link
leads nowhere else; nothing of the container runs, and none of its libraries is loaded.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from oakum.engine.catalog import Catalog
from oakum.engine.context import Context
from oakum.errors import InvalidArgument, NotFound, OakumError, SystemFailure
from oakum.linux.fd import Fd
from oakum.linux.mount import overlay
from oakum.linux.paths import open_in_root
from oakum.snapshots.merge import copy_contents, copy_entry

if TYPE_CHECKING:
    from oakum.engine.changes import Change

_LINKS = 40  # as many as the kernel follows
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# The caller's own, as docker has it for copies that are not asked to keep their owners.
Owner = tuple[int, int] | None


class ContainerFiles:
    """Copies between the host and a container of one namespace, running or not."""

    def __init__(self, context: Context, catalog: Catalog) -> None:
        self._context = context
        self._catalog = catalog

    def copy_out(
        self, container_id: str, source: str, target: str, *, owner: Owner, follow: bool = False
    ) -> None:
        """Copy what is at `source` in the container to `target` on the host; see `copy_in`."""
        with self._root(container_id) as root_fd, Fd(os.open("/", _DIRECTORY)) as host_fd:
            there = os.path.abspath(target) + _slash(target)
            _copy(root_fd, source, host_fd, there, owner, follow=follow)

    def copy_in(
        self, container_id: str, source: str, target: str, *, owner: Owner, follow: bool = False
    ) -> None:
        """Copy what is at `source` on the host to `target` in the container.

        Into a directory that is there under its own name, else as `target`; "DIR/." means what is in it. What is in the
        way is replaced at once, a directory is filled. `owner` None keeps the owners. With `follow` a link as the source
        means what it leads to, under the link's name.

        Raises:
            NotFound: no such container, source, or directory to put it in.
            InvalidArgument: a file is to replace a directory, or the other way round.
            SystemFailure: a step failed.
        """
        with self._root(container_id) as root_fd, Fd(os.open("/", _DIRECTORY)) as host_fd:
            here = os.path.abspath(source) + _slash(source)
            _copy(host_fd, here, root_fd, target, owner, follow=follow)

    def is_directory(self, container_id: str, path: str) -> bool:
        """Whether there is a directory at `path` in the container."""
        with self._root(container_id) as root_fd:
            found = _open_directory(root_fd, path)
            if found is not None:
                found.close()
            return found is not None

    def changes(self, container: str) -> Sequence[Change]:
        """What a container has changed in its root file system; see `engine.changes` for what it raises."""
        from oakum.engine.changes import changes  # of all calls only `oakum diff` needs it

        return changes(self._context, self._catalog, container)

    @contextmanager
    def _root(self, container_id: str) -> Generator[Fd]:
        record = self._catalog.need(container_id)
        if self._catalog.state(record) in ("running", "paused"):
            try:
                fd = Fd(os.open(f"/proc/{record.pid}/root", _DIRECTORY))
            except OSError as error:
                raise SystemFailure.from_os_error(error, "open root of container", record.id[:12]) from error
            with fd:
                # Still running now, it was the container's process when its root was opened, and nobody's after it.
                self._catalog.running(record.id, "copy files of container", paused=True)
                yield fd
            return
        source = self._context.snapshotter.container_source(record.id)
        try:
            fd = (
                overlay(source.lower, source.upper, source.work)
                if source.lower
                else Fd(os.open(source.upper, _DIRECTORY))
            )
        except OSError as error:
            raise SystemFailure.from_os_error(error, "open root of container", record.id[:12]) from error
        with fd:
            yield fd


def _slash(path: str) -> str:
    """What `abspath` drops of a path and means something here."""
    return "/." if path.endswith("/.") or path == "." else "/" if path.endswith("/") else ""


def _copy(from_root: Fd, source: str, to_root: Fd, target: str, owner: Owner, *, follow: bool) -> None:
    try:
        as_name = ""
        if follow and not source.endswith(("/", "/.")):
            as_name = os.path.basename(source)
            source = _followed(from_root, source)
        with _parent(from_root, source, "source") as parent:
            name = os.path.basename(source.rstrip("/")) if not source.endswith("/.") else "."
            if source.endswith("/") and name:
                # what a link leads to, under the link's name
                with open_in_root(from_root.fileno(), source, _DIRECTORY) as meant:
                    _into(meant, ".", to_root, target, owner, as_name=as_name or name)
                return
            _into(parent, name or ".", to_root, target, owner, as_name=as_name)
    except OSError as error:
        raise _failure(error, source, target) from error


def _followed(root: Fd, path: str) -> str:
    """Where the links lead that `path` ends with, if any; a directory's path ends with a slash. Raises OSError."""
    if (found := _open_directory(root, path)) is not None:
        found.close()
        return f"{path}/"
    for _ in range(_LINKS):
        with _parent(root, path, "source") as parent:
            name = os.path.basename(path)
            if name in ("", ".", ".."):  # a directory's, that was there a moment ago
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            if not stat.S_ISLNK(os.stat(name, dir_fd=parent.fileno(), follow_symlinks=False).st_mode):
                return path
            link = os.readlink(name, dir_fd=parent.fileno())
        path = os.path.join(os.path.dirname(path), link)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def _into(parent: Fd, name: str, to_root: Fd, target: str, owner: Owner, *, as_name: str = "") -> None:
    directory = _open_directory(to_root, target)
    if name == "." and not (as_name and directory is not None):
        with directory or _made(to_root, target) as filled:
            copy_contents(parent.fileno(), filled.fileno(), owner=owner)
        return
    if directory is not None:
        with directory:
            copy_entry(parent.fileno(), name, directory.fileno(), as_name or name, owner=owner)
        return
    if target.endswith("/"):
        raise NotFound("copy to", repr(target), "no such directory", hint="make it first")
    with _parent(to_root, target, "target") as place:
        copy_entry(parent.fileno(), name, place.fileno(), os.path.basename(target), owner=owner)


def _parent(root: Fd, path: str, what: str) -> Fd:
    """The directory that `path` is in; of "DIR/." that directory."""
    if not path.strip("/"):
        return open_in_root(root.fileno(), "/", _DIRECTORY)
    parent = os.path.dirname(path.rstrip("/")) or "/"
    try:
        return open_in_root(root.fileno(), parent, _DIRECTORY)
    except FileNotFoundError as error:
        raise NotFound("copy files", repr(path), f"the directory of the {what} is not there") from error


def _open_directory(root: Fd, path: str) -> Fd | None:
    try:
        return open_in_root(root.fileno(), path or "/", _DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _made(root: Fd, path: str) -> Fd:
    path = path.rstrip("/.") if path.endswith("/.") else path.rstrip("/")
    with _parent(root, path, "target") as place:
        name = os.path.basename(path)
        os.mkdir(name, 0o755, dir_fd=place.fileno())
        return Fd(os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=place.fileno()))


def _failure(error: OSError, source: str, target: str) -> OakumError:
    subject = f"{source} to {target}"
    if isinstance(error, FileNotFoundError):
        return NotFound("copy", subject, "no such file or directory")
    if isinstance(error, (IsADirectoryError, NotADirectoryError, FileExistsError)):
        return InvalidArgument("copy", subject, "one is a directory and the other is not")
    return SystemFailure.from_os_error(error, "copy", subject)
