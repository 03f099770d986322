# SPDX-License-Identifier: Apache-2.0
"""Removing content and layers that nothing needs. Owns the decision what is needed, and the deleting.

Needed is what an image name of any namespace leads to and what any container stands on. What is on its way in
is protected by a lease that cannot outlive its holder: pulls and imports hold ROOT/content.lock shared from
before their first blob to after their names are written, a collection takes it exclusively or is put off. A
container's row names its image in the same transaction that found it there, and a collection reads all rows
and forgets images in one transaction, so neither can miss the other.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from oakum.engine.context import Context
from oakum.engine.store.records import ContainerRecord, ImageName, ImageRecord
from oakum.errors import FailedPrecondition


class Needed(NamedTuple):
    """What must stay. `roots` are manifests and indexes, from which blobs are reached."""

    manifests: frozenset[str]
    roots: frozenset[str]
    chain_ids: frozenset[str]
    views: frozenset[str]


def plan(
    images: Iterable[ImageRecord], names: Iterable[ImageName], containers: Iterable[ContainerRecord]
) -> Needed:
    """What is needed, from all rows of all namespaces."""
    names, containers = tuple(names), tuple(containers)
    manifests = {name.manifest_digest for name in names}
    views: set[str] = set()
    for container in containers:
        manifests.add(container.manifest_digest)
        for key, digest in container.image_mounts:
            views.add(key)
            manifests.add(digest)
    manifests.discard("")
    chains = {chain for image in images if image.manifest_digest in manifests for chain in image.chain_ids}
    chains |= {container.chain_id for container in containers if container.chain_id}
    return Needed(
        frozenset(manifests),
        frozenset(manifests | {name.target_digest for name in names}),
        frozenset(chains),
        frozenset(views),
    )


def collect(context: Context) -> list[str]:
    """Remove what is not needed; what was removed, one line each. Put off while content is coming in."""
    with context.collection.exclusive() as alone:
        if not alone:
            _put_off(context)
            return []
        try:
            os.unlink(context.layout.collection_due)
        except FileNotFoundError:
            pass  # the usual case
        store = context.store
        with store.transaction():
            images = store.images()
            needed = plan(images, store.image_names(), store.containers())
            forgotten = [i.manifest_digest for i in images if i.manifest_digest not in needed.manifests]
            store.delete_images(forgotten)
        removed = [f"image {digest}" for digest in forgotten]
        removed += _remove_views(context, needed.views)
        removed += _remove_layers(context, needed.chain_ids)
        removed += _remove_blobs(context, needed.roots)
        return removed


def collect_if_due(context: Context) -> None:
    """Do a collection that was put off, now that our own content is in."""
    if os.path.exists(context.layout.collection_due):
        collect(context)


def _put_off(context: Context) -> None:
    fd = os.open(
        context.layout.collection_due, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    os.close(fd)


def _remove_views(context: Context, needed: Collection[str]) -> list[str]:
    gone = [key for key in context.snapshotter.views() if key not in needed]
    for key in gone:
        context.snapshotter.remove_view(key)
    return [f"view {key}" for key in gone]


def _remove_layers(context: Context, needed: Collection[str]) -> list[str]:
    """Topmost first: a layer below another cannot go. What is in use after all stays until the next time."""
    snapshotter = context.snapshotter
    left = [chain for chain in snapshotter.layers() if chain not in needed]
    removed: list[str] = []
    while left:
        refused: list[str] = []
        for chain in left:
            try:
                snapshotter.remove_layer(chain)
            except FailedPrecondition:
                refused.append(chain)
            else:
                removed.append(f"layer {chain}")
        if len(refused) == len(left):
            return removed
        left = refused
    return removed


def _remove_blobs(context: Context, roots: Collection[str]) -> list[str]:
    # Reads manifests: loaded only when something may have to go.
    from oakum.images.graph import reachable

    content = context.content
    keep = reachable(content, roots)
    gone: Sequence[str] = [blob.digest for blob in content.list() if blob.digest not in keep]
    for digest in gone:
        content.delete(digest)
    return [f"blob {digest}" for digest in gone]
