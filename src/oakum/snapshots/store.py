# SPDX-License-Identifier: Apache-2.0
"""The directories below ROOT/snapshots, which are all the state there is. Owns names, atomic steps and locks.

::

    layers/<hex>/fs          a committed layer; `parent` and `usage` beside it are symbolic links used as tiny records
    staging/<hex>.<random>/  a layer being filled; whoever fills it holds a lock on the directory
    containers/<id>/, views/<key>/   `chain` is a record, the rest belongs to the kind of snapshotter
    trash/                   renamed here first, then deleted

A record is the target of a symbolic link since that is written and read in one call and never half there. Every
change that others may see is one rename. How layers become a root file system is said by the subclasses.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Final

from oakum.errors import Aborted, AlreadyExists, FailedPrecondition, NotFound, SystemFailure
from oakum.model.rootfs import RootfsSource
from oakum.snapshots.names import chain_id_of, check_key, layer_name
from oakum.snapshots.protocol import Usage
from oakum.snapshots.tree import measure_tree, open_directory, remove_tree

_FOLDERS: Final = ("layers", "staging", "containers", "views", "trash")
_OPEN_TIMEOUT_S: Final = 1800.0


class DirectoryStore(ABC):
    """Everything about snapshots but how a root file system is made of layers."""

    kind: ClassVar[str]

    def __init__(self, directory: str, *, reason: str = "") -> None:
        """Open or make the store in the absolute path `directory`; `reason` says why it is not the preferred kind."""
        self.directory = directory
        self.reason = reason
        self._filling: dict[str, tuple[str, int]] = {}  # chain id → staging path and its lock
        self._filled = threading.Condition()
        try:
            for folder in _FOLDERS:
                os.makedirs(f"{directory}/{folder}", mode=0o700, exist_ok=True)
        except OSError as error:
            raise SystemFailure.from_os_error(error, "make directory", directory) from error

    # How a root file system is made

    @abstractmethod
    def _build(self, directory: str, chain_id: str) -> None:
        """Fill a container's fresh directory."""

    @abstractmethod
    def _source(self, directory: str, chain_id: str) -> RootfsSource:
        """What the runtime mounts for a container's directory."""

    @abstractmethod
    def _build_view(self, directory: str, chain_id: str) -> None:
        """Fill a view's fresh directory."""

    @abstractmethod
    def _view_source(self, directory: str, chain_id: str) -> RootfsSource:
        """What the runtime mounts for a view's directory."""

    # Layers

    def has_layer(self, chain_id: str) -> bool:
        """Whether the layer and all below it are committed."""
        try:
            self._chain(chain_id)
        except NotFound:
            return False
        return True

    def open_layer(self, chain_id: str, parent_chain_id: str) -> str | None:
        """An empty directory to fill with the layer; None when it is committed already."""
        name = layer_name(chain_id)
        parent = layer_name(parent_chain_id) if parent_chain_id else ""
        with self._filled:
            if not self._filled.wait_for(lambda: chain_id not in self._filling, _OPEN_TIMEOUT_S):
                raise Aborted("open layer", chain_id, "another thread has been filling it for too long")
            if os.path.isdir(f"{self.directory}/layers/{name}"):
                return None
            path, lock_fd = self._stage(name, parent)
            self._filling[chain_id] = (path, lock_fd)
        return f"{path}/fs"

    def commit_layer(self, chain_id: str) -> None:
        """Make the directory from `open_layer` the committed layer, atomically."""
        name = layer_name(chain_id)
        with self._filling_of(chain_id, "commit layer") as staged:
            try:
                os.rename(staged, f"{self.directory}/layers/{name}")
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise SystemFailure.from_os_error(error, "commit layer", chain_id) from error
                self._discard(staged)  # another process was first

    def abandon_layer(self, chain_id: str) -> None:
        """Throw away the directory from `open_layer`; succeeds when there is none."""
        layer_name(chain_id)
        if chain_id in self._filling:
            with self._filling_of(chain_id, "abandon layer") as staged:
                self._discard(staged)

    def layer_directories(self, chain_id: str) -> list[str]:
        """The committed directories of a chain, topmost first. Raises NotFound when one is missing."""
        return [f"{self.directory}/layers/{name}/fs" for name in self._chain(chain_id)]

    def layers(self) -> Sequence[str]:
        """The chain ids of the committed layers."""
        return [chain for name in self._names("layers") if (chain := chain_id_of(name))]

    def layer_usage(self, chain_id: str) -> Usage:
        """What one layer holds, without those below it; counted once and kept. Raises NotFound."""
        directory = f"{self.directory}/layers/{layer_name(chain_id)}"
        known = _read_record(f"{directory}/usage").partition(":")
        if known[2].isdecimal():
            return Usage(int(known[0]), int(known[2]))
        usage = self._measure(f"{directory}/fs", "layer", chain_id)
        try:
            os.symlink(f"{usage.used_bytes}:{usage.inodes}", f"{directory}/usage")
        except FileExistsError:
            pass  # another process counted it, too
        except OSError as error:
            if error.errno != errno.EROFS:
                raise SystemFailure.from_os_error(error, "record layer usage", chain_id) from error
        return usage

    def remove_layer(self, chain_id: str) -> None:
        """Delete a layer; succeeds for what is gone. Raises FailedPrecondition while something stands on it."""
        name = layer_name(chain_id)
        with self._lock(fcntl.LOCK_EX):
            user = self._user_of(name)
            if user:
                raise FailedPrecondition("remove layer", chain_id, f"{user} stands on it")
            trashed = self._to_trash(f"{self.directory}/layers/{name}")
        self._delete_trash(trashed)

    # Containers and views

    def prepare_container(self, container_id: str, chain_id: str) -> RootfsSource:
        """A writable root file system; the same again when it was prepared before."""
        directory = self._prepare("containers", check_key("container", container_id), chain_id)
        return self._source(directory, chain_id)

    def container_source(self, container_id: str) -> RootfsSource:
        """What `prepare_container` gave. Raises NotFound."""
        directory, chain_id = self._find_container(container_id)
        return self._source(directory, chain_id)

    def container_directory(self, container_id: str) -> str:
        """The directory that holds what the container writes. Raises NotFound."""
        return f"{self._find_container(container_id)[0]}/fs"

    def remove_container(self, container_id: str) -> None:
        """Delete what a container wrote; succeeds for what is gone."""
        self._remove("containers", check_key("container", container_id))

    def containers(self) -> Sequence[str]:
        """The ids of the containers that have a root file system."""
        return self._names("containers")

    def usage(self, container_id: str) -> Usage:
        """What a container wrote. Raises NotFound."""
        directory, _ = self._find_container(container_id)
        return self._measure(f"{directory}/fs", "container", container_id)

    def view(self, key: str, chain_id: str) -> RootfsSource:
        """A read-only root file system that keeps its layers in use until `remove_view`."""
        directory = self._prepare("views", check_key("view", key), chain_id)
        return self._view_source(directory, chain_id)

    def remove_view(self, key: str) -> None:
        """Forget a view; succeeds for what is gone."""
        self._remove("views", check_key("view", key))

    def views(self) -> Sequence[str]:
        """The keys of the views."""
        return self._names("views")

    # Upkeep

    def cleanup(self) -> int:
        """Delete what killed processes left; how many leftovers there were."""
        found = 0
        for name in self._names("staging"):
            path = f"{self.directory}/staging/{name}"
            lock_fd = _try_lock(path)
            if lock_fd < 0:
                continue  # being filled, or gone
            try:
                self._discard(path)
            finally:
                os.close(lock_fd)
            found += 1
        for name in self._names("trash"):
            self._delete_trash(name)
            found += 1
        return found

    # Steps

    def _chain(self, chain_id: str) -> list[str]:
        """Directory names of a chain's layers, topmost first."""
        names: list[str] = []
        name = layer_name(chain_id) if chain_id else ""
        while name:
            if not os.path.isdir(f"{self.directory}/layers/{name}/fs"):
                below = f"layer sha256:{name} is missing" if names else "no such layer"
                raise NotFound("find layer", chain_id, below, hint="pull the image again")
            if len(names) > _CHAIN_LIMIT:
                raise FailedPrecondition("find layer", chain_id, f"more than {_CHAIN_LIMIT} layers")
            names.append(name)
            name = _read_record(f"{self.directory}/layers/{name}/parent")
        return names

    def _stage(self, name: str, parent: str) -> tuple[str, int]:
        path = f"{self.directory}/staging/{name}.{os.urandom(6).hex()}"
        try:
            os.mkdir(path, 0o700)
            lock_fd = _try_lock(path)
            if lock_fd < 0:  # a cleanup saw it before it was locked
                return self._stage(name, parent)
            try:
                os.mkdir(f"{path}/fs", 0o755)
                os.chmod(f"{path}/fs", 0o755)  # noqa: S103 - as a root directory is; the umask has no say
                if parent:
                    os.symlink(parent, f"{path}/parent")
            except OSError:
                os.close(lock_fd)
                raise
        except OSError as error:
            raise SystemFailure.from_os_error(error, "stage layer", path) from error
        return path, lock_fd

    @contextmanager
    def _filling_of(self, chain_id: str, operation: str) -> Generator[str]:
        """The staging directory of an open layer, which is closed when the block ends."""
        with self._filled:
            if chain_id not in self._filling:
                raise FailedPrecondition(operation, chain_id, "it was not opened here")
            staged, lock_fd = self._filling[chain_id]
        try:
            yield staged
        finally:
            with self._filled:
                del self._filling[chain_id]
                self._filled.notify_all()
            os.close(lock_fd)

    def _prepare(self, folder: str, key: str, chain_id: str) -> str:
        directory = f"{self.directory}/{folder}/{key}"
        record = layer_name(chain_id) if chain_id else "-"
        if _read_record(f"{directory}/chain") == record:
            return directory
        temporary = f"{self.directory}/staging/{key}.{os.urandom(6).hex()}"
        try:
            os.mkdir(temporary, 0o700)
            lock_fd = _try_lock(temporary)
            if lock_fd < 0:  # a cleanup saw it before it was locked
                return self._prepare(folder, key, chain_id)
            try:
                # The record goes first: from here on the layers count as used.
                with self._lock(fcntl.LOCK_SH):
                    self._chain(chain_id)
                    os.symlink(record, f"{temporary}/chain")
                if folder == "views":
                    self._build_view(temporary, chain_id)
                else:
                    self._build(temporary, chain_id)
                self._place(temporary, directory, record)
            except BaseException:
                self._discard(temporary)
                raise
            finally:
                os.close(lock_fd)
        except OSError as error:
            raise SystemFailure.from_os_error(error, f"prepare {folder[:-1]}", key) from error
        return directory

    def _place(self, temporary: str, directory: str, record: str) -> None:
        try:
            os.rename(temporary, directory)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if _read_record(f"{directory}/chain") != record:
                raise AlreadyExists(
                    "prepare root file system",
                    os.path.basename(directory),
                    "it stands on another chain of layers",
                ) from None
            self._discard(temporary)  # another caller was first

    def _remove(self, folder: str, key: str) -> None:
        self._delete_trash(self._to_trash(f"{self.directory}/{folder}/{key}"))

    def _find_container(self, container_id: str) -> tuple[str, str]:
        directory = f"{self.directory}/containers/{check_key('container', container_id)}"
        record = _read_record(f"{directory}/chain")
        if not record:
            raise NotFound("find root file system", container_id, "no such container")
        return directory, "" if record == "-" else chain_id_of(record)

    def _user_of(self, name: str) -> str:
        """Who stands on the layer, as words; empty for nobody."""
        for folder, record, words in (
            ("layers", "parent", "layer sha256:{}"),
            ("staging", "parent", "a layer being unpacked"),
            ("staging", "chain", "a container being prepared"),
            ("containers", "chain", "container {}"),
            ("views", "chain", "view {}"),
        ):
            for user in self._names(folder):
                if _read_record(f"{self.directory}/{folder}/{user}/{record}") == name:
                    return words.format(user)
        return ""

    def _names(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(f"{self.directory}/{folder}"))
        except OSError as error:
            raise SystemFailure.from_os_error(error, "list", f"{self.directory}/{folder}") from error

    def _measure(self, path: str, kind: str, key: str) -> Usage:
        try:
            with open_directory(path) as fd:
                return measure_tree(fd)
        except FileNotFoundError:
            raise NotFound(f"measure {kind}", key, f"no such {kind}") from None
        except OSError as error:
            raise SystemFailure.from_os_error(error, f"measure {kind}", key) from error

    def _discard(self, path: str) -> None:
        self._delete_trash(self._to_trash(path))

    def _to_trash(self, path: str) -> str:
        """Move a directory away in one step; its name in the trash, empty when there was none."""
        name = f"{os.path.basename(path)[:100]}.{os.urandom(6).hex()}"
        try:
            os.rename(path, f"{self.directory}/trash/{name}")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise SystemFailure.from_os_error(error, "move to trash", path) from error
        return name

    def _delete_trash(self, name: str) -> None:
        if name:
            with open_directory(f"{self.directory}/trash") as fd:
                remove_tree(fd, name)

    @contextmanager
    def _lock(self, operation: int) -> Generator[None]:
        """Keep what stands on layers from changing: shared to add a user, exclusive to look for users."""
        # Where ROOT lies is the administrator's choice, links included.
        with open_directory(self.directory, follow=True) as fd:
            fcntl.flock(fd, operation)
            yield


# The kernel mounts at most 500 lower directories (OVL_MAX_STACK).
_CHAIN_LIMIT: Final = 500


def _read_record(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""  # no record, or nothing there at all: callers tell these apart by the directory


def _try_lock(path: str) -> int:
    """A descriptor that holds the lock of a directory; -1 when another has it or the directory is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        there = os.stat(path, follow_symlinks=False)
        if there.st_ino == os.fstat(fd).st_ino:
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(fd)
    return -1
