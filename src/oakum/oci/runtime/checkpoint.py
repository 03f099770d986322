# SPDX-License-Identifier: Apache-2.0
"""Checkpoints through CRIU: a running container to a directory of images, and such a directory to a running container.

CRIU believes its images: who wrote them decides what is restored, with which privileges. So a checkpoint from somebody
else is as much to be trusted as a program that is run as root on the host; only what this module itself reads from
the directory (`descriptors.json`) is checked here.

    dump      criu dump of the first process's tree; its standard streams, where they are pipes, are noted by name
    restore   state and cgroup as for `create`; the root mounted in a mount namespace of CRIU's own; criu restore
"""

from __future__ import annotations

import json
import os
import time

from oakum.errors import DataLoss, FailedPrecondition, InvalidArgument, SystemFailure, Unimplemented
from oakum.linux.durable import write_file_fast
from oakum.linux.fd import Fd
from oakum.linux.mount import bind_file, set_propagation
from oakum.linux.namespaces import FLAGS, unshare
from oakum.linux.paths import make_dirs_in_root, make_file_in_root
from oakum.linux.process import set_child_subreaper
from oakum.model.light import TYPE_CHECKING, NamedTuple, cast
from oakum.oci.cgroups.group import Cgroup
from oakum.oci.cgroups.layout import detect_layout, normalise_path
from oakum.oci.runtime import criu
from oakum.oci.runtime.container import OCI_VERSION, Container, bundle_path, destroy
from oakum.oci.runtime.create import load_config
from oakum.oci.runtime.endpoints import write_pid_file
from oakum.oci.runtime.state import Directory, Record, start_ticks
from oakum.oci.spec import Spec

if TYPE_CHECKING:
    from typing import Final

    from oakum.oci.runtime.create import CompileFilter

DESCRIPTORS: Final = "descriptors.json"
_DESCRIPTORS_LIMIT_BYTES: Final = 64 << 10
_MS_SLAVE_RECURSIVE: Final = 0x80000 | 0x4000
# Namespaces that a container may join and CRIU still carries; it restores only its own of the other kinds.
_MAY_BE_JOINED: Final = ("network",)
_NETWORK_KEY: Final = "oakum-network"


class CheckpointOptions(NamedTuple):
    """How to dump; `parent` is an earlier image directory, relative to this one."""

    images: str
    work: str = ""
    program: str = "criu"
    leave_running: bool = False
    pre_dump: bool = False
    parent: str = ""
    tcp_established: bool = False
    unix_sockets: bool = False
    shell_job: bool = False
    file_locks: bool = False
    auto_dedup: bool = False


class RestoreOptions(NamedTuple):
    """How to restore; with `detach` the container is nobody's child, else ours."""

    images: str
    bundle: str
    compile_filter: CompileFilter
    work: str = ""
    program: str = "criu"
    pid_file: str = ""
    detach: bool = True
    tcp_established: bool = False
    unix_sockets: bool = False
    shell_job: bool = False
    file_locks: bool = False


def checkpoint(root: str, container_id: str, options: CheckpointOptions) -> None:
    """Write a container into `options.images`; it is deleted afterwards unless it is to go on.

    Raises:
        FailedPrecondition: it does not run, or CRIU failed; the container runs on.
        Unimplemented: CRIU does not work here, or cannot carry something of this container.
    """
    container = Container.find(root, container_id)
    with container.directory.lock():
        container.require("running", "paused")
        spec = container.directory.load_spec()
        work = _directories(options.images, options.work)
        arguments = ["-t", str(container.record.pid), *_common(options, container.record.cgroup_path)]
        arguments += ["--root", container.record.rootfs, *_joined(spec, restoring=False)]
        if options.parent:
            arguments += ["--track-mem", "--prev-images-dir", options.parent]
        if options.auto_dedup:
            arguments.append("--auto-dedup")
        if options.pre_dump:
            criu.call(options.program, "pre-dump", [*arguments, "--track-mem"], work, container_id)
            return
        streams = criu.stream_names(container.record.pid)
        arguments += criu.external(streams)
        write_file_fast(f"{options.images}/{DESCRIPTORS}", json.dumps(streams).encode())
        if options.leave_running:
            arguments.append("--leave-running")
        frozen = container.status() == "paused"
        if frozen:
            container.cgroup.thaw()  # ptrace does not reach what is frozen
        try:
            criu.call(options.program, "dump", arguments, work, container_id)
        finally:
            if frozen and container.alive():
                container.cgroup.freeze()
        if not options.leave_running:
            _wait_end(container)
            destroy(container)


