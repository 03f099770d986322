# SPDX-License-Identifier: Apache-2.0
"""Fixtures of tests of networks. A module names those that it wants: `lab = network_fixtures.lab`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from oakum.network.builtin import BuiltinNetwork
from tests.support.cni import CniBox
from tests.support.netlab import Lab


def _lab() -> Iterator[Lab]:
    """A host of the test's own, with a machine outside; the calling thread stands in it."""
    made = Lab()
    yield made
    made.close()


lab = pytest.fixture(_lab)
machine = pytest.fixture(_lab, scope="module")


@pytest.fixture
def network(lab: Lab, tmp_path: Path) -> Iterator[BuiltinNetwork]:
    """The built-in network of that host."""
    made = BuiltinNetwork(str(tmp_path / "network.db"), name_suffix="test")
    yield made
    made.close()


@pytest.fixture
def box(tmp_path: Path) -> Iterator[CniBox]:
    """A CNI host with nothing configured."""
    made = CniBox(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def module_box(machine: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CniBox]:
    """The same for a module's tests, on the module's host."""
    made = CniBox(tmp_path_factory.mktemp("cni"))
    yield made
    made.close()
