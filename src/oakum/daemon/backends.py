# SPDX-License-Identifier: Apache-2.0
"""Several backends behind one front door: a pod goes to the one that knows its runtime handler, and all of its calls there.

The first backend answers for the empty handler and is where images are pulled to. An image that a pod's backend lacks
and another one has is handed over when a container wants it. Ids tell the backends apart: each is asked in turn.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from oakum.backend.config import AuthConfig, ContainerConfig, Resources, SandboxConfig
from oakum.backend.protocols import Checkpointing, ImageBackend, PullProgress, RuntimeBackend
from oakum.backend.status import (
    ContainerEvent,
    ContainerFilter,
    ContainerStats,
    ContainerStatus,
    ExecResult,
    FilesystemUsage,
    Image,
    MetricDescriptor,
    RestoredSandbox,
    RuntimeStatus,
    SandboxFilter,
    SandboxMetrics,
    SandboxStats,
    SandboxStatus,
)
from oakum.errors import ImageNotFound, InvalidArgument, NotFound, OakumError, Unimplemented
from oakum.streaming.source import RunningExec, StreamSource

_T = TypeVar("_T")


class Backend(RuntimeBackend, ImageBackend, StreamSource, Protocol):
    """All that a front door needs."""


class Member(NamedTuple):
    """One backend and the handlers that are its own. `hand_over` brings an image from the other one, by its name there."""

    name: str
    backend: Backend
    handlers: Callable[[], Sequence[str]]
    hand_over: Callable[[str], object]


class Backends:
    """Fulfils what `Backend` asks for, over several. Thread-safe."""

    def __init__(self, members: Sequence[Member]) -> None:
        """The first of `members` is the default."""
        self._members = tuple(members)
        self._homes: dict[str, Backend] = {}

    @property
    def _first(self) -> Backend:
        return self._members[0].backend

    @property
    def _all(self) -> list[Backend]:
        return [member.backend for member in self._members]

    def _member_of(self, handler: str) -> Member:
        if not handler:
            return self._members[0]
        for member in self._members:
            if handler in member.handlers():
                return member
        known = ", ".join(chain.from_iterable(m.handlers() for m in self._members))
        raise InvalidArgument(
            "run sandbox",
            f"runtime_handler {handler[:64]!r}",
            "there is none of this name",
            hint=f"one of: {known}",
        )

    # which backend has it

    def _home(self, object_id: str, look: Callable[[Backend], object]) -> Backend:
        """The backend that has an object. Raises NotFound, or why a backend could not say."""
        known = self._homes.get(object_id)
        if known is not None:
            return known
        failed: OakumError | None = None
        for backend in self._all:
            try:
                look(backend)
            except NotFound:
                continue
            except OakumError as error:
                # Another one may have it; if none has, nobody knows.
                failed = failed or error
                continue
            if len(object_id) == 64:
                self._homes[object_id] = backend
            return backend
        if failed is not None:
            raise failed
        raise NotFound("find", repr(object_id[:64]), "no such sandbox or container")

    def _sandbox_home(self, sandbox_id: str) -> Backend:
        return self._home(sandbox_id, lambda backend: backend.sandbox_status(sandbox_id))

    def _container_home(self, container_id: str) -> Backend:
        return self._home(container_id, lambda backend: backend.container_status(container_id))

    def _each(self, ask: Callable[[Backend], Sequence[_T]]) -> list[_T]:
        """What all backends say together. Raises what the first one that fails raises: half an answer would be wrong."""
        return [found for backend in self._all for found in ask(backend)]

    # RuntimeBackend: health

    def runtime_status(self, *, verbose: bool) -> RuntimeStatus:
        """The health of the default backend; the features and handlers of all."""
        found = [backend.runtime_status(verbose=verbose) for backend in self._all]
        handlers = {h.name: h for status in reversed(found) for h in status.handlers}
        info = {
            f"{m.name}.{k}": v for m, s in zip(self._members, found, strict=True) for k, v in s.info.items()
        }
        return msgspec.structs.replace(
            found[0], handlers=tuple(handlers[name] for name in sorted(handlers)), info=info
        )

    def cgroup_driver(self) -> str:
        """That of the default backend."""
        return self._first.cgroup_driver()

    # Checkpointing

    def checkpoint_container(self, container_id: str, location: str, *, timeout_s: int) -> None:
        """Write an archive of a running container where its backend can. Raises Unimplemented."""
        home = _able("checkpoint container", container_id, self._container_home(container_id))
        home.checkpoint_container(container_id, location, timeout_s=timeout_s)

    def checkpoint_sandbox(self, sandbox_id: str, directory: str, *, container_ids: Sequence[str]) -> None:
        """Write archives of a pod's running containers where its backend can. Raises Unimplemented."""
        home = _able("checkpoint pod", sandbox_id, self._sandbox_home(sandbox_id))
        home.checkpoint_sandbox(sandbox_id, directory, container_ids=container_ids)

    def restore_sandbox(
        self,
        path: str,
        config: SandboxConfig | None,
        *,
        runtime_handler: str,
        container_configs: Sequence[ContainerConfig],
    ) -> RestoredSandbox:
        """Make a new pod of a checkpoint where the handler's backend can. Raises Unimplemented."""
        member = self._member_of(runtime_handler)
        home = _able("restore pod", path, member.backend)
        return home.restore_sandbox(
            path, config, runtime_handler=runtime_handler, container_configs=container_configs
        )

    # RuntimeBackend: sandboxes

    def run_sandbox(self, config: SandboxConfig, *, runtime_handler: str = "") -> str:
        """Create and start a sandbox where its handler is known. Raises InvalidArgument for one that nobody knows."""
        member = self._member_of(runtime_handler)
        sandbox_id = member.backend.run_sandbox(config, runtime_handler=runtime_handler)
        self._homes[sandbox_id] = member.backend
        return sandbox_id

    def stop_sandbox(self, sandbox_id: str) -> None:
        """Stop it; succeeds for what is gone."""
        try:
            self._sandbox_home(sandbox_id).stop_sandbox(sandbox_id)
        except NotFound:
            return

    def remove_sandbox(self, sandbox_id: str) -> None:
        """Remove it; succeeds for what is gone."""
        try:
            self._sandbox_home(sandbox_id).remove_sandbox(sandbox_id)
        except NotFound:
            return
        finally:
            self._homes.pop(sandbox_id, None)

    def sandbox_status(self, sandbox_id: str) -> SandboxStatus:
        """One sandbox. Raises NotFound."""
        return self._sandbox_home(sandbox_id).sandbox_status(sandbox_id)

    def list_sandboxes(self, wanted: SandboxFilter = SandboxFilter()) -> Sequence[SandboxStatus]:  # noqa: B008 - frozen
        """Those of all that match, newest first."""
        found = self._each(lambda backend: backend.list_sandboxes(wanted))
        return sorted(found, key=lambda status: status.created_at_ns, reverse=True)

    def update_sandbox_resources(
        self, sandbox_id: str, *, overhead: Resources | None, resources: Resources | None
    ) -> None:
        """Take note of its new limits."""
        self._sandbox_home(sandbox_id).update_sandbox_resources(
            sandbox_id, overhead=overhead, resources=resources
        )

    # RuntimeBackend: containers

    def create_container(self, sandbox_id: str, config: ContainerConfig) -> str:
        """Prepare a container in its pod's backend; images that only another one has are brought there first."""
        home = self._sandbox_home(sandbox_id)
        wanted = [config.image, *(mount.image for mount in config.mounts if mount.image)]
        for _ in wanted:
            try:
                container_id = home.create_container(sandbox_id, config)
                break
            except ImageNotFound:
                missing = [name for name in wanted if home.image_status(name) is None]
                if not missing or not self._bring(home, missing[0]):
                    raise
        else:
            container_id = home.create_container(sandbox_id, config)
        self._homes[container_id] = home
        return container_id

    def _bring(self, home: Backend, image: str) -> bool:
        """Hand an image over to `home` from a backend that has it; whether there is one."""
        member = next(m for m in self._members if m.backend is home)
        for other in self._all:
            if other is not home and other.image_status(image) is not None:
                member.hand_over(image)
                return True
        return False

    def start_container(self, container_id: str) -> None:
        """Start a created container."""
        self._container_home(container_id).start_container(container_id)

    def stop_container(self, container_id: str, *, timeout_s: float) -> None:
        """Stop it; succeeds for what is gone."""
        try:
            self._container_home(container_id).stop_container(container_id, timeout_s=timeout_s)
        except NotFound:
            return

    def remove_container(self, container_id: str) -> None:
        """Remove it; succeeds for what is gone."""
        try:
            self._container_home(container_id).remove_container(container_id)
        except NotFound:
            return
        finally:
            self._homes.pop(container_id, None)

    def container_status(self, container_id: str) -> ContainerStatus:
        """One container. Raises NotFound."""
        return self._container_home(container_id).container_status(container_id)

    def list_containers(self, wanted: ContainerFilter = ContainerFilter()) -> Sequence[ContainerStatus]:  # noqa: B008 - frozen
        """Those of all that match, newest first."""
        found = self._each(lambda backend: backend.list_containers(wanted))
        return sorted(found, key=lambda status: status.created_at_ns, reverse=True)

    def update_container_resources(self, container_id: str, resources: Resources) -> None:
        """Change limits."""
        self._container_home(container_id).update_container_resources(container_id, resources)

    def reopen_container_log(self, container_id: str) -> None:
        """Open its log anew."""
        self._container_home(container_id).reopen_container_log(container_id)

    def exec_sync(
        self,
        container_id: str,
        argv: Sequence[str],
        *,
        timeout_s: float,
        cancelled: Callable[[], bool] | None = None,
    ) -> ExecResult:
        """Run a command in a running container."""
        home = self._container_home(container_id)
        return home.exec_sync(container_id, argv, timeout_s=timeout_s, cancelled=cancelled)

    def watch_events(self, tell: Callable[[ContainerEvent | OakumError], None]) -> Callable[[], None]:
        """Have `tell` called for what happens in all, in one order: each event later than the one before."""
        merged = _Merged(tell)
        stops: list[Callable[[], None]] = []

        def stop() -> None:
            for each in stops:
                each()

        try:
            for backend in self._all:
                stops.append(backend.watch_events(merged.tell))
        except OakumError:
            stop()
            raise
        return stop

    def container_stats(self, container_id: str) -> ContainerStats:
        """Statistics of one container. Raises NotFound."""
        return self._container_home(container_id).container_stats(container_id)

    def list_container_stats(self, wanted: ContainerFilter = ContainerFilter()) -> Sequence[ContainerStats]:  # noqa: B008 - frozen
        """Statistics of the running containers that match, of all."""
        return self._each(lambda backend: backend.list_container_stats(wanted))

    def sandbox_stats(self, sandbox_id: str) -> SandboxStats:
        """Statistics of one sandbox. Raises NotFound."""
        return self._sandbox_home(sandbox_id).sandbox_stats(sandbox_id)

    def list_sandbox_stats(self, wanted: SandboxFilter = SandboxFilter()) -> Sequence[SandboxStats]:  # noqa: B008 - frozen
        """Statistics of the ready sandboxes that match, of all."""
        return self._each(lambda backend: backend.list_sandbox_stats(wanted))

    def metric_descriptors(self) -> Sequence[MetricDescriptor]:
        """The families of all."""
        found = self._each(lambda backend: backend.metric_descriptors())
        return list({descriptor.name: descriptor for descriptor in found}.values())

    def list_sandbox_metrics(self) -> Sequence[SandboxMetrics]:
        """Metrics of all ready sandboxes."""
        return self._each(lambda backend: backend.list_sandbox_metrics())

    # StreamSource

    def exec_start(
        self,
        container_id: str,
        argv: Sequence[str],
        *,
        tty: bool = False,
        stdio: tuple[int, int, int] | None = None,
        rows: int = 0,
        columns: int = 0,
    ) -> RunningExec:
        """Start a command where the container is."""
        home = self._container_home(container_id)
        return home.exec_start(container_id, argv, tty=tty, stdio=stdio, rows=rows, columns=columns)

    def attach(
        self,
        container_id: str,
        *,
        stdin: bool,
        stdout: bool = True,
        stderr: bool = True,
        backpressure: bool = False,
    ) -> socket.socket:
        """Join a container's streams."""
        home = self._container_home(container_id)
        return home.attach(container_id, stdin=stdin, stdout=stdout, stderr=stderr, backpressure=backpressure)

    # ImageBackend

    def list_images(self, wanted: str = "") -> Sequence[Image]:
        """The images of all; one that several have is told once, with all of its names."""
        found: dict[str, Image] = {}
        for image in self._each(lambda backend: backend.list_images(wanted)):
            known = found.get(image.id)
            found[image.id] = image if known is None else _together(known, image)
        return list(found.values())

    def image_status(self, image: str) -> Image | None:
        """The image that a reference, digest or id names, of the first backend that has it."""
        return next((found for backend in self._all if (found := backend.image_status(image))), None)

    def image_document(self, image: str) -> Mapping[str, Any]:
        """The configuration of an image. Raises ImageNotFound."""
        for backend in self._all[:-1]:
            try:
                return backend.image_document(image)
            except ImageNotFound:
                continue
        return self._all[-1].image_document(image)

    def pull_image(
        self,
        image: str,
        *,
        auth: AuthConfig | None = None,
        progress: PullProgress | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> str:
        """Bring an image into the default backend; its id."""
        return self._first.pull_image(image, auth=auth, progress=progress, cancelled=cancelled)

    def remove_image(self, image: str) -> None:
        """Remove it from all, also where a name is only known to one of them."""
        found = self.image_status(image)
        for backend in self._all:
            backend.remove_image(image)
            if found is not None:
                backend.remove_image(found.id)

    def image_filesystems(self) -> Sequence[FilesystemUsage]:
        """Where images lie, the default backend's place first."""
        return self._each(lambda backend: backend.image_filesystems())


class _Merged:
    """One stream of events out of several."""

    def __init__(self, tell: Callable[[ContainerEvent | OakumError], None]) -> None:
        self._tell = tell
        self._guard = threading.Lock()
        self._last_ns = 0
        self._over = False

    def tell(self, event: ContainerEvent | OakumError) -> None:
        """Pass it on; an error is the last."""
        with self._guard:
            if self._over:
                return
            if isinstance(event, OakumError):
                self._over = True
            elif event.timestamp_ns <= self._last_ns:
                event = msgspec.structs.replace(event, timestamp_ns=max(self._last_ns + 1, time.time_ns()))
            if isinstance(event, ContainerEvent):
                self._last_ns = event.timestamp_ns
            self._tell(event)


def _together(one: Image, other: Image) -> Image:
    return msgspec.structs.replace(
        one,
        repo_tags=tuple(dict.fromkeys((*one.repo_tags, *other.repo_tags))),
        repo_digests=tuple(dict.fromkeys((*one.repo_digests, *other.repo_digests))),
        pinned=one.pinned or other.pinned,
    )


def _able(operation: str, object_id: str, backend: object) -> Checkpointing:
    if not isinstance(backend, Checkpointing):
        raise Unimplemented(operation, object_id[:12], "the backend that has it has no way to call CRIU")
    return backend
