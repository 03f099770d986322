# SPDX-License-Identifier: Apache-2.0
"""Undo a sandbox without its shim: what the shim does at its end, and recovery does for one that was killed.

Every step tolerates that it was done before. Owns the pod's directory, pins, mounts and cgroup; not the
containers' bundles.
"""

from __future__ import annotations


def cleanup_directory(directory: str, cgroup_path: str) -> None:
    """Kill what is left in the sandbox's cgroups, unpin its namespaces, unmount and remove its directory entries.

    For a sandbox whose shim is dead; idempotent. `cgroup_path` "" leaves cgroups alone.

    Raises:
        FailedPrecondition: its shim is alive.
        SystemFailure: something could not be removed.
    """
