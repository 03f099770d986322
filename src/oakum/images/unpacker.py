# SPDX-License-Identifier: Apache-2.0
"""Unpacks the layers of one image side by side: opens them, hands them to workers, commits them lowest first.

asyncio. Whatever ends it early (an error, a cancellation) leaves no process and no half layer.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from oakum.errors import OakumError
from oakum.images.content import ContentStore, storage_error
from oakum.images.layerfiles import LayerRest
from oakum.images.layers import LayerTarget, PulledImage, PullProgress, UnpackLimit
from oakum.images.lower import finish_layer
from oakum.images.workers import Arrival, Worker, WorkerJob
from oakum.linux.filesystem import sync_filesystem

_WORKERS_LIMIT: Final = 8
_WRITE_BACK_S: Final = 0.5


class LayerPlan(NamedTuple):
    """One layer of an image, lowest first in the plans; `arrival` says how much of its blob is there."""

    digest: str
    diff_id: str
    chain_id: str
    parent_chain_id: str
    arrival: Arrival


class _OpenLayer:
    def __init__(self, plan: LayerPlan, directory: str) -> None:
        self.plan = plan
        self.directory = directory
        self.unpacked: asyncio.Future[LayerRest] = asyncio.get_running_loop().create_future()


class Unpacker:
    """Unpacks into `layers`; reports "unpacking" and "done" of each blob."""

    def __init__(
        self, layers: LayerTarget, *, progress: PullProgress, limit: UnpackLimit, user_xattr: bool
    ) -> None:
        self._layers = layers
        self._progress = progress
        self._limit = limit
        self._user_xattr = user_xattr

    async def unpack(self, plans: Sequence[LayerPlan]) -> None:
        """Unpack and commit all that is not there yet.

        Raises:
            DataLoss: a layer is damaged or hostile.
            ResourceExhausted: the disk is full.
        """
        uncommitted: dict[str, _OpenLayer] = {}
        try:
            for plan in plans:
                directory = await self._open(plan)
                if directory is None:
                    self._progress(plan.digest, "exists", plan.arrival.size, plan.arrival.size)
                else:
                    uncommitted[plan.chain_id] = _OpenLayer(plan, directory)
            if uncommitted:
                opened = list(uncommitted.values())
                async with _written_back(opened[0].directory), asyncio.TaskGroup() as group:
                    group.create_task(self._finish_in_order(opened))
                    group.create_task(self._run_workers(opened))
                self._commit(uncommitted)
        finally:
            for chain_id in reversed(uncommitted):
                self._layers.abandon_layer(chain_id)

    async def unpack_stored(self, content: ContentStore, image: PulledImage) -> None:
        """Unpack an image whose blobs are all in the store. Raises as `unpack`, and NotFound."""
        await self.unpack(stored_plans(content, image))

    async def _open(self, plan: LayerPlan) -> str | None:
        def open_layer() -> str | None:
            return self._layers.open_layer(plan.chain_id, plan.parent_chain_id)

        def undo(directory: str | None) -> None:
            if directory is not None:
                self._layers.abandon_layer(plan.chain_id)

        return await _in_daemon_thread(open_layer, undo)

    async def _run_workers(self, opened: list[_OpenLayer]) -> None:
        # Largest first, so that no large one is left for the end, when the other processors have nothing to do.
        waiting = sorted(opened, key=lambda layer: layer.plan.arrival.size)
        count = min(len(waiting), len(os.sched_getaffinity(0)), _WORKERS_LIMIT)
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(self._run_worker(waiting))

    async def _run_worker(self, waiting: list[_OpenLayer]) -> None:
        worker = Worker()
        try:
            while waiting:
                layer = _next(waiting)
                plan = layer.plan
                size = plan.arrival.size
                job = WorkerJob(plan.arrival, layer.directory, plan.diff_id, self._limit.bytes_for(size))

                def report(done: int, plan: LayerPlan = plan) -> None:
                    self._progress(plan.digest, "unpacking", done, plan.arrival.size)

                rest = await worker.unpack(job, user_xattr=self._user_xattr, progress=report)
                layer.unpacked.set_result(rest)
        finally:
            await worker.close()

    async def _finish_in_order(self, opened: list[_OpenLayer]) -> None:
        """What a layer takes from those below it; needs them to be complete, not yet committed."""
        below: list[str] | None = None
        for layer in opened:
            rest = await layer.unpacked
            if below is None:
                parent = layer.plan.parent_chain_id
                below = self._layers.layer_directories(parent) if parent else []
            if rest.implicit or rest.links:
                await asyncio.to_thread(finish_layer, layer.directory, below, rest)
            below = [layer.directory, *below]

    def _commit(self, uncommitted: dict[str, _OpenLayer]) -> None:
        for chain_id, layer in list(uncommitted.items()):
            self._layers.commit_layer(chain_id)
            del uncommitted[chain_id]
            size = layer.plan.arrival.size
            self._progress(layer.plan.digest, "done", size, size)


@asynccontextmanager
async def _written_back(directory: str) -> AsyncGenerator[None]:
    """Keep the disk writing what is unpacked into `directory` meanwhile; all of it is on the disk after the block.

    One layer's file system is every layer's. Without the early writing, the disk would idle while processors work and
    processors while the disk does.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    ended = asyncio.Event()

    async def write_back() -> None:
        while not ended.is_set():
            try:
                await asyncio.wait_for(ended.wait(), _WRITE_BACK_S)
            except TimeoutError:
                await asyncio.to_thread(sync_filesystem, fd, target=directory)

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(write_back())
            yield
            ended.set()
        await asyncio.to_thread(sync_filesystem, fd, target=directory)
    except OSError as error:
        raise storage_error(error, "write layers to the disk", directory) from error
    finally:
        os.close(fd)


def stored_plans(content: ContentStore, image: PulledImage) -> list[LayerPlan]:
    """The plans of an image whose layer blobs are in the store. Raises NotFound."""
    plans: list[LayerPlan] = []
    parent = ""
    config = image.config
    for digest, diff_id, chain_id in zip(image.layer_digests, config.diff_ids, config.chain_ids, strict=True):
        arrival = Arrival((content.path(digest),), content.size(digest))
        arrival.advance(arrival.size)
        plans.append(LayerPlan(digest, diff_id, chain_id, parent, arrival))
        parent = chain_id
    return plans


def _next(waiting: list[_OpenLayer]) -> _OpenLayer:
    """The largest layer whose blob has begun to arrive, or the largest of all."""
    for position in range(len(waiting) - 1, -1, -1):
        if waiting[position].plan.arrival.available:
            return waiting.pop(position)
    return waiting.pop()


async def _in_daemon_thread(
    function: Callable[[], str | None], undo: Callable[[str | None], None]
) -> str | None:
    """Run what may block for long; a result that its waiter was cancelled before it came is undone.

    Not the loop's own threads: leaving the loop would wait for them.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    guard = threading.Lock()
    made: list[str | None] = []
    left = False

    def wake(error: OakumError | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(None)

    def run() -> None:
        failure = None
        try:
            result = function()
        except OakumError as error:
            failure = error
        else:
            with guard:
                wanted = not left
                if wanted:
                    made.append(result)
            if not wanted:
                undo(result)
        try:
            loop.call_soon_threadsafe(wake, failure)
        except RuntimeError:  # the loop has ended, and cancelled the waiter before
            return

    threading.Thread(target=run, name="open-layer", daemon=True).start()
    try:
        await future
    except asyncio.CancelledError:
        with guard:
            left = True
        for result in made:
            undo(result)
        raise
    return made[0]
