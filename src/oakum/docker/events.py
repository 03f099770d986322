# SPDX-License-Identifier: Apache-2.0
"""What happens to our containers in Docker, told in order to whoever watches: nothing lost, nothing twice.

    connect: /events since just before ─► list all ─► tell what differs from what was told ─► tell the stream's events
       ▲                                                                                             │ it ends
       └──────────────────────────── dockerd was restarted or killed ◄───────────────────────────────┘

Docker forgets its events when it ends and keeps 256 at most, so the stream alone proves nothing. A container's life only
goes forward (created, started, stopped, deleted): what counts is how far each has been told, and any second telling is
left out. Owns one thread and one connection while somebody watches. Spec: Docker Engine API, SystemEvents.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any, Final, cast

import msgspec

from oakum.backend.status import (
    ContainerEvent,
    ContainerFilter,
    ContainerStatus,
    SandboxFilter,
    SandboxStatus,
)
from oakum.docker.client import DockerClient, Reader
from oakum.docker.labels import INSTALLATION, KIND, SANDBOX
from oakum.engine.lookup import Lookup
from oakum.errors import Internal, NotFound, OakumError

log = logging.getLogger(__name__)

Told = ContainerEvent | OakumError
Tell = Callable[[Told], None]

_RETRY_S: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
# Docker answers before it listens: what happens between the two is in its memory.
_OVERLAP_NS: Final = 1_000_000_000


class Stage(IntEnum):
    """How far a container's life has been told."""

    CREATED = 0
    STARTED = 1
    STOPPED = 2
    DELETED = 3


_KINDS: Final = {
    Stage.CREATED: "created",
    Stage.STARTED: "started",
    Stage.STOPPED: "stopped",
    Stage.DELETED: "deleted",
}
_ACTIONS: Final = {
    "create": Stage.CREATED,
    "start": Stage.STARTED,
    "die": Stage.STOPPED,
    "destroy": Stage.DELETED,
}


def steps(told: Stage | None, now: Stage, *, sandbox: bool = False) -> list[Stage]:
    """What is to be told of a container that was told as `told` and is at `now`. Pure."""
    if told is None and (now is Stage.DELETED or (sandbox and now is Stage.STOPPED)):
        return []  # it came and went, or never came to be: nobody has heard of it
    if told is Stage.CREATED and now is Stage.DELETED and not sandbox:
        return [Stage.DELETED]  # it never ran, or nobody knows that it did
    first = Stage.CREATED if told is None else told + 1
    return [Stage(number) for number in range(first, now + 1)]


class Watcher:
    """The events of one installation's containers in Docker."""

    def __init__(self, client: DockerClient, lookup: Lookup, installation: str) -> None:
        self._client = client
        self._lookup = lookup
        self._installation = installation
        self._guard = threading.Lock()
        self._run: _Run | None = None

    def watch(self, tell: Tell) -> Callable[[], None]:
        """Have `tell` called for all that happens from now on; the result ends that. Raises as every call of Docker."""
        with self._guard:
            if self._run is None or not self._run.join(tell):
                self._run = _Run(self._client, self._lookup, self._installation)
                self._run.begin(tell)
            run = self._run

        def leave() -> None:
            with self._guard:
                if run.leave(tell) and self._run is run:
                    self._run = None

        return leave

    def sandbox_ready(self, sandbox_id: str) -> None:
        """Tell that a sandbox is there: only its maker knows when, as Docker's container is but a part of it."""
        with self._guard:
            run = self._run
        if run is not None:
            run.ready(sandbox_id)


