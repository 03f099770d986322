# SPDX-License-Identifier: Apache-2.0
"""The `inspect` of every kind of object: one JSON list, and an error for each name that is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from oakum.cli.output import write_json
from oakum.cli.report import report
from oakum.errors import OakumError


def inspect_each(names: Sequence[str], look: Callable[[str], object], *, as_json: bool) -> int:
    """Print what `look` finds of each name; the exit code is that of the last error, 0 without one."""
    code = 0
    found: list[object] = []
    for name in names:
        try:
            found.append(look(name))
        except OakumError as error:
            code = report(error, as_json=as_json)
    write_json(found)
    return code
