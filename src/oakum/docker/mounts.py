# SPDX-License-Identifier: Apache-2.0
"""Mounts that Docker cannot make or not at this version: made by us below STATE, where Docker binds them from.

Recursively read-only binds, further mount options, and images as volumes. A bind of Docker's carries the flags of
every mount below, so what is set here is what the container gets. They are needed until the container has started.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence

import msgspec

from oakum.backend.config import ContainerConfig, Mount
from oakum.docker.bodies import Bind, propagation
from oakum.docker.layout import Layout
from oakum.engine.spec.mounts import checked_options, clean
from oakum.engine.storage import remove_directory, storing
from oakum.errors import InvalidArgument, SystemFailure
from oakum.linux import mount as kernel
from oakum.linux.fd import Fd
from oakum.oci.options import parse_options

Layers = Callable[[str], tuple[str, Sequence[str]]]
"""An image's id and its layers' directories, topmost first."""


class Mounts:
    """The mounts of containers that are to start."""

    def __init__(self, layout: Layout, layers: Layers) -> None:
        self._layout = layout
        self._layers = layers

    def prepare(self, config: ContainerConfig, key: str) -> tuple[ContainerConfig, list[Bind]]:
        """What Docker is to bind, and the configuration with the ids of its images. `release` undoes it.

        Raises:
            InvalidArgument: two mounts at one place, or what excludes each other.
            ImageNotFound, Unimplemented, SystemFailure: an image cannot be mounted.
        """
        binds: list[Bind] = []
        mounts: list[Mount] = []
        places: set[str] = set()
        for number, mount in enumerate(config.mounts):
            target = clean(mount.container_path)
            if target in places:
                raise InvalidArgument("mount", target, "two mounts at one place")
            places.add(target)
            if mount.image:
                image_id, directories = self._view(mount)
                source = self._put(key, number, mount, directories)
                binds.append(Bind(source, target, readonly=True))
                mount = msgspec.structs.replace(mount, image_id=image_id)  # noqa: PLW2901 - the same one, told more
            elif not mount.tmpfs:
                binds.append(self._bind(key, number, mount, target))
            mounts.append(mount)
        return msgspec.structs.replace(config, mounts=tuple(mounts)), binds

    def _bind(self, key: str, number: int, mount: Mount, target: str) -> Bind:
        if mount.recursive_read_only and (not mount.readonly or mount.propagation != "private"):
            raise InvalidArgument(
                "mount", target, "recursive read-only needs a read-only mount with private propagation"
            )
        source = mount.host_path
        if mount.recursive_read_only or mount.options:
            source = self._put(key, number, mount, ())
        return Bind(source, target, mount.readonly, propagation(mount.propagation))

    def _view(self, mount: Mount) -> tuple[str, Sequence[str]]:
        from oakum.engine.imageviews import directories_at  # only images as volumes need it

        if mount.propagation != "private":
            raise InvalidArgument("mount image", mount.image, "its propagation can only be private")
        image_id, layers = self._layers(mount.image)
        return image_id, directories_at(layers, mount.image_sub_path, mount.image)

    def _put(self, key: str, number: int, mount: Mount, directories: Sequence[str]) -> str:
        """Mount it with its flags; where."""
        hard = ["ro", "nosuid", "nodev"] if directories else []
        chosen = parse_options([*hard, *checked_options(mount)])
        place = f"{self._layout.mounts_of(key)}/{number}"
        try:
            with _tree(mount, directories) as tree:
                kernel.set_attributes(
                    tree.fileno(),
                    set_flags=chosen.set_flags,
                    clear_flags=chosen.clear_flags,
                    propagation=kernel.MS_PRIVATE,
                    target=mount.container_path,
                )
                if mount.recursive_read_only:
                    kernel.set_attributes(
                        tree.fileno(), set_flags=kernel.ATTR_RDONLY, recursive=True, target=mount.host_path
                    )
                self._make_place(place, directory=stat.S_ISDIR(os.fstat(tree.fileno()).st_mode))
                with Fd(os.open(place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)) as under:
                    kernel.move_mount(tree.fileno(), under.fileno(), target=place)
        except OSError as error:
            subject = mount.image or mount.host_path
            raise SystemFailure.from_os_error(error, "mount", subject) from error
        return place

    def _make_place(self, place: str, *, directory: bool) -> None:
        with storing("make mount point", place):
            os.makedirs(place if directory else os.path.dirname(place), mode=0o700, exist_ok=True)
            if not directory:
                os.close(os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def release(self, key: str) -> None:
        """Unmount and forget them; succeeds for what is gone. Raises SystemFailure."""
        if not key:
            return
        directory = self._layout.mounts_of(key)
        try:
            names = os.listdir(directory)
        except FileNotFoundError:
            return
        for name in names:
            try:
                kernel.unmount(f"{directory}/{name}", detach=True)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOENT):  # no mount there (any more)
                    raise SystemFailure.from_os_error(error, "unmount", f"{directory}/{name}") from error
        remove_directory(self._layout.mounts, key)

    def has(self, key: str) -> bool:
        """Whether a container has mounts of ours."""
        return os.path.isdir(self._layout.mounts_of(key))

    def keys(self) -> list[str]:
        """Those that have mounts."""
        try:
            return os.listdir(self._layout.mounts)
        except FileNotFoundError:
            return []


def _tree(mount: Mount, directories: Sequence[str]) -> Fd:
    if not directories:
        return kernel.open_tree_at(mount.host_path, recursive=True)
    if len(directories) == 1:
        return kernel.open_tree_at(directories[0])
    return kernel.overlay(directories)
