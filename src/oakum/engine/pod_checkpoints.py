# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a pod's running containers at one moment, in a directory of ours. The pod runs on.

    pod.json     which pod it is, its configuration, and which archive is which container's; pod.seal: see `engine.sealed`
    NAME.ID.tar  a container's archive, see `engine.checkpoints`
    .shm.tar     what is in its /dev/shm

Owns the moment: the containers are frozen together, and who was killed meanwhile left word of whom to thaw. The form of
the directory is the runtime's own affair. Spec: CRI v1 CheckpointPod.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import msgspec

from oakum.backend.config import BUILT_IN, Struct
from oakum.backend.status import ContainerFilter, ContainerStatus, SandboxStatus
from oakum.engine import checkpoints, host, sealed
from oakum.engine.storage import remove_directory, storing
from oakum.errors import FailedPrecondition, InvalidArgument, NotFound
from oakum.linux.durable import sync_directory, write_file

if TYPE_CHECKING:
    from oakum.engine.containers import Containers
    from oakum.engine.context import Context
    from oakum.engine.sandboxes import Sandboxes
    from oakum.engine.store.records import ContainerRecord

FILE: Final = "frozen.json"
_OPERATION: Final = "checkpoint pod"
# No container's name begins with a dot.
_SHARED_MEMORY: Final = ".shm.tar"


class _Frozen(Struct, frozen=True):
    """What is to be put right if we are killed."""

    containers: tuple[str, ...]
    directory: str


def write(
    context: Context,
    sandboxes: Sandboxes,
    containers: Containers,
    sandbox_id: str,
    directory: str,
    *,
    container_ids: Sequence[str],
) -> None:
    """Write the checkpoints into the new directory `directory`, all or none; of all that run, or of `container_ids`.

    Raises:
        NotFound, FailedPrecondition: there is no such pod, or nothing of it runs.
        InvalidArgument: a container is not the pod's, or no directory can be made there.
        Unimplemented: this host, or CRIU with one of the containers, cannot do it; says why.
    """
    sandbox = sandboxes.status(sandbox_id)
    parent, name = os.path.split(directory)
    _check_place(directory, parent)
    with context.locks.holding(sandbox.id):
        recover(
            context, containers, sandbox.id
        )  # or what a killed call froze would count as paused by somebody
        chosen = _chosen(containers, sandbox, container_ids)
        for status in chosen:
            checkpoints.check(context, containers.need(status.id))
        to_thaw = tuple(status.id for status in chosen if status.state == "running")
        temporary = f"{parent}/.{name[:48]}.{os.urandom(6).hex()}"  # below 255 bytes whatever is in the name
        note = f"{context.layout.sandbox(sandbox.id)}/{FILE}"
        with storing("note what is frozen", note):
            write_file(note, msgspec.json.encode(_Frozen(to_thaw, temporary)))
        try:
            with storing("make directory of pod checkpoint", temporary):
                os.mkdir(temporary, 0o700)
            with ExitStack() as frozen:
                for container_id in to_thaw:
                    containers.pause(container_id)
                    frozen.callback(containers.resume, container_id)
                found = tuple(_dumped(context, containers.need(status.id), temporary) for status in chosen)
                memory, obstacle = _shared_memory(context, sandbox, temporary)
                facts = sealed.PodFacts(
                    version=sealed.VERSION,
                    id=sandbox.id,
                    runtime=BUILT_IN,
                    machine=host.machine(),
                    snapshots=context.snapshotter.kind,
                    config=sandbox.config,
                    containers=found,
                    shared_memory=memory,
                    obstacle=obstacle,
                )
            sealed.write(context.layout, temporary, facts)
            with storing("write pod checkpoint", directory):
                os.rename(temporary, directory)
                sync_directory(parent)
        finally:
            remove_directory(parent, os.path.basename(temporary))
            os.unlink(note)


def _chosen(
    containers: Containers, sandbox: SandboxStatus, container_ids: Sequence[str]
) -> list[ContainerStatus]:
    mine = {s.id: s for s in containers.list(ContainerFilter(sandbox_id=sandbox.id))}
    running = {key: status for key, status in mine.items() if status.state in ("running", "paused")}
    for position, container_id in enumerate(container_ids):
        if container_id not in mine:
            raise InvalidArgument(
                _OPERATION, f"container_ids[{position}]", f"{container_id[:12]} is no container of this pod"
            )
        if container_id not in running:
            raise FailedPrecondition(
                _OPERATION, container_id[:12], f"the container is {mine[container_id].state}"
            )
    chosen = [running[key] for key in dict.fromkeys(container_ids)] or list(running.values())
    if not chosen:
        raise FailedPrecondition(_OPERATION, sandbox.id[:12], "none of its containers runs")
    return chosen


def _check_place(directory: str, parent: str) -> None:
    subject = f"output_path {directory[:64]!r}"
    if not os.path.isabs(directory) or directory.endswith("/") or not os.path.isdir(parent):
        raise InvalidArgument(_OPERATION, subject, "no directory can be made there")
    try:
        taken = bool(os.listdir(directory))
    except FileNotFoundError:
        return
    except NotADirectoryError:
        taken = True
    if taken:
        raise InvalidArgument(
            _OPERATION, subject, "something is there", hint="name a new or an empty directory"
        )


def _dumped(context: Context, record: ContainerRecord, directory: str) -> sealed.PodContainerFacts:
    name = record.config.metadata.name
    file = f"{name}.{record.id[:12]}.tar"
    obstacle = checkpoints.dump(context, record, f"{directory}/{file}")
    facts = checkpoints.container_facts(record, obstacle)
    return sealed.PodContainerFacts(archive=sealed.describe(directory, file), **msgspec.structs.asdict(facts))


def _shared_memory(
    context: Context, sandbox: SandboxStatus, directory: str
) -> tuple[sealed.FileFacts | None, str]:
    """Write what is in the pod's /dev/shm, if it has one and there is anything; what, and what is not carried.

    Raises SystemFailure.
    """
    shm = f"{context.layout.pod(sandbox.id)}/shm"
    with storing("write shared memory", directory):
        if sandbox.config.namespaces.ipc != "pod" or not os.listdir(shm):
            return None, ""
        with open(f"{directory}/{_SHARED_MEMORY}", "xb") as file:
            changes = checkpoints.write_changes(file, shm)
            file.flush()
            os.fsync(file.fileno())
    return sealed.describe(directory, _SHARED_MEMORY), changes.obstacle


def noted(context: Context, sandbox_id: str) -> bool:
    """Whether somebody froze containers of this sandbox and has not thawed them."""
    return os.path.exists(f"{context.layout.sandbox(sandbox_id)}/{FILE}")


def recover(context: Context, containers: Containers, sandbox_id: str) -> str:
    """Thaw what a killed process froze, and remove what it had written; under the sandbox's lock. Raises OakumError."""
    note = f"{context.layout.sandbox(sandbox_id)}/{FILE}"
    try:
        with open(note, "rb") as file:
            left = msgspec.json.decode(file.read(), type=_Frozen)
    except FileNotFoundError:
        return ""
    for container_id in left.containers:
        try:
            containers.resume(container_id)
        except (NotFound, FailedPrecondition):
            continue  # it is gone, has ended, or was not frozen yet
    parent, name = os.path.split(left.directory)
    remove_directory(parent, name)
    os.unlink(note)
    return f"sandbox {sandbox_id[:12]}: half checkpointed, its containers go on"
