# SPDX-License-Identifier: Apache-2.0
"""One push: blobs that the registry lacks, then manifests, then the index.

asyncio. Blobs go up in one request, or in pieces where the registry finds that too large.
Source: OCI distribution-spec v1.1, "Push".
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Collection, Mapping
from typing import Final
from urllib.parse import quote, urlsplit

from oakum.errors import NotFound, OakumError, Unavailable
from oakum.images.content import ContentStore
from oakum.images.credentials import Credentials
from oakum.images.graph import read_manifest
from oakum.images.layers import PullProgress
from oakum.images.manifests import MANIFEST_LIMIT_BYTES, Descriptor, Index, Manifest
from oakum.images.reference import Reference
from oakum.images.registry import Interrupted, RegistryClient, pause_before

_UPLOADS_AT_ONCE: Final = 4
_TRIES: Final = 4
_PIECE_BYTES: Final = 1 << 20
_CHUNK_BYTES: Final = 16 << 20
_OCTETS: Final = "application/octet-stream"


class Upload:
    """The push of one image."""

    def __init__(
        self,
        reference: Reference,
        *,
        content: ContentStore,
        credentials: Credentials | None,
        mount_from: Collection[str],
        progress: PullProgress,
        insecure_hosts: Collection[str],
    ) -> None:
        self._reference = reference
        self._content = content
        self._credentials = credentials
        self._mount_from = tuple(mount_from)
        self._progress = progress
        self._insecure_hosts = insecure_hosts
        self._path = reference.path
        self._scope = f"repository:{reference.path}:pull,push"
        self._slots = asyncio.Semaphore(_UPLOADS_AT_ONCE)

    async def image(self, target: str) -> None:
        """Push it. Raises as `push.push`."""
        target = self._pushable(target)
        async with RegistryClient(
            self._reference.domain, self._credentials, insecure_hosts=self._insecure_hosts
        ) as client:
            await self._tree(client, target, self._reference.tag or target)

    def _pushable(self, target: str) -> str:
        """`target`, or, of an index that is here only in part, its one whole image."""
        found = read_manifest(self._content, target)
        if isinstance(found, Manifest):
            self._check_whole(found)
            return target
        whole = [entry.digest for entry in found.manifests if self._is_whole(entry.digest)]
        if len(whole) == len(found.manifests):
            return target
        if len(whole) != 1:
            raise NotFound(
                "push image",
                self._reference.familiar,
                f"{len(whole)} of the {len(found.manifests)} images of its index are in the store",
                hint="pull the platforms that are missing, or push one image by its digest",
            )
        return whole[0]

    def _is_whole(self, digest: str) -> bool:
        if not self._content.has(digest):
            return False
        found = read_manifest(self._content, digest)
        if isinstance(found, Index):
            return all(self._is_whole(entry.digest) for entry in found.manifests)
        return all(self._content.has(blob.digest) for blob in found.blobs)

    def _check_whole(self, manifest: Manifest) -> None:
        for blob in manifest.blobs:
            if not self._content.has(blob.digest):
                raise NotFound(
                    "push image", self._reference.familiar, f"blob {blob.digest} is not in the store"
                )

    async def _tree(self, client: RegistryClient, digest: str, name: str) -> None:
        found = read_manifest(self._content, digest)
        if isinstance(found, Index):
            for entry in found.manifests:
                await self._tree(client, entry.digest, entry.digest)
        else:
            async with asyncio.TaskGroup() as group:
                for blob in {blob.digest: blob for blob in found.blobs}.values():
                    group.create_task(self._blob(client, blob))
        data = self._content.read(digest, MANIFEST_LIMIT_BYTES)
        async with client.open(
            "PUT",
            f"/v2/{self._path}/manifests/{name}",
            scope=self._scope,
            operation="push manifest",
            subject=self._reference.familiar,
            headers={"Content-Type": found.media_type},
            body=lambda: data,
            accept=(200, 201, 202),
        ):
            pass

    async def _blob(self, client: RegistryClient, blob: Descriptor) -> None:
        async with self._slots:
            for attempt in range(1, _TRIES + 1):
                try:
                    await self._try_blob(client, blob)
                    return
                except Interrupted as error:
                    if attempt == _TRIES:
                        raise error.failure from error
                    # From the beginning: how much of it the old upload has, the registry may not know itself.
                    await asyncio.sleep(pause_before(attempt))

    async def _try_blob(self, client: RegistryClient, blob: Descriptor) -> None:
        if await self._exists(client, blob):
            self._progress(blob.digest, "exists", blob.size, blob.size)
            return
        location = await self._begin(client, blob)
        if not location:
            self._progress(blob.digest, "exists", blob.size, blob.size)
            return
        try:
            await self._put_whole(client, blob, location)
        except _TooLarge:
            await self._put_pieces(client, blob, await self._begin(client, blob, mount=False))
        self._progress(blob.digest, "done", blob.size, blob.size)

    async def _exists(self, client: RegistryClient, blob: Descriptor) -> bool:
        async with client.open(
            "HEAD",
            f"/v2/{self._path}/blobs/{blob.digest}",
            scope=self._scope,
            operation="push blob",
            subject=blob.digest,
            accept=(200, 404),
        ) as response:
            return response.status == 200

    async def _begin(self, client: RegistryClient, blob: Descriptor, *, mount: bool = True) -> str:
        """Where to upload to; empty when the registry could take the blob from another repository."""
        scope = self._scope
        addresses = [f"/v2/{self._path}/blobs/uploads/"]
        if mount:
            for source in self._mount_from:
                if source != self._path:
                    addresses.insert(0, f"{addresses[-1]}?mount={quote(blob.digest)}&from={quote(source)}")
        for address in addresses:
            async with client.open(
                "POST",
                address,
                scope=scope,
                operation="push blob",
                subject=blob.digest,
                headers={"Content-Length": "0"},
                accept=(201, 202),
            ) as response:
                if response.status == 201:
                    return ""
                location = response.headers.get("Location", "")
                # A session that a refused mount opened serves as well as a fresh one.
                if location:
                    return location
        raise Unavailable("push blob", blob.digest, f"{client.host} opens no upload")

    async def _put_whole(self, client: RegistryClient, blob: Descriptor, location: str) -> None:
        async with client.open(
            "PUT",
            _with_digest(location, blob.digest),
            scope=self._scope,
            operation="push blob",
            subject=blob.digest,
            headers={"Content-Type": _OCTETS, "Content-Length": str(blob.size)},
            body=lambda: self._pieces(blob, 0, blob.size),
            accept=(201, 204, 413),
            once=True,
        ) as response:
            if response.status == 413:
                raise _TooLarge

    async def _put_pieces(self, client: RegistryClient, blob: Descriptor, location: str) -> None:
        offset = 0
        while offset < blob.size:
            end = min(offset + _CHUNK_BYTES, blob.size)
            headers = {
                "Content-Type": _OCTETS,
                "Content-Length": str(end - offset),
                "Content-Range": f"{offset}-{end - 1}",
            }
            location = await self._patch(client, blob, location, headers, (offset, end))
            offset = end
        async with client.open(
            "PUT",
            _with_digest(location, blob.digest),
            scope=self._scope,
            operation="push blob",
            subject=blob.digest,
            headers={"Content-Length": "0"},
            accept=(201, 204),
            once=True,
        ):
            pass

    async def _patch(
        self,
        client: RegistryClient,
        blob: Descriptor,
        location: str,
        headers: Mapping[str, str],
        part: tuple[int, int],
    ) -> str:
        async with client.open(
            "PATCH",
            location,
            scope=self._scope,
            operation="push blob",
            subject=blob.digest,
            headers=headers,
            body=lambda: self._pieces(blob, *part),
            accept=(202, 204),
            once=True,
        ) as response:
            return response.headers.get("Location", location)

    async def _pieces(self, blob: Descriptor, start: int, end: int) -> AsyncGenerator[bytes]:
        with self._content.open_blob(blob.digest) as fd:
            while start < end:
                piece = os.pread(fd.fileno(), min(_PIECE_BYTES, end - start), start)
                if not piece:
                    raise OakumError("push blob", blob.digest, "it became shorter while it was read")
                yield piece
                start += len(piece)
                self._progress(blob.digest, "uploading", start, blob.size)


class _TooLarge(Exception):
    """The registry does not take the blob in one request."""


def _with_digest(location: str, digest: str) -> str:
    separator = "&" if urlsplit(location).query else "?"
    return f"{location}{separator}digest={quote(digest)}"
