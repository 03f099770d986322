# SPDX-License-Identifier: Apache-2.0
"""What a worker does for a container of a foreign runtime: create, start and exec through its command line, and delete.

    keeper (subreaper) ◄── worker (subreaper while it lives) ──► runc create, exits
       ▲  adopts it when the worker exits  │ gives its pidfd to the supervisor
       └── the container's first process ◄─┘

The first process ends up where the built-in runtime's is: a child of the keeper, with the shim's pipes. All else the
shim does (logs, signals, freezing, limits, statistics, the end) goes by process and cgroup and knows no runtime.

The root file system is mounted in a mount namespace of the worker's own, from which the runtime clones the container's:
nothing is mounted on the host. It is mounted below DIRECTORY/runtime, a private mount, so that it does not propagate
and all other mounts still do: volumes may be shared both ways. What the runtime keeps of its containers lies there too
and goes with it, also when this shim is killed.
"""

from __future__ import annotations

import json
import os
from typing import Any, Final, cast

from oakum.errors import FailedPrecondition, OakumError, SystemFailure, Unimplemented
from oakum.linux import mount, namespaces, pids, process, sockets
from oakum.linux.fd import Fd
from oakum.oci import rootfs
from oakum.oci.cgroups import Cgroup, Layout, detect_layout
from oakum.oci.cgroups.layout import normalise_path
from oakum.oci.spec import Spec
from oakum.oci.users import Identity, home_of, resolve_user
from oakum.oci.wire import Channel
from oakum.shim import cleanup
from oakum.shim.loop import report
from oakum.shim.pod import Place, Pod, Stdio
from oakum.shim.requests import ContainerRequest, ExecRequest
from oakum.shim.runtime import Runtime
from oakum.shim.worker import Result

# Below what a client of the shim waits for an answer.
_TIMEOUT_S: Final = 45.0
_DELETE_TIMEOUT_S: Final = 10.0
# What is asked for is as old as that, and runtimes that know no newer one refuse it by its number (crun 1.8).
_OCI_VERSION: Final = "1.0.2"
_STATE: Final = "state"
_ROOTFS: Final = "rootfs"
_CONFIG: Final = "config.json"


class _Home:
    """Where everything of one container lies that its runtime has to find by path."""

    def __init__(self, pod_directory: str, container_id: str) -> None:
        # Runtimes refuse a root whose path has a symbolic link in it.
        top = os.path.join(os.path.realpath(pod_directory), cleanup.RUNTIME_NAME)
        self.state = os.path.join(top, _STATE)
        self.bundle = os.path.join(top, container_id)
        self.rootfs = os.path.join(self.bundle, _ROOTFS)

    def file(self, name: str) -> str:
        """A file beside the configuration."""
        return os.path.join(self.bundle, name)


# -- a container ---------------------------------------------------------------------------------------------------


def make_container(
    request: ContainerRequest, pod: Pod, stdio: Stdio | None, spec: Spec, joined: dict[str, int]
) -> Result:
    """Have the runtime create the container; `joined` are namespaces (by runtime-spec name) to be in.

    Raises OakumError; what is left then is `delete`'s to remove.
    """
    home = _Home(pod.directory, request.container_id)
    runtime = Runtime(request.runtime, home.state)
    layout = detect_layout()
    os.makedirs(home.rootfs, mode=0o700)
    with _mount_root(request, spec, home.rootfs) as root:
        identity = _identity(root.fileno(), request, cast("dict[str, Any]", spec.get("process") or {}))
        config, warnings = _configured(cast("dict[str, Any]", spec), home, identity, root.fileno(), layout)
    _join(config, joined)
    _write(home.file(_CONFIG), config)
    cgroup_path: str = config["linux"].get("cgroupsPath") or ""
    # Should this shim be killed before the pid is known, the group is: all that the runtime makes is in it.
    cleanup.note_process(pod.directory, request.container_id, os.getpid(), cgroup_path)
    if cgroup_path:
        said = cast("dict[str, Any]", (spec.get("linux") or {}).get("resources") or {})
        warnings += _prepare_group(cgroup_path, said, layout)
    process.set_child_subreaper(True)
    console = _Console(home.bundle, "terminal") if request.tty else None
    pid_file = home.file("pid")
    arguments = ["create", "--bundle", home.bundle, "--pid-file", pid_file]
    arguments += console.arguments() if console else []
    runtime.call(
        [*arguments, request.container_id],
        container_id=request.container_id,
        log=home.file("log"),
        timeout_s=_TIMEOUT_S,
        stdio=stdio,
    )
    pid, pidfd = adopt(pid_file, request.runtime)
    cleanup.note_process(pod.directory, request.container_id, pid, cgroup_path)
    return _result(pid, pidfd, cgroup_path, _told(identity, warnings), console)


