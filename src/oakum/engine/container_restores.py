# SPDX-License-Identifier: Apache-2.0
"""A container created from a checkpoint of one: what CreateContainer does with an image that is an archive of it.

The image is the path of an archive of `engine.checkpoints`, or an image that has one as its only layer and an annotation that
says so, as tools make them for a kubelet. Such a container has its root file system from the image that it had at the
checkpoint, and its start has it go on. What the request says counts for what is around its processes, and has to be what
they have for what is in them. Everything that is common with a pod's checkpoint is in `engine.restores`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from oakum.backend.config import ContainerConfig
from oakum.engine import checkpoints, creation, host, restores, sealed_archive, unarchive
from oakum.engine.containers import Containers, Restored
from oakum.engine.images import Images
from oakum.errors import FailedPrecondition, ImageNotFound, NotFound, OakumError, Unimplemented

if TYPE_CHECKING:
    from oakum.engine.context import Context
    from oakum.engine.sealed import ContainerFacts
    from oakum.engine.store.records import ContainerRecord, ImageRecord, SandboxRecord

# The first is CRI-O's own, the second is what containerd and newer tools know.
_ANNOTATIONS: Final = (
    "io.kubernetes.cri-o.annotations.checkpoint.name",
    "org.criu.checkpoint.container.name",
)
_OPERATION: Final = "restore container"
# What a kubelet says of an image that names no user, as no checkpoint's image does.
_UNSAID_USERS: Final = ("", "0")


def problem(context: Context) -> str:
    """Why no container can go on from a checkpoint on this host; "" when one can."""
    why = checkpoints.problem()
    if why or context.cgroups.mode == "v2":
        return why
    return f"its cgroups are {context.cgroups.mode}, and have to be v2"


def create_from_file(
    context: Context, containers: Containers, sandbox: SandboxRecord, config: ContainerConfig
) -> str:
    """Create a container from the archive at the path `config.image`; its id.

    Raises:
        Unimplemented: this host, or CRIU with this container, cannot do it; says why.
        InvalidArgument, FailedPrecondition, NotFound: the request does not go with it, or it or its image is missing.
        PermissionDenied, DataLoss: the archive is not ours, or is damaged.
    """
    with sealed_archive.opened_file(context.layout, config.image) as archive:
        return _create(context, containers, sandbox, config, archive)


def is_checkpoint(context: Context, namespace: str, image: ImageRecord) -> bool:
    """Whether an image says that it is a container's checkpoint, in its manifest or in the index that led to it.

    Raises DataLoss.
    """
    from oakum.images.manifests import (
        MANIFEST_LIMIT_BYTES,
        parse_manifest_or_index,
    )  # nobody else here reads any

    digests = {
        name.target_digest
        for name in context.store.image_names(namespace)
        if name.manifest_digest == image.manifest_digest
    }
    for digest in sorted({image.manifest_digest, *digests}):
        try:
            data = context.content.read(digest, MANIFEST_LIMIT_BYTES)
        except NotFound:
            continue  # what led to an image that was pulled by its digest may be another's
        said = parse_manifest_or_index(data, digest=digest).annotations
        if any(said.get(name) for name in _ANNOTATIONS):
            return True
    return False


def create_from_image(
    context: Context,
    containers: Containers,
    sandbox: SandboxRecord,
    config: ContainerConfig,
    image: ImageRecord,
) -> str:
    """As `create_from_file`, from an image for which `is_checkpoint`."""
    # Read from its layer, which nobody may remove meanwhile: no container stands on it.
    with context.collection.shared():
        layers = context.snapshotter.layer_directories(image.chain_id) if image.chain_id else []
        if len(layers) != 1:
            raise FailedPrecondition(
                _OPERATION, config.image[:128], f"a checkpoint is one layer, this image has {len(layers)}"
            )
        name = config.user_specified_image or config.image
        with sealed_archive.opened_directory(context.layout, layers[0], name) as archive:
            return _create(context, containers, sandbox, config, archive)


def _create(
    context: Context,
    containers: Containers,
    sandbox: SandboxRecord,
    config: ContainerConfig,
    archive: sealed_archive.Archive,
) -> str:
    facts = archive.facts
    if sandbox.runtime_path:
        raise Unimplemented(
            _OPERATION,
            f"runtime {sandbox.runtime_path[:64]}",
            "only the built-in runtime restores containers",
        )
    restores.check_host(facts, machine=host.machine(), snapshots=context.snapshotter.kind)
    restores.check_obstacles((facts.container.name, facts.container.obstacle))
    restores.check_sandbox(facts.sandbox, sandbox.config, "sandbox")
    wanted = combined(facts.container, config)
    restores.check_container(facts.container, wanted, facts.container.image_id, "config")
    if why := problem(context):
        raise Unimplemented(_OPERATION, config.image[:128], f"CRIU does not work on this host: {why}")

    def fill(record: ContainerRecord) -> None:
        restores.check_container(facts.container, record.config, record.image_id, "config")
        bundle = context.layout.bundle(record.id)
        upper = context.snapshotter.container_directory(record.id)
        unarchive.take_members(archive.put, facts.files, bundle, creation.IMAGES, upper)

    _have_image(context, sandbox.namespace, facts)
    restored = Restored(config.user_specified_image or config.image, fill)
    return containers.create(sandbox.id, wanted, restored=restored)


def _have_image(context: Context, namespace: str, facts: sealed_archive.ArchiveFacts) -> None:
    """Pull the image that the container was made of where it is not here: no kubelet knows which one that is."""
    images = Images(context, namespace)
    wanted = facts.container.image_id
    if images.find(wanted) is not None:
        return
    missing = f"the image that it was made of is not here: {wanted[:19]}"
    if not facts.pull_name:
        raise ImageNotFound(_OPERATION, facts.container.name[:64], missing, hint="pull it, or import it")
    try:
        found = images.pull(facts.pull_name, auth=None, progress=None, cancelled=None)
    except OakumError as failure:
        raise ImageNotFound(
            _OPERATION,
            facts.container.name[:64],
            f"{missing}, and cannot be pulled: {failure}",
            hint=f"pull {facts.pull_name}",
        ) from failure
    if found != wanted:
        raise FailedPrecondition(
            _OPERATION, facts.pull_name, f"it is {found[:19]} here, and was {wanted[:19]}"
        )


# ---- what goes together. Pure.


def combined(was: ContainerFacts, asked: ContainerConfig) -> ContainerConfig:
    """What was asked for, with what only the processes know where it is not said: no kubelet can know that of an image."""
    before = was.config
    return msgspec.structs.replace(
        asked,
        image=was.image_id,
        user_specified_image=before.user_specified_image or before.image,
        command=asked.command or before.command,
        args=asked.args or before.args,
        working_dir=asked.working_dir or before.working_dir,
        # A kubelet's are made of what its cluster has right now: they are other ones each time.
        envs=before.envs,
        user=before.user if asked.user in _UNSAID_USERS else asked.user,
        stop_signal=asked.stop_signal or before.stop_signal,
    )
