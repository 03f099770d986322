# SPDX-License-Identifier: Apache-2.0
"""The sandbox's namespaces: made, configured, pinned at DIRECTORY/ns, and their shared memory mounted.

Runs in the shim's first supervisor. Without user and pid namespaces that enters the new ones itself, pins them and
goes back. With either of them a child, of the shim, makes all of them:

    supervisor                               child (clone with all flags)
      │──── write uid_map, gid_map ───►
      │──── "g" ──────────────────────►     configure: loopback, host name, sysctls
      │◄─── {} or error as JSON ────────
      │ pin /proc/CHILD/ns/*
      │──── "g" ──────────────────────►     exit, or with a pid namespace: become its reaping init

Owns pins and /dev/shm of the sandbox; addresses in the network namespace are the engine's.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any, Final

from oakum.errors import InvalidArgument, OakumError, SystemFailure, Unavailable, from_dict
from oakum.linux import mount, namespaces, pids, process, sysinfo
from oakum.linux.fd import Fd, pipe
from oakum.oci.mappings import map_text
from oakum.oci.spec import IdMapping
from oakum.shim import pod_init
from oakum.shim.cleanup import RUNTIME_NAME
from oakum.shim.requests import PIN_NAMES, SandboxRequest

DEFAULT_SHM_BYTES: Final = 64 << 20
# What foreign runtimes write of a container: a configuration and a state of some 100 KB each.
_RUNTIME_BYTES: Final = 64 << 20
_GO: Final = b"g"
_TMPFS_FLAGS: Final = mount.ATTR_NOSUID | mount.ATTR_NODEV | mount.ATTR_NOEXEC
_SYSCTL_NAME: Final = re.compile(r"[a-zA-Z0-9_-]+([./][a-zA-Z0-9_.:/-]*[a-zA-Z0-9_-])+")

# Which namespace keeps a sysctl away from the host: prefix of the name -> runtime-spec namespace type.
_SYSCTL_HOMES: Final = (
    ("net/", "network"),
    ("fs/mqueue/", "ipc"),
    ("kernel/msg", "ipc"),
    ("kernel/sem", "ipc"),
    ("kernel/shm", "ipc"),
    ("kernel/domainname", "uts"),
    ("kernel/hostname", "uts"),
)


def sysctl_path(name: str, created: tuple[str, ...]) -> str:
    """The path below /proc/sys of a sysctl that one of the `created` namespaces keeps to itself.

    Both "net.ipv4.ip_forward" and "net/ipv4/conf/eth0.1/forwarding" are understood, see sysctl(8).

    Raises:
        InvalidArgument: not a name, or it would change the host.
    """
    if not _SYSCTL_NAME.fullmatch(name) or ".." in name or "//" in name:
        raise InvalidArgument("set sysctl", repr(name), "not a sysctl's name")
    first = min((name.find(c) for c in "./" if c in name), default=0)
    path = name.translate(str.maketrans("./", "/.")) if name[first] == "." else name
    if ".." in path.split("/"):
        raise InvalidArgument("set sysctl", repr(name), "not a sysctl's name")
    for prefix, home in _SYSCTL_HOMES:
        if path.startswith(prefix):
            if home in created:
                return path
            raise InvalidArgument("set sysctl", repr(name), f"the sandbox has no {home} namespace of its own")
    raise InvalidArgument("set sysctl", repr(name), "it is not namespaced: it would change the host")


def make(request: SandboxRequest) -> int:
    """Make and pin the namespaces and mount the shared memory; the pod's init, a child of our parent (0: none).

    Raises:
        OakumError: what failed; whoever calls removes what was made so far (`cleanup.remove_entries`).
    """
    kinds = request.create_namespaces
    unknown = set(kinds) - set(PIN_NAMES)
    if unknown:
        raise InvalidArgument("create sandbox", request.sandbox_id, f"no such namespace: {sorted(unknown)}")
    for name in request.sysctls:
        sysctl_path(name, kinds)
    if kinds:
        os.makedirs(os.path.join(request.directory, "ns"), mode=0o711, exist_ok=True)
    if "ipc" in kinds:
        _mount_shm(request)
    if request.foreign:
        _mount_runtime_directory(request)
    if "user" in kinds or "pid" in kinds:
        return _make_in_child(request)
    if kinds:
        with _Home(kinds):
            _enter(request, namespaces.flags_of(kinds))
            _pin(request, "self")
    return 0


class _Home:
    """This process's own namespaces, of the `kinds` that are entered within, to be back in afterwards."""

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self._fds: list[tuple[int, Fd]] = []
        try:
            for kind in kinds:
                path = f"/proc/self/ns/{PIN_NAMES[kind]}"
                self._fds.append((namespaces.FLAGS[kind], Fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC))))
        except OSError as failure:
            self._close()
            raise SystemFailure.from_os_error(failure, "open", "own namespaces") from failure

    def _close(self) -> None:
        for _, fd in self._fds:
            fd.close()

    def __enter__(self) -> None:
        """Nothing changes yet."""

    def __exit__(self, *_: object) -> None:
        try:
            for flag, fd in self._fds:
                namespaces.setns(fd.fileno(), flag)
        except OSError as failure:
            raise SystemFailure.from_os_error(failure, "setns", "own namespaces") from failure
        finally:
            self._close()


def _enter(request: SandboxRequest, flags: int) -> None:
    try:
        namespaces.unshare(flags)
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "unshare", request.sandbox_id) from failure
    _configure(request)


