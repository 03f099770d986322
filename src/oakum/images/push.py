# SPDX-License-Identifier: Apache-2.0
"""The door to pushing: an image of the store to a registry. The client is loaded by the first push."""

from __future__ import annotations

from collections.abc import Callable, Collection

from oakum.images.content import ContentStore
from oakum.images.credentials import Credentials
from oakum.images.layers import PullProgress, never_cancelled, no_progress
from oakum.images.reference import Reference


def push(
    reference: Reference,
    target_digest: str,
    *,
    content: ContentStore,
    credentials: Credentials | None = None,
    mount_from: Collection[str] = (),
    progress: PullProgress = no_progress,
    cancelled: Callable[[], bool] = never_cancelled,
    insecure_hosts: Collection[str] = (),
) -> None:
    """Upload the manifest or index `target_digest` with all it needs, and name it `reference`; blocks.

    Of an index, the manifests whose blobs are here are pushed; if some are missing, the one image that is complete
    is pushed in its place. Blobs that the registry has are skipped, or mounted from the repositories `mount_from`
    (paths on the same registry).

    Raises:
        NotFound: the image or a blob of it is not in the store.
        Unauthenticated, PermissionDenied, Unavailable, ResourceExhausted, Cancelled: as `pull`.
    """
    from oakum.images.fetch import run  # loads aiohttp; see pull.py
    from oakum.images.upload import Upload

    upload = Upload(
        reference,
        content=content,
        credentials=credentials,
        mount_from=tuple(mount_from),
        progress=progress,
        insecure_hosts=insecure_hosts,
    )
    run(upload.image(target_digest), cancelled, reference.familiar)
