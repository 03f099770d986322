# SPDX-License-Identifier: Apache-2.0
"""`oakum` as a user has it, with a registry: one installation for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel.cli_box import Box, opened


@pytest.fixture(scope="module")
def shop(module_directories, tmp_path_factory) -> Iterator[Box]:
    with opened(module_directories, tmp_path_factory.mktemp("reg")) as box:
        yield box


@pytest.fixture
def box(shop: Box) -> Iterator[Box]:
    """The same for one test, which leaves no container to the next."""
    yield shop
    shop.clear()