class _Run:
    """From the first watcher to the last."""

    def __init__(self, client: DockerClient, lookup: Lookup, installation: str) -> None:
        self._client = client
        self._lookup = lookup
        filters = {
            "type": ["container"],
            "label": [f"{INSTALLATION}={installation}"],
            "event": list(_ACTIONS),
        }
        self._filters = msgspec.json.encode(filters).decode()
        self._guard = threading.Lock()
        self._order = threading.RLock()
        self._tells: list[Tell] = []
        self._over = threading.Event()
        self._reader: Reader | None = None
        self._told: dict[str, Stage] = {}
        self._sandboxes: dict[str, SandboxStatus] = {}
        self._owners: dict[str, str] = {}
        self._last_ns = 0

    # joining and leaving

    def begin(self, tell: Tell) -> None:
        """Take what is there now as known, and start the thread."""
        for object_id, stage in self._look().items():
            self._told[object_id] = stage
        self._tells.append(tell)
        threading.Thread(target=self._loop, name="docker-events", daemon=True).start()

    def join(self, tell: Tell) -> bool:
        """Add a watcher; False when this run is over."""
        with self._guard:
            if self._over.is_set():
                return False
            self._tells.append(tell)
            return True

    def leave(self, tell: Tell) -> bool:
        """Take a watcher away; whether it was the last one, which ends the run."""
        with self._guard:
            if tell in self._tells:
                self._tells.remove(tell)
            if not self._tells:
                self._over.set()
                if self._reader is not None:
                    self._reader.close()
            return self._over.is_set()

    def ready(self, sandbox_id: str) -> None:
        """Tell of a new sandbox; what Docker keeps us from telling now is told when it is there again."""
        try:
            self.advance(sandbox_id, Stage.STARTED)
        except OakumError as error:
            log.warning("no events from Docker", extra={"fields": {"error": str(error)}})
            with self._guard:
                if self._reader is not None:
                    self._reader.close()

    # the thread

    def _loop(self) -> None:
        failures = 0
        failure: OakumError = Internal("watch for events", "Docker", "the watch ended")
        try:
            while not self._over.is_set():
                try:
                    self._follow()
                    failures = 0
                except OakumError as error:
                    level = logging.DEBUG if failures else logging.WARNING
                    log.log(level, "no events from Docker", extra={"fields": {"error": str(error)}})
                    failures += 1
                self._over.wait(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
        except Exception as error:  # noqa: BLE001 - the edge of the thread: watchers must hear that it ended, and why
            failure = Internal("watch for events", "Docker", f"{type(error).__name__}: {error}")
        with self._guard:
            self._over.set()
            tells, self._tells = self._tells, []
        for tell in tells:
            tell(failure)

    def _follow(self) -> None:
        """From one connection to its end."""
        since_ns = time.time_ns() - _OVERLAP_NS
        since = f"{since_ns // 1_000_000_000}.{since_ns % 1_000_000_000:09d}"
        query = {"filters": self._filters, "since": since}
        with self._client.stream("GET", "/events", query=query) as reader:
            with self._guard:
                if self._over.is_set():
                    return
                self._reader = reader
            self._catch_up()
            for event in reader.objects():
                if self._over.is_set():
                    return
                self._on(event)

    def _catch_up(self) -> None:
        """Tell what has changed while nobody listened: ends first, a pod's own last."""
        before = set(self._told)  # a sandbox may be told of by its maker while we look
        now = self._look()
        for object_id in sorted(before - now.keys(), key=lambda i: i in self._sandboxes):
            self.advance(object_id, Stage.DELETED)
        fresh = sorted(now, key=lambda i: (i not in self._sandboxes) == (now[i] < Stage.STOPPED))
        for object_id in fresh:
            self.advance(object_id, now[object_id])

    def _look(self) -> dict[str, Stage]:
        """How far every one of ours is now."""
        found: dict[str, Stage] = {}
        for sandbox in self._lookup.sandboxes(SandboxFilter()):
            self._sandboxes[sandbox.id] = sandbox
            found[sandbox.id] = Stage.STARTED if sandbox.state == "ready" else Stage.STOPPED
        for container in self._lookup.containers(ContainerFilter()):
            self._owners[container.id] = container.sandbox_id
            found[container.id] = _stage(container)
        return found

    def _on(self, event: Mapping[str, Any]) -> None:
        stage = _ACTIONS.get(str(event.get("Action")))
        actor = cast("dict[str, Any]", event.get("Actor") or {})
        labels = cast("dict[str, str]", actor.get("Attributes") or {})
        object_id, kind = str(actor.get("ID") or ""), labels.get(KIND)
        if stage is None or kind not in ("sandbox", "container"):
            return
        if kind == "container":
            self._owners.setdefault(object_id, labels.get(SANDBOX, ""))
        elif stage < Stage.STOPPED:
            return  # see `Watcher.sandbox_ready`
        self.advance(object_id, stage)

    def advance(self, object_id: str, stage: Stage) -> None:
        """Tell what has not been told of a container that is at this stage. Raises as every call of Docker."""
        with self._order:
            for step in steps(self._told.get(object_id), stage, sandbox=object_id not in self._owners):
                self._tell(step, object_id)
                self._told[object_id] = step
            if stage is Stage.DELETED:
                for known in (self._told, self._owners, self._sandboxes):
                    known.pop(object_id, None)

    def _see(self, sandbox_id: str) -> SandboxStatus | None:
        """How a sandbox is now, or how it last was."""
        try:
            self._sandboxes[sandbox_id] = self._lookup.sandbox(sandbox_id)
        except NotFound:
            pass  # it is gone: as it last was
        return self._sandboxes.get(sandbox_id)

    def _tell(self, stage: Stage, object_id: str) -> None:
        # Taken before looking, so that what changes afterwards is never older than the time we say.
        self._last_ns = max(time.time_ns(), self._last_ns + 1)
        sandbox_id = self._owners.get(object_id, object_id)
        sandbox = self._see(sandbox_id)
        if sandbox is None:
            return  # nothing is known of its pod any more: nobody could place it
        event = ContainerEvent(
            kind=_KINDS[stage],  # type: ignore[arg-type] - one of the four above
            id=object_id,
            timestamp_ns=self._last_ns,
            sandbox=sandbox,
            containers=tuple(self._members(sandbox_id, object_id if stage is Stage.DELETED else "")),
        )
        with self._guard:
            tells = list(self._tells)
        for tell in tells:
            tell(event)

    def _members(self, sandbox_id: str, gone: str) -> list[ContainerStatus]:
        listed = self._lookup.containers(ContainerFilter(sandbox_id=sandbox_id))
        return [container for container in listed if container.id != gone]


def _stage(container: ContainerStatus) -> Stage:
    match container.state:
        case "created":
            return Stage.CREATED
        case "running" | "paused":
            return Stage.STARTED
        case _:
            return Stage.STOPPED
