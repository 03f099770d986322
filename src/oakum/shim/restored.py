# SPDX-License-Identifier: Apache-2.0
"""What a worker does for a container that goes on from CRIU's images: make what is around it, have CRIU restore it stopped.

    keeper (subreaper) ◄── worker (subreaper while it lives) ──► criu restore, exits
       ▲  adopts it when the worker exits  │ gives its pidfd to the supervisor
       └── the container's first process ◄─┘

The root file system and what of the host's is mounted in it are mounted in a mount namespace of the worker's own, which
shares nothing with the host: CRIU is told of them by name, and mounts nothing else of the host's. The processes are born in
the container's cgroup, are looked at while they are stopped, and end if they have rights that the configuration does not
give them. Images are CRIU's to read and are trusted as such: `engine.sealed` lets through only what this host has sealed.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast

from oakum.errors import FailedPrecondition, OakumError, SystemFailure, Unimplemented, from_dict
from oakum.linux import mount, namespaces, process, sockets
from oakum.linux.fd import Fd
from oakum.linux.sysinfo import join_new_session_keyring
from oakum.oci import rootfs
from oakum.oci.capabilities import NAMES
from oakum.oci.cgroups import Cgroup, detect_layout
from oakum.oci.cgroups.layout import normalise_path
from oakum.oci.plan import BindMount, make_plan
from oakum.oci.runtime import criu
from oakum.oci.runtime.checkpoint import read_descriptors
from oakum.oci.runtime.external import NETWORK_KEY, NULL_KEY, mount_key
from oakum.oci.spec import Linux, Spec
from oakum.oci.wire import Channel
from oakum.shim import cleanup, foreign, wire
from oakum.shim.pod import Pod, Stdio
from oakum.shim.requests import ContainerRequest
from oakum.shim.worker import Result

_CRIU: Final = "criu"
_OPERATION: Final = "restore container"
_FIRST_FD: Final = 16
_AT_FDCWD: Final = -100
_JOINED: Final = ("network", "ipc", "uts")
# Source: namespaces of ipc_namespaces(7), uts_namespaces(7)
_SETTINGS: Final = tuple(
    f"/proc/sys/{name}"
    for name in (
        "kernel/hostname",
        "kernel/domainname",
        "kernel/auto_msgmni",
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shm_rmid_forced",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "fs/mqueue/msg_default",
        "fs/mqueue/msg_max",
        "fs/mqueue/msgsize_default",
        "fs/mqueue/msgsize_max",
        "fs/mqueue/queues_max",
    )
)
_TOLD_MAX_BYTES: Final = 128 << 10
_STAGE: Final = "mounts"
_ROOT: Final = "root"
# What the kernel says of a process, and the namespaces that are the container's own if the configuration lists them.
_NAMESPACES: Final = {
    "pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts", "mount": "mnt", "cgroup": "cgroup", "user": "user"
}  # fmt: skip


class _Around(NamedTuple):
    """What a container is restored into."""

    request: ContainerRequest
    spec: Spec
    group: Cgroup
    joined: dict[str, int]


def make_container(
    request: ContainerRequest, pod: Pod, stdio: Stdio | None, spec: Spec, joined: dict[str, int]
) -> Result:
    """Restore the container's processes from the images in its bundle, stopped; `joined` are namespaces to be in.

    Raises OakumError; then nothing of it is left but an empty cgroup.
    """
    layout = detect_layout()
    linux = spec.get("linux") or {}
    path = normalise_path(linux.get("cgroupsPath") or "")
    if stdio is None or layout.mode != "v2":
        what = "a terminal" if stdio is None else "cgroup v1"
        raise Unimplemented(_OPERATION, request.container_id[:12], f"with {what} it cannot be restored")
    # The lowest numbers are free in a worker, and taken in CRIU.
    stdio = cast("Stdio", tuple(_high(fd) for fd in stdio))
    joined = {kind: _high(fd) for kind, fd in joined.items()} | _named(linux)
    own = spec.get("process") or {}
    if own.get("apparmorProfile") or own.get("selinuxLabel"):
        raise Unimplemented(_OPERATION, request.container_id[:12], "its security label cannot be carried")
    for kind in joined:
        if kind not in _JOINED:
            raise Unimplemented(_OPERATION, f"{kind} namespace", "CRIU restores the container's own only")
    around = _Around(request, spec, Cgroup(layout, path), joined)
    # Should this shim be killed before the pid is known, the group is: all that CRIU makes is in it.
    cleanup.note_process(pod.directory, request.container_id, os.getpid(), path)
    try:
        return _restored(around, pod, stdio)
    except BaseException as failure:  # whatever it is, what CRIU has made ends; it goes on upwards
        cleanup.remove_cgroup(path)
        if isinstance(failure, OSError):
            raise rootfs.step_failure(failure, request.container_id[:12]) from failure
        raise


def _settings() -> dict[str, str]:
    """What a pod's IPC and UTS namespaces, in which we are, are set to."""
    return {path: value for path in _SETTINGS if (value := _setting(path)) is not None}


