# SPDX-License-Identifier: Apache-2.0
"""A further process in a container of the state directory."""

from __future__ import annotations

import os

from oakum.errors import FailedPrecondition, InvalidArgument
from oakum.linux.fd import Fd
from oakum.model.light import TYPE_CHECKING, NamedTuple, cast
from oakum.oci.child import ContainerProcess
from oakum.oci.execution import ExecRequest, spawn_exec
from oakum.oci.runtime.container import Container
from oakum.oci.runtime.endpoints import connect_listener, hand_over_console, write_pid_file
from oakum.oci.spec import Process, parse_process

if TYPE_CHECKING:
    from typing import Any


class ExecOptions(NamedTuple):
    """How a process is made; `process` is laid over the container's own unless `whole`, which replaces it.

    `capabilities` are added to what the process has. `sub_cgroup` is relative to the container's group.
    """

    process: dict[str, Any]
    whole: bool = False
    env: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    console_socket: str = ""
    pid_file: str = ""
    detach: bool = False
    preserve_fds: int = 0
    ignore_paused: bool = False
    sub_cgroup: str = ""


class Executed(NamedTuple):
    """A process that runs its command; `console` is the terminal's master when nobody else got it."""

    process: ContainerProcess
    console: Fd | None
    warnings: tuple[str, ...]


def execute(root: str, container_id: str, options: ExecOptions) -> Executed:
    """Run a process; returns when it does. Raises FailedPrecondition, CommandNotRunnable, OakumError."""
    container = Container.find(root, container_id)
    status = container.status()
    if status == "stopped":
        raise FailedPrecondition("exec in container", container.id, "cannot exec in a stopped container")
    if status == "paused" and not options.ignore_paused:
        raise FailedPrecondition(
            "exec in container",
            container.id,
            "cannot exec in a paused container (use --ignore-paused to override)",
        )
    if status == "creating":
        raise FailedPrecondition("exec in container", container.id, "it is still being created")
    process = _process(container, options)
    terminal = process.get("terminal") or False
    if terminal and options.detach and not options.console_socket:
        raise InvalidArgument(
            "exec in container",
            container.id,
            "cannot allocate tty if oakum will detach without setting console socket",
        )
    if options.console_socket and not (terminal and options.detach):
        raise InvalidArgument(
            "exec in container",
            container.id,
            "cannot use console socket if oakum will not detach or allocate tty",
        )
    spec = container.directory.load_spec()
    listener = connect_listener(spec, container.state(status))
    try:
        child = spawn_exec(
            ExecRequest(
                container_pid=container.record.pid,
                process=process,
                cgroup_path=container.record.cgroup_path,
                unified_path=_sub_cgroup(container, options.sub_cgroup),
                seccomp_bpf=container.directory.load_filter(),
                seccomp_flags=container.record.seccomp_flags,
                listener=listener,
                preserve_fds=options.preserve_fds,
                linux=spec.get("linux") or {},
            )
        )
    finally:
        if listener is not None:
            os.close(listener.socket_fd)
    try:
        if not container.alive():
            raise FailedPrecondition("exec in container", container.id, "cannot exec in a stopped container")
        return _follow(child, options)
    except BaseException:
        child.abort()
        raise


def _follow(child: ContainerProcess, options: ExecOptions) -> Executed:
    status = child.wait_status()
    console = hand_over_console(status.console_fd, options.console_socket)
    child.wait_status()
    if options.pid_file:
        write_pid_file(options.pid_file, child.pid)
    return Executed(child, console, status.warnings)


def _process(container: Container, options: ExecOptions) -> Process:
    if options.whole:
        return parse_process(options.process)
    own = cast("dict[str, Any]", container.directory.load_spec().get("process") or {})
    merged: dict[str, Any] = {**own, "terminal": False, **options.process}
    merged["env"] = [*(merged.get("env") or []), *options.env]
    if options.capabilities:
        sets: dict[str, list[str]] = dict(merged.get("capabilities") or {})
        for kind in ("bounding", "effective", "permitted"):
            # Not inheritable: a program with file capabilities would get them then (CVE-2022-29162).
            sets[kind] = [*(sets.get(kind) or []), *options.capabilities]
        merged["capabilities"] = sets
    merged.pop("consoleSize", None)
    return parse_process(merged)


def _sub_cgroup(container: Container, text: str) -> str:
    if not text:
        return ""
    if ".." in text.split("/"):
        raise InvalidArgument("exec in container", "--cgroup", f"{text!r} has '..' in it")
    return f"{container.record.cgroup_path}/{text.strip('/')}"
