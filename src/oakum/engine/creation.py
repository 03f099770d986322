# SPDX-License-Identifier: Apache-2.0
"""Making a container: from a configuration to a row, a snapshot, and a bundle that a shim can start.

Owns the order of these steps and what a shim is asked for at the start. Talks to no shim.
"""

from __future__ import annotations

import os
import posixpath
import sys
import time
from base64 import b64encode
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from oakum.backend.config import ContainerConfig, Mount, Resources, SELinuxOptions
from oakum.engine import cdi, host, imageviews, podfiles, user_namespaces, volumes
from oakum.engine.context import Context
from oakum.engine.sandboxes import hostname
from oakum.engine.seccomp.compiler import compiled, compiled_default
from oakum.engine.seccomp.profile import Profile, parse
from oakum.engine.spec import builder, capabilities
from oakum.engine.spec.devices import Node
from oakum.engine.spec.mounts import clean
from oakum.engine.spec.resources import linux_resources
from oakum.engine.storage import remove_directory, storing
from oakum.engine.store.records import ContainerRecord, ImageRecord, SandboxRecord
from oakum.errors import InvalidArgument, NotFound, Unimplemented
from oakum.linux.durable import reserve, write_file_fast
from oakum.model.ids import check_name, new_id
from oakum.model.restarts import parse_policy
from oakum.model.rootfs import RootfsSource
from oakum.model.signals import parse_signal, signal_name

if TYPE_CHECKING:
    from oakum.shim.client import ContainerRequest, RestartRequest

# CRIU's images in the bundle of a container that goes on from them.
IMAGES = "checkpoint"
# Where the shim had its root file system mounted meanwhile, for itself alone.
_MOUNTS = "mounts"
_PROFILE_MAX = 8 << 20


def name_key(sandbox: SandboxRecord, config: ContainerConfig) -> str:
    """What may be there only once in a namespace: a name of the command line, or one of CRI within its pod."""
    if sandbox.config.owner == "container":
        return f"name {config.metadata.name}"
    key = (sandbox.id, config.metadata.name, config.metadata.attempt)
    return "cri" + msgspec.json.encode(key).decode()


def cgroup_path(sandbox: SandboxRecord, container_id: str) -> str:
    """Where the container's cgroup is, in the form that the runtime takes: a path, or slice:prefix:name."""
    parent = sandbox.cgroup_path
    if parent.endswith(".slice"):
        return f"{posixpath.basename(parent)}:oakum:{container_id}"
    return f"{parent.rstrip('/')}/{container_id}"


def check(sandbox: SandboxRecord, config: ContainerConfig) -> ContainerConfig:
    """The configuration with its mounts' sources resolved.

    Raises:
        InvalidArgument, NotFound, Unimplemented: it cannot become a container.
    """
    if config.metadata.name or sandbox.config.owner == "container":
        check_name("container", config.metadata.name)
    else:
        raise InvalidArgument("create container", "metadata.name", "a container needs a name")
    if config.restart and sandbox.config.owner != "container":
        raise InvalidArgument(
            "create container",
            "restart",
            "a pod's container is restarted by its kubelet",
            hint="leave it out",
        )
    config = msgspec.structs.replace(config, restart=parse_policy(config.restart).to_text())
    if config.privileged and not sandbox.config.privileged and sandbox.config.owner != "container":
        raise InvalidArgument("create container", repr(config.metadata.name), "its sandbox is not privileged")
    config = cdi.injected(config, cdi.edits_of(cdi.requested(config)))
    if config.namespaces.pid == "pod" and sandbox.config.namespaces.pid != "pod":
        raise InvalidArgument(
            "create container", "namespaces.pid", "its sandbox has no pid namespace to share"
        )
    if config.init and config.namespaces.pid != "pod":
        raise InvalidArgument("create container", "init", "only a pod's shared pid namespace has an init")
    if config.apparmor is not None and config.apparmor.kind == "localhost" and not host.has_apparmor():
        raise InvalidArgument(
            "create container", config.apparmor.localhost_ref, "AppArmor is not enabled here"
        )
    log_path(sandbox, config, "")
    for profile in (config.selinux, sandbox.config.selinux):
        if profile is not None and profile != SELinuxOptions() and not host.has_selinux():
            raise InvalidArgument("create container", "selinux_options", "SELinux is not enabled here")
    if sandbox.runtime_path:
        _check_for_foreign(sandbox, config)
    mounts = host.check_mount_sources(config.mounts, make_missing=sandbox.config.owner != "container")
    return msgspec.structs.replace(config, mounts=tuple(mounts))


