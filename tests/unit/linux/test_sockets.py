# SPDX-License-Identifier: Apache-2.0
"""Unix sockets: long directories, descriptors on their way, frames however they are cut."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.linux import sockets


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    left.settimeout(60)
    right.settimeout(60)
    with left, right:
        yield left, right


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_directory_far_over_108_bytes_is_no_obstacle(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 200) / ("e" * 200)
    directory.mkdir(parents=True)
    fd = os.open(directory, os.O_PATH)
    with closing(sockets.listen(fd, "x.sock")) as listener:
        assert (directory / "x.sock").stat().st_mode & 0o777 == 0o600
        with sockets.connect(str(directory), "x.sock", timeout_s=1) as client:
            listener.settimeout(1)
            with closing(sockets.accept(listener)) as server:
                assert sockets.peer_credentials(server) == (os.getpid(), os.getuid(), os.getgid())
                sockets.send_frame(client, b"hello")
                assert sockets.receive_frame(server) == (b"hello", [])
    os.close(fd)
    with pytest.raises(ConnectionRefusedError):
        sockets.connect(str(directory), "x.sock", timeout_s=1)
    with pytest.raises(FileNotFoundError):
        sockets.connect(str(directory), "other.sock", timeout_s=1)


def test_descriptors_travel_with_their_frame_and_are_close_on_exec(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    left, right = pair
    read_fd, write_fd = os.pipe()
    sockets.send_frame(left, b"take this", [write_fd])
    sockets.send_frame(left, b"and nothing")
    os.close(write_fd)
    received = sockets.receive_frame(right)
    assert received is not None
    payload, (passed,) = received
    assert payload == b"take this"
    assert not os.get_inheritable(passed)
    os.write(passed, b"through")
    os.close(passed)
    assert os.read(read_fd, 100) == b"through"
    os.close(read_fd)
    assert sockets.receive_frame(right) == (b"and nothing", [])


def test_a_peer_that_dies_in_the_middle_of_a_frame_leaks_no_descriptor(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    left, right = pair
    null = os.open("/dev/null", os.O_RDONLY)
    sockets.send_with_fds(left, sockets.frame(b"x" * 100)[:20], [null])
    os.close(null)
    before = open_fds()
    left.close()
    assert sockets.receive_frame(right) is None
    assert open_fds() == before - 1  # the left socket; the received descriptor is closed again


def test_a_frame_of_four_gigabytes_is_refused_before_it_is_read(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    left, right = pair
    left.send(b"\xff\xff\xff\xff")
    with pytest.raises(sockets.FrameTooLarge):
        sockets.receive_frame(right)
    decoder = sockets.FrameDecoder()
    decoder.feed(b"\xff\xff\xff\xff")
    with pytest.raises(sockets.FrameTooLarge):
        decoder.next()


def test_a_frame_larger_than_the_socket_buffer_goes_through(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    left, right = pair
    payload = os.urandom(3 << 20)
    sender = threading.Thread(target=sockets.send_frame, args=(left, payload))
    sender.start()
    received = sockets.receive_frame(right)
    sender.join()
    assert received == (payload, [])


@given(st.lists(st.binary(max_size=200), max_size=10), st.integers(1, 50))
def test_the_decoder_does_not_care_how_the_stream_is_cut(payloads: list[bytes], step: int) -> None:
    stream = b"".join(sockets.frame(p) for p in payloads) + b"tail"
    decoder = sockets.FrameDecoder()
    found: list[bytes] = []
    for at in range(0, len(stream) - 4, step):
        decoder.feed(stream[at : min(at + step, len(stream) - 4)])
        while (one := decoder.next()) is not None:
            found.append(one[0])
    assert found == payloads
    decoder.feed(b"tail")
    assert decoder.rest() == b"tail"
