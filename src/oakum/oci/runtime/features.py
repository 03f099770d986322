# SPDX-License-Identifier: Apache-2.0
"""What this runtime can do, made from the tables that the code itself goes by. Spec: runtime-spec features.md."""

from __future__ import annotations

import os
from typing import Any, Final

from oakum.linux.namespaces import FLAGS as NAMESPACES
from oakum.linux.namespaces import PROC_NAMES
from oakum.oci.capabilities import NAMES as CAPABILITIES
from oakum.oci.hooks import KINDS
from oakum.oci.options import known_options
from oakum.oci.runtime.container import OCI_VERSION

_LEAST_VERSION: Final = "1.0.0"


def features(seccomp: dict[str, Any]) -> dict[str, Any]:
    """The features document; `seccomp` is that part of it, from the layer that compiles filters."""
    return {
        "ociVersionMin": _LEAST_VERSION,
        "ociVersionMax": OCI_VERSION,
        "hooks": list(KINDS),
        "mountOptions": known_options(),
        "linux": {
            "namespaces": sorted(kind for kind in NAMESPACES if _host_has(kind)),
            "capabilities": list(CAPABILITIES),
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": False},
            "seccomp": seccomp,
            "apparmor": {"enabled": os.path.isdir("/sys/kernel/security/apparmor")},
            "selinux": {"enabled": os.path.isdir("/sys/fs/selinux")},
            "intelRdt": {"enabled": False},
            "memoryPolicy": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": False},
        },
        "annotations": {},
        "potentiallyUnsafeConfigAnnotations": [],
    }


def _host_has(kind: str) -> bool:
    return kind != "time" and os.path.exists(f"/proc/self/ns/{PROC_NAMES[kind]}")