def _check_for_foreign(sandbox: SandboxRecord, config: ContainerConfig) -> None:
    """Refuse what a runtime of somebody else's would leave out without a word."""
    from oakum.engine.handlers import abilities_of  # only pods with such a runtime ask

    for mount in config.mounts:
        lacks = ""
        if mount.uid_mappings or mount.gid_mappings:
            lacks = "only the built-in runtime maps the ids of a mount"
        elif mount.recursive_read_only and not abilities_of(sandbox.runtime_path).recursive_read_only:
            lacks = (
                f"{sandbox.runtime_path} does not say that it can make mounts read-only with all below them"
            )
        if lacks:
            raise Unimplemented("create container", f"mount {mount.container_path}", lacks)


def with_image_ids(config: ContainerConfig, views: dict[str, ImageRecord]) -> ContainerConfig:
    """The configuration with what its images as volumes are right now."""
    if not views:
        return config
    replace = msgspec.structs.replace
    return replace(
        config,
        mounts=tuple(
            replace(m, image_id=views[m.container_path].config_digest) if m.image else m
            for m in config.mounts
        ),
    )


def log_path(sandbox: SandboxRecord, config: ContainerConfig, bundle: str) -> str:
    """Where the log goes: below the pod's log directory, or (command line) into the bundle; "" for nowhere."""
    directory, name = sandbox.config.log_directory, config.log_path
    if directory and name:
        path = posixpath.normpath(posixpath.join(directory, name))
        if not directory.startswith("/") or not path.startswith(posixpath.normpath(directory) + "/"):
            raise InvalidArgument(
                "create container", repr(name), "the log path leads out of the pod's log directory"
            )
        return path
    return f"{bundle}/container.log" if sandbox.config.owner == "container" else ""


def new_record(
    sandbox: SandboxRecord,
    config: ContainerConfig,
    image: ImageRecord,
    bundles: str,
    image_mounts: dict[str, str],
) -> ContainerRecord:
    """The row of a container to be; nothing is written."""
    container_id = new_id()
    signal_text = config.stop_signal or image.stop_signal or "SIGTERM"
    try:
        stop_signal = signal_name(parse_signal(signal_text))
    except InvalidArgument:
        if config.stop_signal:
            raise
        stop_signal = "SIGTERM"  # an image's word is only a wish
    return ContainerRecord(
        id=container_id,
        namespace=sandbox.namespace,
        sandbox_id=sandbox.id,
        name_key=name_key(sandbox, config),
        phase="creating",
        created_at_ns=time.time_ns(),
        config=config,
        image_ref=config.user_specified_image or config.image,
        image_id=image.config_digest,
        manifest_digest=image.manifest_digest,
        chain_id=image.chain_id,
        image_mounts=tuple((f"{container_id}-{n}", digest) for n, digest in enumerate(image_mounts.values())),
        log_path=log_path(sandbox, config, f"{bundles}/{container_id}"),
        resources=config.resources,
        user_text=config.user or image.user,
        stop_signal=stop_signal,
        argv=builder.command_line(config, _facts(image)),
        cgroup_path=cgroup_path(sandbox, container_id),
    )


def build(
    context: Context,
    sandbox: SandboxRecord,
    record: ContainerRecord,
    image: ImageRecord,
    views: dict[str, ImageRecord],
) -> None:
    """Make the snapshot, the volumes and config.json. Idempotent; undone by `discard`."""
    layout = context.layout
    bundle = layout.bundle(record.id)
    with storing("make bundle", bundle):
        os.makedirs(bundle, mode=0o711, exist_ok=True)
    source = context.snapshotter.prepare_container(record.id, record.chain_id)
    user_namespaces.own_upper(source, sandbox.config.namespaces)
    anonymous = _anonymous_volumes(record.config, image)
    empty = [clean(mount.container_path) for mount in record.config.mounts if mount.no_copy]
    volume_paths = volumes.create(f"{bundle}/volumes", anonymous, source, empty=empty)
    config = _with_volumes(context, record, source)
    around = builder.Surroundings(
        sandbox=sandbox.config,
        pod_path=layout.pod(sandbox.id),
        network_pod_path=layout.pod(sandbox.config.network_of or sandbox.id),
        hostname=hostname(sandbox.config, sandbox.id),
        cgroup_path=record.cgroup_path,
        capabilities=host.known_capabilities(),
        files={
            place: f"{layout.sandbox(sandbox.config.network_of or sandbox.id)}/{name}"
            for place, name in podfiles.FILES.items()
        },
        volumes=volume_paths,
        image_views=_image_views(context, record, views),
        nodes=_nodes(record.config),
        cgroup_namespace=context.cgroups.mode == "v2" and not record.config.privileged,
        apparmor=host.has_apparmor(),
        seccomp=_seccomp_document(sandbox, record.config),
    )
    spec = builder.build(config, _facts(image), around)
    seccomp_program(context, sandbox, record.config)
    with storing("write container configuration", bundle):
        if record.log_path:
            os.makedirs(os.path.dirname(record.log_path), mode=0o755, exist_ok=True)
        # How it ends has to be written also where the disk is full by then: else it would seem to run for ever.
        reserve(f"{bundle}/exit.json")
        write_file_fast(f"{bundle}/config.json", msgspec.json.encode(spec))


