# SPDX-License-Identifier: Apache-2.0
"""What the root directory's space goes to, over all namespaces, and how much of it nothing is using now.

Owns the counting. What may be removed is decided elsewhere (`garbage`, and whoever removes containers).
"""

from __future__ import annotations

import os

import msgspec

from oakum.backend.status import ContainerFilter
from oakum.engine.catalog import Catalog
from oakum.engine.context import Context
from oakum.engine.garbage import plan
from oakum.engine.named_volumes import NamedVolumes
from oakum.errors import NotFound
from oakum.linux.fd import Fd


class SpaceUse(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of object: how many there are and are in use, what they take, and what would be free without the others."""

    kind: str
    total: int
    active: int
    size_bytes: int
    reclaimable_bytes: int


def measure(context: Context) -> list[SpaceUse]:
    """What images, containers and volumes take. Reads every file's size of what containers and volumes hold."""
    return [_images(context), _containers(context), _volumes(context)]


def _images(context: Context) -> SpaceUse:
    """All blobs and layers; those that no container stands on count as reclaimable, named or not."""
    from oakum.images.graph import reachable  # reads manifests

    store, content, snapshotter = context.store, context.content, context.snapshotter
    images, containers = store.images(), [c for name in store.namespaces() for c in store.containers(name)]
    needed = plan(images, (), containers)
    kept = reachable(content, needed.roots)
    size = reclaimable = 0
    for blob in content.list():
        size += blob.size_bytes
        reclaimable += 0 if blob.digest in kept else blob.size_bytes
    for chain_id in snapshotter.layers():
        try:
            used = snapshotter.layer_usage(chain_id).used_bytes
        except NotFound:
            continue  # removed meanwhile
        size += used
        reclaimable += 0 if chain_id in needed.chain_ids else used
    active = sum(image.manifest_digest in needed.manifests for image in images)
    return SpaceUse(
        kind="images", total=len(images), active=active, size_bytes=size, reclaimable_bytes=reclaimable
    )


def _containers(context: Context) -> SpaceUse:
    """What containers wrote: their layer, and their bundle with log and anonymous volumes."""
    total = active = size = reclaimable = 0
    for namespace in context.store.namespaces():
        for status in Catalog(context, namespace).list(ContainerFilter()):
            runs = status.state in ("running", "paused") or status.restarting
            try:
                used = context.snapshotter.usage(status.id).used_bytes
            except NotFound:
                continue  # removed meanwhile
            used += _directory_bytes(context.layout.bundle(status.id))
            total += 1
            active += runs
            size += used
            reclaimable += 0 if runs else used
    return SpaceUse(
        kind="containers", total=total, active=active, size_bytes=size, reclaimable_bytes=reclaimable
    )


def _volumes(context: Context) -> SpaceUse:
    total = active = size = reclaimable = 0
    for namespace in context.store.namespaces():
        for volume in NamedVolumes(context, namespace).list():
            used = _directory_bytes(volume.path)
            total += 1
            active += bool(volume.used_by)
            size += used
            reclaimable += 0 if volume.used_by else used
    return SpaceUse(
        kind="volumes", total=total, active=active, size_bytes=size, reclaimable_bytes=reclaimable
    )


def _directory_bytes(path: str) -> int:
    from oakum.snapshots.tree import measure_tree  # only who measures loads it

    try:
        directory = Fd(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
    except FileNotFoundError:
        return 0  # removed meanwhile
    with directory:
        return measure_tree(directory.fileno()).used_bytes
