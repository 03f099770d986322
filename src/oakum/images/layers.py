# SPDX-License-Identifier: Apache-2.0
"""What unpacking needs from its surroundings, and what a pull reports: Protocols and values without any dependency.

`LayerTarget` is fulfilled by snapshots, `PullProgress` by front ends. No input or output here.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from oakum.images.config import ImageConfig


class LayerTarget(Protocol):
    """Where layers are unpacked to. All methods may be called from any thread.

    Layers of one image are opened lowest first and filled at the same time; a child may be open while its
    parent is not yet committed. They are committed lowest first, after everything written was synced to disk.
    """

    def open_layer(self, chain_id: str, parent_chain_id: str) -> str | None:
        """An empty directory to fill for the layer; None when the layer is there already."""
        ...

    def commit_layer(self, chain_id: str) -> None:
        """The directory is complete and on disk: make the layer visible."""
        ...

    def abandon_layer(self, chain_id: str) -> None:
        """Remove what was unpacked of a layer that will not be finished; succeeds for what is not open."""
        ...

    def layer_directories(self, chain_id: str) -> list[str]:
        """The directories of a committed chain, topmost first."""
        ...


class PullProgress(Protocol):
    """Told how a transfer goes; called from any thread, must not block."""

    def __call__(self, digest: str, stage: str, done_bytes: int, total_bytes: int) -> None:
        """`stage` is "waiting", "downloading", "unpacking", "exists" or "done" for the blob `digest`."""
        ...


class UnpackLimit(msgspec.Struct, frozen=True, kw_only=True):
    """When a layer is taken for a decompression bomb: above `floor_bytes` and `ratio` times its compressed size."""

    floor_bytes: int = 4 << 30
    ratio: int = 200

    def bytes_for(self, compressed_bytes: int) -> int:
        """The most that a blob of `compressed_bytes` may grow to."""
        return max(self.floor_bytes, self.ratio * compressed_bytes)


class PulledImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image that is in the store with all its layers unpacked.

    `index_digest` is empty where the registry named the manifest directly. `config_digest` is the image's id.
    `size_bytes` counts the compressed blobs, config and manifest.
    """

    manifest_digest: str
    index_digest: str
    config_digest: str
    media_type: str
    size_bytes: int
    config: ImageConfig
    chain_id: str
    layer_digests: tuple[str, ...]

    @property
    def target_digest(self) -> str:
        """What the pulled name points to: the index where there is one, else the manifest."""
        return self.index_digest or self.manifest_digest


def no_progress(digest: str, stage: str, done_bytes: int, total_bytes: int) -> None:
    """A `PullProgress` that nobody watches."""
    _ = digest, stage, done_bytes, total_bytes


def never_cancelled() -> bool:
    """A `cancelled` that never is."""
    return False
