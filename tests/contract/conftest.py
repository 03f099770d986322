# SPDX-License-Identifier: Apache-2.0
"""A real registry with a busybox image, and a real server on directories of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.conftest import Directories
from tests.support.cri import CriClient
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


@pytest.fixture(scope="module")
def node(
    module_directories: Directories, busybox: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Node]:
    directory = tmp_path_factory.mktemp("n")
    with OakumServer(*module_directories, str(directory)) as server, server.client() as client:
        client.pull(busybox)
        yield Node(server, client, busybox)
