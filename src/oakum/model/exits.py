# SPDX-License-Identifier: Apache-2.0
"""How a process ended: the record that a shim writes durably before it tells anyone."""

from __future__ import annotations

from oakum.model.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any


class ExitRecord(NamedTuple):
    """The end of a container's first process or of an exec.

    `exit_code` is 0-255, with 128 + n for a process that signal n ended; times are nanoseconds since the epoch.
    `reason` is "Completed", "Error", "OOMKilled" or "StartError"; `message` explains a StartError.
    """

    exit_code: int
    signal: int
    oom_killed: bool
    started_at_ns: int
    finished_at_ns: int
    reason: str
    message: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return self._asdict()

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ExitRecord:
        """The record that `to_dict` described. Raises KeyError or TypeError when it is damaged."""
        return cls(**{name: data[name] for name in cls._fields})