def start(request: ContainerRequest, pod: Pod) -> Result:
    """Have a created container execute its command. Raises OakumError."""
    home = _Home(pod.directory, request.container_id)
    Runtime(request.runtime, home.state).call(
        ["start", request.container_id],
        container_id=request.container_id,
        log=home.file("log"),
        timeout_s=_TIMEOUT_S,
    )
    return Result({}, [])


def delete(request: ContainerRequest, pod: Pod) -> Result:
    """Have the runtime forget a container that has ended or was made in part; remove what it leaves. Idempotent."""
    home = _Home(pod.directory, request.container_id)
    cgroup_path = _cgroup_path(home)
    if os.path.isdir(os.path.join(home.state, request.container_id)):
        try:
            Runtime(request.runtime, home.state).call(
                ["delete", "--force", request.container_id],
                container_id=request.container_id,
                log=home.file("log"),
                timeout_s=_DELETE_TIMEOUT_S,
            )
        except OakumError:
            report()  # all that there is of it is removed below, whatever the runtime can do
    if cgroup_path:
        cleanup.remove_cgroup(cgroup_path)
    for directory in (os.path.join(home.state, request.container_id), home.bundle):
        _remove_tree(directory)
    return Result({}, [])


def _cgroup_path(home: _Home) -> str:
    """The group that the runtime was told to make; "" when it was not called yet."""
    try:
        with open(home.file(_CONFIG), encoding="utf-8") as file:
            return str(json.load(file)["linux"].get("cgroupsPath") or "")
    except (FileNotFoundError, ValueError):
        return ""


def _mount_root(request: ContainerRequest, spec: Spec, target: str) -> Fd:
    """Mount the root file system at `target` in a mount namespace that this process is in from now on."""
    try:
        with Fd(os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)) as host:
            # An old kernel's overlay has to be mounted somewhere for a moment: not where others see it.
            namespaces.unshare(namespaces.CLONE_NEWNS)
            mount.set_propagation("/", mount.MS_SLAVE | mount.MS_REC)
            root = rootfs.open_root(request.rootfs, str((spec.get("root") or {}).get("path") or ""))
            namespaces.setns(host.fileno(), namespaces.CLONE_NEWNS)
        namespaces.unshare(namespaces.CLONE_NEWNS)
        rootfs.attach_root(root, target)
    except OSError as failure:
        raise rootfs.step_failure(failure, "root file system") from failure
    return root


def _configured(
    spec: dict[str, Any], home: _Home, identity: Identity, root_fd: int, layout: Layout
) -> tuple[dict[str, Any], list[str]]:
    """The container's config.json as the runtime is to have it, and what this host cannot do of it."""
    warnings: list[str] = []
    linux: dict[str, Any] = dict(spec.get("linux") or {})
    if path := linux.get("cgroupsPath"):
        linux["cgroupsPath"] = normalise_path(path)
    if "resources" in linux:
        linux["resources"] = _resources(linux["resources"], layout, warnings)
    return {
        **spec,
        "ociVersion": _OCI_VERSION,
        "process": _process(spec.get("process") or {}, identity, root_fd, warnings),
        "root": {**(spec.get("root") or {}), "path": home.rootfs},
        "linux": linux,
    }, warnings


def _process(said: dict[str, Any], identity: Identity, root_fd: int, warnings: list[str]) -> dict[str, Any]:
    """The process object with numbers in the place of names; its out-of-memory score becomes ours, to be inherited."""
    found = dict(said)
    found["user"] = {
        **(said.get("user") or {}),
        "uid": identity.uid,
        "gid": identity.gid,
        "additionalGids": list(identity.groups),
    }
    env: list[str] = list(said.get("env") or [])
    if not any(entry.startswith("HOME=") for entry in env):
        env.append(f"HOME={identity.home or home_of(root_fd, identity.uid) or '/'}")
    found["env"] = env
    # The shim's own value may be far below zero, and a container must never inherit that.
    score = found.pop("oomScoreAdj", 0)
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(score))
    except PermissionError:
        warnings.append(f"oom_score_adj stays as it is: this host forbids lowering it to {score}")
    return found


