# SPDX-License-Identifier: Apache-2.0
"""One pull: from a reference to stored blobs and unpacked layers, and the event loop that it runs in.

asyncio; the doors `pull.py`, `push.py` and `unpack.py` are what others call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Final, TypeVar, cast

from oakum.errors import Cancelled, DataLoss, OakumError
from oakum.images.content import ContentStore
from oakum.images.credentials import Credentials
from oakum.images.download import DamagedResume, Downloader, Manifestation
from oakum.images.graph import INDEX_DEPTH
from oakum.images.layers import LayerTarget, PulledImage, PullProgress, UnpackLimit
from oakum.images.manifests import (
    CONFIG_LIMIT_BYTES,
    Descriptor,
    ImageConfig,
    Manifest,
    check_config_platform,
    check_layers_match,
    choose,
    parse_config,
    parse_manifest_or_index,
)
from oakum.images.platforms import Platform
from oakum.images.reference import Reference
from oakum.images.registry import RegistryClient
from oakum.images.unpacker import LayerPlan, Unpacker
from oakum.images.workers import Arrival

_DOWNLOADS_AT_ONCE: Final = 4
_CANCEL_POLL_S: Final = 0.1
_RESTARTS: Final = 3

_T = TypeVar("_T")


class Fetch:
    """The pull of one image."""

    def __init__(
        self,
        reference: Reference,
        *,
        content: ContentStore,
        layers: LayerTarget,
        credentials: Credentials | None,
        platform: Platform,
        progress: PullProgress,
        insecure_hosts: Collection[str],
        limit: UnpackLimit,
        user_xattr: bool,
    ) -> None:
        self._reference = reference
        self._content = content
        self._credentials = credentials
        self._platform = platform
        self._progress = progress
        self._insecure_hosts = insecure_hosts
        self._unpacker = Unpacker(layers, progress=progress, limit=limit, user_xattr=user_xattr)

    async def image(self) -> PulledImage:
        """Pull it. Raises as `pull.pull`."""
        async with RegistryClient(
            self._reference.domain, self._credentials, insecure_hosts=self._insecure_hosts
        ) as client:
            downloader = Downloader(client, self._reference, self._content, self._progress)
            for _ in range(_RESTARTS):
                try:
                    return await self._image(downloader)
                except BaseExceptionGroup as group:
                    first = _first(group)
                    # Layers are unpacked before their blob is verified, so a damaged part may show there first.
                    damaged = isinstance(first, DamagedResume) or (
                        isinstance(first, DataLoss) and downloader.forget_resumed()
                    )
                    if not damaged:
                        raise
            raise DataLoss(
                "pull image", self._reference.familiar, "stored parts of it were damaged; pull again"
            )

    async def _image(self, downloader: Downloader) -> PulledImage:
        found, manifest, indexes = await self._manifest(downloader)
        await downloader.blob(manifest.config, _ignore)
        data = self._content.read(manifest.config.digest, CONFIG_LIMIT_BYTES)
        config = parse_config(data, manifest.config.digest)
        check_config_platform(config, self._platform, self._reference.familiar)
        check_layers_match(manifest, config, found.digest)
        await self._layers(downloader, manifest, config)
        # Last: whoever finds a manifest in the store finds what it needs.
        for document in (found, *reversed(indexes)):
            self._content.write_blob(document.data, document.digest)
        return PulledImage(
            manifest_digest=found.digest,
            index_digest=indexes[0].digest if indexes else "",
            config_digest=manifest.config.digest,
            media_type=manifest.media_type,
            size_bytes=len(found.data) + sum(blob.size for blob in manifest.blobs),
            config=config,
            chain_id=config.chain_id,
            layer_digests=tuple(layer.digest for layer in manifest.layers),
        )

    async def _manifest(self, downloader: Downloader) -> tuple[Manifestation, Manifest, list[Manifestation]]:
        """The manifest for our platform, and the indexes that led to it, outermost first."""
        indexes: list[Manifestation] = []
        target, size = self._reference.target, None
        for _ in range(INDEX_DEPTH):
            found = await downloader.manifest(target, size)
            parsed = parse_manifest_or_index(found.data, found.media_type, found.digest)
            if isinstance(parsed, Manifest):
                return found, parsed, indexes
            indexes.append(found)
            chosen = choose(parsed, self._platform, self._reference.familiar)
            target, size = chosen.digest, chosen.size
        raise DataLoss("read index", self._reference.familiar, f"indexes nested deeper than {INDEX_DEPTH}")

    async def _layers(self, downloader: Downloader, manifest: Manifest, config: ImageConfig) -> None:
        arrivals: dict[str, Arrival] = {}
        plans: list[LayerPlan] = []
        parent = ""
        for layer, diff_id, chain_id in zip(manifest.layers, config.diff_ids, config.chain_ids, strict=True):
            arrival = arrivals.get(layer.digest)
            if arrival is None:
                # In this order: when a blob has just been stored, who waited for it may open a new, empty part.
                paths = (self._content.path(layer.digest), self._content.ingest_path(layer.digest))
                arrival = arrivals[layer.digest] = Arrival(paths, layer.size)
            plans.append(LayerPlan(layer.digest, diff_id, chain_id, parent, arrival))
            parent = chain_id
        wanted = {layer.digest: layer for layer in manifest.layers}
        slots = asyncio.Semaphore(_DOWNLOADS_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for layer in sorted(wanted.values(), key=lambda layer: -layer.size):
                group.create_task(self._download(downloader, layer, arrivals[layer.digest], slots))
            group.create_task(self._unpacker.unpack(plans))

    async def _download(
        self, downloader: Downloader, layer: Descriptor, arrival: Arrival, slots: asyncio.Semaphore
    ) -> None:
        async with slots:
            await downloader.blob(layer, arrival.advance)


def run(work: Coroutine[Any, Any, _T], cancelled: Callable[[], bool], subject: str) -> _T:
    """Run `work` in an event loop of its own, ended by `cancelled` or Ctrl-C; single errors come out plain."""
    try:
        with asyncio.Runner() as runner:
            return runner.run(_watched(work, cancelled, subject))
    except BaseExceptionGroup as group:
        raise _first(group) from group


async def _watched(work: Coroutine[Any, Any, _T], cancelled: Callable[[], bool], subject: str) -> _T:
    async with asyncio.TaskGroup() as group:
        watcher = group.create_task(_watch(cancelled, subject))
        task = group.create_task(work)
        task.add_done_callback(lambda _: watcher.cancel())
    return task.result()


async def _watch(cancelled: Callable[[], bool], subject: str) -> None:
    while not cancelled():  # noqa: ASYNC110 - callers hand in a plain function, which cannot wake us
        await asyncio.sleep(_CANCEL_POLL_S)
    raise Cancelled("transfer image", subject, "cancelled")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to tell: ours before others, and of ours the one that came first."""
    leaves: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending[:0] = cast("BaseExceptionGroup[BaseException]", error).exceptions
        else:
            leaves.append(error)
    return next((error for error in leaves if isinstance(error, OakumError | DamagedResume)), leaves[0])


def _ignore(_: int) -> None:
    return
