# SPDX-License-Identifier: Apache-2.0
"""One server a state directory, one listener a socket, and sockets that belong to their owner only."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from oakum.daemon.listen import LOCK_NAME, SocketOwner, bind, check_socket_path, make_way, only_server
from oakum.errors import FailedPrecondition, InvalidArgument, NotFound, SystemFailure

ME = SocketOwner(str(os.getuid()), str(os.getgid()), "0660")


def listener(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    directory_fd = os.open(path.parent, os.O_PATH)
    sock.bind(f"/proc/self/fd/{directory_fd}/{path.name}")
    os.close(directory_fd)
    sock.listen()
    return sock


def test_the_second_server_is_told_who_is_first(tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    with only_server(state):
        with pytest.raises(FailedPrecondition, match=f"process {os.getpid()} serves"), only_server(state):
            pass
        with only_server(str(tmp_path / "other")):
            pass
    with only_server(state):
        pass


def test_a_killed_server_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom oakum.daemon.listen import only_server\n"
        "with only_server(sys.argv[1]):\n print('locked', flush=True)\n time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        with (
            pytest.raises(FailedPrecondition, match=f"process {process.pid} serves"),
            only_server(str(tmp_path)),
        ):
            pass
        process.kill()
    with only_server(str(tmp_path)):
        assert (tmp_path / LOCK_NAME).read_text() == f"{os.getpid()}\n"


def test_a_dead_socket_makes_way(tmp_path: Path) -> None:
    path = tmp_path / "new" / "s"
    make_way(str(path))
    assert path.parent.is_dir()
    listener(path).close()
    assert path.exists()
    make_way(str(path))
    assert not path.exists()


def test_a_living_socket_and_a_file_do_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listener(path), pytest.raises(FailedPrecondition, match="another server listens"):
        make_way(str(path))
    assert path.exists()
    other = tmp_path / "file"
    other.write_text("precious")
    with pytest.raises(FailedPrecondition, match="something else"):
        make_way(str(other))
    assert other.read_text() == "precious"


def test_paths_longer_than_an_address(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    path = deep / "s"
    sockets: list[socket.socket] = []

    def add_port(address: str) -> int:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(address.removeprefix("unix:"))
        sock.listen()
        assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600
        sockets.append(sock)
        return 1

    bind(str(path), ME, add_port)
    assert stat.S_IMODE(os.lstat(path).st_mode) == 0o660
    with pytest.raises(FailedPrecondition):
        bind(str(path), ME, add_port)
    sockets[0].close()
    bind(str(path), ME, add_port)
    sockets[1].close()


def test_what_grpc_cannot_bind_is_said(tmp_path: Path) -> None:
    def refuse(_address: str) -> int:
        raise RuntimeError("no")

    before = os.umask(0o022)
    os.umask(before)
    with pytest.raises(SystemFailure, match=r"listen .*: no"):
        bind(str(tmp_path / "s"), ME, refuse)
    with pytest.raises(SystemFailure):
        bind(str(tmp_path / "s"), ME, lambda _: 0)
    assert os.umask(before) == before


def test_owners_and_names() -> None:
    assert (SocketOwner("root", "root", "0600").uid, SocketOwner("7", "8", "600").gid) == (0, 8)
    with pytest.raises(NotFound, match="no such user"):
        SocketOwner("nobody-has-this-name", "root", "0600")
    with pytest.raises(InvalidArgument):
        check_socket_path("/run/")
    with pytest.raises(InvalidArgument):
        check_socket_path("/run/" + "x" * 100)
    assert check_socket_path("/run/x.sock") == "/run/x.sock"
