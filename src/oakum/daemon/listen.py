# SPDX-License-Identifier: Apache-2.0
"""Before a server serves: it is the only one on its state directory, and nobody listens where it will.

gRPC binds the sockets itself and unlinks whatever socket is in the way, so that is looked at here first.
"""

from __future__ import annotations

import fcntl
import grp
import os
import pwd
import socket
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager

from oakum.errors import FailedPrecondition, InvalidArgument, NotFound, SystemFailure

LOCK_NAME = "serve.lock"
# sun_path holds 108 bytes with its end; longer paths go through a directory descriptor. Source: unix(7).
_MAX_PATH_BYTES = 107


@contextmanager
def only_server(state: str) -> Generator[None]:
    """Hold the lock that makes this process the only server on `state`.

    The kernel lets go of it when the process ends, however it does; the file stays and says nothing then.

    Raises:
        FailedPrecondition: another server holds it; says its process id.
    """
    path = os.path.join(state, LOCK_NAME)
    try:
        os.makedirs(state, mode=0o711, exist_ok=True)
        lock_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise SystemFailure.from_os_error(error, "lock state directory", state) from error
    try:
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(lock_fd, 20, 0).decode(errors="replace").strip() or "unknown"
            raise FailedPrecondition(
                "serve",
                state,
                f"process {pid} serves this state directory already",
                hint="stop it, or give another --state and --root",
            ) from None
        os.ftruncate(lock_fd, 0)
        os.pwrite(lock_fd, f"{os.getpid()}\n".encode(), 0)
        yield
        os.ftruncate(lock_fd, 0)
    finally:
        os.close(lock_fd)


def make_way(path: str) -> None:
    """Make the directory of the socket `path`, and remove a socket that a dead server left there.

    Raises:
        FailedPrecondition: somebody listens there, or it is not a socket.
    """
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise SystemFailure.from_os_error(error, "prepare socket", path) from error
    if not stat.S_ISSOCK(mode):
        raise FailedPrecondition("listen", path, "there is something else than a socket")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe,
        _short(path) as near,
    ):
        probe.settimeout(2)
        try:
            probe.connect(near)
        except (ConnectionRefusedError, FileNotFoundError):
            pass
        except OSError as error:
            raise SystemFailure.from_os_error(error, "probe socket", path) from error
        else:
            raise FailedPrecondition(
                "listen", path, "another server listens there", hint="stop it, or give another --cri-listen"
            )
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


@contextmanager
def _short(path: str) -> Generator[str]:
    """`path`, or another short enough for a socket address that leads to the same place."""
    if len(os.fsencode(path)) <= _MAX_PATH_BYTES:
        yield path
        return
    directory_fd = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory_fd}/{os.path.basename(path)}"
    finally:
        os.close(directory_fd)


class SocketOwner:
    """Who may connect: user, group and mode of the sockets."""

    def __init__(self, user: str, group: str, mode: str) -> None:
        self.uid = _number("user", user, lambda name: pwd.getpwnam(name).pw_uid)
        self.gid = _number("group", group, lambda name: grp.getgrnam(name).gr_gid)
        self.mode = int(mode, 8)


def _number(kind: str, text: str, find: Callable[[str], int]) -> int:
    if text.isascii() and text.isdecimal():
        return int(text)
    try:
        return find(text)
    except KeyError:
        raise NotFound(f"find {kind}", repr(text), f"this host has no such {kind}") from None


def bind(path: str, owner: SocketOwner, add_port: Callable[[str], int]) -> None:
    """Have `add_port` (of a gRPC server) bind the socket `path`; nobody but its owner can ever connect.

    Raises:
        SystemFailure: it could not be bound, or not be given to its owner.
    """
    make_way(path)
    # the socket is born 0600: there is no moment at which others may connect
    before = os.umask(0o177)
    try:
        with _short(path) as near:
            if add_port(f"unix:{near}") == 0:
                raise SystemFailure("listen", path, "gRPC could not bind it")
    except (RuntimeError, ValueError) as error:
        raise SystemFailure("listen", path, str(error)) from error
    finally:
        os.umask(before)
    try:
        os.chown(path, owner.uid, owner.gid, follow_symlinks=False)
        os.chmod(path, owner.mode)
    except OSError as error:
        raise SystemFailure.from_os_error(error, "give socket to its owner", path) from error


def check_socket_path(path: str) -> str:
    """`path` if a socket can be there. Raises InvalidArgument for a name that no address can hold."""
    name = os.path.basename(path)
    if not name or len(os.fsencode(name)) > 64:
        raise InvalidArgument("listen", path, "not a usable name for a socket")
    return path
