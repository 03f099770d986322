# SPDX-License-Identifier: Apache-2.0
"""Making a container: the parent's side, as a library. Further processes in it are `execution`'s.

`create` clones the container's first process and returns at once; what the child reports is read from `status_fd`
when it becomes readable (`child`). The caller is single-threaded and the child's reaper. State on disk, stdio pumping
and exit records are the caller's (the shim, `oakum oci`).
"""

from __future__ import annotations

import os

from oakum.errors import (
    InvalidArgument,
    OakumError,
    SystemFailure,
)
from oakum.linux import namespaces as ns
from oakum.linux import process as proc
from oakum.linux.fd import Fd
from oakum.model.light import TYPE_CHECKING, NamedTuple
from oakum.model.rootfs import RootfsSource
from oakum.oci import init, rootfs
from oakum.oci.birth import Nothing, clone, clone_after_joining, ordered
from oakum.oci.cgroups import Cgroup, detect_layout
from oakum.oci.cgroups.layout import Layout, normalise_path
from oakum.oci.child import ContainerProcess, Held
from oakum.oci.credentials import plan_credentials, set_oom_score_adj
from oakum.oci.gate import Gate
from oakum.oci.handover import Handover, guard, wanted_tuning
from oakum.oci.mappings import write_mappings
from oakum.oci.plan import Plan, make_plan
from oakum.oci.rights import (
    check_rights,
    has_rights,
    open_proc,
)
from oakum.oci.spec import Hooks, Linux, LinuxResources, Spec
from oakum.oci.wire import Channel

if TYPE_CHECKING:
    from typing import Final

    from oakum.oci.listener import Listener

# Below this a container joins late, so that its limit need not hold our set-up too.
_TINY_MEMORY_BYTES: Final = 16 << 20


class CreateRequest(NamedTuple):
    """A container to make. Descriptors are borrowed until `create` returns.

    `rootfs` None means the spec's root.path. `namespace_fds` (by runtime-spec name) win over what the spec says of
    that namespace. `user` ("name", "name:group", "uid:gid"; "" = the spec's numbers) is resolved in the image.
    With `for_parent` the process becomes a child of the caller's parent (CLONE_PARENT), which reaps it.
    With `gate` it waits there for its start, and not for `ContainerProcess.start`. With `hooks` the spec's hooks run:
    the status "mounted" comes first, and `ContainerProcess.hooked` lets it go on. The container inherits descriptors
    3 to 2 + `preserve_fds`. Unless `alone` the caller has descriptors that are for others, and the child closes all but
    what it is given here; it takes neither `gate` nor `listener` nor `preserve_fds` then.
    """

    container_id: str
    spec: Spec
    bundle: str
    rootfs: RootfsSource | None = None
    stdio: tuple[int, int, int] | None = None
    namespace_fds: dict[str, int] = {}
    user: str = ""
    extra_groups: tuple[int, ...] = ()
    strict_groups: bool = False
    seccomp_bpf: bytes = b""
    seccomp_flags: int = 0
    listener: Listener | None = None
    for_parent: bool = False
    gate: Gate | None = None
    hooks: bool = False
    preserve_fds: int = 0
    new_keyring: bool = True
    alone: bool = True


def create(request: CreateRequest) -> ContainerProcess:
    """Clone the container's first process and make its cgroup; does not wait for the child.

    The cgroup at linux.cgroupsPath is made and limited here; removing it (`Cgroup.remove`) is the caller's.

    Raises:
        InvalidArgument, Unimplemented: the spec cannot be carried out.
        SystemFailure: clone or the cgroup failed; nothing is left behind but an empty cgroup.
    """
    spec = request.spec
    linux = spec.get("linux") or {}
    process = spec.get("process")
    if process is None:
        raise InvalidArgument("create container", request.container_id, "the spec has no process")
    wanted_path = linux.get("cgroupsPath") or ""
    cgroup_path = normalise_path(wanted_path) if wanted_path else ""
    layout = detect_layout() if cgroup_path or _wants_cgroup_mount(spec) else None
    plan = make_plan(
        spec,
        bundle=request.bundle,
        layout=layout,
        cgroup_path=cgroup_path,
        joined=frozenset(request.namespace_fds),
    )
    if request.rootfs is None and not plan.root_path:
        raise InvalidArgument(
            "create container", request.container_id, "neither a root file system nor root.path"
        )
    user_namespace = "user" in plan.create or any(kind == "user" for kind, _ in plan.join)
    credentials = plan_credentials(
        process, request.seccomp_bpf, own_user_namespace=user_namespace, seccomp_flags=request.seccomp_flags
    )
    check_rights(plan, user_namespace=user_namespace)
    hooks: Hooks = (spec.get("hooks") or {}) if request.hooks else {}
    held = Held()
    try:
        proc_fd = held.keep(open_proc())
        job = init.InitJob(
            spec=spec,
            plan=plan,
            rootfs=request.rootfs,
            join_fds=_join_fds(plan, request.namespace_fds, held),
            unshare_kinds=(),
            stdio=request.stdio,
            handover=Handover(
                name=request.container_id,
                process=process,
                credentials=credentials,
                user=request.user,
                extra_groups=request.extra_groups,
                strict_groups=request.strict_groups,
                proc_fd=proc_fd,
                new_cgroup_namespace="cgroup" in plan.create,
                create_cwd=True,
                wait_for_start=True,
                gate=request.gate,
                preserve_fds=request.preserve_fds,
                new_keyring=request.new_keyring,
                start_hooks=tuple(hooks.get("startContainer") or ()),
                tuning=wanted_tuning(process, linux),
                listener=request.listener,
            ),
            mapped_by_parent="user" in plan.create,
            has_cgroup=bool(cgroup_path),
            in_user_namespace=user_namespace,
            opened=None,
            hooked=request.hooks,
            container_hooks=tuple(hooks.get("createContainer") or ()),
        )
        if (user_namespace or plan.has_id_maps) and has_rights():
            job = job._replace(opened=_open_for_child(job, held))
        parentage = proc.CLONE_PARENT if request.for_parent else 0
        return _launch(job, layout, cgroup_path, parentage, alone=request.alone)
    finally:
        held.close()


