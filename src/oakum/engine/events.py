# SPDX-License-Identifier: Apache-2.0
"""What happens to sandboxes and containers, told in order to whoever watches.

Owns one thread while somebody watches, and none otherwise. Two sources, both outside of any process:

* the database's `events` table, filled by triggers: creations, starts, stops of sandboxes and removals, whichever
  process made them. inotify on the database's log says when to look;
* exit records: inotify on the bundle of every container that runs. A shim that died without a record is found by
  looking at its process id every second.

So no shim is asked and no connection to one is held: a watch costs the kernel a kilobyte, a connection would cost a
descriptor on both sides and a wake-up of the shim.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec

from oakum.backend.status import ContainerEvent, ContainerStatus, SandboxStatus
from oakum.engine.context import Context
from oakum.engine.states import (
    container_state,
    container_status,
    read_exit,
    sandbox_status,
    shim_lives,
    unknown_end,
)
from oakum.engine.store.records import ContainerRecord, EventRecord, SandboxRecord
from oakum.errors import Internal, OakumError, SystemFailure
from oakum.linux.inotify import IN_CREATE, IN_IGNORED, IN_MODIFY, IN_MOVED_TO, IN_Q_OVERFLOW, Inotify

Told = ContainerEvent | OakumError
Tell = Callable[[Told], None]

_TICK_S: Final = 1.0
# The log is written a moment before the change can be read: looked at again after these.
_AGAIN_S: Final = (0.001, 0.005, 0.03, 0.2)


class Watcher:
    """The events of one namespace."""

    def __init__(self, context: Context, namespace: str) -> None:
        self._context = context
        self._namespace = namespace
        self._guard = threading.Lock()
        self._run: _Run | None = None

    def watch(self, tell: Tell) -> Callable[[], None]:
        """Have `tell` called for all that happens from now on; the result ends that. Raises SystemFailure."""
        with self._guard:
            if self._run is None or not self._run.join(tell):
                self._run = _Run(self._context, self._namespace)
                self._run.begin(tell)
            run = self._run

        def leave() -> None:
            with self._guard:
                if run.leave(tell) and self._run is run:
                    self._run = None

        return leave


class _Run:
    """From the first watcher to the last: what is known, and the thread that compares."""

    def __init__(self, context: Context, namespace: str) -> None:
        self._context = context
        self._store = context.store
        self._namespace = namespace
        self._guard = threading.Lock()
        self._tells: list[Tell] = []
        self._over = False
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._inotify = Inotify()
            self._root_watch = self._inotify.add(context.layout.root, IN_MODIFY | IN_CREATE)
        except OSError as error:
            os.close(self._wake_read)
            os.close(self._wake_write)
            raise SystemFailure.from_os_error(error, "watch for events", context.layout.root) from error
        self._database_name = os.path.basename(context.layout.database)
        self._bundles: dict[int, str] = {}
        self._watches: dict[str, int] = {}
        self._ready: dict[str, SandboxRecord] = {}
        self._running: dict[str, str] = {}
        self._last_ns = 0
        self._position = 0

    # joining and leaving

    def begin(self, tell: Tell) -> None:
        """Take the state of now as known, and start the thread."""
        with self._store.transaction():
            self._position = self._store.last_event()
            sandboxes = self._store.sandboxes(self._namespace)
            containers = self._store.containers(self._namespace)
        for sandbox in sandboxes:
            if sandbox.phase == "ready" and shim_lives(sandbox):
                self._ready[sandbox.id] = sandbox
        for record in containers:
            if record.phase in ("created", "starting", "started") and record.exit is None:
                self._watch_bundle(record.id)
            if self._runs(record):
                self._running[record.id] = record.sandbox_id
        self._tells.append(tell)
        threading.Thread(target=self._loop, name="events", daemon=True).start()

    def join(self, tell: Tell) -> bool:
        """Add a watcher; False when this run is over."""
        with self._guard:
            if self._over:
                return False
            self._tells.append(tell)
            return True

    def leave(self, tell: Tell) -> bool:
        """Take a watcher away; whether it was the last one, which ends the run."""
        with self._guard:
            if tell in self._tells:
                self._tells.remove(tell)
            if self._tells or self._over:
                return self._over
            self._over = True
        os.write(self._wake_write, b"x")
        return True

    # the thread

    def _loop(self) -> None:
        failure: OakumError | None = None
        try:
            self._turn()
        except OakumError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - the edge of the thread: watchers must hear that it ended, and why
            failure = Internal("watch for events", self._namespace, f"{type(error).__name__}: {error}")
        with self._guard:
            self._over = True
            tells, self._tells = self._tells, []
        for tell in tells:
            tell(failure or Internal("watch for events", self._namespace, "the watch ended"))
        self._inotify.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _turn(self) -> None:
        poll = select.poll()
        poll.register(self._inotify.fileno(), select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        again = list(_AGAIN_S)
        seen: tuple[int, int] | None = None
        next_tick = time.monotonic()
        while not self._over:
            now = self._store.changes()
            if now != seen:
                seen = now
                self._read_events()
                again = list(_AGAIN_S)
            if time.monotonic() >= next_tick:
                self._look_after_shims()
                next_tick = time.monotonic() + _TICK_S
            wait_s = again.pop(0) if again else _TICK_S
            if poll.poll(wait_s * 1000):
                changed, ended = self._notices()
                if changed:
                    again = list(_AGAIN_S)
                if ended:
                    self._read_events()
                for container_id in ended:
                    self._check_exit(container_id)

    def _notices(self) -> tuple[bool, list[str]]:
        """Whether the database was written to, and the containers that have an exit record now, in order."""
        changed = False
        ended: list[str] = []
        for notice in self._inotify.read():
            if notice.mask & IN_Q_OVERFLOW:
                return True, list(self._running)
            if notice.watch == self._root_watch:
                changed = changed or notice.name.startswith(self._database_name)
            elif notice.mask & IN_IGNORED:
                self._watches.pop(self._bundles.pop(notice.watch, ""), None)
            elif notice.name == "exit.json" and notice.watch in self._bundles:
                ended.append(self._bundles[notice.watch])
        return changed, ended

    def _read_events(self) -> None:
        for event in self._store.events_after(self._namespace, self._position):
            if event.object == "sandbox":
                self._on_sandbox(event)
            else:
                self._on_container(event)
            self._position = event.seq

    def _on_sandbox(self, event: EventRecord) -> None:
        record = event.row if isinstance(event.row, SandboxRecord) else self._store.sandbox(event.id)
        if event.kind == "started":
            if record is not None:  # else: its removal is among the events that follow
                self._ready[event.id] = record
            else:
                removed = self._removed_row(event.id)
                record = removed if isinstance(removed, SandboxRecord) else None
            if record is not None:
                self._tell("created", event.id, record)
                self._tell("started", event.id, record)
            return
        known = self._ready.pop(event.id, None)
        record = record or known
        if record is None:
            return
        for container_id in [c for c, sandbox_id in self._running.items() if sandbox_id == event.id]:
            self._check_exit(container_id, certain=True)
        if event.kind == "stopped" or known is not None:
            self._tell("stopped", event.id, record)
        if event.kind == "deleted":
            self._tell("deleted", event.id, record)

    def _on_container(self, event: EventRecord) -> None:
        if event.kind == "deleted":
            assert isinstance(event.row, ContainerRecord)
            self._on_container_deleted(event.row)
            return
        record = self._store.container(event.id) or self._removed_row(event.id)
        if not isinstance(record, ContainerRecord):
            return
        self._watch_bundle(event.id)
        if event.kind == "created":
            self._tell("created", event.id, None, record)
            return
        ended = record.exit or read_exit(self._context.layout.bundle(event.id))
        if record.started_at_ns or (ended is not None and ended.started_at_ns):
            self._tell("started", event.id, None, record)
        self._running[event.id] = record.sandbox_id
        self._check_exit(event.id)

    def _on_container_deleted(self, record: ContainerRecord) -> None:
        self._unwatch_bundle(record.id)
        if self._running.pop(record.id, None) is not None:
            ended = record.exit or unknown_end(record, time.time_ns())
            self._tell("stopped", record.id, None, msgspec.structs.replace(record, exit=ended))
        self._tell("deleted", record.id, None, record, gone=True)

    def _removed_row(self, object_id: str) -> ContainerRecord | SandboxRecord | None:
        """What an object last was whose removal is yet to be told."""
        for event in self._store.events_after(self._namespace, self._position):
            if event.id == object_id and event.row is not None:
                return event.row
        return None

    def _check_exit(self, container_id: str, *, certain: bool = False) -> None:
        """Tell the end of a container that was told to run, if there is one (or it is `certain`)."""
        if container_id not in self._running:
            return
        record = self._store.container(container_id)
        if record is None:
            return  # its removal is told next, and its end before that
        if (
            not certain
            and record.exit is None
            and read_exit(self._context.layout.bundle(container_id)) is None
        ):
            return
        del self._running[container_id]
        self._unwatch_bundle(container_id)
        self._tell("stopped", container_id, None, record)

    def _look_after_shims(self) -> None:
        """Tell the end of what a shim took with it when it was killed."""
        for sandbox_id in list(self._ready):
            record = self._store.sandbox(sandbox_id)
            if record is None or record.phase != "ready" or shim_lives(record):
                continue
            del self._ready[sandbox_id]
            for container_id in [c for c, owner in self._running.items() if owner == sandbox_id]:
                self._check_exit(container_id, certain=True)
            self._tell("stopped", sandbox_id, record)

    # what is told

    def _tell(
        self,
        kind: str,
        object_id: str,
        sandbox: SandboxRecord | None,
        container: ContainerRecord | None = None,
        *,
        gone: bool = False,
    ) -> None:
        # Taken before reading, so that what changes afterwards is never older than the time we say.
        self._last_ns = max(time.time_ns(), self._last_ns + 1)
        sandbox_id = container.sandbox_id if container is not None else object_id
        row = self._store.sandbox(sandbox_id) or sandbox or self._ready.get(sandbox_id)
        if row is None:
            removed = self._removed_row(sandbox_id)
            row = removed if isinstance(removed, SandboxRecord) else None
        if row is None:
            return  # a sandbox of which nothing is known any more: nobody can place its containers
        found = [r for r in self._store.containers_of(sandbox_id) if r.phase != "creating"]
        statuses = {s.id: s for s in map(self._status, found)}
        if container is not None:
            if gone:
                statuses.pop(container.id, None)
            elif container.id not in statuses:
                statuses[container.id] = self._status(container)
        event = ContainerEvent(
            kind=kind,  # type: ignore[arg-type] - one of the four, each written above
            id=object_id,
            timestamp_ns=self._last_ns,
            sandbox=self._sandbox_status(row),
            containers=tuple(statuses.values()),
        )
        with self._guard:
            tells = list(self._tells)
        for tell in tells:
            tell(event)

    def _sandbox_status(self, row: SandboxRecord) -> SandboxStatus:
        return sandbox_status(row, self._context.layout.pod(row.id), alive=shim_lives(row))

    def _status(self, record: ContainerRecord) -> ContainerStatus:
        bundle = self._context.layout.bundle(record.id)
        sandbox = self._store.sandbox(record.sandbox_id)
        alive = sandbox is not None and shim_lives(sandbox)
        return container_status(
            record, record.exit or read_exit(bundle), bundle, alive=alive, now_ns=time.time_ns
        )

    def _runs(self, record: ContainerRecord) -> bool:
        sandbox = self._ready.get(record.sandbox_id)
        ended = record.exit or read_exit(self._context.layout.bundle(record.id))
        return container_state(record, ended, alive=sandbox is not None) in ("running", "paused")

    # watches

    def _watch_bundle(self, container_id: str) -> None:
        if container_id in self._watches:
            return
        path = self._context.layout.bundle(container_id)
        try:
            watch = self._inotify.add(path, IN_MOVED_TO)
        except FileNotFoundError:
            return  # removed already: its end comes with its removal
        except OSError as error:
            raise SystemFailure.from_os_error(
                error, "watch for exits", path, hint="raise the sysctl fs.inotify.max_user_watches"
            ) from error
        self._watches[container_id] = watch
        self._bundles[watch] = container_id

    def _unwatch_bundle(self, container_id: str) -> None:
        watch = self._watches.pop(container_id, None)
        if watch is not None:
            self._bundles.pop(watch, None)
            self._inotify.remove(watch)
