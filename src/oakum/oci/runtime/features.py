# SPDX-License-Identifier: Apache-2.0
"""What this runtime can do, made from the tables that the code itself goes by. Spec: runtime-spec features.md."""

from __future__ import annotations

from oakum.linux.namespaces import FLAGS as NAMESPACES
from oakum.model.light import TYPE_CHECKING
from oakum.oci.capabilities import NAMES as CAPABILITIES
from oakum.oci.hooks import KINDS
from oakum.oci.options import known_options
from oakum.oci.refusals import REFUSED
from oakum.oci.runtime.container import OCI_VERSION
from oakum.oci.tuning import MEMORY_FLAGS, MEMORY_MODES

if TYPE_CHECKING:
    from typing import Any, Final

_LEAST_VERSION: Final = "1.0.0"


def features(seccomp: dict[str, Any]) -> dict[str, Any]:
    """The features document; `seccomp` is that part of it, from the layer that compiles filters."""
    return {
        "ociVersionMin": _LEAST_VERSION,
        "ociVersionMax": OCI_VERSION,
        "hooks": list(KINDS),
        "mountOptions": known_options(),
        "linux": {
            "namespaces": sorted(NAMESPACES),
            "capabilities": list(CAPABILITIES),
            "cgroup": {
                "v1": True,
                "v2": True,
                "systemd": True,
                "systemdUser": False,
                "rdma": True,
            },
            "seccomp": seccomp,
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": _does("linux.intelRdt")},
            "memoryPolicy": {"modes": sorted(MEMORY_MODES), "flags": sorted(MEMORY_FLAGS)},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": True},
        },
        "annotations": {},
        "potentiallyUnsafeConfigAnnotations": [],
    }


def _does(path: str) -> bool:
    return path not in REFUSED