def _configure(request: SandboxRequest) -> None:
    """In the new namespaces: loopback, host name, sysctls."""
    kinds = request.create_namespaces
    step = "set up sandbox"
    try:
        if "network" in kinds:
            step = "set lo up"
            sysinfo.loopback_up()
        if "uts" in kinds and request.hostname:
            step = "set host name"
            sysinfo.set_hostname(request.hostname)
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, step, request.sandbox_id) from failure
    for name, value in request.sysctls.items():
        path = "/proc/sys/" + sysctl_path(name, kinds)
        try:
            with open(path, "w", encoding="utf-8") as file:
                file.write(value)
        except OSError as failure:
            raise SystemFailure.from_os_error(failure, "set sysctl", f"{name}={value!r}") from failure


def _pin(request: SandboxRequest, process_name: str) -> None:
    try:
        for kind in request.create_namespaces:
            source = f"/proc/{process_name}/ns/{PIN_NAMES[kind]}"
            target = pin_path(request.directory, kind)
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
            mount.bind_file(source, target)
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "pin namespace", request.sandbox_id) from failure


def pin_path(directory: str, kind: str) -> str:
    """Where the sandbox's namespace of a runtime-spec type is pinned."""
    return os.path.join(directory, "ns", PIN_NAMES[kind])


def _mount_shm(request: SandboxRequest) -> None:
    path = os.path.join(request.directory, "shm")
    options = [("mode", "1777"), ("size", str(request.shm_size_bytes or DEFAULT_SHM_BYTES))]
    if request.uid_mappings and request.gid_mappings:
        # The pod's root must own what it may chmod.
        options += [
            ("uid", str(_root_of(request.uid_mappings))),
            ("gid", str(_root_of(request.gid_mappings))),
        ]
    try:
        _mount_tmpfs(path, options, source="shm")
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "mount shared memory", path) from failure


def _mount_runtime_directory(request: SandboxRequest) -> None:
    """A private mount: what a worker mounts below it, in a mount namespace of its own, does not come out to the host."""
    path = os.path.join(request.directory, RUNTIME_NAME)
    try:
        _mount_tmpfs(path, [("mode", "700"), ("size", str(_RUNTIME_BYTES))], source="oakum")
        mount.set_propagation(path, mount.MS_PRIVATE)
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "mount runtime directory", path) from failure


def _mount_tmpfs(path: str, options: list[tuple[str, str]], *, source: str) -> None:
    """Mount a tmpfs on a directory of the sandbox that nobody looks into before. Raises OSError."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    with (
        mount.new_filesystem("tmpfs", options, flags=_TMPFS_FLAGS, source=source) as tree,
        Fd(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as target,
    ):
        mount.move_mount(tree.fileno(), target.fileno(), target=path)


def _root_of(mappings: tuple[IdMapping, ...]) -> int:
    for item in mappings:
        if item["containerID"] == 0:
            return item["hostID"]
    return 0


# -- with a child -------------------------------------------------------------------------------------------------


def _make_in_child(request: SandboxRequest) -> int:
    kinds = request.create_namespaces
    from_parent, to_child = pipe()
    from_child, to_parent = pipe()
    try:
        child = process.clone(namespaces.flags_of(kinds) | process.CLONE_PARENT)
    except OSError as failure:
        for fd in (from_parent, to_child, from_child, to_parent):
            fd.close()
        raise SystemFailure.from_os_error(failure, "clone", request.sandbox_id) from failure
    if child == 0:
        process.run_and_exit(lambda: _child(request, from_parent.fileno(), to_parent.fileno()))
    from_parent.close()
    to_parent.close()
    try:
        with to_child, from_child:
            if "user" in kinds:
                _write_maps(request, child)
            _tell(to_child)
            _hear(from_child, request.sandbox_id)
            _pin(request, str(child))
            _tell(to_child)
    except BaseException:
        pids.kill_if_there(child)
        raise
    return int(child) if "pid" in kinds else 0


def _write_maps(request: SandboxRequest, pid: int) -> None:
    # Source: user_namespaces(7): one write(2), from outside, by who may set ids there.
    for name, mappings in (("uid_map", request.uid_mappings), ("gid_map", request.gid_mappings)):
        path = f"/proc/{pid}/{name}"
        try:
            with open(path, "w", encoding="ascii") as file:
                file.write(map_text(mappings))
        except OSError as failure:
            raise SystemFailure.from_os_error(failure, "write " + name, request.sandbox_id) from failure


def _tell(fd: Fd) -> None:
    try:
        os.write(fd.fileno(), _GO)
    except BrokenPipeError as failure:
        raise Unavailable("set up sandbox", "", "the child has ended") from failure


def _hear(fd: Fd, sandbox_id: str) -> None:
    text = os.read(fd.fileno(), 4096)  # at most PIPE_BUF: written in one piece
    if not text:
        raise Unavailable("set up sandbox", sandbox_id, "the child ended without a word")
    told: dict[str, Any] = json.loads(text)
    if told:
        raise from_dict(told)


def _child(request: SandboxRequest, from_parent: int, to_parent: int) -> int:
    if os.read(from_parent, 1) != _GO:
        return 1
    told: dict[str, Any] = {}
    try:
        if "user" in request.create_namespaces:
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        _configure(request)
    except OakumError as error:
        told = error.to_dict()
    except OSError as failure:
        told = SystemFailure.from_os_error(failure, "set up sandbox", request.sandbox_id).to_dict()
    os.write(to_parent, json.dumps(told).encode()[:4096])
    if told or os.read(from_parent, 1) != _GO or "pid" not in request.create_namespaces:
        return 1
    return pod_init.run(
        request.sandbox_id, pod_init.nobody(request.uid_mappings), pod_init.nobody(request.gid_mappings)
    )
