# SPDX-License-Identifier: Apache-2.0
"""A pod made anew from a checkpoint of `engine.pod_checkpoints`, with another id, network and, if wanted, configuration.

The sandbox is made as any other; each container is created as any other, gets what it had written and CRIU's images, and
goes on when all are there. All or nothing: while it is being restored a note in the sandbox's directory is locked, and
recovery removes a sandbox whose note nobody holds. What a configuration may change is what the processes have not in
them already: names, labels, logs, limits and where a mount's source is. Spec: CRI v1 RestorePod.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from oakum.backend.config import ContainerConfig, ContainerMetadata, Resources, SandboxConfig
from oakum.backend.status import RestoredSandbox
from oakum.engine import checkpoints, host, sealed, unarchive
from oakum.engine.containers import Containers, Restored
from oakum.engine.half_restored import Note
from oakum.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    Unimplemented,
)

if TYPE_CHECKING:
    from oakum.engine.context import Context
    from oakum.engine.sandboxes import Sandboxes
    from oakum.engine.store.records import ContainerRecord

_OPERATION: Final = "restore from checkpoint"


def restore(
    context: Context,
    sandboxes: Sandboxes,
    containers: Containers,
    path: str,
    config: SandboxConfig | None,
    *,
    runtime_handler: str = "",
    container_configs: Sequence[ContainerConfig] = (),
) -> RestoredSandbox:
    """Restore a pod; None and missing configurations are as they were at the checkpoint.

    Raises:
        Unimplemented: this host, or CRIU with one of the containers, cannot do it; says why.
        InvalidArgument, NotFound: the configuration does not go with the checkpoint, or an image is missing.
        PermissionDenied, DataLoss: the checkpoint is not ours, or is damaged.
    """
    if why := checkpoints.problem():
        raise Unimplemented(_OPERATION, path[:64], f"CRIU does not work on this host: {why}")
    _check_runtime(context, runtime_handler)
    with sealed.opened(context.layout, path) as checkpoint:
        facts = checkpoint.facts
        check_host(facts, machine=host.machine(), snapshots=context.snapshotter.kind)
        check_pod(facts)
        wanted = config or facts.config
        check_sandbox(facts.config, wanted)
        chosen = chosen_configs(facts, container_configs)
        note = Note(context)
        try:
            sandbox_id = sandboxes.run(wanted, runtime_handler=runtime_handler, begun=note.begin)
            if sandbox_id != note.sandbox_id:
                raise AlreadyExists(_OPERATION, sandbox_id[:12], "somebody else has just made this pod")
            try:
                made = _fill(context, containers, checkpoint, sandbox_id, chosen)
                containers.start_together([key for _, key in made])
                note.end()
            except BaseException:  # whatever ends this call, nothing may stay behind; it goes on upwards
                sandboxes.remove(sandbox_id, remove_container=containers.remove_one)
                raise
        finally:
            note.close()
    return RestoredSandbox(sandbox_id=sandbox_id, containers=tuple(made))


def _fill(
    context: Context,
    containers: Containers,
    checkpoint: sealed.Checkpoint,
    sandbox_id: str,
    chosen: Sequence[tuple[sealed.PodContainerFacts, ContainerConfig]],
) -> list[tuple[str, str]]:
    """Create the containers with what they had; their names and ids."""
    if checkpoint.facts.shared_memory is not None:
        memory = checkpoint.read(checkpoint.facts.shared_memory)
        unarchive.take_shared_memory(
            memory, context.layout.sandbox(sandbox_id), f"{context.layout.pod(sandbox_id)}/shm"
        )
    made: list[tuple[str, str]] = []
    for was, config in chosen:

        def fill(record: ContainerRecord, was: sealed.PodContainerFacts = was) -> None:
            check_container(was, record.config, record.image_id)
            bundle = context.layout.bundle(record.id)
            upper = context.snapshotter.container_directory(record.id)
            unarchive.take_container(checkpoint.read(was.archive), bundle, checkpoints.DIRECTORY, upper)

        restored = Restored(checkpoint.path, fill)
        made.append((was.name, containers.create(sandbox_id, config, restored=restored)))
    return made


# ---- what goes together. Pure.


def _check_runtime(context: Context, handler: str) -> None:
    if context.handlers.need(handler):
        raise Unimplemented(
            _OPERATION, f"runtime_handler {handler[:64]!r}", "only the built-in runtime restores containers"
        )


def check_host(facts: sealed.Facts, *, machine: str, snapshots: str) -> None:
    """Raise unless a checkpoint's containers could go on on a host like this."""
    if facts.machine != machine:
        raise FailedPrecondition(
            _OPERATION, facts.id[:12], f"it is from a {facts.machine[:32]}, this is a {machine}"
        )
    if facts.snapshots != "overlay" or snapshots != "overlay":
        raise Unimplemented(
            _OPERATION, facts.id[:12], "only what was written over an overlay can be put over another one"
        )


