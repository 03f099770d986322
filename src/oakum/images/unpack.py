# SPDX-License-Identifier: Apache-2.0
"""The door to unpacking images whose blobs are in the store but whose layers are not (imported, or layers lost)."""

from __future__ import annotations

from collections.abc import Callable

from oakum.images.content import ContentStore
from oakum.images.graph import describe
from oakum.images.layers import (
    LayerTarget,
    PulledImage,
    PullProgress,
    UnpackLimit,
    never_cancelled,
    no_progress,
)
from oakum.images.platforms import Platform, host_platform


def unpack_local(
    target_digest: str,
    *,
    content: ContentStore,
    layers: LayerTarget,
    platform: Platform | None = None,
    progress: PullProgress = no_progress,
    cancelled: Callable[[], bool] = never_cancelled,
    limit: UnpackLimit = UnpackLimit(),  # noqa: B008 - frozen
    user_xattr: bool = False,
    name: str = "",
) -> PulledImage:
    """Unpack the manifest (or, of an index, the one for `platform`) `target_digest`; blocks.

    Raises:
        NotFound: a blob is not in the store, or nothing is for this platform.
        DataLoss: a layer is damaged or hostile.
        ResourceExhausted: the disk is full.
        Cancelled: `cancelled` said so.
    """
    from oakum.images.fetch import (
        run,
    )  # asyncio and worker processes; most calls of the engine unpack nothing
    from oakum.images.unpacker import Unpacker

    image = describe(content, target_digest, platform or host_platform(), name)
    unpacker = Unpacker(layers, progress=progress, limit=limit, user_xattr=user_xattr)
    run(unpacker.unpack_stored(content, image), cancelled, name or target_digest)
    return image
