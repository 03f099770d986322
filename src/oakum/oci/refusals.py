# SPDX-License-Identifier: Apache-2.0
"""What the runtime-spec has and this runtime does not do: refused by name, never passed over in silence. Pure.

A line goes when its member is carried out; `runtime.features` reads the same table.
Spec: runtime-spec config.md "Valid values".
"""

from __future__ import annotations

from typing import Any, Final, cast

from oakum.errors import Unimplemented
from oakum.oci.spec import Spec

# path of a member → what this runtime does not do
REFUSED: Final[dict[str, str]] = {
    "linux.timeOffsets": "time namespaces are not supported",
    "linux.netDevices": "network devices are not moved into containers",
    "linux.intelRdt": "no resctrl file system is used",
    "linux.memoryPolicy": "memory policies are not set",
    "linux.resources.network": "the network controllers of cgroup v1 are not used",
    "linux.resources.rdma": "the RDMA controller is not used",
    "linux.resources.blockIO.weightDevice": "weights of single devices are not set",
    "process.scheduler": "the scheduler is not set",
    "process.ioPriority": "the I/O priority is not set",
    "process.execCPUAffinity": "the affinity of execs is not set",
}


def refuse(spec: Spec) -> None:
    """Raises Unimplemented for a member that has a value and is not carried out."""
    for path, why in REFUSED.items():
        value: Any = spec
        for name in path.split("."):
            value = cast("dict[str, Any]", value).get(name) if value else None
        if value:
            raise Unimplemented("plan container", f"$.{path}", why)
    personality: dict[str, Any] = cast("dict[str, Any]", spec.get("linux") or {}).get("personality") or {}
    # LINUX without flags is what every process has.
    if personality and (personality["domain"] != "LINUX" or personality.get("flags")):
        raise Unimplemented("plan container", "$.linux.personality", "personalities are not set")
