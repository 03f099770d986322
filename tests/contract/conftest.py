# SPDX-License-Identifier: Apache-2.0
"""A real registry with a busybox image, and a real server on directories of its own, over each backend in turn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.conftest import Directories
from tests.support.cri import CriClient
from tests.support.docker_peer import DockerPeer
from tests.support.registry import Registry, busybox_layer
from tests.support.server import OakumServer


class Node(NamedTuple):
    """A running server, a client of it, and an image in its store."""

    server: OakumServer
    client: CriClient
    image: str


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry")) as running:
        config = {"Cmd": ["sh"], "Env": ["PATH=/bin:/usr/bin", "FROM_IMAGE=yes"]}
        running.push_image("library/busybox", "latest", [busybox_layer()], config)
        yield running


@pytest.fixture(scope="session")
def busybox(registry: Registry) -> str:
    return f"{registry.address}/library/busybox:latest"


@pytest.fixture(scope="session")
def dockerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerPeer]:
    """A Docker Engine that reaches the registry, and makes no networks itself."""
    with DockerPeer(str(tmp_path_factory.mktemp("dk")), own_network=False) as running:
        running.keep_host_namespace()
        yield running


@pytest.fixture(scope="module", params=["native", "docker"])
def backend(request: pytest.FixtureRequest) -> list[str]:
    """What goes behind `oakum serve` for one of the two backends."""
    if request.param == "native":
        return []
    peer: DockerPeer = request.getfixturevalue("dockerd")
    return ["--backend", "docker", "--docker-host", peer.host]


@pytest.fixture(scope="module")
def node(
    module_directories: Directories,
    busybox: str,
    tmp_path_factory: pytest.TempPathFactory,
    backend: list[str],
) -> Iterator[Node]:
    directory = tmp_path_factory.mktemp("n")
    with OakumServer(*module_directories, str(directory), *backend) as server, server.client() as client:
        client.pull(busybox)
        yield Node(server, client, busybox)
