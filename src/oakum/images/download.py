# SPDX-License-Identifier: Apache-2.0
"""Brings manifests and blobs from a registry into the content store: verified, resumed after a cut, once for all.

asyncio. Which blobs are wanted is decided by `fetch.py`.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Callable
from typing import Final

import aiohttp

from oakum.errors import DataLoss, OakumError, ResourceExhausted
from oakum.images.content import ContentStore, Ingest
from oakum.images.digests import digest_of, hasher_for
from oakum.images.layers import PullProgress
from oakum.images.manifests import MANIFEST_LIMIT_BYTES, MANIFEST_TYPES, Descriptor
from oakum.images.reference import Reference
from oakum.images.registry import LINE_ERRORS, RegistryClient, pause_before, read_bounded, unavailable

_CUTS_IN_A_ROW: Final = 5
_LOCK_POLL_S: Final = 0.02
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class Manifestation:
    """A manifest as it came: its bytes, digest, and what the registry calls it."""

    def __init__(self, data: bytes, digest: str, media_type: str) -> None:
        self.data = data
        self.digest = digest
        self.media_type = media_type


class Downloader:
    """Downloads of one repository."""

    def __init__(
        self, client: RegistryClient, reference: Reference, content: ContentStore, progress: PullProgress
    ) -> None:
        self._client = client
        self._reference = reference
        self._content = content
        self._progress = progress
        self._scope = f"repository:{reference.path}:pull"
        self._resumed: set[str] = set()  # blobs that began with somebody's part and are not verified yet

    async def manifest(self, target: str, size: int | None = None) -> Manifestation:
        """The manifest or index of a tag or digest; from the store where it is there by digest.

        Raises:
            DataLoss: it is not what its digest or `size` says.
            NotFound, Unauthenticated, PermissionDenied, Unavailable, ResourceExhausted: by the registry's answer.
        """
        by_digest = ":" in target
        if by_digest and self._content.has(target):
            return Manifestation(self._content.read(target, MANIFEST_LIMIT_BYTES), target, "")
        data, media_type = await self._document(target)
        if by_digest:
            hasher = hasher_for(target)
            hasher.update(data)
            if hasher.hexdigest() != target.partition(":")[2]:
                raise DataLoss("verify manifest", target, f"its content has the digest {digest_of(data)}")
            if size is not None and size != len(data):
                raise DataLoss("verify manifest", target, f"{len(data)} bytes came, {size} were declared")
        return Manifestation(data, target if by_digest else digest_of(data), media_type)

    async def _document(self, target: str) -> tuple[bytes, str]:
        """The bytes and the media type that the registry has for a tag or digest; asked again when the line breaks."""
        subject = self._reference.familiar
        for cuts in itertools.count(1):
            async with self._client.open(
                "GET",
                f"/v2/{self._reference.path}/manifests/{target}",
                scope=self._scope,
                operation="pull image",
                subject=subject,
                headers={"Accept": ", ".join(MANIFEST_TYPES)},
            ) as response:
                try:
                    data = await read_bounded(response, MANIFEST_LIMIT_BYTES, "read manifest", subject)
                    return data, response.headers.get("Content-Type", "")
                except LINE_ERRORS as error:
                    if cuts == _CUTS_IN_A_ROW:
                        raise unavailable("pull image", subject, self._client.host, error) from error
            await asyncio.sleep(pause_before(cuts))
        raise AssertionError  # the loop returns or raises

    async def blob(self, wanted: Descriptor, advance: Callable[[int], None]) -> None:
        """Bring a blob in, or wait for whoever does; `advance` hears how much of it is in its file.

        Raises:
            DataLoss: it is not what its digest or size says.
            ResourceExhausted: the disk is full.
            NotFound, Unauthenticated, PermissionDenied, Unavailable: by the registry's answer.
        """
        digest = wanted.digest
        while True:
            if self._content.has(digest):
                break
            ingest = await self._turn(wanted)
            if ingest is None:
                continue
            resumed = ingest.offset
            keep = True
            if resumed:
                self._resumed.add(digest)
            try:
                await self._fill(ingest, advance)
                await _to_its_end(ingest.commit)
                self._resumed.discard(digest)
            except ResourceExhausted:
                keep = False  # give the space back
                raise
            except DataLoss:
                keep = False
                if not resumed:
                    raise
                self._resumed.discard(digest)
                raise DamagedResume from None  # the part that an earlier process left may be the damaged one
            finally:
                ingest.close(keep=keep)
            break
        if self._content.size(digest) != wanted.size:
            raise DataLoss(
                "verify blob",
                digest,
                f"it has {self._content.size(digest)} bytes, the manifest says {wanted.size}",
            )
        advance(wanted.size)

    def forget_resumed(self) -> bool:
        """Remove the parts that were carried on with and never verified; whether there were any."""
        had_any = bool(self._resumed)
        while self._resumed:
            ingest = self._content.try_ingest(self._resumed.pop(), 0)  # nothing of it is worth reading
            if ingest is not None:
                ingest.close(keep=False)
        return had_any

    async def _turn(self, wanted: Descriptor) -> Ingest | None:
        """The right to bring the blob in; None when somebody else did meanwhile."""
        told = False
        while not self._content.has(wanted.digest):
            ingest = self._content.try_ingest(wanted.digest, wanted.size)
            if ingest is not None:
                return ingest
            if not told:
                self._progress(wanted.digest, "waiting", 0, wanted.size)
                told = True
            await asyncio.sleep(_LOCK_POLL_S)
        return None

    async def _fill(self, ingest: Ingest, advance: Callable[[int], None]) -> None:
        cuts = 0
        while ingest.offset < ingest.size:
            before = ingest.offset
            try:
                await self._stream(ingest, advance)
                failure: OakumError | None = None
            except LINE_ERRORS as error:
                failure = unavailable("download blob", ingest.digest, self._client.host, error)
            if ingest.offset == ingest.size:
                return
            cuts = 1 if ingest.offset > before else cuts + 1
            if cuts >= _CUTS_IN_A_ROW:
                raise failure or DataLoss(
                    "download blob", ingest.digest, f"{ingest.offset} bytes came, {ingest.size} were declared"
                )
            await asyncio.sleep(pause_before(cuts))

    async def _stream(self, ingest: Ingest, advance: Callable[[int], None]) -> None:
        headers = {"Range": f"bytes={ingest.offset}-"} if ingest.offset else {}
        async with self._client.open(
            "GET",
            f"/v2/{self._reference.path}/blobs/{ingest.digest}",
            scope=self._scope,
            operation="download blob",
            subject=ingest.digest,
            headers=headers,
            accept=(200, 206, 416),
        ) as response:
            skip = _bytes_to_skip(response, ingest)
            advance(ingest.offset)
            async for chunk in response.content.iter_any():
                if skip:
                    skipped = min(skip, len(chunk))
                    skip -= skipped
                    chunk = chunk[skipped:]  # noqa: PLW2901 - the rest of it
                ingest.write(chunk)
                advance(ingest.offset)
                self._progress(ingest.digest, "downloading", ingest.offset, ingest.size)


class DamagedResume(Exception):
    """A blob that was resumed from an earlier process's part turned out wrong. The part is gone now: begin again."""


def _bytes_to_skip(response: aiohttp.ClientResponse, ingest: Ingest) -> int:
    """How much of the body we have already; refuses answers about a blob of another length."""
    total = -1
    skip = 0
    if response.status == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        if match is None or int(match[1]) != ingest.offset:
            raise DataLoss(
                "download blob", ingest.digest, "the registry sent another range than was asked for"
            )
        total = int(match[2]) if match[2] != "*" else -1
    elif response.status == 200:
        skip = ingest.offset
        total = response.content_length if response.content_length is not None else -1
    else:
        raise DataLoss("download blob", ingest.digest, f"the registry has less than {ingest.size} bytes")
    if total not in (-1, ingest.size):
        raise DataLoss(
            "download blob", ingest.digest, f"the registry has {total} bytes, the manifest says {ingest.size}"
        )
    return skip


async def _to_its_end(step: Callable[[], None]) -> None:
    """Run `step` in a thread and wait until it is over, also when cancelled: what it works on is closed after it."""
    running = asyncio.get_running_loop().run_in_executor(None, step)
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