def _with_volumes(context: Context, record: ContainerRecord, source: RootfsSource) -> ContainerConfig:
    """The configuration with named volumes as the directories that they are; anonymous ones are made elsewhere."""
    config = record.config
    if all(mount.volume is None for mount in config.mounts):
        return config
    from oakum.engine.named_volumes import NamedVolumes  # of most containers no volume is asked for

    named = NamedVolumes(context, record.namespace)
    mounts: list[Mount] = []
    for mount in config.mounts:
        if mount.volume is None:
            mounts.append(mount)
        elif mount.volume:
            path = named.ensure(
                mount.volume, record.id, None if mount.no_copy else source, mount.container_path
            )
            mounts.append(msgspec.structs.replace(mount, host_path=path))
    return msgspec.structs.replace(config, mounts=tuple(mounts))


def _anonymous_volumes(config: ContainerConfig, image: ImageRecord) -> list[str]:
    """Where the caller wants them, and where the image declared them and the caller mounts nothing.

    What an image says is checked, not trusted.
    """
    taken = {clean(mount.container_path) for mount in config.mounts if mount.volume != ""}
    found = [clean(mount.container_path) for mount in config.mounts if mount.volume == ""]
    for place in image.volumes:
        path = clean(place if place.startswith("/") else f"/{place}")
        if path not in taken and path not in found:
            found.append(path)
    return found


def _nodes(config: ContainerConfig) -> list[Node]:
    wanted = host.requested_nodes(config.devices) + cdi.nodes(cdi.edits_of(cdi.requested(config)))
    if config.privileged:
        named = {node.path for node in wanted}
        wanted += [node for node in host.all_nodes() if node.path not in named]
    return wanted


def _image_views(
    context: Context, record: ContainerRecord, views: dict[str, ImageRecord]
) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    mounts = {mount.container_path: mount for mount in record.config.mounts if mount.image}
    for (key, _digest), (place, image) in zip(record.image_mounts, views.items(), strict=True):
        source = context.snapshotter.view(key, image.chain_id)
        layers = source.lower or (source.upper,)
        found[place] = imageviews.directories_at(layers, mounts[place].image_sub_path, mounts[place].image)
    return found


def discard(context: Context, record: ContainerRecord) -> None:
    """Remove snapshot, views, bundle and row of a container that no shim knows. Idempotent."""
    context.snapshotter.remove_container(record.id)
    for key, _digest in record.image_mounts:
        context.snapshotter.remove_view(key)
    remove_directory(context.layout.containers, record.id)
    context.store.delete_container(record.id)


def seccomp_program(context: Context, sandbox: SandboxRecord, config: ContainerConfig) -> str:
    """The container's seccomp program as base64; "" for none, and for a runtime that makes its own of the specification.

    Raises:
        NotFound, InvalidArgument: its profile file is missing or is none.
    """
    kind, path = ("none", "") if sandbox.runtime_path else _seccomp_choice(sandbox, config)
    if kind == "none":
        return ""
    cache, machine = context.layout.seccomp_cache, host.machine()
    if kind == "default":
        return b64encode(compiled_default(_capabilities(config), cache, machine)).decode()
    return b64encode(compiled(_profile_file(path, config), cache, machine)).decode()


def _seccomp_document(sandbox: SandboxRecord, config: ContainerConfig) -> dict[str, Any] | None:
    """What a foreign runtime is told instead of a program; None for no filter. Raises as `seccomp_program`."""
    kind, path = _seccomp_choice(sandbox, config) if sandbox.runtime_path else ("none", "")
    if kind == "none":
        return None
    from oakum.engine.seccomp.default import default_profile  # only foreign runtimes are told in words
    from oakum.engine.seccomp.document import document

    machine = host.machine()
    if kind == "default":
        return document(default_profile(machine=machine, capabilities=_capabilities(config)), machine)
    return document(_profile_file(path, config), machine)


