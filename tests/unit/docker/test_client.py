# SPDX-License-Identifier: Apache-2.0
"""The client of the Engine API against a simulated engine: versions, deadlines, broken connections, refusals."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oakum.docker.client import NEWEST, DockerClient, agree
from oakum.docker.failures import failure, not_runnable
from oakum.errors import (
    AlreadyExists,
    CommandNotRunnable,
    DeadlineExceeded,
    FailedPrecondition,
    ImageNotFound,
    InvalidArgument,
    NotFound,
    OakumError,
    ResourceExhausted,
    SystemFailure,
    Unavailable,
)
from tests.unit.docker.simulated_engine import Request, SimulatedEngine, answer


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SimulatedEngine]:
    with SimulatedEngine(str(tmp_path / "s")) as running:
        yield running


@contextlib.contextmanager
def calling(engine: SimulatedEngine, deadline_s: float = 5.0) -> Iterator[DockerClient]:
    client = DockerClient(engine.host, deadline_s=deadline_s)
    yield client
    client.close()


@pytest.mark.parametrize(
    ("theirs", "oldest", "spoken"),
    [
        ("1.41", "1.12", "v1.41"),
        ("1.44", "1.24", "v1.44"),
        ("1.51", "1.44", "v1.51"),
        ("1.99", "1.44", "v1.51"),
    ],
)
def test_speaks_the_newest_version_that_both_know(
    engine: SimulatedEngine, theirs: str, oldest: str, spoken: str
) -> None:
    engine.version, engine.oldest = theirs, oldest
    engine.on["GET /info"] = lambda request, sock: answer(sock, 200, {"a": 1}) or True
    with calling(engine) as client:
        assert client.get("/info", query={"all": True}) == {"a": 1}
    assert engine.targets() == ["GET /version", f"GET /{spoken}/info?all=1"]


def test_a_daemon_too_old_or_too_new_is_refused_with_what_to_do() -> None:
    with pytest.raises(FailedPrecondition, match=r"1\.40, and 1\.41 is the least \(Docker 20\.10"):
        agree({"ApiVersion": "1.40"}, "unix:///x")
    with pytest.raises(FailedPrecondition, match="a newer oakum is needed"):
        agree({"ApiVersion": "1.99", "MinAPIVersion": "1.98"}, "unix:///x")
    with pytest.raises(FailedPrecondition, match="does not say"):
        agree({}, "unix:///x")
    assert agree({"ApiVersion": "1.99", "MinAPIVersion": ""}, "unix:///x") == NEWEST


def test_a_daemon_that_became_older_is_asked_anew(engine: SimulatedEngine) -> None:
    def info(request: Request, sock: socket.socket) -> bool:
        if request.target.startswith("/v1.44/"):
            answer(
                sock,
                400,
                {"message": "client version 1.44 is too new. Maximum supported API version is 1.41"},
            )
        else:
            answer(sock, 200, "old")
        return True

    engine.on["GET /info"] = info
    engine.version = "1.44"
    with calling(engine) as client:
        assert client.api_version == (1, 44)
        engine.version = "1.41"
        assert client.get("/info") == "old"


def test_a_connection_is_kept(engine: SimulatedEngine) -> None:
    engine.on["GET /info"] = lambda request, sock: answer(sock, 200, 1) or True
    with calling(engine) as client:
        for _ in range(5):
            client.get("/info")
        assert len(engine._sockets) == 1


def test_a_kept_connection_that_died_is_replaced(engine: SimulatedEngine) -> None:
    engine.on["POST /containers/create"] = lambda request, sock: answer(sock, 201, {"Id": "x"}) or True
    with calling(engine) as client:
        for _ in range(3):
            assert client.post("/containers/create", {}) == {"Id": "x"}
            engine.drop()


def test_a_process_with_more_than_1024_descriptors(engine: SimulatedEngine) -> None:
    engine.on["GET /info"] = lambda request, sock: answer(sock, 200, {"ID": "x"}) or True
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1400), hard))
    others = [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(1100)]
    try:
        with calling(engine) as client:
            for _ in range(3):
                assert client.get("/info") == {"ID": "x"}
    finally:
        for fd in others:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_may_have_been_done_is_not_asked_for_twice(engine: SimulatedEngine) -> None:
    engine.on["GET /info"] = lambda request, sock: answer(sock, 200, 1) or True
    engine.on["POST /containers/create"] = lambda request, sock: False
    with calling(engine) as client:
        client.get("/info")
        with pytest.raises(Unavailable, match="the connection broke"):
            client.post("/containers/create", {})
    assert sum("create" in target for target in engine.targets()) == 1


def test_no_call_hangs_and_others_go_on(engine: SimulatedEngine) -> None:
    over = threading.Event()
    engine.on["GET /hangs"] = lambda request, sock: over.wait(60)
    engine.on["GET /info"] = lambda request, sock: answer(sock, 200, 1) or True
    with calling(engine) as client:
        client.get("/info")
        failed: list[OakumError] = []

        def hang() -> None:
            try:
                client.get("/hangs", deadline_s=0.5)
            except OakumError as error:
                failed.append(error)

        thread = threading.Thread(target=hang)
        thread.start()
        assert client.get("/info") == 1
        thread.join()
        assert isinstance(failed[0], DeadlineExceeded)
    over.set()


def test_an_answer_that_trickles_has_the_same_deadline(engine: SimulatedEngine) -> None:
    def trickle(request: Request, sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(2000):
            sock.sendall(b" ")
            time.sleep(0.01)
        return False

    engine.on["GET /info"] = trickle
    with calling(engine) as client, pytest.raises(DeadlineExceeded):
        client.get("/info", deadline_s=0.3)
    assert engine.requests[-1].target.endswith("/info")


def test_no_socket_says_so(tmp_path: Path) -> None:
    client = DockerClient(f"unix://{tmp_path}/none")
    with pytest.raises(Unavailable, match="is dockerd running"):
        client.get("/info")
    with pytest.raises(InvalidArgument, match="not a unix socket"):
        DockerClient("tcp://1.2.3.4:2375")


def test_a_stream_is_read_by_lines_and_closed_from_another_thread(engine: SimulatedEngine) -> None:
    def events(request: Request, sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for text in (b'{"a":1}\n{"b"', b":2}\n"):
            sock.sendall(b"%x\r\n%s\r\n" % (len(text), text))
        return bool(sock.recv(1))

    engine.on["GET /events"] = events
    with calling(engine) as client, client.stream("GET", "/events") as reader:
        objects = reader.objects()
        assert [next(objects), next(objects)] == [{"a": 1}, {"b": 2}]
        threading.Timer(0.1, reader.close).start()
        assert list(objects) == []


def test_a_cut_stream_is_told_from_its_end(engine: SimulatedEngine) -> None:
    def cut(request: Request, sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{}\n")
        return False

    engine.on["POST /images/create"] = cut
    with (
        calling(engine) as client,
        pytest.raises(Unavailable),
        client.stream("POST", "/images/create") as reader,
    ):
        list(reader.objects())


def test_a_body_is_sent_piece_by_piece(engine: SimulatedEngine) -> None:
    got: list[bytes] = []

    def load(request: Request, sock: socket.socket) -> bool:
        assert request.headers["transfer-encoding"] == "chunked"
        data = request.body
        while not data.endswith(b"0\r\n\r\n"):
            data += sock.recv(65536)
        got.append(data)
        answer(sock, 200, {"stream": "ok"})
        return True

    engine.on["POST /images/load"] = load
    with (
        calling(engine) as client,
        client.stream("POST", "/images/load", body=iter([b"ab", b"cde"])) as reader,
    ):
        assert list(reader.objects()) == [{"stream": "ok"}]
    assert got == [b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"]


def test_a_hijacked_connection_has_every_byte_behind_the_head(engine: SimulatedEngine) -> None:
    def attach(request: Request, sock: socket.socket) -> bool:
        assert request.headers["upgrade"] == "tcp"
        sock.sendall(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\n\r")
        time.sleep(0.05)
        sock.sendall(b"\nfirst\r\n\r\nbytes")
        sock.sendall(sock.recv(100).upper())
        return False

    engine.on["POST /containers/x/attach"] = attach
    with calling(engine) as client, client.hijack("/containers/x/attach") as sock:
        first = b"first\r\n\r\nbytes"
        assert sock.recv(len(first), socket.MSG_WAITALL) == first
        sock.sendall(b"hello")
        assert sock.recv(5, socket.MSG_WAITALL) == b"HELLO"


def test_a_refused_hijack_says_why(engine: SimulatedEngine) -> None:
    engine.on["POST /exec/x/start"] = lambda request, sock: (
        answer(sock, 409, {"message": "it is paused"}) or True
    )
    with calling(engine) as client, pytest.raises(FailedPrecondition, match="it is paused"):
        client.hijack("/exec/x/start")


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "bad parameter", InvalidArgument),
        (404, "No such container: x", NotFound),
        (404, "No such image: x:latest", ImageNotFound),
        (409, 'Conflict. The container name "/x" is already in use by container', AlreadyExists),
        (409, "container is not running", FailedPrecondition),
        (500, "write /var/lib/docker/x: no space left on device", ResourceExhausted),
        (500, "something else", SystemFailure),
        (503, "this node is not ready", Unavailable),
    ],
)
def test_refusals_become_errors(status: int, message: str, kind: type[OakumError]) -> None:
    error = failure(status, message, "POST /x")
    assert type(error) is kind
    assert message in str(error)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('OCI runtime create failed: runc create failed: exec: "x": executable file not found in $PATH', 127),
        ('starting container process caused: exec: "/x": stat /x: no such file or directory: unknown', 127),
        ('OCI runtime exec failed: exec failed: exec: "/etc/passwd": permission denied: unknown', 126),
        ("runc create failed: exec /x: exec format error", 126),
    ],
)
def test_a_command_that_cannot_run_has_a_shells_exit_code(message: str, code: int) -> None:
    error = failure(400, message, "POST /containers/x/start", starts=True)
    assert isinstance(error, CommandNotRunnable)
    assert error.exit_code == code


@pytest.mark.parametrize(
    "message",
    [
        "driver failed programming external connectivity: permission denied",
        "runc create failed: unable to start container process: error mounting /x: no such file or directory",
    ],
)
def test_other_failed_starts_are_none_of_the_commands_fault(message: str) -> None:
    assert not_runnable(message, "x") is None