def _resources(said: dict[str, Any], layout: Layout, warnings: list[str]) -> dict[str, Any]:
    """The limits without those that a kubelet always sends and a runtime fails for where the kernel has no such file."""
    found = dict(said)
    limited: dict[str, Any] = found.get("memory") or {}
    if "swap" in limited and not _accounts_swap(layout):
        found["memory"] = {name: value for name, value in limited.items() if name != "swap"}
        warnings.append("memory.memsw.limit_in_bytes is not set: this kernel lacks it")
    if not _knows_pages(layout):
        found.pop("hugepageLimits", None)
    return found


def _prepare_group(path: str, said: dict[str, Any], layout: Layout) -> list[str]:
    """On a hybrid host the v2 tree is ours to see to: runtimes make a group there for its processes only. Warnings."""
    group = Cgroup(layout, path)
    if layout.mode == "hybrid":
        group.create_unified()
    pages = said.get("hugepageLimits")
    return group.apply({"hugepageLimits": pages}) if pages and not _knows_pages(layout) else []


def _knows_pages(layout: Layout) -> bool:
    """Whether a runtime finds the controller of huge pages."""
    tree = layout.of("hugetlb")
    return tree is not None and (tree.version == 1 or layout.mode == "v2")


def _accounts_swap(layout: Layout) -> bool:
    tree = layout.of("memory")
    if tree is None or tree.version == 2:
        return True  # runtimes look for themselves
    return os.path.exists(f"{tree.mountpoint}/memory.memsw.limit_in_bytes")


def _identity(root_fd: int, request: ContainerRequest | ExecRequest, said: dict[str, Any]) -> Identity:
    user: dict[str, Any] = said.get("user") or {}
    uid, gid = user.get("uid") or 0, user.get("gid") or 0
    if not (request.user or request.extra_groups or request.strict_groups):
        return Identity(uid, gid, tuple(user.get("additionalGids") or ()))
    return resolve_user(
        root_fd,
        request.user or f"{uid}:{gid}",
        extra_groups=request.extra_groups,
        strict_groups=request.strict_groups,
    )


def _join(config: dict[str, Any], joined: dict[str, int]) -> None:
    """Name the namespaces by descriptors of this process, which lives as long as the runtime's call."""
    listed: list[dict[str, str]] = config["linux"].get("namespaces") or []
    for entry in listed:
        if entry["type"] == "user":
            raise Unimplemented(
                "create", "user namespace", "no pod with users of its own is given to a foreign runtime"
            )
        fd = joined.get(entry["type"])
        if fd is not None:
            entry["path"] = f"/proc/{os.getpid()}/fd/{fd}"


# -- an exec -------------------------------------------------------------------------------------------------------


def make_exec(request: ExecRequest, place: Place, said: dict[str, Any], stdio: Stdio) -> Result:
    """Have the runtime execute a further process. Raises OakumError; nothing is left then but an empty cgroup."""
    container = place.container
    home = _Home(place.pod.directory, container.container_id)
    name = os.urandom(8).hex()
    warnings: list[str] = []
    with _open_root_of(place.container_pid) as root:
        identity = _identity(root.fileno(), request, said)
        document = _process(said, identity, root.fileno(), warnings)
    process.set_child_subreaper(True)
    files = [home.file(f"{name}.{kind}") for kind in ("json", "pid", "sock")]
    console = _Console(home.bundle, f"{name}.sock") if request.tty else None
    arguments = ["exec", "--detach", "--process", files[0], "--pid-file", files[1]]
    arguments += console.arguments() if console else []
    try:
        _write(files[0], document)
        Runtime(container.runtime, home.state).call(
            [*arguments, *_give_own_group(place.unified_path), container.container_id],
            container_id=container.container_id,
            log=home.file(f"{name}.log"),
            timeout_s=_TIMEOUT_S,
            stdio=stdio,
        )
        pid, pidfd = adopt(files[1], container.runtime)
    finally:
        for path in files:
            if os.path.exists(path):
                os.unlink(path)
    return _result(pid, pidfd, "", _told(identity, warnings), console)