def _seccomp_choice(sandbox: SandboxRecord, config: ContainerConfig) -> tuple[str, str]:
    """Which filter is wanted: "none", "default", or "file" with its path."""
    said = config.seccomp
    if config.privileged or (said is not None and said.kind == "unconfined"):
        return "none", ""
    if said is None:
        return ("default" if sandbox.config.owner == "container" else "none"), ""
    if said.kind == "runtime_default":
        return "default", ""
    return "file", said.localhost_ref.removeprefix("localhost/")


def _capabilities(config: ContainerConfig) -> Sequence[str]:
    return capabilities.effective(
        config.add_capabilities, config.drop_capabilities, privileged=False, known=host.known_capabilities()
    )


def _profile_file(path: str, config: ContainerConfig) -> Profile:
    if not path.startswith("/"):
        raise InvalidArgument("read seccomp profile", repr(path), "a profile's path is absolute")
    try:
        with open(path, "rb") as file:
            text = file.read(_PROFILE_MAX)
    except OSError as error:
        raise NotFound("read seccomp profile", path, error.strerror or str(error)) from error
    return parse(
        text,
        subject=path,
        machine=host.machine(),
        capabilities=_capabilities(config),
        kernel=host.kernel_version(),
    )


def shim_request(context: Context, sandbox: SandboxRecord, record: ContainerRecord) -> ContainerRequest:
    """What a shim is asked for to create the container."""
    # Listings need no shim.
    from oakum.shim.client import ContainerRequest

    config = record.config
    bundle = context.layout.bundle(record.id)
    return ContainerRequest(
        container_id=record.id,
        bundle=bundle,
        rootfs=context.snapshotter.container_source(record.id),
        user=record.user_text,
        extra_groups=config.supplemental_groups,
        strict_groups=config.strict_groups,
        tty=config.tty,
        stdin=config.stdin,
        stdin_once=config.stdin_once,
        log_path=record.log_path,
        target_pid_of=config.namespaces.target_id if config.namespaces.pid == "target" else "",
        seccomp_bpf=seccomp_program(context, sandbox, config),
        runtime=sandbox.runtime_path,
        images=f"{bundle}/{IMAGES}" if record.restored_from else "",
        restart=restart_request(context, record) if config.restart else None,
    )


def restart_request(context: Context, record: ContainerRecord) -> RestartRequest:
    """What the shim is to do after the container's end, by its policy."""
    from oakum.shim.client import RestartRequest  # as above

    layout = context.layout
    return RestartRequest(
        policy=record.config.restart,
        times=record.restart_count,
        delay_s=record.restart_delay_s,
        command=(
            *(sys.executable, "-I", "-m", "oakum.engine.restarter"),
            *(layout.root, layout.state, context.cgroup_driver, record.namespace, record.id),
        ),
    )


def forget_images(context: Context, record: ContainerRecord) -> None:
    """Remove what a container has gone on from, or never will. Idempotent. Raises SystemFailure."""
    for name in (IMAGES, _MOUNTS):
        remove_directory(context.layout.bundle(record.id), name)


def _facts(image: ImageRecord) -> builder.ImageFacts:
    return builder.ImageFacts(
        entrypoint=image.entrypoint, cmd=image.cmd, env=image.env, working_dir=image.working_dir
    )


def config_of(context: Context, container_id: str) -> dict[str, Any]:
    """The container's config.json. Raises NotFound."""
    path = f"{context.layout.bundle(container_id)}/config.json"
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=dict[str, Any])
    except FileNotFoundError as error:
        raise NotFound("read container configuration", container_id[:12], "it is gone") from error


def rewrite_resources(context: Context, container_id: str, merged: Resources) -> None:
    """Put new limits into the bundle of a container that was not started yet."""
    spec = config_of(context, container_id)
    wanted = linux_resources(merged)
    wanted["devices"] = spec["linux"]["resources"]["devices"]
    spec["linux"]["resources"] = wanted
    if merged.oom_score_adj is not None:
        spec["process"]["oomScoreAdj"] = merged.oom_score_adj
    bundle = context.layout.bundle(container_id)
    with storing("write container configuration", bundle):
        write_file_fast(f"{bundle}/config.json", msgspec.json.encode(spec))
