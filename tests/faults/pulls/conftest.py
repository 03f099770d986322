# SPDX-License-Identifier: Apache-2.0
"""A faulty registry and a host that pulls from it, for each test; pauses between tries are short."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from oakum.images import registry as registry_module
from tests.faults.pulls.box import Client, workers
from tests.support.fake_registry import FakeRegistry
from tests.support.patience import eventually


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "_FIRST_PAUSE_S", 0.01)


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    made = Client(tmp_path)
    yield made
    # a layer that was being opened when the pull ended is given back by the thread that opened it
    assert eventually(lambda: not made.layers.leftovers())
    assert workers() == []
