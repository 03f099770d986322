# SPDX-License-Identifier: Apache-2.0
"""The backend against a simulated engine: recovery beside calls, and registries that cannot be reached."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from oakum.backend.config import ContainerConfig, ContainerMetadata, SandboxConfig, SandboxMetadata
from oakum.docker import backend as module
from oakum.docker import pause
from oakum.docker.backend import DockerBackend
from oakum.docker.containers import Containers
from oakum.docker.labels import Labels
from oakum.docker.layout import Layout
from oakum.errors import Aborted, NotFound, OakumError, Unauthenticated, Unavailable
from oakum.network.settings import NetworkSettings
from tests.unit.docker.simulated_engine import Request, SimulatedEngine, answer


def says(status: int, value: Any) -> Callable[[Request, Any], bool]:
    return lambda request, sock: answer(sock, status, value) or True


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SimulatedEngine]:
    with SimulatedEngine(str(tmp_path / "s")) as running:
        running.on["GET /_ping"] = says(200, None)
        running.on["GET /containers/json"] = says(200, [])
        yield running


@pytest.fixture
def backend(engine: SimulatedEngine, tmp_path: Path) -> Iterator[DockerBackend]:
    made = DockerBackend(
        engine.host,
        root=str(tmp_path / "root"),
        state=str(tmp_path / "state"),
        network=NetworkSettings("builtin"),
        pause_image="127.0.0.1:1/pause:1",
    )
    yield made
    made.close()


@pytest.mark.parametrize("what", ["sandbox", "container"])
def test_recovery_takes_nothing_that_is_being_made_for_left_behind(
    backend: DockerBackend, engine: SimulatedEngine, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    engine.on[f"GET /images/{pause.archive(os.uname().machine)[0]}/json"] = says(200, {"Id": "x"})
    engine.on["POST /images/create"] = says(500, {"message": "connection refused"})
    begun, go_on, recovered = threading.Event(), threading.Event(), list[str]()

    def make(*_: object) -> str:
        begun.set()
        go_on.wait(60)
        return "made"

    monkeypatch.setattr(backend._sandboxes, "run", make)
    monkeypatch.setattr(backend._containers, "create", make)
    monkeypatch.setattr(module, "recover", lambda *_: recovered.append("recovered") or [])
    call: Callable[[], object] = {
        "sandbox": lambda: backend.run_sandbox(SandboxConfig(metadata=SandboxMetadata(name="p"))),
        "container": lambda: backend.create_container(
            "pod", ContainerConfig(metadata=ContainerMetadata(name="c"), image="x")
        ),
    }[what]
    calling = threading.Thread(target=call)
    calling.start()
    try:
        assert begun.wait(60)
        with pytest.raises(Aborted, match="under way"):
            backend.recover()
        assert not recovered
    finally:
        go_on.set()
        calling.join(60)
    backend.recover()
    assert recovered == ["recovered"]


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ('Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused', Unavailable),
        ('Get "https://r/v2/": unauthorized: incorrect username or password', Unauthenticated),
        ("manifest for r/x:1 not found: manifest unknown", NotFound),
    ],
)
def test_a_pull_that_fails_at_once_says_whose_fault_it_is(
    backend: DockerBackend, engine: SimulatedEngine, message: str, kind: type[OakumError]
) -> None:
    engine.on["POST /images/create"] = says(500, {"message": message})
    with pytest.raises(kind, match="pull image"):
        backend.pull_image("127.0.0.1:1/x:1")


def test_sandboxes_run_our_own_image_where_theirs_cannot_be_reached(
    backend: DockerBackend, engine: SimulatedEngine
) -> None:
    own = pause.archive(os.uname().machine)[0]
    engine.on["POST /images/create"] = says(500, {"message": "dial tcp: connect: connection refused"})
    engine.on[f"GET /images/{own}/json"] = says(200, {"Id": "x"})
    backend.recover()
    assert f"GET /v1.41/images/{own}/json" in engine.targets()


def test_a_container_that_nobody_has_come_to_yet_is_removed_with_its_last_lines(tmp_path: Path) -> None:
    done: list[str] = []
    labels = Labels(kind="container", installation="/r", created_at_ns=1, log_path="/log")
    row = {"Id": "c", "State": {"Running": False, "Status": "exited"}}
    note: Callable[[str], Callable[..., None]] = lambda name: lambda *_, **__: done.append(name)  # noqa: E731 - one word
    logs = SimpleNamespace(follow=note("follow"), drained=note("drain"), forget=note("forget"))
    containers = Containers(
        cast("Any", SimpleNamespace(delete=note("delete"))),
        cast("Any", SimpleNamespace(lookup=lambda *_: (labels, row))),
        Layout(str(tmp_path), str(tmp_path)),
        logs=cast("Any", logs),
        mounts=cast("Any", SimpleNamespace(release=note("release"))),
        **cast("Any", dict.fromkeys(("images", "users", "log_config", "cgroups", "score", "powers"))),
    )
    os.makedirs(Layout(str(tmp_path), "").containers)
    containers.remove_one("c")
    assert done == ["follow", "drain", "delete", "release", "forget"]
