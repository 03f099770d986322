# SPDX-License-Identifier: Apache-2.0
"""A real gRPC server of the front door on a unix socket, over a backend in memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from oakum.api.cri.calls import Calls
from oakum.api.cri.server import cri_server
from tests.support.cri import CriClient, MemoryBackend


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend()


@pytest.fixture
def cri(tmp_path_factory: pytest.TempPathFactory, backend: MemoryBackend) -> Iterator[CriClient]:
    socket = tmp_path_factory.mktemp("cri") / "s"
    ready, loop = threading.Event(), asyncio.new_event_loop()
    done = asyncio.Event()

    async def serve(path: Path) -> None:
        calls = Calls(patient_threads=4)
        server = cri_server(backend, backend, calls)
        server.add_insecure_port(f"unix://{path}")
        await server.start()
        ready.set()
        await done.wait()
        await server.stop(0.1)
        calls.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(socket),))
    thread.start()
    assert ready.wait(60)
    with CriClient(str(socket)) as client:
        yield client
    loop.call_soon_threadsafe(done.set)
    thread.join(60)
    assert not thread.is_alive()
    loop.close()
