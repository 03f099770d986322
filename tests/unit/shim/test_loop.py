# SPDX-License-Identifier: Apache-2.0
"""The event loop and the serving side of a connection."""

import os
import socket

import pytest

from oakum.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, Unavailable
from oakum.linux import sockets
from oakum.model.exits import ExitRecord
from oakum.shim import wire
from oakum.shim.connection import Connection
from oakum.shim.loop import Loop
from oakum.shim.waiting import Over, answer_when_over


def test_timers_fire_in_order_and_can_be_taken_back() -> None:
    loop, said = Loop(), []
    loop.later(0.02, lambda: said.append("second"))
    loop.later(0.01, lambda: said.append("first"))
    loop.later(0.015, lambda: said.append("never")).cancel()
    loop.later(0.03, loop.stop)
    loop.run()
    assert said == ["first", "second"]
    loop.abandon()


def test_a_descriptor_closed_by_an_earlier_callback_is_not_called_for(capfd: pytest.CaptureFixture) -> None:
    loop, said = Loop(), []
    pairs = [os.pipe() for _ in range(2)]

    def reader(own: int, other: int):  # type: ignore[no-untyped-def]
        def read() -> None:
            said.append(own)
            loop.watch(pairs[other][0])
            loop.watch(pairs[own][0])

        return read

    for number, (read_fd, write_fd) in enumerate(pairs):
        os.write(write_fd, b"x")
        loop.watch(read_fd, read=reader(number, 1 - number))
    loop.later(0.02, loop.stop)
    loop.run()
    assert len(said) == 1
    for fd in (fd for pair in pairs for fd in pair):
        os.close(fd)
    loop.abandon()


def test_a_callback_that_fails_is_reported_and_the_loop_goes_on(capfd: pytest.CaptureFixture) -> None:
    loop = Loop()
    loop.later(0, lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    loop.later(0.01, loop.stop)
    loop.run()
    assert "ZeroDivisionError" in capfd.readouterr().err
    loop.abandon()


class Served:
    """A connection served by the test; `client` is the other side."""

    def __init__(self, handler) -> None:  # type: ignore[no-untyped-def]
        self.loop = Loop()
        self.client, server = socket.socketpair()
        self.client.settimeout(2)
        self.closed: list[Connection] = []
        self.connection = Connection(self.loop, server, handler, self.closed.append)

    def turn(self, seconds: float = 0.05) -> None:
        self.loop.later(seconds, self.loop.stop)
        self.loop.run()

    def say(self, **request: object) -> None:
        sockets.send_frame(self.client, wire.encode(dict(request)))

    def hear(self) -> dict:
        received = sockets.receive_frame(self.client)
        assert received is not None
        return wire.decode(received[0])

    def end(self) -> None:
        self.client.close()
        self.connection.close()
        self.loop.abandon()


def test_requests_are_answered_in_order_also_when_sent_ahead() -> None:
    served = Served(lambda c, r, f: c.answer(r["n"]))
    for n in range(3):
        served.say(op="x", n=n)
    served.turn()
    assert [served.hear()["ok"] for _ in range(3)] == [0, 1, 2]
    served.end()


def test_errors_of_ours_and_wrong_requests_come_back_as_errors(capfd: pytest.CaptureFixture) -> None:
    def handler(connection: Connection, request: dict, fds: list[int]) -> None:
        if request["op"] == "no":
            raise FailedPrecondition("do", "it", "not now")
        connection.answer(int(request["number"]))

    served = Served(handler)
    served.say(op="no")
    served.say(op="yes")
    served.say(op="yes", number="x")
    sockets.send_frame(served.client, b"[1, 2")
    sockets.send_frame(served.client, b"[]")
    served.turn()
    codes = [served.hear()["error"]["code"] for _ in range(5)]
    assert codes == ["FAILED_PRECONDITION"] + ["INVALID_ARGUMENT"] * 4
    served.end()


def test_descriptors_sent_along_are_closed_after_the_request() -> None:
    kept: list[int] = []
    served = Served(lambda c, r, f: (kept.extend(f), c.answer(len(f), f[:1])))
    null = os.open("/dev/null", os.O_RDONLY)
    sockets.send_frame(served.client, wire.encode({"op": "x"}), [null, null])
    os.close(null)
    served.turn()
    received = sockets.receive_frame(served.client)
    assert received is not None
    payload, (back,) = received
    assert wire.decode(payload) == {"ok": 2}
    os.close(back)
    for fd in kept:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    served.end()


def test_a_client_that_vanishes_in_the_middle_of_a_call_is_noticed() -> None:
    gone: list[str] = []

    def handler(connection: Connection, request: dict, fds: list[int]) -> None:
        connection.when_gone = lambda: gone.append(request["op"])

    served = Served(handler)
    served.say(op="wait")
    served.turn()
    assert gone == []
    served.client.close()
    served.turn()
    assert gone == ["wait"]
    assert served.closed == [served.connection]
    served.end()


def test_a_client_that_floods_while_it_is_served_is_cut_off() -> None:
    served = Served(lambda c, r, f: None)
    served.say(op="wait")
    served.turn(0.01)
    served.client.setblocking(False)
    for _ in range(200):
        try:
            served.client.send(b"x" * 65536)
        except (BrokenPipeError, BlockingIOError):
            break
        served.turn(0.001)
    assert not served.connection.open
    served.end()


RECORD = ExitRecord(0, 0, False, 1, 2, "Completed")


def test_waiting_for_an_end_that_comes_that_has_come_and_that_does_not_come() -> None:
    over = Over("container c1")
    served = Served(lambda c, r, f: answer_when_over(served.loop, c, over, r["timeout_s"]))
    served.say(op="wait", timeout_s=0.01)
    served.turn()
    assert served.hear()["error"]["code"] == "DEADLINE_EXCEEDED"
    served.say(op="wait", timeout_s=5)
    served.turn(0.01)
    over.tell(RECORD)
    served.say(op="wait", timeout_s=5)
    served.turn()
    assert [ExitRecord.from_dict(served.hear()["ok"]) for _ in range(2)] == [RECORD, RECORD]
    served.end()


def test_the_callers_side_of_a_call() -> None:
    left, right = socket.socketpair()
    with right:
        with pytest.raises(DeadlineExceeded, match=r"op p: no answer in 0.01 s"):
            wire.call(left, {"op": "op"}, timeout_s=0.01, peer="p")
        assert left.fileno() == -1  # a late answer would be taken for the next one
    left, right = socket.socketpair()
    right.close()
    with pytest.raises(Unavailable):
        wire.call(left, {"op": "op"}, timeout_s=1, peer="p")
    left, right = socket.socketpair()
    with left, right:
        sockets.send_frame(right, wire.encode_error(FailedPrecondition("do", "it", "not now", hint="later")))
        with pytest.raises(FailedPrecondition, match=r"do it: not now \(later\)"):
            wire.call(left, {"op": "op"}, timeout_s=1, peer="p")
        sockets.send_frame(right, b"nonsense")
        with pytest.raises(InvalidArgument):
            wire.call(left, {"op": "op"}, timeout_s=1, peer="p")
