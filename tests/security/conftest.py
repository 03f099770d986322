# SPDX-License-Identifier: Apache-2.0
"""The runtime under attack, and what on the host it may not touch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.oci_cli_box import Runtime


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Runtime]:
    """`oakum oci` as it is, for attacks on the program itself."""
    made = Runtime(tmp_path)
    yield made
    made.close()


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A directory of the host that no container may touch."""
    made = tmp_path / "victim"
    made.mkdir()
    return made
