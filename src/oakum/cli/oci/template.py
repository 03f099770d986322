# SPDX-License-Identifier: Apache-2.0
"""`oakum oci spec`: a config.json to start from, with what every tool puts into its first container."""

from __future__ import annotations

import json
import os

from oakum.errors import AlreadyExists, SystemFailure
from oakum.model.light import TYPE_CHECKING
from oakum.oci.command import DEFAULT_PATH
from oakum.oci.runtime.container import OCI_VERSION

if TYPE_CHECKING:
    from typing import Any, Final

_CAPABILITIES: Final = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")
_MASKED: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
)
_READ_ONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_CONFINED: Final = ("nosuid", "noexec", "nodev")


def write_spec(bundle: str, *, rootless: bool) -> int:
    """Write config.json into `bundle`, never over one that is there. Raises AlreadyExists, SystemFailure."""
    path = os.path.join(bundle, "config.json")
    try:
        with open(path, "x", encoding="utf-8") as file:
            json.dump(template(rootless=rootless, uid=os.geteuid(), gid=os.getegid()), file, indent="\t")
            file.write("\n")
    except FileExistsError as failure:
        raise AlreadyExists("write spec", path, "file config.json exists. Remove it first") from failure
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "write", path) from failure
    return 0


def template(*, rootless: bool, uid: int, gid: int) -> dict[str, Any]:
    """The document; with `rootless` for a user namespace in which `uid` and `gid` are root. Pure."""
    namespaces = ["pid", "ipc", "uts", "mount", "cgroup", *(["user"] if rootless else ["network"])]
    linux: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in namespaces],
        "maskedPaths": list(_MASKED),
        "readonlyPaths": list(_READ_ONLY),
    }
    if rootless:
        linux["uidMappings"] = [{"containerID": 0, "hostID": uid, "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": gid, "size": 1}]
    else:
        linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    return {
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [f"PATH={DEFAULT_PATH}", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {kind: list(_CAPABILITIES) for kind in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "oakum",
        "mounts": _mounts(rootless=rootless),
        "linux": linux,
    }


def _mounts(*, rootless: bool) -> list[dict[str, Any]]:
    pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    mounts: list[dict[str, Any]] = [
        _mount("/proc", "proc", "proc", []),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", "devpts", pts if rootless else [*pts, "gid=5"]),
        _mount("/dev/shm", "tmpfs", "shm", [*_CONFINED, "mode=1777", "size=65536k"]),  # noqa: S108 - in the container
        _mount("/dev/mqueue", "mqueue", "mqueue", [*_CONFINED]),
    ]
    if rootless:
        # A user namespace that does not own its network may not mount a sysfs, only show the host's.
        return [*mounts, _mount("/sys", "none", "/sys", ["rbind", *_CONFINED, "ro"])]
    return [
        *mounts,
        _mount("/sys", "sysfs", "sysfs", [*_CONFINED, "ro"]),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", [*_CONFINED, "relatime", "ro"]),
    ]


def _mount(destination: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    mount: dict[str, Any] = {"destination": destination, "type": kind, "source": source}
    return {**mount, "options": options} if options else mount
