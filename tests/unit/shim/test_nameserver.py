# SPDX-License-Identifier: Apache-2.0
"""The name server over real sockets: other servers that are good, slow, wrong, dead; many questions; odd connections."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from oakum.shim import nameserver
from oakum.shim.loop import Loop
from oakum.shim.nameserver import Hosts, Server, Ways
from tests.support.dns_messages import (
    FORMAT_ERROR,
    NO_ERROR,
    NO_SUCH_NAME,
    REFUSED,
    SERVER_FAILURE,
    TRUNCATED,
    A,
    Behaviour,
    Upstream,
    answer_to,
    ask,
    ask_framed,
    query,
    receive_framed,
)
from tests.support.patience import eventually, patient

FIRST, SECOND = "127.0.53.1", "127.0.53.2"


class Running(NamedTuple):
    server: Server
    hosts: Path
    udp_port: int
    tcp_port: int

    def udp(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(patient(20))
        sock.connect(("127.0.0.1", self.udp_port))
        return sock

    def tcp(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.tcp_port), timeout=patient(20))


def free_port() -> int:
    """Free for both protocols at the addresses of our other servers, when it is asked for."""
    while True:
        with ExitStack() as stack:
            first = stack.enter_context(socket.socket())
            first.bind((FIRST, 0))
            port = first.getsockname()[1]
            try:
                for address in (FIRST, SECOND):
                    stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)).bind(
                        (address, port)
                    )
                stack.enter_context(socket.socket()).bind((SECOND, port))
            except OSError:
                continue
            return port


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    found = free_port()
    monkeypatch.setattr(nameserver, "PORT", found)
    # Who answers is not to be asked twice, also on a machine where that takes long.
    monkeypatch.setattr(nameserver, "TRY_S", patient(20))
    return found


@contextmanager
def running(directory: Path, *upstreams: str) -> Iterator[Running]:
    hosts = directory / "hosts"
    hosts.write_text("10.9.0.2\tdb\n")
    loop = Loop()
    stop, stopped = os.pipe()
    loop.watch(stop, read=loop.stop)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket() as tcp,
        open(hosts, "rb") as file,
    ):
        udp.bind(("127.0.0.1", 0))
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        ways = Ways([nameserver.Upstream(address) for address in upstreams], -1)
        server = Server(loop, udp, tcp, Hosts(file.fileno()), ways)
        thread = threading.Thread(target=loop.run)
        thread.start()
        try:
            yield Running(server, hosts, udp.getsockname()[1], tcp.getsockname()[1])
        finally:
            os.write(stopped, b"x")
            thread.join()
            loop.abandon()
            for stream in list(server.streams):
                stream._sock.close()
            os.close(stop)
            os.close(stopped)


def good(*addresses: str) -> Behaviour:
    return lambda message, _: [answer_to(message, list(addresses))]


def coded(code: int) -> Behaviour:
    return lambda message, _: [answer_to(message, [], code=code)]


def silent(_message: bytes, _protocol: str) -> list[bytes]:
    return []


def test_names_of_the_file_are_answered_and_followed(tmp_path: Path) -> None:
    with running(tmp_path) as here, here.udp() as udp, here.tcp() as tcp:
        assert ask(udp, query("db")).addresses == {"10.9.0.2"}
        assert ask_framed(tcp, query("db")).addresses == {"10.9.0.2"}
        assert ask(udp, query("web")).code == NO_SUCH_NAME, "no other server could know it"
        assert ask(udp, query("web.example")).code == SERVER_FAILURE, "and another one might"
        for number in range(10, 30):
            with open(here.hosts, "r+", encoding="ascii") as file:
                file.write(f"10.9.1.{number}\tweb\n")
                file.truncate()
            eventually(
                lambda wanted=f"10.9.1.{number}": wanted in ask(udp, query("web")).addresses,
                "the last change, however soon it came after the one before",
            )
        here.hosts.write_bytes(b"10.9.0.5 last")
        eventually(lambda: ask(udp, query("last")).addresses == {"10.9.0.5"}, "a line without an end")


def test_the_end_of_a_file_that_is_too_large_is_not_taken_for_a_name(tmp_path: Path) -> None:
    with running(tmp_path) as here, here.udp() as udp:
        here.hosts.write_bytes(
            b"10.9.0.2 db\n" + b"#" * (nameserver.HOSTS_LIMIT_BYTES - 24) + b"\n10.9.0.3 webs\n"
        )
        eventually(lambda: ask(udp, query("web")).code == NO_SUCH_NAME)
        assert ask(udp, query("db")).addresses == {"10.9.0.2"}


def test_other_names_are_asked_of_other_servers_by_the_same_protocol(tmp_path: Path, port: int) -> None:
    def large(message: bytes, protocol: str) -> list[bytes]:
        addresses = [f"192.0.{number >> 8}.{number & 255}" for number in range(1000)]
        return [
            answer_to(message, addresses if protocol == "tcp" else [], flags=TRUNCATED * (protocol == "udp"))
        ]

    with (
        running(tmp_path, FIRST) as here,
        Upstream(large, FIRST, port).serving() as upstream,
        here.udp() as udp,
        here.tcp() as tcp,
    ):
        for number in (1, 65535):
            message = query("Large.example", number=number, edns=1232)
            short = ask(udp, message)
            assert (short.number, short.is_truncated) == (number, True)
            full = ask_framed(tcp, message)
            assert (full.number, len(full.addresses), full.is_truncated) == (number, 1000, False)
    assert [protocol for protocol, _ in upstream.heard] == ["udp", "tcp"] * 2
    assert all(heard[2:] == query("Large.example", edns=1232)[2:] for _, heard in upstream.heard)
    assert len({heard[:2] for _, heard in upstream.heard}) > 1, "nobody else knows our numbers"
    assert not here.server.forwards


def test_what_does_not_answer_the_question_is_not_passed_on(tmp_path: Path, port: int) -> None:
    def forging(message: bytes, protocol: str) -> list[bytes]:
        forged = answer_to(message, ["203.0.113.66"])
        wrong_number = bytes([forged[0] ^ 1]) + forged[1:]
        other_name = answer_to(
            query("evil.example", number=int.from_bytes(message[:2], "big")), ["203.0.113.66"]
        )
        right = answer_to(message, ["192.0.2.1"])
        return [wrong_number, other_name, b"", b"\0" * 5, message, right]

    with running(tmp_path, FIRST) as here, Upstream(forging, FIRST, port).serving(), here.udp() as udp:
        assert ask(udp, query("good.example")).addresses == {"192.0.2.1"}
        with here.tcp() as tcp:
            assert ask_framed(tcp, query("good.example")).code == SERVER_FAILURE, "a stream has one answer"


@pytest.mark.parametrize("first", [coded(SERVER_FAILURE), coded(REFUSED), silent, None])
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_the_next_server_is_asked_where_one_fails(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch, first: Behaviour | None, protocol: str
) -> None:
    monkeypatch.setattr(nameserver, "TRY_S", 0.1)
    with ExitStack() as stack:
        here = stack.enter_context(running(tmp_path, FIRST, SECOND))
        if first is not None:
            stack.enter_context(Upstream(first, FIRST, port).serving())
        # Slow machines: it may be asked in vain before it is heard.
        stack.enter_context(Upstream(good("192.0.2.2"), SECOND, port).serving())
        udp, tcp = stack.enter_context(here.udp()), stack.enter_context(here.tcp())
        asking: Callable[[], bool] = (
            (lambda: ask(udp, query("a.example")).addresses == {"192.0.2.2"})
            if protocol == "udp"
            else (lambda: ask_framed(tcp, query("a.example")).addresses == {"192.0.2.2"})
        )
        eventually(asking)


def test_a_failure_is_passed_on_where_nobody_knows_better(tmp_path: Path, port: int) -> None:
    with (
        running(tmp_path, FIRST, SECOND) as here,
        Upstream(coded(REFUSED), FIRST, port).serving() as upstream,
        here.udp() as udp,
    ):
        assert ask(udp, query("a.example")).code == REFUSED
        assert len(upstream.heard) == 1, "who has refused is not asked again"
    with (
        running(tmp_path, FIRST) as here,
        Upstream(coded(NO_SUCH_NAME), FIRST, port).serving(),
        here.udp() as udp,
    ):
        assert ask(udp, query("web")).code == NO_SUCH_NAME


def test_silence_ends_as_a_failure_and_keeps_nobody_waiting(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nameserver, "TRY_S", 0.1)
    with (
        running(tmp_path, FIRST) as here,
        Upstream(silent, FIRST, port).serving() as upstream,
        here.udp() as udp,
        here.udp() as other,
    ):
        udp.send(query("a.example", number=99))
        assert ask(other, query("db")).addresses == {"10.9.0.2"}
        found = ask(udp, query("b.example", number=99))
        assert (found.number, found.code, found.answers) == (99, SERVER_FAILURE, [])
        udp.recv(512)
        eventually(lambda: not here.server.forwards)
        eventually(lambda: 2 < len(upstream.heard) <= 2 * nameserver.TRIES, "it is asked more than once")


def test_what_is_under_way_at_once_is_bounded(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nameserver, "FORWARDS_MAX", 8)
    gate = threading.Event()

    def waiting(message: bytes, _protocol: str) -> list[bytes]:
        gate.wait(patient(20))
        return [answer_to(message, ["192.0.2.1"])]

    with running(tmp_path, FIRST) as here, Upstream(waiting, FIRST, port).serving(), here.udp() as udp:
        for number in range(20):
            udp.send(query("a.example", number=number))
        eventually(lambda: len(here.server.forwards) == 8)
        assert ask(udp, query("db", number=100)).code == SERVER_FAILURE, "the first that had no room"
        seen = [udp.recv(512) for _ in range(12)]
        assert int.from_bytes(seen[-1][:2], "big") == 100, "our own names are answered all the same"
        gate.set()
        assert {udp.recv(512)[3] & 15 for _ in range(8)} == {NO_ERROR}
        eventually(lambda: not here.server.forwards)
        assert ask(udp, query("a.example")).addresses == {"192.0.2.1"}


def test_questions_in_one_connection_are_answered_one_after_the_other(tmp_path: Path, port: int) -> None:
    with (
        running(tmp_path, FIRST) as here,
        Upstream(good("192.0.2.1"), FIRST, port).serving(),
        here.tcp() as tcp,
    ):
        names = ["db", "a.example"] * 300
        asked = b"".join(
            len(message := query(name, number=number)).to_bytes(2, "big") + message
            for number, name in enumerate(names)
        )
        sender = threading.Thread(target=lambda: (tcp.sendall(asked), tcp.shutdown(socket.SHUT_WR)))
        sender.start()
        numbers = [int.from_bytes(receive_framed(tcp)[:2], "big") for _ in names]
        sender.join()
        assert numbers == list(range(len(names)))
        assert tcp.recv(1) == b""


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"\0\0", b"\0\5hello", b"\xff\xff" + b"x" * 70000, b"\0\x40" + b"x" * 10],
)
def test_odd_connections_end_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    with running(tmp_path) as here:
        with monkeypatch.context() as soon:
            soon.setattr(nameserver, "STREAM_IDLE_S", 0.05)
            with here.tcp() as tcp:
                try:
                    tcp.sendall(data)
                    assert tcp.recv(1) == b""
                except ConnectionError:
                    pass  # what was not read is lost
            eventually(lambda: not here.server.streams)
        with here.tcp() as tcp:
            assert ask_framed(tcp, query("db")[:-1]).code == FORMAT_ERROR
            assert ask_framed(tcp, query("db")).addresses == {"10.9.0.2"}


def test_connections_beyond_the_limit_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nameserver, "STREAMS_MAX", 2)
    with running(tmp_path) as here, here.tcp() as one, here.tcp() as two:
        assert ask_framed(one, query("db")).code == ask_framed(two, query("db")).code == NO_ERROR
        with here.tcp() as three:
            assert three.recv(1) == b""
        two.close()
        eventually(lambda: len(here.server.streams) == 1)
        with here.tcp() as three:
            assert ask_framed(three, query("db", A)).addresses == {"10.9.0.2"}


def test_who_goes_before_the_answer_harms_nobody(tmp_path: Path, port: int) -> None:
    gate = threading.Event()

    def waiting(message: bytes, _protocol: str) -> list[bytes]:
        gate.wait(patient(20))
        return [answer_to(message, [])]

    with running(tmp_path, FIRST) as here, Upstream(waiting, FIRST, port).serving():
        with here.tcp() as tcp, here.udp() as udp:
            message = query("a.example")
            tcp.sendall(len(message).to_bytes(2, "big") + message)
            udp.send(message)
            eventually(lambda: len(here.server.forwards) == 2)
        gate.set()
        eventually(lambda: not here.server.forwards and not here.server.streams)
        with here.udp() as udp:
            assert ask(udp, query("db")).addresses == {"10.9.0.2"}
