# SPDX-License-Identifier: Apache-2.0
"""Attached clients and a container's pipes: fast and slow readers, typing, leaving, the last frame.

The "container" here is the other end of the pipes, held by the test; everything else is the real thing.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oakum.model.exits import ExitRecord
from oakum.shim import frames
from oakum.shim.attach import BEHIND_LIMIT_BYTES
from oakum.shim.logs import Log
from oakum.shim.loop import Loop
from oakum.shim.stdio import STDIN_BUFFER_BYTES, Stdio
from tests.support.patience import eventually, patient

RECORD = ExitRecord(3, 0, False, 1, 2, "Error")


class World:
    """A loop on a thread of its own, with one container's streams."""

    def __init__(self, log: str = "", *, stdin: bool = True, stdin_once: bool = False) -> None:
        self.loop = Loop()
        self.stdio = Stdio(self.loop, "c1", Log(log), tty=False, stdin=stdin, stdin_once=stdin_once)
        ends = self.stdio.open_pipes()
        assert ends is not None
        self.stdin, self.stdout, self.stderr = (fd.steal() for fd in ends)
        self._jobs: list = []
        self._wake = os.pipe()
        self.loop.watch(self._wake[0], read=self._work)
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()

    def _work(self) -> None:
        os.read(self._wake[0], 1)
        self._jobs.pop(0)()

    def do(self, job) -> None:  # type: ignore[no-untyped-def]
        done = threading.Event()
        failure: list[BaseException] = []

        def run() -> None:
            try:
                job()
            except BaseException as error:  # noqa: BLE001 - handed to the test, on its own thread
                failure.append(error)
            finally:
                done.set()

        self._jobs.append(run)
        os.write(self._wake[1], b"x")
        assert done.wait(60)
        if failure:
            raise failure[0]

    def attach(self, **kinds: bool) -> socket.socket:
        ours, theirs = socket.socketpair()
        wanted = {"stdin": False, "stdout": True, "stderr": True, "backpressure": False, **kinds}
        self.do(lambda: self.stdio.attach(theirs, b"", **wanted))
        ours.settimeout(60)
        return ours

    def end(self) -> None:
        for fd in (self.stdin, self.stdout, self.stderr):
            if fd >= 0:
                os.close(fd)
        self.stdin = self.stdout = self.stderr = -1
        drained = threading.Event()
        self.do(lambda: self.stdio.drain(drained.set))
        assert drained.wait(60)
        self.do(lambda: self.stdio.finish(RECORD))

    def close(self) -> None:
        for fd in (self.stdin, self.stdout, self.stderr):
            if fd >= 0:
                os.close(fd)
        self.do(self.stdio.close)
        self.do(self.loop.stop)
        self.thread.join(60)
        for fd in self._wake:
            os.close(fd)
        self.loop.abandon()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def read_all(sock: socket.socket) -> list[tuple[int, bytes]]:
    decoder = frames.Decoder()
    found: list[tuple[int, bytes]] = []
    while data := sock.recv(65536):
        found += decoder.feed(data)
    sock.close()
    return found


def joined(found: list[tuple[int, bytes]], kind: int) -> bytes:
    return b"".join(payload for k, payload in found if k == kind)


def test_every_client_sees_what_it_asked_for_and_then_the_end(world: World) -> None:
    both = world.attach()
    only_errors = world.attach(stdout=False)
    os.write(world.stdout, b"out")
    os.write(world.stderr, b"err")
    time.sleep(0.05)
    world.end()
    seen = read_all(both)
    assert joined(seen, frames.STDOUT) == b"out"
    assert joined(seen, frames.STDERR) == b"err"
    assert seen[-1][0] == frames.EXIT
    assert ExitRecord.from_dict(json.loads(seen[-1][1])) == RECORD
    seen = read_all(only_errors)
    assert joined(seen, frames.STDOUT) == b""
    assert joined(seen, frames.STDERR) == b"err"


def test_a_reader_that_stands_still_is_dropped_and_the_container_goes_on(tmp_path: Path) -> None:
    world = World(str(tmp_path / "log"))
    slow = world.attach()
    quick = world.attach()
    total = BEHIND_LIMIT_BYTES + (2 << 20)
    decoder = frames.Decoder()
    received = 0
    for written in range(65536, total + 1, 65536):
        os.write(world.stdout, b"x" * 65535 + b"\n")
        while received < written:
            received += len(joined(decoder.feed(quick.recv(65536)), frames.STDOUT))
    world.end()
    assert joined(read_all(quick), frames.STDOUT) == b""
    seen = read_all(slow)
    kind, payload = seen[-1]
    assert kind == frames.ERROR
    assert json.loads(payload)["code"] == "RESOURCE_EXHAUSTED"
    assert len(joined(seen, frames.STDOUT)) < total
    world.close()
    assert (tmp_path / "log").stat().st_size > total