def _setting(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _high(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FD)


def _named(linux: Linux) -> dict[str, int]:
    """The namespaces that the configuration names by path."""
    return {
        entry.get("type", ""): _high(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        for entry in linux.get("namespaces") or []
        if (path := entry.get("path"))
    }


def _restored(around: _Around, pod: Pod, stdio: Stdio) -> Result:
    request, spec, group = around.request, around.spec, around.group
    resources = (spec.get("linux") or {}).get("resources") or {}
    devices = {"devices": resources.get("devices") or []}
    process.set_child_subreaper(True)
    group.create()
    # What it may open it may open from the first moment; how much it may use counts when it runs.
    warnings = group.apply(cast("Any", devices))
    arguments = _mounts(around)
    arguments += _streams(request.images, stdio)
    arguments += _namespaces(around)
    pid_file = f"{request.images}/restored.pid"
    if os.path.exists(pid_file):
        os.unlink(pid_file)  # of a try that was killed
    arguments += ["--restore-detached", "--leave-stopped", "--pidfile", pid_file, "-D", request.images]
    arguments += ["--manage-cgroups=ignore", "--tcp-close", "--file-locks", "--ext-unix-sk", "--shell-job"]
    for kind in ("ipc", "uts"):
        if kind in around.joined:
            namespaces.setns(around.joined[kind])
    before = _settings()
    _run(around, arguments)
    # CRIU writes into namespaces that it joins what was in those of the checkpoint.
    for path, value in before.items():
        if _setting(path) != value:
            with open(path, "w", encoding="utf-8") as file:
                file.write(value)
    pid, pidfd = foreign.adopt(pid_file, _CRIU)
    cleanup.note_process(pod.directory, request.container_id, pid, group.path)
    rest = {name: value for name, value in resources.items() if name != "devices"}
    warnings += group.apply(cast("Any", rest))
    for found in group.processes():
        check_rights(found, spec, around.joined, filtered=bool(request.seccomp_bpf))
    warnings += set_score((spec.get("process") or {}).get("oomScoreAdj"), pid, group.processes())
    told = _identity(pid)
    for fd in stdio:
        _own(fd, told["uid"])
    ours, theirs = Channel.pair()
    theirs.send("created", {**told, "warnings": warnings}, ())
    theirs.close()
    values: dict[str, Any] = {"pid": pid, "cgroup_path": group.path, "warnings": []}
    return Result(values, [pidfd.steal(), ours.steal()])


# -- what is around it ---------------------------------------------------------------------------------------------


def _mounts(around: _Around) -> list[str]:
    """Mount the root and the host's part of it where only this process and its children see it."""
    request, spec = around.request, around.spec
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mount.set_propagation("/", mount.MS_PRIVATE | mount.MS_REC)
    stage = os.path.join(os.path.realpath(request.bundle), _STAGE)
    os.makedirs(stage, mode=0o700, exist_ok=True)
    with mount.new_filesystem("tmpfs", (("mode", "0700"),), source="tmpfs") as tree:
        mount.move_mount(tree.fileno(), _AT_FDCWD, stage, target=stage)
    os.mkdir(f"{stage}/{_ROOT}", 0o700)
    with rootfs.open_root(request.rootfs, str((spec.get("root") or {}).get("path") or "")) as root:
        rootfs.attach_root(root, f"{stage}/{_ROOT}")
    plan = make_plan(
        spec,
        bundle=request.bundle,
        layout=around.group.layout,
        cgroup_path=around.group.path,
        joined=frozenset(around.joined),
    )
    # Where the host's was shared the container's are slaves of it: of a source that has no peers CRIU makes none.
    null = _attach(mount.open_tree_at("/dev/null"), f"{stage}/null", mount.MS_SHARED)
    arguments = ["--root", f"{stage}/{_ROOT}", "--external", f"mnt[{NULL_KEY}]:{null}"]
    for index, tree in rootfs.open_sources(plan).items():
        step = plan.steps[index]
        assert isinstance(step, BindMount)
        place = _attach(tree, f"{stage}/{index}", mount.MS_PRIVATE)
        arguments += ["--external", f"mnt[{mount_key(step.target)}]:{place}"]
    return arguments


def _attach(tree: Fd, place: str, propagation: int) -> str:
    """Put a detached mount at a place that is made for it."""
    with tree:
        if stat.S_ISDIR(os.fstat(tree.fileno()).st_mode):
            os.mkdir(place, 0o700)
        else:
            os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        mount.move_mount(tree.fileno(), _AT_FDCWD, place, target=place)
    mount.set_propagation(place, propagation | mount.MS_REC)
    return place


def _streams(images: str, stdio: Stdio) -> list[str]:
    """The container's ends of its new pipes in the place of those that it had."""
    arguments: list[str] = []
    taken: set[str] = set()
    for fd, name in zip(stdio, read_descriptors(images), strict=False):
        if name.startswith(("pipe:[", "file[")) and name not in taken:
            os.set_inheritable(fd, True)  # noqa: FBT003 - positional only
            arguments += ["--inherit-fd", f"fd[{fd}]:{name}"]
            taken.add(name)
    return arguments


def _namespaces(around: _Around) -> list[str]:
    """The pod's namespaces; all others of the container are made anew."""
    arguments: list[str] = []
    for kind, fd in around.joined.items():
        if kind == "network":
            os.set_inheritable(fd, True)  # noqa: FBT003 - positional only
            arguments += ["--inherit-fd", f"fd[{fd}]:{NETWORK_KEY}"]
        else:
            arguments += ["--join-ns", f"{_NAMESPACES[kind]}:/proc/{os.getpid()}/fd/{fd}"]
    return arguments


def _run(around: _Around, arguments: list[str]) -> None:
    """Have CRIU restore from within the container's cgroup and cgroup namespace. Raises as `criu.call`.

    A process in that namespace may not change the group any more, so it is not this one that enters it.
    """
    listed = (around.spec.get("linux") or {}).get("namespaces") or []
    own_namespace = any(entry.get("type") == "cgroup" for entry in listed)
    ours, theirs = sockets.packet_pair()

    def inside() -> int:
        told: dict[str, Any] = {}
        try:
            for fd in around.group.join_fds():
                with fd:
                    os.write(fd.fileno(), b"0")
            if own_namespace:
                namespaces.unshare(namespaces.CLONE_NEWCGROUP)
            # As for any container: else it would have the session keyring that this shim has.
            join_new_session_keyring(f"_ses.{around.request.container_id[:64]}")
            if (around.spec.get("process") or {}).get("noNewPrivileges"):
                process.set_no_new_privs()  # CRIU (3.17) does not carry it, and hands on what it has
            request = around.request
            criu.call(_CRIU, "restore", arguments, request.images, request.container_id[:12], silent=True)
        except OakumError as error:
            told = error.to_dict()
        except OSError as failure:
            told = SystemFailure.from_os_error(failure, _OPERATION, str(failure.filename or "")).to_dict()
        sockets.send_with_fds(theirs, wire.encode(told), [])
        return 0

    helper = process.fork()
    if helper == 0:
        process.run_and_exit(inside)
    theirs.close()
    data, _ = sockets.receive_with_fds(ours, _TOLD_MAX_BYTES)
    ours.close()
    os.waitpid(helper, 0)
    if not data:
        raise SystemFailure(_OPERATION, around.request.container_id[:12], "CRIU's parent was killed")
    if told := wire.decode(data):
        raise from_dict(told)


# -- what it has become --------------------------------------------------------------------------------------------


def check_rights(pid: int, spec: Spec, joined: dict[str, int], *, filtered: bool) -> None:
    """Raise FailedPrecondition for a process with more than the configuration gives it; `filtered`: its system calls."""
    said = _status(pid)
    own = spec.get("process") or {}
    allowed = _mask((own.get("capabilities") or {}).get("bounding") or ())
    lacks = ""
    for name in ("CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"):
        if int(said.get(name, "0"), 16) & ~allowed:
            lacks = f"more capabilities ({name} {said[name]})"
    if filtered and said.get("Seccomp") != "2":
        lacks = "no system call filter"
    if own.get("noNewPrivileges") and said.get("NoNewPrivs") != "1":
        lacks = "no no_new_privs"
    listed = {entry.get("type", "") for entry in (spec.get("linux") or {}).get("namespaces") or []}
    for kind, name in _NAMESPACES.items():
        theirs = os.stat(f"/proc/{pid}/ns/{name}").st_ino
        if kind in joined:
            if theirs != os.fstat(joined[kind]).st_ino:
                lacks = f"another {kind} namespace than its pod"
        elif (theirs == _host_namespace(name)) != (kind not in listed):
            lacks = f"not the {kind} namespace that it is to have"
    if lacks:
        raise FailedPrecondition(_OPERATION, f"pid {pid}", f"a process of the checkpoint has {lacks}")


def set_score(wanted: int | None, first: int, pids: Sequence[int]) -> list[str]:
    """Give processes this oom_score_adj, unless the first has it: a process of it may have one of its own; warnings.

    Source: proc_pid_oom_score_adj(5).
    """
    with open(f"/proc/{first}/oom_score_adj", encoding="ascii") as file:
        if wanted is None or int(file.read()) == wanted:
            return []
    try:
        for pid in pids:
            with open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as file:
                file.write(str(wanted))
    except PermissionError:
        return [f"oom_score_adj {wanted}: not permitted here"]  # lowering needs CAP_SYS_RESOURCE
    return []


def _host_namespace(name: str) -> int:
    # Our own mount namespace is another by now.
    return os.stat(f"/proc/{os.getppid()}/ns/{name}").st_ino


def _mask(names: Any) -> int:
    return sum(1 << NAMES.index(name) for name in set(names) if name in NAMES)


def _status(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        return {name: rest.strip() for name, _, rest in (line.partition(":") for line in file)}


def _identity(pid: int) -> dict[str, Any]:
    said = _status(pid)
    return {
        "uid": int(said["Uid"].split()[1]),
        "gid": int(said["Gid"].split()[1]),
        "groups": [int(group) for group in said["Groups"].split()],
    }


def _own(fd: int, uid: int) -> None:
    """Give a pipe to the user, so that it can open /dev/stdout anew."""
    if os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:"):
        try:
            os.fchown(fd, uid, -1)
        except OSError as failure:
            raise SystemFailure.from_os_error(failure, "fchown", f"stdio {fd}") from failure
