# SPDX-License-Identifier: Apache-2.0
"""A streaming server on loopback over commands of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from oakum.streaming.server import StreamingServer
from tests.support.local_source import LocalSource


@pytest.fixture
def source() -> Iterator[LocalSource]:
    made = LocalSource()
    yield made
    made.close()


@pytest.fixture
def server(source: LocalSource) -> Iterator[StreamingServer]:
    before = len(os.listdir("/proc/self/fd"))
    with StreamingServer(source) as running:
        yield running
    source.close()
    assert len(os.listdir("/proc/self/fd")) <= before
