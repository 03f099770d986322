# SPDX-License-Identifier: Apache-2.0
"""What a container's root file system is mounted from: the snapshotter says it, the runtime mounts it.

The runtime mounts it inside the container's own mount namespace, so nothing is left on the host when
the container or its parent is killed.
"""

from __future__ import annotations

from oakum.model.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any


class RootfsSource(NamedTuple):
    """A root file system: an overlay of `lower` directories (topmost first), or one plain directory.

    `lower` empty means a plain bind of `upper`. `upper` empty means a read-only view of `lower`.
    All are absolute host paths.
    """

    lower: tuple[str, ...] = ()
    upper: str = ""
    work: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"lower": list(self.lower), "upper": self.upper, "work": self.work}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RootfsSource:
        """The source that `to_dict` described."""
        return cls(tuple(str(d) for d in data["lower"]), str(data["upper"]), str(data["work"]))
