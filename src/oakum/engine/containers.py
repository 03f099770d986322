# SPDX-License-Identifier: Apache-2.0
"""Containers: their life from creation to removal.

Owns a container's phases and the order of locks: a container's own lock is taken after its sandbox's, never
the other way round. What a shim knows is asked of it only where something changes; listings read the disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec

from oakum.backend.config import ContainerConfig, Resources, SandboxConfig
from oakum.backend.status import ContainerUser
from oakum.engine import creation, pods, scopes, user_stops
from oakum.engine.catalog import Catalog
from oakum.engine.context import Context
from oakum.engine.images import Images
from oakum.engine.leftovers import make_room
from oakum.engine.logs import LogLine, read_log
from oakum.engine.sandboxes import Sandboxes
from oakum.engine.spec import resources as limits
from oakum.engine.states import (
    failed_start,
    read_exit,
    shim_lives,
)
from oakum.engine.store import headroom
from oakum.engine.store.records import ContainerRecord, ExitFacts, SandboxRecord
from oakum.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    ImageNotFound,
    Internal,
    InvalidArgument,
    NotFound,
    OakumError,
    Unavailable,
)
from oakum.model.exits import ExitRecord
from oakum.model.signals import parse_signal

if TYPE_CHECKING:
    import socket

    from oakum.shim.client import ContainerRequest, Created, ShimClient

_Config = TypeVar("_Config", SandboxConfig, ContainerConfig)

_CREATE_WAIT_S: Final = 120.0
_POLL_S: Final = 0.02
_SIGKILL: Final = 9


class Restored(NamedTuple):
    """What a container is to go on from; `fill` puts that into its bundle and layer."""

    checkpoint: str
    fill: Callable[[ContainerRecord], None]


class Containers(Catalog):
    """The containers of one namespace: asking for them (`Catalog`) and changing them."""

    def __init__(self, context: Context, namespace: str, sandboxes: Sandboxes, images: Images) -> None:
        super().__init__(context, namespace)
        self._sandboxes = sandboxes
        self._images = images

    # making

    def create(
        self,
        sandbox_id: str,
        config: ContainerConfig,
        *,
        restored: Restored | None = None,
    ) -> str:
        """Prepare a container; its id. A retry of a call whose first try still runs joins it."""
        sandbox = self._sandboxes.need_ready(sandbox_id)
        may_restore = restored is None and sandbox.config.owner != "container"
        if may_restore and config.image.startswith("/"):
            from oakum.engine import container_restores  # hardly any container is made of a checkpoint

            return container_restores.create_from_file(self._context, self, sandbox, config)
        asked = config
        config = creation.check(sandbox, config)
        image = self._images.need(config.image)
        if may_restore and not (image.entrypoint or image.cmd):
            from oakum.engine import container_restores  # as above

            if container_restores.is_checkpoint(self._context, self._namespace, image):
                return container_restores.create_from_image(self._context, self, sandbox, asked, image)
        views = {m.container_path: self._images.need(m.image) for m in config.mounts if m.image}
        config = creation.with_image_ids(config, views)
        while True:
            known = self._context.store.container_by_name(self._namespace, creation.name_key(sandbox, config))
            if known is not None:
                joined = self._join(known)
                if joined:
                    return joined
                continue
            record = creation.new_record(
                sandbox,
                config,
                image,
                self._context.layout.containers,
                {place: view.manifest_digest for place, view in views.items()},
            )
            if restored is not None:
                record = msgspec.structs.replace(record, restored_from=restored.checkpoint)
            with self._context.locks.holding(record.id) as lock:
                try:
                    self._reserve(record)
                except AlreadyExists:
                    lock.release(gone=True)
                    continue
                except BaseException:
                    lock.release(gone=True)
                    raise
                try:
                    creation.build(self._context, sandbox, record, image, views)
                    if restored is not None:
                        restored.fill(record)
                    self._context.store.update_container(msgspec.structs.replace(record, phase="created"))
                except BaseException:  # whatever ends this call, nothing may stay behind; it goes on upwards
                    creation.discard(self._context, record)
                    lock.release(gone=True)
                    raise
            return record.id

    def _join(self, known: ContainerRecord) -> str:
        lock = self._context.locks.acquire(known.id, timeout_s=_CREATE_WAIT_S)
        gone = False
        try:
            now = self._context.store.container(known.id)
            if now is None:
                gone = True
                return ""
            if now.phase == "creating":
                creation.discard(self._context, now)
                gone = True
                return ""
            if lock.waited and now.phase == "created":
                return now.id
        finally:
            lock.release(gone=gone)
        name = known.config.metadata.name
        raise AlreadyExists(
            "create container",
            repr(name),
            f"container {known.id[:12]} has this name",
            hint=f"oakum rm {known.id[:12]}, or choose another name",
        )

    def _reserve(self, record: ContainerRecord) -> None:
        """Enter the row, in one transaction with what it stands on: see `engine.garbage` and `Sandboxes`."""
        store = self._context.store
        headroom.require(self._context.layout.root, "create container", repr(record.config.metadata.name))
        with store.transaction():
            sandbox = store.sandbox(record.sandbox_id)
            if sandbox is None or sandbox.phase != "ready":
                raise FailedPrecondition(
                    "create container", repr(record.config.metadata.name), "its sandbox was stopped meanwhile"
                )
            for digest in (record.manifest_digest, *(digest for _, digest in record.image_mounts)):
                if store.image(digest) is None:
                    raise ImageNotFound(
                        "create container", repr(record.config.image), "the image was removed meanwhile"
                    )
            store.put_container(record)

    def create_standalone(
        self, sandbox: SandboxConfig, config: ContainerConfig, *, runtime_handler: str = ""
    ) -> str:
        """A sandbox and its one container; the container's id."""
        if sandbox.owner != "container":
            raise InvalidArgument(
                "create container", repr(config.metadata.name), 'its sandbox\'s owner is not "container"'
            )
        if config.init and config.namespaces.pid == "container":
            # The pod's own reaping init is the one to put in front: the container runs beside it, not as number 1.
            sandbox, config = _with_pod_init(sandbox), _with_pod_init(config)
        # What is cheap to find wrong is found before a sandbox is made for nothing.
        self._images.need(config.image)
        key = f"name {config.metadata.name}"
        known = self._context.store.container_by_name(self._namespace, key)
        if known is not None:
            self._join(known)
        if sandbox.network_of:
            from oakum.engine.joins import resolved  # few share a network

            sandbox = resolved(self._context, self, sandbox)
        make_room(self._context, self._sandboxes, sandbox)
        sandbox_id = self._sandboxes.run(sandbox, runtime_handler=runtime_handler)
        try:
            with self._sandboxes.naming(sandbox_id):
                return self.create(sandbox_id, config)
        except BaseException:  # as above
            self._sandboxes.remove(sandbox_id, remove_container=self.remove_one)
            raise

    # starting

    def start(self, container_id: str) -> None:
        """Start a created container."""
        self._start(container_id, self._create_and_start)

    def start_locked(self, record: ContainerRecord) -> None:
        """As `start`; the lock is the caller's."""
        self._start_locked(record, self._create_and_start)

    def _create_and_start(self, client: ShimClient, request: ContainerRequest) -> Created:
        if not request.images and not scopes.is_scope(self.need(request.container_id)):
            return client.create_and_start(request)
        created = self._create_in_scope(client, request)
        return created._replace(started_at_ns=client.start(request.container_id))

    def start_together(self, container_ids: Sequence[str]) -> None:
        """Start created containers; all are there before the first instruction of one."""
        first, rest = container_ids[0], container_ids[1:]

        def steps(client: ShimClient, request: ContainerRequest) -> Created:
            created = self._create_in_scope(client, request)
            if rest:
                self.start_together(rest)
            return created._replace(started_at_ns=client.start(first))

        self._start(first, steps)

    def _create_in_scope(self, client: ShimClient, request: ContainerRequest) -> Created:
        """Have it created, and its group known to systemd before its first instruction."""
        created = client.create(request)
        try:
            scopes.adopt(self._context, self.need(request.container_id), created.pid)
        except OakumError:
            client.delete(request.container_id)
            raise
        return created

    def start_attached(
        self, container_id: str, *, stdin: bool, backpressure: bool, rows: int, columns: int
    ) -> socket.socket:
        """Start a created container with its streams joined before its first instruction."""
        streams: list[socket.socket] = []
        sandbox_id = self.need(container_id).sandbox_id

        def steps(client: ShimClient, request: ContainerRequest) -> Created:
            created = self._create_in_scope(client, request)
            with self.connect(sandbox_id) as second:
                streams.append(second.attach(request.container_id, stdin=stdin, backpressure=backpressure))
            if rows and columns and request.tty:
                client.resize(request.container_id, rows, columns)
            return created._replace(started_at_ns=client.start(request.container_id))

        try:
            self._start(container_id, steps)
        except BaseException:  # the stream is of no use to anybody; it goes on upwards
            for stream in streams:
                stream.close()
            raise
        return streams[0]

    def _start(self, container_id: str, steps: Callable[[ShimClient, ContainerRequest], Created]) -> None:
        asked_at_ns = time.time_ns()
        found = self.need(container_id)
        with self._context.locks.holding(found.id) as lock:
            record = self.need(found.id)
            if lock.waited and record.started_at_ns >= asked_at_ns:
                return  # a retry: the first try has done it
            self._start_locked(record, steps)

    def _start_locked(
        self, record: ContainerRecord, steps: Callable[[ShimClient, ContainerRequest], Created]
    ) -> None:
        sandbox = self._sandbox_of(record)
        if record.phase == "starting":
            # Who began this is dead or gave up waiting, or we would not have the lock.
            record = self.finish_start(record)
        state = self.state(record)
        if state != "created" or record.phase != "created":
            raise FailedPrecondition(
                "start container",
                record.id[:12],
                f"it is {state}",
                hint="a pod's container is started once",
            )
        if sandbox.phase != "ready" or not shim_lives(sandbox):
            raise FailedPrecondition("start container", record.id[:12], "its sandbox is not ready")
        if sandbox.config.network_of:
            from oakum.engine.joins import check  # as above

            check(self._context, sandbox)
        request = creation.shim_request(self._context, sandbox, record)
        starting = msgspec.structs.replace(record, phase="starting")
        self._context.store.update_container(starting)
        try:
            with self.connect(sandbox.id) as client:
                created = steps(client, request)
        except (DeadlineExceeded, Unavailable):
            # How far it came is not known: only the shim or the disk can say, now or later.
            if not shim_lives(sandbox):
                pods.settle(self._context, starting)
            raise
        except OakumError as error:
            self._start_failed(starting, error)
            raise
        if record.restored_from:
            creation.forget_images(self._context, record)
        self._context.store.update_container(
            msgspec.structs.replace(
                starting,
                phase="started",
                restored_from="",
                pid=created.pid,
                started_at_ns=created.started_at_ns,
                warnings=created.warnings,
                user=ContainerUser(uid=created.uid, gid=created.gid, supplemental_groups=created.groups),
            )
        )

    def finish_start(self, record: ContainerRecord) -> ContainerRecord:
        """Find out how far a start has come whose caller is gone: ended, running, or not begun. The lock is ours.

        Raises:
            Unavailable: its shim lives but does not answer.
        """
        if read_exit(self._context.layout.bundle(record.id)) is None:
            sandbox = self._sandbox_of(record)
            if shim_lives(sandbox):
                with self.connect(record.sandbox_id) as client:
                    found = pods.ask_shim(client, record, self._context.layout.bundle(record.id))
                self._context.store.update_container(found)
                return found
        return pods.settle(self._context, record)

    def _start_failed(self, record: ContainerRecord, error: OakumError) -> None:
        """Leave the container as containerd does: exited, with the reason why it never ran."""
        bundle = self._context.layout.bundle(record.id)
        ended = read_exit(bundle)
        if ended is None:
            ended = failed_start(error, time.time_ns())
            pods.write_exit(bundle, ended)
        if record.restored_from:
            creation.forget_images(self._context, record)
        self._context.store.update_container(
            msgspec.structs.replace(record, phase="started", exit=ended, restored_from="")
        )

    def connect(self, sandbox_id: str) -> ShimClient:
        """A connection to a sandbox's shim. Raises Unavailable."""
        from oakum.shim.client import ShimClient  # only what changes something talks to a shim

        return ShimClient.connect(self._context.layout.pod(sandbox_id))

    def _sandbox_of(self, record: ContainerRecord) -> SandboxRecord:
        sandbox = self._context.store.sandbox(record.sandbox_id)
        if sandbox is None:
            raise Internal("find sandbox", record.sandbox_id[:12], "its container is there, it is not")
        return sandbox

    # ending

    def stop(self, container_id: str, *, timeout_s: float) -> None:
        """Stop signal, grace, kill; succeeds for what is not running. Keeps no lock: it may wait for long."""
        record = self.lookup(container_id)
        if record is not None and record.config.restart:
            record = user_stops.note(self._context, record)
        if record is None or self.state(record) not in ("running", "paused"):
            return
        try:
            with self.connect(record.sandbox_id) as client:
                if record.paused:
                    client.resume(record.id)
                    self._context.store.update_container(msgspec.structs.replace(record, paused=False))
                client.stop(record.id, parse_signal(record.stop_signal), max(0.0, timeout_s))
        except (Unavailable, NotFound):
            # The shim ended, or forgot it, between our look and our call: then it does not run either.
            self._settle_lost(record)

    def _settle_lost(self, record: ContainerRecord) -> None:
        now = self._context.store.container(record.id)
        if now is not None and not shim_lives(self._sandbox_of(now)):
            pods.settle(self._context, now)

    def remove(self, container_id: str) -> None:
        """Remove a container, and the sandbox that was made for it alone; succeeds for what is gone."""
        record = self.lookup(container_id)
        if record is None:
            return
        sandbox = self._context.store.sandbox(record.sandbox_id)
        if sandbox is not None and sandbox.config.owner == "container":
            self._sandboxes.remove(sandbox.id, remove_container=self.remove_one)
        else:
            self.remove_one(record)

    def remove_one(self, record: ContainerRecord) -> None:
        """Remove a container and nothing else."""
        with self._context.locks.holding(record.id) as lock:
            now = self._context.store.container(record.id)
            if now is not None:
                self.finish_removal(now)
            lock.release(gone=True)

    def finish_removal(self, record: ContainerRecord) -> None:
        """Do (or, after a crash, do the rest of) a removal. The lock is ours."""
        if record.phase != "removing":
            record = msgspec.structs.replace(record, phase="removing")
            self._context.store.update_container(record)
        self.forget_in_shim(record)
        scopes.release(record)
        ended = record.exit or read_exit(self._context.layout.bundle(record.id))
        if ended is not None and record.exit is None:
            # Who is told of the removal (engine.events) is told how it ended, too.
            self._context.store.update_container(msgspec.structs.replace(record, exit=ended))
        creation.discard(self._context, record)

    def forget_in_shim(self, record: ContainerRecord) -> None:
        """Have the shim kill and forget it; without a shim, kill what is left of it in its cgroup."""
        sandbox = self._context.store.sandbox(record.sandbox_id)
        if sandbox is not None and shim_lives(sandbox):
            try:
                with self.connect(record.sandbox_id) as client:
                    client.delete(record.id)
                return
            except Unavailable:
                if shim_lives(sandbox):
                    raise
        pods.remove_cgroup(self._context, record.cgroup_path)

    # changing

    def kill(self, container_id: str, signal_number: int) -> None:
        """Send a signal. One that is to end it ends its restarts, too."""
        found = self.need(container_id)
        if user_stops.is_one(found, signal_number):
            restarting = self.is_restarting(found)
            if self.state(user_stops.note(self._context, found)) in ("created", "exited") and restarting:
                return
        record = self.running(container_id, "kill container", paused=True)
        with self.connect(record.sandbox_id) as client:
            client.kill(record.id, signal_number)
            if signal_number == _SIGKILL and record.paused:
                # A frozen process dies only when it thaws (cgroup v1).
                client.resume(record.id)

    def pause(self, container_id: str) -> None:
        """Freeze it."""
        record = self.running(container_id, "pause container")
        with self._context.locks.holding(record.id), self.connect(record.sandbox_id) as client:
            client.pause(record.id)
            self._context.store.update_container(msgspec.structs.replace(self.need(record.id), paused=True))

    def resume(self, container_id: str) -> None:
        """Thaw it."""
        record = self.running(container_id, "resume container", paused=True)
        with self._context.locks.holding(record.id), self.connect(record.sandbox_id) as client:
            # The row first: whoever is killed between leaves what can be resumed, here as in `pause`.
            before = self.need(record.id)
            self._context.store.update_container(msgspec.structs.replace(before, paused=False))
            try:
                client.resume(record.id)
            except OakumError:
                self._context.store.update_container(before)
                raise

    def update_resources(self, container_id: str, change: Resources) -> None:
        """Change limits; of a container that is to be started, once more maybe, in its bundle."""
        limits.check(change)
        found = self.need(container_id)
        with self._context.locks.holding(found.id):
            record = self.need(found.id)
            state = self.state(record)
            merged = limits.merge(record.resources, change)
            limits.check(merged)
            if state in ("running", "paused"):
                with self.connect(record.sandbox_id) as client:
                    said = limits.linux_resources(limits.said_by(change, merged))
                    scopes.change(self._context, record, said)
                    client.update(record.id, said)
                if change.oom_score_adj is not None:
                    from oakum.engine import oom  # hardly an update has one

                    oom.set_score(self._context.cgroups, record.cgroup_path, change.oom_score_adj)
            elif state != "created":
                raise FailedPrecondition("update container", record.id[:12], f"it is {state}")
            if state == "created" or self._sandbox_of(record).config.owner == "container":
                # The next start, too, is to have them.
                creation.rewrite_resources(self._context, record.id, merged)
            self._context.store.update_container(
                msgspec.structs.replace(self.need(record.id), resources=merged)
            )

    def reopen_log(self, container_id: str) -> None:
        """Open the log's path anew."""
        record = self.running(container_id, "reopen log", paused=True)
        with self.connect(record.sandbox_id) as client:
            client.reopen_log(record.id)

    # streams

    def attach(
        self, container_id: str, *, stdin: bool, stdout: bool, stderr: bool, backpressure: bool
    ) -> socket.socket:
        """Join a running container's streams."""
        record = self.running(container_id, "attach to container", paused=True)
        with self.connect(record.sandbox_id) as client:
            return client.attach(
                record.id, stdin=stdin, stdout=stdout, stderr=stderr, backpressure=backpressure
            )

    def resize(self, container_id: str, rows: int, columns: int) -> None:
        """Set the terminal's size."""
        record = self.running(container_id, "resize terminal", paused=True)
        with self.connect(record.sandbox_id) as client:
            client.resize(record.id, rows, columns)

    def close_stdin(self, container_id: str) -> None:
        """Close standard input."""
        record = self.running(container_id, "close stdin", paused=True)
        with self.connect(record.sandbox_id) as client:
            client.close_stdin(record.id)

    def logs(self, container_id: str, *, follow: bool, tail: int | None, since_ns: int) -> Iterator[LogLine]:
        """The log's lines."""
        record = self.need(container_id)
        if not record.log_path:
            raise NotFound(
                "read log",
                record.id[:12],
                "the container has no log",
                hint="its pod was made without a log directory",
            )
        return read_log(
            record.log_path,
            follow=follow,
            tail=tail,
            since_ns=since_ns,
            ended=lambda: self._is_over(record.id),
        )

    def _is_over(self, container_id: str) -> bool:
        record = self._context.store.container(container_id)
        return record is None or (self.state(record) == "exited" and not self.is_restarting(record))

    # asking

    def wait(self, container_id: str, *, timeout_s: float | None) -> ExitRecord:
        """Block until it has ended."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        container_id = self.need(container_id).id
        while True:
            record = self.need(container_id)
            state = self.state(record)
            left = None if deadline is None else deadline - time.monotonic()
            if state == "exited":
                return _as_record(self._end_of(record))
            if left is not None and left <= 0:
                raise DeadlineExceeded(
                    "wait for container", record.id[:12], f"it is still {state} after {timeout_s:g} s"
                )
            if state == "created":
                time.sleep(_POLL_S if left is None else min(_POLL_S, left))
                continue
            try:
                with self.connect(record.sandbox_id) as client:
                    return client.wait(record.id, left)
            except (Unavailable, NotFound):
                time.sleep(_POLL_S)  # the shim has just ended or forgotten it: the disk says how it came

    def _end_of(self, record: ContainerRecord) -> ExitFacts:
        ended = record.exit or read_exit(self._context.layout.bundle(record.id))
        if ended is None:
            ended = pods.settle(self._context, record).exit
        assert ended is not None
        return ended


def _with_pod_init(config: _Config) -> _Config:
    return msgspec.structs.replace(config, namespaces=msgspec.structs.replace(config.namespaces, pid="pod"))


def _as_record(facts: ExitFacts) -> ExitRecord:
    return ExitRecord(**{name: getattr(facts, name) for name in ExitFacts.__struct_fields__})
