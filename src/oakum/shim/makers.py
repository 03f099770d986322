# SPDX-License-Identifier: Apache-2.0
"""Making a container or an exec: read config.json, clone the process as the shim's child.

What may wait for others or enters namespaces runs in a `worker`, and what it read and touched is gone when that exits. A
container that needs neither is made by the supervisor itself (`make_at_once`): a fork less, which is most of the time
that a worker takes.
"""

from __future__ import annotations

import binascii
import json
import os
from typing import Any, Final

from oakum.errors import InvalidArgument, OakumError, SystemFailure
from oakum.linux import process, sockets
from oakum.linux.durable import read_file
from oakum.oci.cgroups import Cgroup, detect_layout
from oakum.oci.cgroups.layout import normalise_path
from oakum.oci.child import ContainerProcess
from oakum.oci.container import CreateRequest, create
from oakum.oci.execution import ExecRequest as OciExecRequest
from oakum.oci.execution import spawn_exec
from oakum.oci.spec import Spec, parse, parse_process
from oakum.shim import cleanup, foreign, sandbox
from oakum.shim.pod import Makers, Place, Pod, Stdio
from oakum.shim.requests import ContainerRequest, ExecRequest
from oakum.shim.worker import Result

_CONFIG_LIMIT_BYTES: Final = 16 << 20
_SHARED_NAMESPACES: Final = ("network", "ipc", "uts", "user")
# Members of the runtime spec's process object that an exec takes from the container when it has none.
_INHERITED: Final = (
    "user",
    "env",
    "cwd",
    "capabilities",
    "rlimits",
    "noNewPrivileges",
    "apparmorProfile",
    "selinuxLabel",
    "oomScoreAdj",
)


def make_container(request: ContainerRequest, pod: Pod, stdio: Stdio | None, target_pid: int) -> Result:
    """Clone the container's first process. Raises OakumError; nothing is left then."""
    spec = _read_spec(request.bundle)
    if request.runtime:
        joined = _namespaces_to_join(spec, pod, target_pid)
        return foreign.make_container(request, pod, stdio, spec, joined)
    if request.images:
        from oakum.shim import restored  # hardly any worker needs it

        joined = _namespaces_to_join(spec, pod, target_pid)
        return restored.make_container(request, pod, stdio, spec, joined)
    return _make(request, pod, stdio, spec, target_pid)


def make_at_once(request: ContainerRequest, pod: Pod, stdio: Stdio | None, target_pid: int) -> Result | None:
    """As `make_container`, by the supervisor itself; None: a worker has to do it."""
    if request.runtime or request.images or target_pid:
        return None
    spec = _read_spec(request.bundle)
    if _needs_worker(spec, pod):
        return None
    return _make(request, pod, stdio, spec, 0, alone=False)


def _needs_worker(spec: Spec, pod: Pod) -> bool:
    """Whether something has to be waited for, or a namespace to be entered, before the first process is there."""
    linux = spec.get("linux") or {}
    if "user" in pod.namespaces or linux.get("netDevices"):
        return True
    for namespace in linux.get("namespaces") or []:
        kind = namespace.get("type", "")
        if kind == "user" or (kind == "pid" and namespace.get("path")):
            return True
    return any(mount.get("uidMappings") for mount in spec.get("mounts") or [])


def _make(
    request: ContainerRequest,
    pod: Pod,
    stdio: Stdio | None,
    spec: Spec,
    target_pid: int,
    *,
    alone: bool = True,
) -> Result:
    wanted = (spec.get("linux") or {}).get("cgroupsPath") or ""
    cgroup_path = normalise_path(wanted) if wanted else ""
    joined = _namespaces_to_join(spec, pod, target_pid)
    try:
        child = create(
            CreateRequest(
                container_id=request.container_id,
                spec=spec,
                bundle=request.bundle,
                rootfs=request.rootfs,
                stdio=stdio,
                namespace_fds=joined,
                user=request.user,
                extra_groups=request.extra_groups,
                strict_groups=request.strict_groups,
                seccomp_bpf=_program(request.seccomp_bpf),
                for_parent=True,
                alone=alone,
            )
        )
        try:
            cleanup.note_process(pod.directory, request.container_id, child.pid, cgroup_path)
        except BaseException:
            child.abort()
            raise
    except (OakumError, OSError):
        if cgroup_path:
            cleanup.remove_cgroup(cgroup_path)
        raise
    finally:
        sockets.close_all(tuple(joined.values()))
    return _result(child, cgroup_path)


