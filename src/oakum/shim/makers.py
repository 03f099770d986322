# SPDX-License-Identifier: Apache-2.0
"""What a worker does for a container: read its config.json, clone its first process or an exec as the shim's child.

Runs in `worker` only: what is read and touched here is gone when the worker exits.
"""

from __future__ import annotations

import binascii
import json
import os
from typing import Any, Final

from oakum.errors import InvalidArgument, OakumError, SystemFailure
from oakum.linux import process
from oakum.oci.cgroups import Cgroup, detect_layout
from oakum.oci.cgroups.layout import normalise_path
from oakum.oci.container import ContainerProcess, CreateRequest, create, spawn_exec
from oakum.oci.container import ExecRequest as OciExecRequest
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
    wanted = (spec.get("linux") or {}).get("cgroupsPath") or ""
    cgroup_path = normalise_path(wanted) if wanted else ""
    if request.runtime:
        joined = _namespaces_to_join(spec, pod, target_pid)
        return foreign.make_container(request, pod, stdio, spec, joined)
    try:
        child = create(
            CreateRequest(
                container_id=request.container_id,
                spec=spec,
                bundle=request.bundle,
                rootfs=request.rootfs,
                stdio=stdio,
                namespace_fds=_namespaces_to_join(spec, pod, target_pid),
                user=request.user,
                extra_groups=request.extra_groups,
                strict_groups=request.strict_groups,
                seccomp_bpf=_program(request.seccomp_bpf),
                for_parent=True,
            )
        )
    except OakumError:
        if cgroup_path:
            cleanup.remove_cgroup(cgroup_path)
        raise
    cleanup.note_process(pod.directory, request.container_id, child.pid, cgroup_path)
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
    if container.runtime:
        try:
            return foreign.make_exec(request, place, merged, stdio or _null_stdio())
        except OakumError:
            if unified_path:
                Cgroup(detect_layout(), unified_path).remove()
            raise
    wanted = (spec.get("linux") or {}).get("cgroupsPath") or ""
    if unified_path:
        _make_exec_group(unified_path)
    try:
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
            raise SystemFailure.from_os_error(failure, "open", f"{kind} namespace {path}") from failure
    return joined


def _read_spec(bundle: str) -> Spec:
    path = os.path.join(bundle, "config.json")
    try:
        with open(path, "rb") as file:
            text = file.read(_CONFIG_LIMIT_BYTES + 1)
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


MAKERS: Final = Makers(fork_beside, make_container, make_exec)
