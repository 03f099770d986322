# SPDX-License-Identifier: Apache-2.0
"""What the runtime-spec has and this runtime does not do: refused by name, never passed over in silence. Pure.

A line goes when its member is carried out; `runtime.features` reads the same table.
Spec: runtime-spec config.md "Valid values".
"""

from __future__ import annotations

from oakum.errors import Unimplemented
from oakum.model.light import TYPE_CHECKING, cast
from oakum.oci.spec import Spec

if TYPE_CHECKING:
    from typing import Any, Final

# path of a member → what this runtime does not do
REFUSED: Final[dict[str, str]] = {
    "linux.intelRdt": "no resctrl file system is used",
}


def refuse(spec: Spec) -> None:
    """Raises Unimplemented for a member that has a value and is not carried out."""
    for path, why in REFUSED.items():
        value: Any = spec
        for name in path.split("."):
            value = cast("dict[str, Any]", value).get(name) if value else None
        if value:
            raise Unimplemented("plan container", f"$.{path}", why)
