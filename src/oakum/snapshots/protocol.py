# SPDX-License-Identifier: Apache-2.0
"""What every snapshotter can do, whatever it builds root file systems with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from oakum.model.rootfs import RootfsSource


class Usage(NamedTuple):
    """Disk use of a tree as du(1) counts it: allocated bytes with hard links once, and inodes."""

    used_bytes: int
    inodes: int


class Snapshotter(Protocol):
    """Layers that are filled once, and root file systems for containers on top of them.

    A chain id ("sha256:" and 64 hexadecimal digits) names a layer with everything below it; the empty chain id is an
    image without layers. Methods may be called from many threads and processes at once. All raise from
    `oakum.errors` only: InvalidArgument for ids that are none, NotFound, FailedPrecondition, SystemFailure.
    """

    @property
    def kind(self) -> str:
        """Name it: "overlay" or "copy"."""
        ...

    @property
    def reason(self) -> str:
        """Why it is not the preferred kind; empty when it is."""
        ...

    def has_layer(self, chain_id: str) -> bool:
        """Whether the layer and all below it are committed."""
        ...

    def open_layer(self, chain_id: str, parent_chain_id: str) -> str | None:
        """An empty directory to fill with the layer; None when it is committed already.

        Waits while another thread fills the same layer. Another process that does gets a directory of its own; the
        first to commit wins. Layers of one image are to be opened lowest first.
        """
        ...

    def commit_layer(self, chain_id: str) -> None:
        """Make the directory from `open_layer` the committed layer, atomically.

        What is in it has to be on the disk already (the unpacker syncs once for many layers): a layer is never cut.
        """
        ...

    def abandon_layer(self, chain_id: str) -> None:
        """Throw away the directory from `open_layer`; succeeds when there is none."""
        ...

    def layer_directories(self, chain_id: str) -> list[str]:
        """The committed directories of a chain, topmost first. Raises NotFound when one is missing."""
        ...

    def prepare_container(self, container_id: str, chain_id: str) -> RootfsSource:
        """A writable root file system; the same again when it was prepared before.

        Raises AlreadyExists when the container has one of another chain.
        """
        ...

    def container_source(self, container_id: str) -> RootfsSource:
        """What `prepare_container` gave. Raises NotFound."""
        ...

    def container_directory(self, container_id: str) -> str:
        """The directory that holds what the container writes. Raises NotFound."""
        ...

    def view(self, key: str, chain_id: str) -> RootfsSource:
        """A read-only root file system that keeps its layers in use until `remove_view`."""
        ...

    def remove_view(self, key: str) -> None:
        """Forget a view; succeeds for what is gone."""
        ...

    def remove_container(self, container_id: str) -> None:
        """Delete what a container wrote; succeeds for what is gone."""
        ...

    def remove_layer(self, chain_id: str) -> None:
        """Delete a layer; succeeds for what is gone.

        Raises FailedPrecondition while a layer, container or view stands on it.
        """
        ...

    def layers(self) -> Sequence[str]:
        """The chain ids of the committed layers."""
        ...

    def containers(self) -> Sequence[str]:
        """The ids of the containers that have a root file system."""
        ...

    def views(self) -> Sequence[str]:
        """The keys of the views."""
        ...

    def usage(self, container_id: str) -> Usage:
        """What a container wrote. Raises NotFound."""
        ...

    def layer_usage(self, chain_id: str) -> Usage:
        """What one layer holds, without those below it. Raises NotFound."""
        ...

    def cleanup(self) -> int:
        """Delete what killed processes left; how many leftovers there were."""
        ...
