# SPDX-License-Identifier: Apache-2.0
"""What this engine is, what it runs on, and whether its parts work. Reports; changes nothing but directories made.

An unhealthy part is a finding here, not an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import msgspec

import oakum
from oakum.backend.config import BUILT_IN
from oakum.backend.status import Condition, HandlerFeatures, RuntimeStatus
from oakum.engine import checkpoints, host, user_namespaces
from oakum.engine.context import Context
from oakum.engine.spec.capabilities import ALL
from oakum.errors import OakumError


def engine_info(context: Context) -> dict[str, Any]:
    """Facts for people and scripts, as plain JSON values."""
    store = context.store
    uname = os.uname()
    return {
        "version": oakum.__version__,
        "root": context.layout.root,
        "state": context.layout.state,
        "kernel": uname.release,
        "machine": uname.machine,
        "hostname": uname.nodename,
        "processors": os.cpu_count() or 0,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "cgroups": context.cgroups.mode,
        "controllers": sorted({name for tree in context.cgroups.hierarchies for name in tree.controllers}),
        "snapshotter": context.snapshotter.kind,
        "snapshotter_reason": context.snapshotter.reason,
        "bridge": context.network.builtin.bridge,
        "network": "cni" if context.network.uses_cni() else "builtin",
        "network_warnings": _network_warnings(context),
        "runtimes": [BUILT_IN, *context.handlers.usable()],
        "apparmor": host.has_apparmor(),
        "user_namespaces": user_namespaces.why_not() or "yes",
        "checkpoints": checkpoints.problem() or "yes",
        "missing_capabilities": _missing_capabilities(),
        "namespaces": store.namespaces(),
        "sandboxes": len(store.sandboxes()),
        "containers": len(store.containers()),
        "images": len(store.images()),
    }


def _network_warnings(context: Context) -> list[str]:
    try:
        return context.network.warnings()
    except OakumError as error:
        return [str(error)]


def _missing_capabilities() -> list[str]:
    """What this host withholds from us, and so from every container."""
    try:
        with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
            last = int(file.read())
    except OSError:
        last = len(ALL) - 1
    return [name for name in ALL[: last + 1] if name not in host.known_capabilities()]


def runtime_status(context: Context, *, verbose: bool) -> RuntimeStatus:
    """The two conditions of CRI and the features of every runtime handler."""
    runtime = _condition("RuntimeReady", lambda: _check_runtime(context))
    network = _condition("NetworkReady", lambda: _check_network(context))
    info: dict[str, str] = {}
    if verbose and runtime.status:
        info["config"] = msgspec.json.encode(engine_info(context)).decode()
    features = HandlerFeatures(
        name="",
        recursive_read_only_mounts=host.kernel_version() >= (5, 12),
        user_namespaces=not user_namespaces.why_not(),
    )
    return RuntimeStatus(
        conditions=(runtime, network),
        handlers=(features, msgspec.structs.replace(features, name=BUILT_IN), *_foreign(context)),
        supplemental_groups_policy=True,
        mount_options=True,
        info=info,
    )


def _foreign(context: Context) -> list[HandlerFeatures]:
    """What runtimes say of themselves, as far as a pod gets it through us."""
    return [
        HandlerFeatures(
            name=name,
            recursive_read_only_mounts=abilities.recursive_read_only and host.kernel_version() >= (5, 12),
            user_namespaces=False,
        )
        for name, abilities in context.handlers.usable().items()
    ]


def _condition(kind: str, check: Callable[[], str]) -> Condition:
    try:
        problem = check()
    except OakumError as error:
        return Condition(type=kind, status=False, reason=error.code, message=str(error))
    except OSError as error:
        return Condition(type=kind, status=False, reason="SYSTEM_FAILURE", message=str(error))
    if problem:
        return Condition(type=kind, status=False, reason="NotReady", message=problem)
    return Condition(type=kind, status=True)


def _check_runtime(context: Context) -> str:
    """Why no pod could run; "" when it could."""
    if os.geteuid() != 0:
        return "oakum does not run as root"
    for directory in (context.layout.root, context.layout.state):
        os.makedirs(directory, mode=0o711, exist_ok=True)
        if not os.access(directory, os.W_OK):
            return f"{directory} cannot be written to"
    context.store.namespaces()
    if not context.cgroups.hierarchies:
        return "no cgroup hierarchy is mounted"
    return context.snapshotter.reason if not context.snapshotter.kind else ""


def _check_network(context: Context) -> str:
    """Why no pod could get an address; "" when it could. What only hinders is no reason."""
    return context.network.problem()