def restore(root: str, container_id: str, options: RestoreOptions) -> Container:
    """Make a container out of `options.images`; with `detach` False its first process is our child.

    This process gets a mount namespace of its own. Raises as `create`, and OakumError as CRIU fails; then nothing is
    left of the container.
    """
    bundle = bundle_path(options.bundle)
    spec = load_config(bundle)
    if spec.get("root") is None:
        raise InvalidArgument("restore container", "$.root", "missing: the spec has no root file system")
    linux = spec.setdefault("linux", {})
    linux["cgroupsPath"] = cgroup_path = normalise_path(linux.get("cgroupsPath") or f"/{container_id}")
    work = _directories(options.images, options.work, made=True)
    streams = read_descriptors(options.images)
    seccomp = linux.get("seccomp")
    program, flags = options.compile_filter(seccomp, spec) if seccomp else (b"", 0)
    record = Record(
        id=container_id,
        bundle=bundle,
        rootfs=os.path.normpath(os.path.join(bundle, (spec.get("root") or {}).get("path") or "")),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        oci_version=OCI_VERSION,
        owner_uid=os.getuid(),
        cgroup_path=cgroup_path,
        annotations=spec.get("annotations") or {},
        seccomp_flags=flags,
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
            _restore(container, spec, streams, work, options)
        except OSError as failure:
            destroy(container)
            raise SystemFailure.from_os_error(failure, "restore container", container_id) from failure
        except BaseException:
            destroy(container)
            raise
    return container


def _restore(
    container: Container, spec: Spec, streams: list[str], work: str, options: RestoreOptions
) -> None:
    record = container.record
    group = Cgroup(detect_layout(), record.cgroup_path)
    group.create()
    group.apply((spec.get("linux") or {}).get("resources") or {})
    unshare(FLAGS["mount"])
    set_propagation("/", _MS_SLAVE_RECURSIVE)
    _make_mount_points(record.rootfs, spec)
    bind_file(record.rootfs, record.rootfs)  # CRIU wants the root to be a mount
    if not options.detach:
        set_child_subreaper(True)
    pid_file = f"{work}/restored.pid"
    arguments = ["--restore-detached", "--pidfile", pid_file, "--root", record.rootfs]
    arguments += [*_common(options, record.cgroup_path), *_joined(spec, restoring=True)]
    for number, name in enumerate(streams):
        if name.startswith(("pipe:[", "file[")):
            arguments += ["--inherit-fd", f"fd[{number}]:{name}"]
    criu.call(options.program, "restore", arguments, work, container.id)
    try:
        with open(pid_file, encoding="ascii") as file:
            pid = int(file.read(32))
    except (OSError, ValueError) as failure:
        group.kill_all()
        raise DataLoss("restore container", container.id, "CRIU did not say its process id") from failure
    container.record = record._replace(pid=pid, start_ticks=start_ticks(pid) or 0)
    container.directory.save(container.record)
    if options.pid_file:
        write_pid_file(options.pid_file, pid)


def _common(options: CheckpointOptions | RestoreOptions, cgroup_path: str) -> list[str]:
    # External mounts, masters of theirs included, are found again by where they were on the host.
    arguments = ["-D", options.images, "--external", "mnt[]:ms"]
    arguments += ["--manage-cgroups=soft", "--cgroup-root", cgroup_path]
    wanted = {
        "--tcp-established": options.tcp_established,
        "--ext-unix-sk": options.unix_sockets,
        "--shell-job": options.shell_job,
        "--file-locks": options.file_locks,
    }
    return arguments + [name for name, said in wanted.items() if said]


def _joined(spec: Spec, *, restoring: bool) -> list[str]:
    """What CRIU has to be told of namespaces that are not the container's own. Raises Unimplemented."""
    if (spec.get("process") or {}).get("terminal"):
        raise Unimplemented(
            "checkpoint container", "process.terminal", "the other end of a terminal cannot be carried"
        )
    linux = spec.get("linux") or {}
    own = linux.get("namespaces") or []
    arguments: list[str] = []
    for namespace in own:
        path, kind = namespace.get("path") or "", namespace.get("type", "")
        if not path:
            continue
        if kind not in _MAY_BE_JOINED:
            raise Unimplemented(
                "checkpoint container", f"{kind} namespace", "it is joined, and CRIU restores its own only"
            )
        if restoring:
            fd = os.open(path, os.O_RDONLY)
            os.set_inheritable(fd, True)  # noqa: FBT003 - positional only
            arguments += ["--inherit-fd", f"fd[{fd}]:{_NETWORK_KEY}"]
        else:
            arguments += ["--external", f"net[{os.stat(path).st_ino}]:{_NETWORK_KEY}"]
    if not any(n.get("type") == "pid" for n in own):
        raise Unimplemented(
            "checkpoint container", "pid namespace", "in the host's one its process ids may be taken"
        )
    return arguments


def _directories(images: str, work: str, *, made: bool = False) -> str:
    """Have both directories there; the working directory. Raises FailedPrecondition, SystemFailure."""
    work = work or images
    try:
        if made and not os.path.isdir(images):
            raise FailedPrecondition("restore container", images, "there is no such directory of images")
        for directory in (images, work):
            os.makedirs(directory, mode=0o700, exist_ok=True)
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "make image directory", images) from failure
    return os.path.abspath(work)