def _launch(
    job: init.InitJob, layout: Layout | None, cgroup_path: str, parentage: int, *, alone: bool
) -> ContainerProcess:
    group = Cgroup(layout, cgroup_path) if layout is not None and cgroup_path else None
    linux = job.spec.get("linux") or {}
    resources = linux.get("resources") or {}
    ours, theirs = Channel.pair()
    kinds = [kind for kind in job.plan.create if kind not in ("cgroup", "time")]
    joins_user = any(kind == "user" for kind, _ in job.join_fds)
    pid_fd = next((fd for kind, fd in job.join_fds if kind == "pid"), None)
    network_fd = next((fd for kind, fd in job.join_fds if kind == "network"), None)
    if joins_user:
        # New namespaces have to belong to the user namespace, so they are made after joining it.
        job = job._replace(unshare_kinds=tuple(kind for kind in kinds if kind != "pid"))
        kinds = [kind for kind in kinds if kind == "pid"]
    job = job._replace(join_fds=tuple((kind, fd) for kind, fd in ordered(job.join_fds) if kind != "pid"))
    # A new PID namespace too has to belong to the user namespace that is joined: /proc could not be mounted else.
    joined_first = job.join_fds if joins_user and "pid" in kinds else ()
    if joined_first:
        job = job._replace(join_fds=())

    def body() -> None:
        if alone:
            ours.close()
        else:
            proc.close_except({2, theirs.fileno(), *job.given_fds()})
        init.run(job, theirs)

    try:
        birthplace = _birthplace(group, resources) if group is not None else None
        with birthplace or Nothing():
            cgroup_fd = birthplace.fileno() if birthplace is not None else None
            make = clone if not joined_first else clone_after_joining(joined_first)
            pid, pidfd = make(ns.flags_of(kinds) | parentage, pid_fd, guard(theirs, body), cgroup_fd)
    except OakumError:
        ours.close()
        raise
    finally:
        theirs.close()
    child = ContainerProcess(pid, pidfd, ours)
    try:
        if job.mapped_by_parent:
            write_mappings(pid, linux)
            child.warnings = tuple(
                set_oom_score_adj(job.handover.credentials, job.handover.proc_fd, str(pid))
            )
            ours.send("mapped")
        _move_devices(pid, network_fd, linux)
        if group is not None:
            child.warnings += _prepare_cgroup(group, resources, ours, born_in_unified=birthplace is not None)
    except BaseException:
        child.abort()
        raise
    return child


def _birthplace(group: Cgroup, resources: LinuxResources) -> Fd | None:
    """The v2 directory the child is born in, or None when it has to join late or there is no v2 tree.

    Born there, what the set-up writes to memory is charged to the container: some 1.5 MB. That is nothing where
    memory is accounted in v1, and too much for a container with a tiny limit.
    """
    limit = (resources.get("memory") or {}).get("limit") or -1
    if group.layout.mode == "v2" and 0 < limit < _TINY_MEMORY_BYTES:
        return None
    group.create_unified()
    return group.open_unified()


def _prepare_cgroup(
    group: Cgroup, resources: LinuxResources, channel: Channel, *, born_in_unified: bool
) -> tuple[str, ...]:
    """Make the group, send its descriptors and set its limits, while the child is busy with its mounts.

    The limits may come after the child has joined: it waits for `start`, which can only come after this.
    """
    group.create()
    fds = group.join_fds(unified=not born_in_unified)
    try:
        channel.send("cgroup", None, tuple(fd.fileno() for fd in fds))
    finally:
        for fd in fds:
            fd.close()
    return tuple(group.apply(resources))


def _join_fds(plan: Plan, given: dict[str, int], held: Held) -> tuple[tuple[str, int], ...]:
    result: list[tuple[str, int]] = []
    for kind, path in plan.join:
        if kind in given:
            result.append((kind, given[kind]))
            continue
        try:
            result.append((kind, held.keep(Fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC)))))
        except OSError as failure:
            raise SystemFailure.from_os_error(failure, "open", f"{kind} namespace {path}") from failure
    return tuple(result)


def _open_for_child(job: init.InitJob, held: Held) -> tuple[Fd, dict[int, Fd]]:
    """The root and bind sources, opened here for a child that has not the rights or not the PID namespace for it."""
    user_fd = next((fd for kind, fd in job.join_fds if kind == "user"), None)
    root = rootfs.open_root(job.rootfs, job.plan.root_path, user_fd=user_fd)
    held.take(root)
    sources = rootfs.open_sources(job.plan)
    held.take(*sources.values())
    return root, sources


def _move_devices(pid: int, network_fd: int | None, linux: Linux) -> None:
    if devices := linux.get("netDevices"):
        from oakum.oci.netdevices import move_devices  # few containers pay for it

        path = f"/proc/{pid}/ns/net" if network_fd is None else f"/proc/self/fd/{network_fd}"
        move_devices(path, {name: device.get("name") or name for name, device in devices.items()})


def _wants_cgroup_mount(spec: Spec) -> bool:
    return any((mount.get("type") or "") in ("cgroup", "cgroup2") for mount in spec.get("mounts") or [])
