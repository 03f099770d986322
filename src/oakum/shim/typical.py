# SPDX-License-Identifier: Apache-2.0
"""A container as the engine asks for it, for the rehearsal. Owns nothing: what a real one has is the engine's business."""

from __future__ import annotations

from typing import Any, Final

from oakum.oci.command import DEFAULT_PATH

_HARD: Final = ["nosuid", "noexec", "nodev"]
_CAPABILITIES: Final = ["CAP_CHOWN", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_NET_BIND_SERVICE"]


def config() -> dict[str, Any]:
    """Its config.json."""
    return {
        "ociVersion": "1.2.0",
        "hostname": "rehearsal",
        "root": {"path": "/", "readonly": False},
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [
                f"PATH={DEFAULT_PATH}",
                "HOSTNAME=rehearsal",
            ],
            "cwd": "/",
            "noNewPrivileges": False,
            "oomScoreAdj": 0,
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024}],
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": _HARD},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            },
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": _HARD},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*_HARD, "ro"]},
            {
                "destination": "/sys/fs/cgroup",
                "type": "cgroup",
                "source": "cgroup",
                "options": [*_HARD, "ro"],
            },
            {
                "destination": "/etc/hostname",
                "type": "bind",
                "source": "/dev/null",
                "options": ["rbind", "rprivate", "rw"],
            },
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network", "cgroup")],
            "resources": {
                "devices": [
                    {"allow": False, "access": "rwm"},
                    {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
                ],
                "cpu": {"shares": 2},
                "memory": {"limit": 1 << 30},
                "pids": {"limit": 100},
            },
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }
