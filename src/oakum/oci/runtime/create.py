# SPDX-License-Identifier: Apache-2.0
"""From a bundle to a created container: state first, then the process, hooks, console and pid file.

Every step can be the last one before a kill: what is there by then is found and removed by `delete`.
"""

from __future__ import annotations

import os
import time

from oakum.errors import AlreadyExists, FailedPrecondition, InvalidArgument, OakumError, SystemFailure
from oakum.linux.durable import read_file
from oakum.linux.fd import Fd
from oakum.model import jsontext as json
from oakum.model.light import TYPE_CHECKING, NamedTuple
from oakum.oci.cgroups import Cgroup, detect_layout
from oakum.oci.cgroups.layout import normalise_path
from oakum.oci.child import ContainerProcess, Status
from oakum.oci.container import CreateRequest
from oakum.oci.container import create as clone_container
from oakum.oci.gate import Gate
from oakum.oci.hooks import run_hooks
from oakum.oci.plan import DEFAULT_DEVICES
from oakum.oci.rights import delegated_path, has_rights, in_user_namespace
from oakum.oci.runtime.container import OCI_VERSION, Container, bundle_path, destroy, end
from oakum.oci.runtime.endpoints import connect_listener, hand_over_console, write_pid_file
from oakum.oci.runtime.state import Directory, Record, start_ticks
from oakum.oci.runtime.units import units
from oakum.oci.spec import Spec, parse

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    # linux.seccomp of the spec → the program and the flags to load it with; compiling needs more than this package may import.
    CompileFilter = Callable[[dict[str, Any], Spec], tuple[bytes, int]]

_CONFIG_LIMIT_BYTES: Final = 16 << 20
_CREATE_TIMEOUT_S: Final = 120.0
_PTMX: Final = (5, 2)
_TERMINALS: Final = (136, -1)  # all of /dev/pts


class CreateOptions(NamedTuple):
    """How a container is made; paths "" where they are not wanted.

    `rootless` None: found out; then control groups that are not ours are done without.
    With `detach` it waits for its start in the state directory; else the caller starts it and stays its parent.
    """

    bundle: str
    compile_filter: CompileFilter
    console_socket: str = ""
    pid_file: str = ""
    detach: bool = True
    waits: bool = True
    preserve_fds: int = 0
    new_keyring: bool = True
    systemd_cgroup: bool = False
    rootless: bool | None = None


class Created(NamedTuple):
    """A container whose process waits for its start; `console` is the terminal's master when nobody else got it.

    `goes_on`: it does not wait, since there is nothing to be done before.
    """

    container: Container
    process: ContainerProcess
    console: Fd | None
    warnings: tuple[str, ...]
    goes_on: bool = False


def load_config(bundle: str) -> Spec:
    """The bundle's config.json. Raises InvalidArgument, SystemFailure."""
    path = os.path.join(bundle, "config.json")
    try:
        text = read_file(path, _CONFIG_LIMIT_BYTES + 1)
    except FileNotFoundError as failure:
        raise InvalidArgument(
            "read OCI spec",
            path,
            "JSON specification file config.json not found",
            hint="try `oakum oci spec`",
        ) from failure
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "read", path) from failure
    if len(text) > _CONFIG_LIMIT_BYTES:
        raise InvalidArgument("read OCI spec", path, f"over {_CONFIG_LIMIT_BYTES} bytes")
    try:
        data: object = json.loads(text)
    except (ValueError, RecursionError) as failure:
        raise InvalidArgument("read OCI spec", path, f"not JSON: {failure}") from failure
    return parse(data)


def create(root: str, container_id: str, options: CreateOptions) -> Created:
    """Make the container. Raises OakumError; then nothing is left of it."""
    bundle = bundle_path(options.bundle)
    spec = load_config(bundle)
    process = spec.get("process")
    if process is None:
        raise InvalidArgument("create container", "$.process", "missing: the spec has no process")
    if spec.get("root") is None:
        raise InvalidArgument("create container", "$.root", "missing: the spec has no root file system")
    _check_console(process.get("terminal") or False, options)
    linux = spec.setdefault("linux", {})
    default = f"system.slice:oakum:{container_id}" if options.systemd_cgroup else f"/{container_id}"
    wanted = linux.get("cgroupsPath") or default
    _check_cgroup_path(wanted, options)
    linux["cgroupsPath"] = wanted = normalise_path(wanted)
    if options.systemd_cgroup and Cgroup(detect_layout(), wanted).processes():
        # Before anything of ours is in it: undoing would end the one who has it.
        raise AlreadyExists("create container", f"unit {os.path.basename(wanted)}", "already has processes")
    if options.rootless or (options.rootless is None and (not has_rights() or in_user_namespace())):
        linux["cgroupsPath"], linux["resources"] = delegated_path(wanted, linux.get("resources") or {})
        wanted = linux["cgroupsPath"]
    _allow_default_devices(spec)
    program, flags = _filter(spec, options)
    record = Record(
        id=container_id,
        bundle=bundle,
        rootfs=os.path.normpath(os.path.join(bundle, (spec.get("root") or {}).get("path") or "")),
        created=_now(),
        oci_version=OCI_VERSION,
        owner_uid=os.getuid(),
        cgroup_path=wanted,
        annotations=spec.get("annotations") or {},
        seccomp_flags=flags,
        systemd=options.systemd_cgroup,
    )
    directory = Directory(root, container_id)
    directory.make()
    container = Container(directory, record)
    with directory.lock():
        try:
            directory.save(record)
            directory.save_spec(spec)
            if program:
                directory.save_filter(program)
            return _launch(container, spec, program, options)
        except OSError as failure:
            destroy(container)
            raise SystemFailure.from_os_error(failure, "create container", container_id) from failure
        except BaseException:
            destroy(container)
            raise


def _launch(container: Container, spec: Spec, program: bytes, options: CreateOptions) -> Created:
    hooks = spec.get("hooks") or {}
    gate = Gate(container.directory.path) if options.waits else None
    listener = connect_listener(spec, container.state("creating"))
    try:
        child = clone_container(
            CreateRequest(
                container_id=container.id,
                spec=spec,
                bundle=container.record.bundle,
                seccomp_bpf=program,
                seccomp_flags=container.record.seccomp_flags,
                listener=listener,
                gate=gate,
                hooks=any(hooks.values()),
                preserve_fds=options.preserve_fds,
                new_keyring=options.new_keyring,
            )
        )
    finally:
        if gate is not None:
            gate.close()
        if listener is not None:
            os.close(listener.socket_fd)
    try:
        container.record = container.record._replace(pid=child.pid, start_ticks=start_ticks(child.pid) or 0)
        container.directory.save(container.record)
        if container.record.systemd:
            _adopt(container, spec, child.pid)
        goes_on = _goes_on(spec, options) and _told_to_start(child)
        status = child.wait_status(_CREATE_TIMEOUT_S)
        if status.stage == "mounted":
            status = _run_hooks(container, spec, child)
        console = hand_over_console(status.console_fd, options.console_socket)
        if options.pid_file:
            write_pid_file(options.pid_file, child.pid)
    except BaseException:
        child.abort()
        raise
    return Created(container, child, console, status.warnings, goes_on)


def _goes_on(spec: Spec, options: CreateOptions) -> bool:
    """Whether nothing is to be done between the creation and the start: then the process need not ask, and wait for us."""
    process = spec.get("process") or {}
    return not (
        options.waits
        or options.pid_file
        or process.get("terminal")
        or any((spec.get("hooks") or {}).values())
    )


def _told_to_start(child: ContainerProcess) -> bool:
    try:
        child.start()
    except FailedPrecondition:  # it has ended, and what it said is read next
        return False
    return True


def _adopt(container: Container, spec: Spec, pid: int) -> None:
    """Give the group to systemd, and set again what it may have set in its own way."""
    path = container.record.cgroup_path
    limits = (spec.get("linux") or {}).get("resources") or {}
    units().adopt(path, pid, limits, description=f"container {container.id}")
    container.cgroup.apply({**limits, "devices": []})


def _run_hooks(container: Container, spec: Spec, child: ContainerProcess) -> Status:
    hooks = spec.get("hooks") or {}
    state = container.state("creating")
    text = json.dumps(state).encode()
    run_hooks("prestart", hooks.get("prestart") or (), text)
    run_hooks("createRuntime", hooks.get("createRuntime") or (), text)
    child.hooked(state)
    return child.wait_status(_CREATE_TIMEOUT_S)


def run_poststart(container: Container) -> None:
    """Run the hooks for after the start; when one fails, the container is ended and removed, as the specification wants.

    Raises:
        OakumError: why the hook failed.
    """
    try:
        for hook in container.hooks("poststart"):
            run_hooks("poststart", [hook], json.dumps(container.state("running")).encode())
    except OakumError:
        with container.directory.lock():
            end(container)
            destroy(container)
        raise


def _allow_default_devices(spec: Spec) -> None:
    """The devices that every container has are usable whatever the rules say. Spec: config-linux.md "Default Devices"."""
    rules = ((spec.get("linux") or {}).get("resources") or {}).get("devices")
    if rules:
        rules += [{"allow": True, "type": kind, "access": "m"} for kind in ("c", "b")]
        numbers = [(device.get("major", 0), device.get("minor", 0)) for device in DEFAULT_DEVICES]
        for major, minor in (*numbers, _PTMX, _TERMINALS):
            rules.append({"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"})


def _filter(spec: Spec, options: CreateOptions) -> tuple[bytes, int]:
    seccomp = (spec.get("linux") or {}).get("seccomp")
    return options.compile_filter(seccomp, spec) if seccomp else (b"", 0)


def _check_console(terminal: bool, options: CreateOptions) -> None:  # noqa: FBT001 - said by its name
    if terminal and options.detach and not options.console_socket:
        raise InvalidArgument(
            "create container",
            "process.terminal",
            "cannot allocate tty if oakum will detach without setting console socket",
        )
    if options.console_socket and not (terminal and options.detach):
        raise InvalidArgument(
            "create container",
            "--console-socket",
            "cannot use console socket if oakum will not detach or allocate tty",
        )


def _check_cgroup_path(path: str, options: CreateOptions) -> None:
    if options.systemd_cgroup and (path.count(":") != 2 or "/" in path):
        raise InvalidArgument(
            "create container",
            "$.linux.cgroupsPath",
            f'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got {path!r} instead',
        )
    if ".." in path.split("/"):
        raise InvalidArgument("create container", "$.linux.cgroupsPath", f"{path!r} has '..' in it")


def _now() -> str:
    now_ns = time.time_ns()
    fraction = f"{now_ns % 1_000_000_000:09d}".rstrip("0")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_ns // 1_000_000_000)) + (
        f".{fraction}Z" if fraction else "Z"
    )
