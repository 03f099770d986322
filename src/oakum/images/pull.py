# SPDX-License-Identifier: Apache-2.0
"""The door to pulling: from a reference to an image whose blobs are stored and whose layers are unpacked.

Light to import; the client and the event loop are loaded by the first pull. The work is in `fetch.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from oakum.images.content import ContentStore
from oakum.images.credentials import Credentials
from oakum.images.layers import (
    LayerTarget,
    PulledImage,
    PullProgress,
    UnpackLimit,
    never_cancelled,
    no_progress,
)
from oakum.images.platforms import Platform, host_platform
from oakum.images.reference import Reference


def pull(
    reference: Reference,
    *,
    content: ContentStore,
    layers: LayerTarget,
    credentials: Credentials | None = None,
    platform: Platform | None = None,
    progress: PullProgress = no_progress,
    cancelled: Callable[[], bool] = never_cancelled,
    insecure_hosts: Collection[str] = (),
    limit: UnpackLimit = UnpackLimit(),  # noqa: B008 - frozen
    user_xattr: bool = False,
) -> PulledImage:
    """Bring an image from its registry and unpack its layers; blocks, from any thread, with an event loop of its own.

    Blobs and layers that are here are not fetched again; what another thread or process is fetching is waited for.
    `cancelled` is asked several times a second. `insecure_hosts` ("host:port") are spoken to by plain HTTP, as
    loopback is. `user_xattr` writes overlay marks as user.overlay.* for mounts without privileges.

    Raises:
        NotFound: no such image, or none for this platform.
        Unauthenticated, PermissionDenied: the registry wants other credentials, or says no.
        Unavailable: the registry did not answer, or only with errors, for several tries.
        DataLoss: a blob, manifest or layer is not what it says it is.
        InvalidArgument: not a container image.
        ResourceExhausted: the disk is full, or the registry counts too many requests.
        Cancelled: `cancelled` said so.
    """
    from oakum.images.fetch import (
        Fetch,
        run,
    )  # aiohttp costs 150 ms; most calls of the engine need no registry

    fetch = Fetch(
        reference,
        content=content,
        layers=layers,
        credentials=credentials,
        platform=platform or host_platform(),
        progress=progress,
        insecure_hosts=insecure_hosts,
        limit=limit,
        user_xattr=user_xattr,
    )
    return run(fetch.image(), cancelled, reference.familiar)