def check_obstacles(*found: tuple[str, str]) -> None:
    """Raise for the first name that has an obstacle."""
    for name, obstacle in found:
        if obstacle:
            raise Unimplemented(_OPERATION, name[:64], f"it cannot go on: {obstacle}")


def check_pod(facts: sealed.PodFacts) -> None:
    """Raise unless all that is in a pod's checkpoint can be restored."""
    if not facts.containers:
        raise FailedPrecondition(_OPERATION, facts.id[:12], "no container is in it")
    containers = [(container.name, container.obstacle) for container in facts.containers]
    check_obstacles(("/dev/shm", facts.obstacle), *containers)  # noqa: S108 - the pod's own


def check_sandbox(was: SandboxConfig, wanted: SandboxConfig, said: str = "config") -> None:
    """Raise InvalidArgument for a pod in which the containers cannot go on; `said` is how its caller knows it."""
    for field in ("namespaces", "privileged"):
        if getattr(was, field) != getattr(wanted, field):
            raise InvalidArgument(_OPERATION, f"{said}.{field}", "not as at the checkpoint")
    if wanted.namespaces.user != "node":
        raise Unimplemented(
            _OPERATION, f"{said}.namespaces.user", "CRIU carries no pod with users of its own"
        )


def chosen_configs(
    facts: sealed.PodFacts, wanted: Sequence[ContainerConfig]
) -> list[tuple[sealed.PodContainerFacts, ContainerConfig]]:
    """Each container of the checkpoint with its configuration. Raises InvalidArgument for one of no container."""
    by_name: dict[str, ContainerConfig] = {}
    names = {container.name for container in facts.containers}
    for position, config in enumerate(wanted):
        name = config.metadata.name
        if name not in names or name in by_name:
            why = "this name comes twice" if name in by_name else "no container of this name is in it"
            raise InvalidArgument(_OPERATION, f"container_configs[{position}] {name[:64]!r}", why)
        by_name[name] = config
    return [(container, by_name.get(container.name, container.config)) for container in facts.containers]


def check_container(was: sealed.ContainerFacts, now: ContainerConfig, image_id: str, said: str = "") -> None:
    """Raise unless the processes of a checkpoint are what a container of this configuration and image would run.

    `said` is how the caller knows the configuration.
    """
    if image_id != was.image_id:
        raise FailedPrecondition(
            _OPERATION,
            was.name[:64],
            f"its image was {was.image_id[:19]} and is {image_id[:19]}",
            hint="pull the one it had, and name it in container_configs",
        )
    before, after = _fixed(was.config), _fixed(now)
    for field in before.__struct_fields__:
        if getattr(before, field) != getattr(after, field):
            raise InvalidArgument(
                _OPERATION,
                f"{said or f'container_configs {was.name[:64]!r}'}: {field}",
                "what runs already has it otherwise, and cannot be changed",
            )


def _fixed(config: ContainerConfig) -> ContainerConfig:
    """The part of a configuration that is in the processes, and not around them."""
    replace = msgspec.structs.replace
    mounts = sorted(config.mounts, key=lambda mount: mount.container_path)
    return replace(
        config,
        metadata=ContainerMetadata(name=""),
        image="",
        user_specified_image="",
        labels={},
        annotations={},
        log_path="",
        resources=Resources(),
        mounts=tuple(replace(mount, host_path="", image="") for mount in mounts),
    )
