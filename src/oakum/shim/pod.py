# SPDX-License-Identifier: Apache-2.0
"""What the containers of one shim share: its directory, the sandbox's namespaces, and who is told of a child's end."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from oakum.shim.sandbox import Namespaces


class Pod(NamedTuple):
    """`reaped` maps a child's process id to what is called, once, with its wait status."""

    directory: str
    namespaces: Namespaces
    reaped: dict[int, Callable[[int], None]]