def test_with_backpressure_the_container_waits_and_nothing_is_lost(world: World) -> None:
    client = world.attach(backpressure=True)
    total = 4 << 20
    written = 0

    def produce() -> None:
        nonlocal written
        while written < total:
            written += os.write(world.stdout, b"y" * 65536)

    producer = threading.Thread(target=produce)
    producer.start()
    time.sleep(0.3)
    assert written < 2 << 20  # it is held up by the reader
    decoder = frames.Decoder()
    got = 0
    while got < total:
        got += len(joined(decoder.feed(client.recv(65536)), frames.STDOUT))
    producer.join(60)
    assert got == written == total
    client.close()


def test_a_client_with_backpressure_that_leaves_lets_the_container_go_on(world: World) -> None:
    client = world.attach(backpressure=True)
    os.set_blocking(world.stdout, False)
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        try:
            os.write(world.stdout, b"z" * 65536)
        except BlockingIOError:
            time.sleep(0.01)
    client.close()
    os.set_blocking(world.stdout, True)
    began = time.monotonic()
    for _ in range(32):
        os.write(world.stdout, b"z" * 65536)
    assert time.monotonic() - began < patient(5)


def test_typing_reaches_the_container_and_waits_when_it_does_not_read(world: World) -> None:
    client = world.attach(stdin=True)
    text = os.urandom(1 << 20)
    sender = threading.Thread(
        target=lambda: [
            client.sendall(frames.encode(frames.STDIN, text[at : at + 65536]))
            for at in range(0, len(text), 65536)
        ]
    )
    sender.start()
    eventually(world.stdio.stdin_full, "it waits")
    assert len(world.stdio._input_queue) < 3 * STDIN_BUFFER_BYTES
    got = b""
    while len(got) < len(text):
        got += os.read(world.stdin, 65536)
    sender.join(60)
    assert got == text
    client.close()


def test_stdin_stays_open_for_the_next_client_unless_once(world: World) -> None:
    for word in (b"one", b"two"):
        client = world.attach(stdin=True)
        client.sendall(frames.encode(frames.STDIN, word) + frames.encode(frames.CLOSE_STDIN))
        assert os.read(world.stdin, 10) == word
        client.close()
    once = World(stdin_once=True)
    client = once.attach(stdin=True)
    watcher = once.attach(stdin=False)
    client.sendall(frames.encode(frames.STDIN, b"bye"))
    watcher.close()
    client.close()
    assert os.read(once.stdin, 10) == b"bye"
    assert os.read(once.stdin, 10) == b""
    once.close()


def test_close_stdin_lets_a_client_go_on_reading() -> None:
    once = World(stdin_once=True)
    client = once.attach(stdin=True)
    client.sendall(frames.encode(frames.STDIN, b"data") + frames.encode(frames.CLOSE_STDIN))
    assert os.read(once.stdin, 10) == b"data"
    assert os.read(once.stdin, 10) == b""
    os.write(once.stdout, b"answer")
    once.end()
    assert joined(read_all(client), frames.STDOUT) == b"answer"
    once.close()


def test_input_after_the_container_closed_its_end_is_dropped(world: World) -> None:
    client = world.attach(stdin=True)
    os.close(world.stdin)
    world.stdin = -1
    for _ in range(20):
        client.sendall(frames.encode(frames.STDIN, b"q" * 65536))
    os.write(world.stdout, b"alive")
    decoder = frames.Decoder()
    assert decoder.feed(client.recv(100)) == [(frames.STDOUT, b"alive")]
    client.close()


@pytest.mark.parametrize(
    "garbage", [b"\xff" * 20, frames.encode(frames.RESIZE, b"{"), b"\x00\xff\xff\xff\xff"]
)
def test_a_client_that_talks_nonsense_is_dropped_alone(world: World, garbage: bytes) -> None:
    bad, good = world.attach(stdin=True), world.attach()
    bad.sendall(garbage)
    assert bad.recv(10) == b""
    os.write(world.stdout, b"ok")
    assert frames.Decoder().feed(good.recv(100)) == [(frames.STDOUT, b"ok")]
    bad.close()
    good.close()


def test_who_holds_a_pipe_open_beyond_the_end_cannot_hold_up_the_record(world: World) -> None:
    client = world.attach()
    holder = os.dup(world.stdout)
    os.write(holder, b"last words")
    began = time.monotonic()
    world.end()
    took = time.monotonic() - began
    assert 0.5 < took < 2
    seen = read_all(client)
    assert joined(seen, frames.STDOUT) == b"last words"
    assert seen[-1][0] == frames.EXIT
    os.close(holder)