def read_descriptors(images: str) -> list[str]:
    """The names of the standard streams at the checkpoint; what is no name is DataLoss.

    Raises:
        DataLoss: the file is damaged.
    """
    try:
        with open(f"{images}/{DESCRIPTORS}", "rb") as file:
            found: object = json.loads(file.read(_DESCRIPTORS_LIMIT_BYTES))
    except (OSError, ValueError, RecursionError) as failure:
        raise DataLoss("read checkpoint", f"{images}/{DESCRIPTORS}", str(failure)) from failure
    names = cast("list[object]", found) if isinstance(found, list) else []
    if not 0 < len(names) <= 3 or not all(isinstance(name, str) and _is_name(name) for name in names):
        raise DataLoss("read checkpoint", f"{images}/{DESCRIPTORS}", "not the names of three descriptors")
    return cast("list[str]", names)


def _is_name(name: str) -> bool:
    """A path, KIND:[NUMBER] or file[MOUNT:INODE]: nothing that CRIU's command line would take for more."""
    if name.startswith("/"):
        return len(name) < 4096 and "\0" not in name
    if name.startswith("file[") and name.endswith("]"):
        return all(0 < len(n) <= 16 and set(n) <= set("0123456789abcdef") for n in name[5:-1].split(":"))
    kind, _, rest = name.partition(":[")
    return kind.isalpha() and rest.endswith("]") and rest[:-1].isdecimal() and len(rest) < 22


def _make_mount_points(rootfs: str, spec: Spec) -> None:
    """CRIU mounts, but makes no places to mount at: those that the root itself must have."""
    fd = Fd(os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    with fd:
        for mount in spec.get("mounts") or []:
            place, source = mount.get("destination", ""), mount.get("source") or ""
            bound = mount.get("type") in (None, "bind", "none") or "bind" in (mount.get("options") or ())
            if any(place.startswith(below) for below in ("/dev/", "/proc/", "/sys/")):
                continue  # on a mount that CRIU fills
            if bound and os.path.isfile(source):
                make_file_in_root(fd.fileno(), place).close()
            else:
                make_dirs_in_root(fd.fileno(), place).close()


def _wait_end(container: Container) -> None:
    """CRIU kills what it has dumped; the kernel may need a moment. Raises FailedPrecondition."""
    deadline = time.monotonic() + 10
    while container.alive():
        if time.monotonic() > deadline:
            raise FailedPrecondition("delete container", container.id, "it is dumped, but does not end")
        time.sleep(0.005)