def _give_own_group(unified_path: str) -> list[str]:
    """Have the runtime put an exec into its own group of the v2 tree, by which all it starts can be found.

    On pure v2 it is told to. On a hybrid host runc knows one name for all trees only: there it finds that group where it
    looks for the container's, in a mount namespace of ours.
    """
    layout = detect_layout()
    tree = layout.unified
    if not unified_path or tree is None:
        return []
    group = tree.mountpoint + unified_path
    try:
        os.makedirs(group, exist_ok=True)
        if layout.mode == "v2":
            return ["--cgroup", os.path.basename(unified_path)]
        namespaces.unshare(namespaces.CLONE_NEWNS)
        mount.set_propagation("/", mount.MS_SLAVE | mount.MS_REC)
        mount.bind_file(group, os.path.dirname(group))
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "make cgroup", group) from failure
    return []


def _open_root_of(pid: int) -> Fd:
    try:
        return Fd(os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as failure:
        raise FailedPrecondition(
            "exec in container", f"pid {pid}", "the container's process has ended"
        ) from failure


# -- both ----------------------------------------------------------------------------------------------------------


class _Console:
    """The socket that a runtime sends the master side of a terminal to. Source: runc docs/terminals.md "Detached"."""

    def __init__(self, directory: str, name: str) -> None:
        self._directory = Fd(os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        self._name = name
        self._listener = sockets.listen(self._directory.fileno(), name)

    def arguments(self) -> list[str]:
        """What the runtime is told; through our descriptor, for a path to a socket has no more than 107 bytes."""
        return ["--console-socket", f"/proc/{os.getpid()}/fd/{self._directory.fileno()}/{self._name}"]

    def take(self, runtime: str) -> int:
        """The terminal; the runtime is done, so it is there or never comes. Raises SystemFailure."""
        try:
            connection = sockets.accept(self._listener)
            _, fds = sockets.receive_with_fds(connection, wait=False)
            connection.close()
        except BlockingIOError:
            fds = []
        finally:
            self._listener.close()
            self._directory.close()
        if len(fds) != 1:
            sockets.close_all(fds)
            raise SystemFailure(
                "receive terminal", f"from {runtime}", f"it sent {len(fds)} descriptors, not one"
            )
        return fds[0]


def adopt(pid_file: str, runtime: str) -> tuple[int, Fd]:
    """The process that the runtime made, by now our child: its id is its own as long as we do not reap it."""
    try:
        with open(pid_file, encoding="ascii") as file:
            text = file.read(32).strip()
    except FileNotFoundError:
        text = ""
    if not text.isdecimal():
        raise SystemFailure(
            "read pid", f"of {runtime}", f"it says it is done, and its pid file holds {text!r}"
        )
    pid = int(text)
    if int(pids.stat_fields(pid)[1]) != os.getpid():
        raise SystemFailure("read pid", f"of {runtime}", f"process {pid} is not a child that it left us")
    return pid, pids.pidfd_open(pid)


def _told(identity: Identity, warnings: list[str]) -> dict[str, Any]:
    return {"uid": identity.uid, "gid": identity.gid, "groups": list(identity.groups), "warnings": warnings}


def _result(pid: int, pidfd: Fd, cgroup_path: str, told: dict[str, Any], console: _Console | None) -> Result:
    """What a built-in child would have said by now waits in the channel; its end of file says that nothing follows."""
    ours, theirs = Channel.pair()
    terminal = (console.take(f"pid {pid}"),) if console is not None else ()
    theirs.send("created", told, terminal)
    theirs.close()
    values: dict[str, Any] = {"pid": pid, "cgroup_path": cgroup_path, "warnings": []}
    return Result(values, [pidfd.steal(), ours.steal()])


def _write(path: str, document: dict[str, Any]) -> None:
    with open(path, "x", encoding="utf-8") as file:
        json.dump(document, file)


def _remove_tree(directory: str) -> None:
    """A runtime's small tree on a file system that only it and we write to; what is gone is fine."""
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    _remove_tree(entry.path)
                else:
                    os.unlink(entry.path)
        os.rmdir(directory)
    except FileNotFoundError:
        return