def make_exec(request: ExecRequest, place: Place, stdio: Stdio | None) -> Result:
    """Clone a further process. Raises OakumError; nothing is left then."""
    container, unified_path = place.container, place.unified_path
    spec = _read_spec(container.bundle)
    own: dict[str, Any] = dict(spec.get("process", {}))
    merged = {key: own[key] for key in _INHERITED if key in own}
    merged.update(request.process)
    merged["terminal"] = request.tty
    if request.tty and request.rows and request.columns:
        # It may ask for its size before we have the terminal.
        merged["consoleSize"] = {"height": request.rows, "width": request.columns}
    wanted = (spec.get("linux") or {}).get("cgroupsPath") or ""
    if unified_path and not container.runtime:
        _make_exec_group(unified_path)
    try:
        if container.runtime:
            return foreign.make_exec(request, place, merged, stdio or _null_stdio())
        child = spawn_exec(
            OciExecRequest(
                container_pid=place.container_pid,
                process=parse_process(merged),
                stdio=stdio if stdio or request.tty else _null_stdio(),
                cgroup_path=normalise_path(wanted) if wanted else "",
                unified_path=unified_path,
                user=request.user,
                extra_groups=request.extra_groups,
                strict_groups=request.strict_groups,
                seccomp_bpf=_program(request.seccomp_bpf or container.seccomp_bpf),
                for_parent=True,
            )
        )
    except OakumError:
        if unified_path:
            Cgroup(detect_layout(), unified_path).remove()
        raise
    return _result(child, "")


def _result(child: ContainerProcess, cgroup_path: str) -> Result:
    values = {"pid": child.pid, "cgroup_path": cgroup_path, "warnings": list(child.warnings)}
    return Result(values, list(child.give_away()))


def _null_stdio() -> Stdio:
    fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    return fd, fd, fd


def _make_exec_group(path: str) -> None:
    tree = detect_layout().unified
    assert tree is not None
    try:
        os.mkdir(tree.mountpoint + path)
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "make cgroup", path) from failure


def _program(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error as error:
        raise InvalidArgument("read seccomp program", f"{len(text)} characters", str(error)) from error


def _namespaces_to_join(spec: Spec, pod: Pod, target_pid: int) -> dict[str, int]:
    listed = {n.get("type", ""): n.get("path", "") for n in (spec.get("linux") or {}).get("namespaces") or []}
    paths = {
        kind: sandbox.pin_path(pod.directory, kind)
        for kind in pod.namespaces
        if kind in _SHARED_NAMESPACES and listed.get(kind) == ""
    }
    if target_pid:
        paths["pid"] = f"/proc/{target_pid}/ns/pid"
    joined: dict[str, int] = {}
    for kind, path in paths.items():
        try:
            joined[kind] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as failure:
            sockets.close_all(tuple(joined.values()))
            raise SystemFailure.from_os_error(failure, "open", f"{kind} namespace {path}") from failure
    return joined


def _read_spec(bundle: str) -> Spec:
    path = os.path.join(bundle, "config.json")
    try:
        text = read_file(path, _CONFIG_LIMIT_BYTES + 1)
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "read", path) from failure
    if len(text) > _CONFIG_LIMIT_BYTES:
        raise InvalidArgument("read", path, f"over {_CONFIG_LIMIT_BYTES} bytes")
    try:
        data = json.loads(text)
    except ValueError as error:
        raise InvalidArgument("read", path, f"not JSON: {error}") from error
    spec = parse(data)
    # The shim's own value may be far below zero, and a container must never inherit that.
    if "process" in spec:
        spec["process"].setdefault("oomScoreAdj", 0)
    return spec


def fork_beside() -> int:
    """A worker that is a child of the keeper, as we are and as what it makes is. Raises OSError."""
    return process.clone(process.CLONE_PARENT)


MAKERS: Final = Makers(fork_beside, make_at_once, make_container, make_exec)
