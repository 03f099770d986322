# SPDX-License-Identifier: Apache-2.0
"""Anonymous volumes: directories that an image declares, beginning with what the image has at that place.

Owns the directories below a bundle's volumes/. The image's tree is hostile: it is opened by descriptors that
cannot leave it, and copied without following a link.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

from oakum.engine.storage import storage_error
from oakum.linux.fd import Fd
from oakum.model.rootfs import RootfsSource


def create(
    directory: str, places: Sequence[str], source: RootfsSource, *, empty: Collection[str] = ()
) -> dict[str, str]:
    """Container path → host directory, each a copy of the image's or `empty`. Idempotent: a finished copy is kept."""
    if not places:
        return {}
    found: dict[str, str] = {}
    try:
        os.makedirs(directory, mode=0o711, exist_ok=True)
        for number, place in enumerate(places):
            target = f"{directory}/{number}"
            if not os.path.isdir(target):
                copy_place(None if place in empty else source, place, f"{directory}/.{number}.partial")
                os.rename(f"{directory}/.{number}.partial", target)
            found[place] = target
    except OSError as error:
        raise storage_error(error, "make volume", directory) from error
    return found


def copy_place(source: RootfsSource | None, place: str, partial: str) -> None:
    """Make `partial` anew as a copy of an image's directory; empty where the image, or nobody, has one. Raises OSError."""
    # Copying trees is the snapshots' craft; only images with volumes load it.
    from oakum.linux.paths import open_in_root
    from oakum.snapshots.merge import merge_layer
    from oakum.snapshots.tree import remove_tree

    parent_fd = Fd(os.open(os.path.dirname(partial), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    with parent_fd:
        remove_tree(parent_fd.fileno(), os.path.basename(partial))
        os.mkdir(os.path.basename(partial), 0o755, dir_fd=parent_fd.fileno())
        if source is None:
            return
        target_fd = Fd(os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
    with target_fd, image_tree(source) as root_fd:
        try:
            place_fd = open_in_root(root_fd.fileno(), place, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return  # the image has no directory there: the volume begins empty
        with place_fd:
            merge_layer(place_fd.fileno(), target_fd.fileno())


def image_tree(source: RootfsSource) -> Fd:
    """The image's tree as one directory: its only layer, or an overlay that is attached nowhere. Raises OSError."""
    if len(source.lower) < 2:
        only = source.lower[0] if source.lower else source.upper
        return Fd(os.open(only, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
    from oakum.linux.mount import overlay  # as above: only for images with volumes

    return overlay(source.lower)
