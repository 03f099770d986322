# SPDX-License-Identifier: Apache-2.0
"""Sandboxes: reserve a name, spawn a shim, connect the network, write the pod's files; and all of it backwards.

Owns the journal of a sandbox (its phases) and its two directories. Every step backwards tolerates that the
step forwards never happened, so `undo` is both the rollback of a failed call and what recovery does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from oakum.backend.config import BUILT_IN, NetworkRequest, Resources, SandboxConfig
from oakum.backend.status import SandboxFilter, SandboxStatus
from oakum.engine import nameservers, networks, podfiles, pods, user_namespaces
from oakum.engine.attachments import NONE, attachment_options, with_dns_of
from oakum.engine.context import Context
from oakum.engine.locks import ObjectLock
from oakum.engine.spec.mounts import id_mappings
from oakum.engine.spec.resources import check, linux_resources, merge, said_by
from oakum.engine.spec.sysctls import pod_sysctls
from oakum.engine.states import boot_id, process_start, sandbox_status, shim_lives, shim_seems_alive
from oakum.engine.storage import remove_directory, storing
from oakum.engine.store import headroom
from oakum.engine.store.records import ContainerRecord, SandboxRecord, plain
from oakum.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unimplemented,
)
from oakum.model.ids import is_id, new_id, resolve_prefix

if TYPE_CHECKING:
    from oakum.network.attachment import Attachment
    from oakum.shim.client import SandboxRequest

_CREATE_WAIT_S: Final = 120.0
_TOLD_MAX: Final = 4096


class Sandboxes:
    """The sandboxes of one namespace."""

    def __init__(self, context: Context, namespace: str) -> None:
        self._context = context
        self._namespace = namespace
        # id → row, whether its shim lives, and what was made of these: the very object is told again
        self._told: dict[str, tuple[SandboxRecord, bool, SandboxStatus]] = {}

    # making

    def run(
        self,
        config: SandboxConfig,
        *,
        runtime_handler: str = "",
        begun: Callable[[str], None] | None = None,
    ) -> str:
        """Create and start a sandbox; its id. `begun` is told it before others can know it, unless a try is joined."""
        _check(config)
        handler = runtime_handler, self._runtime_path(config, runtime_handler)
        key = name_key(config)
        while True:
            known = self._context.store.sandbox_by_name(self._namespace, key) if key else None
            if known is not None:
                joined = self._join(known)
                if joined:
                    return joined
                continue
            sandbox_id = new_id()
            lock = self._context.locks.acquire(sandbox_id)
            try:
                record = self._reserve(sandbox_id, key or f"container/{sandbox_id}", config, handler)
            except AlreadyExists:
                lock.release(gone=True)
                continue  # somebody was quicker: join them
            except BaseException:  # there is no such sandbox, and nobody else will let its lock go
                lock.release(gone=True)
                raise
            self._make(record, lock, begun)
            return sandbox_id

    def _runtime_path(self, config: SandboxConfig, handler: str) -> str:
        """The program that runs the pod, "" for the built-in runtime. Raises as `Handlers.need`, and Unimplemented."""
        if handler in ("", BUILT_IN):  # nearly all: they look for no program
            return ""
        path = self._context.handlers.need(handler)
        if path and config.namespaces.user != "node":
            raise Unimplemented(
                "run sandbox",
                f"runtime_handler {handler!r}",
                "only the built-in runtime gives a pod users of its own",
                hint="leave the handler out, or let the pod have the host's users",
            )
        return path

    def _join(self, known: SandboxRecord) -> str:
        """Wait for the running try of the same call; its id, or "" when it came to nothing and is undone.

        Raises:
            AlreadyExists: there was no running try; the sandbox is there.
        """
        lock = self._context.locks.acquire(known.id, timeout_s=_CREATE_WAIT_S)
        gone = False
        try:
            now = self._context.store.sandbox(known.id)
            if now is None:
                gone = True
                return ""
            if now.phase == "creating":
                # Its worker is dead, or we would not have the lock.
                self.undo(now)
                gone = True
                return ""
            if lock.waited and now.phase == "ready":
                return now.id
        finally:
            lock.release(gone=gone)
        raise AlreadyExists(
            "run sandbox",
            repr(known.config.metadata.name),
            f"sandbox {known.id[:12]} has this name, namespace, uid and attempt",
            hint="remove it, or raise the attempt",
        )

    def _reserve(
        self, sandbox_id: str, key: str, config: SandboxConfig, handler: tuple[str, str]
    ) -> SandboxRecord:
        parent = config.cgroup_parent
        headroom.require(self._context.layout.root, "run sandbox", repr(config.metadata.name))
        record = SandboxRecord(
            id=sandbox_id,
            namespace=self._namespace,
            name_key=key,
            phase="creating",
            created_at_ns=time.time_ns(),
            config=config,
            runtime_handler=handler[0],
            runtime_path=handler[1],
            # The kubelet makes, limits and removes the pod's cgroup itself, and looks for containers right in it.
            cgroup_path=parent or f"/oakum/{self._namespace}/{sandbox_id}",
            owns_cgroup=not parent,
            has_network=config.namespaces.network != "node" and config.network != NONE,
        )
        with self._context.store.transaction():
            self._context.store.add_namespace(self._namespace)
            self._context.store.put_sandbox(record)
        return record

    def _make(self, record: SandboxRecord, lock: ObjectLock, begun: Callable[[str], None] | None) -> None:
        gone = False
        try:
            if begun is not None:
                begun(record.id)
            self._build(record)
        except BaseException:  # whatever ends this call, nothing may stay behind; it goes on upwards
            self.undo(record)
            gone = True
            raise
        finally:
            lock.release(gone=gone)

    def _build(self, record: SandboxRecord) -> None:
        # Listings and the like need neither shims nor sockets.
        from oakum.shim.client import Spawned

        layout = self._context.layout
        pod = layout.pod(record.id)
        with storing("make pod directory", pod):
            os.makedirs(pod, mode=0o711)
        shim = Spawned(layout.state, _shim_request(record, pod))
        directory, name = layout.sandbox(record.id), hostname(record.config, record.id)
        attach: Callable[[], Attachment | None] | None = None
        try:
            # Meanwhile, for these take no namespace yet.
            if record.has_network:
                attach = networks.begin(self._context, record, name)
            podfiles.write_without_addresses(directory, record.config, name)
        finally:
            pid = shim.pid()
        attachment = attach() if attach is not None else None
        networks.relay(self._context, record)
        addresses = attachment.addresses if attachment else ()
        config = with_dns_of(record.config, attachment)
        if config is not record.config:
            podfiles.write_without_addresses(directory, config, name)
        name_lines = networks.name_lines(self._context, record, attachment)
        podfiles.write_hosts(directory, config, name, addresses, name_lines)
        if networks.is_shared(record):
            networks.write_names(self._context, own=record.id)
            if name_lines is not None:
                nameservers.begin(self._context, record)
                nameservers.write_resolv_conf(self._context, record)
        self._context.store.update_sandbox(
            msgspec.structs.replace(
                record,
                phase="ready",
                boot_id=boot_id(),
                shim_pid=pid,
                shim_start=process_start(pid),
                addresses=addresses,
                interface=attachment.interface if attachment else "",
                host_interface=attachment.host_interface if attachment else "",
                warnings=attachment.warnings if attachment else (),
            )
        )

    # unmaking

    def undo(self, record: SandboxRecord) -> None:
        """Remove every trace of a sandbox without containers. Its lock is ours. Idempotent."""
        self._end(record)
        remove_directory(self._context.layout.sandboxes, record.id)
        remove_directory(self._context.layout.pods, record.id)
        self._context.store.delete_sandbox(record.id)

    def _end(self, record: SandboxRecord) -> None:
        """End the shim with all it holds, and detach the network. Idempotent."""
        network = self._context.network if record.has_network else None
        # CNI plugins are to find the namespace that they leave. Only with one that never came to be, whose caller hears
        # of something else, their failure is not told: the network repeats it until it succeeds.
        if network is not None and network.needs_namespace(record.id):
            (network.abandon if record.phase == "creating" else network.teardown)(record.id)
        pods.end_shim(self._context, record.id, record)
        if network is not None:
            (network.abandon if record.phase == "creating" else network.teardown)(record.id)
            if record.config.owner == "container":
                networks.write_names(self._context)  # what fails stays due, and is said by who tries next

    def stop(self, sandbox_id: str) -> None:
        """Stop containers and network; succeeds for what is gone."""
        found = self.lookup(sandbox_id)
        if found is None:
            return
        with self._context.locks.holding(found.id) as lock:
            record = self._context.store.sandbox(found.id)
            if record is None:
                lock.release(gone=True)
                return
            if record.phase in ("stopped", "removing"):
                return
            if record.phase == "creating":
                self.undo(record)
                lock.release(gone=True)
                return
            self.finish_stop(record)

    def finish_stop(self, record: SandboxRecord) -> None:
        """Do (or, after a crash, do the rest of) a stop. The lock is ours."""
        store = self._context.store
        if record.phase != "stopping":
            record = msgspec.structs.replace(record, phase="stopping")
            store.update_sandbox(record)
        self._end(record)
        for container in store.containers_of(record.id):
            pods.settle(self._context, container)
        store.update_sandbox(
            msgspec.structs.replace(record, phase="stopped", addresses=(), shim_pid=0, shim_start=0)
        )

    def revive(self, record: SandboxRecord) -> None:
        """Make what a stopped or lost sandbox needs to run anew, with its id and configuration. Its lock is ours.

        Only the last step says "ready": whoever is killed before leaves a stopped one, which recovery clears.
        """
        if record.phase != "stopped":
            self.finish_stop(record)
            record = self.need(record.id)
        self._end(record)
        remove_directory(self._context.layout.pods, record.id)
        try:
            self._build(record)
        except BaseException:  # as in `_make`
            self._end(record)
            raise

    def remove(self, sandbox_id: str, *, remove_container: Callable[[ContainerRecord], None]) -> None:
        """Remove a sandbox and its containers; succeeds for what is gone."""
        found = self.lookup(sandbox_id)
        if found is None:
            return
        with self._context.locks.holding(found.id) as lock:
            record = self._context.store.sandbox(found.id)
            if record is not None:
                self.finish_removal(record, remove_container)
            lock.release(gone=True)

    def finish_removal(
        self, record: SandboxRecord, remove_container: Callable[[ContainerRecord], None]
    ) -> None:
        """Do (or, after a crash, do the rest of) a removal. The lock is ours."""
        store = self._context.store
        if record.phase != "removing":
            record = msgspec.structs.replace(record, phase="removing")
            store.update_sandbox(record)
        # From here on no container is added: that takes a ready sandbox.
        for container in store.containers_of(record.id):
            remove_container(container)
        self.undo(record)

    # changing

    def update_resources(
        self, sandbox_id: str, *, overhead: Resources | None, resources: Resources | None
    ) -> None:
        """Note new limits; set them where the cgroup is ours. A kubelet has set them itself before it tells us."""
        for change in (overhead, resources):
            if change is not None:
                check(change)
        found = self.need_ready(sandbox_id)
        with self._context.locks.holding(found.id):
            record = self.need_ready(found.id)
            config = record.config
            changed = {
                name: merge(before or Resources(), change)
                for name, before, change in (
                    ("overhead", config.overhead, overhead),
                    ("resources", config.resources, resources),
                )
                if change is not None
            }
            if resources is not None and record.owns_cgroup:
                # Only what changes a pod's limits needs these.
                from oakum.oci.cgroups import Cgroup
                from oakum.oci.spec import parse_resources

                limits = linux_resources(said_by(resources, changed["resources"]))
                Cgroup(self._context.cgroups, record.cgroup_path).apply(parse_resources(limits))
            self._context.store.update_sandbox(
                msgspec.structs.replace(record, config=msgspec.structs.replace(config, **changed))
            )

    def connect(self, sandbox_id: str, request: NetworkRequest) -> None:
        """Connect to a further network; see `engine.networks`."""
        with self._context.locks.holding(sandbox_id):
            record = self.need(sandbox_id)
            networks.connect(self._context, record, request, hostname(record.config, record.id))

    def disconnect(self, sandbox_id: str, network: str, *, force: bool) -> None:
        """Disconnect from a network; see `engine.networks`."""
        with self._context.locks.holding(sandbox_id):
            networks.disconnect(self._context, self.need(sandbox_id), network, force=force)

    def settle_networks(self, record: SandboxRecord) -> str:
        """Do the rest of a connect or disconnect. The lock is ours."""
        return networks.settle(self._context, record, hostname(record.config, record.id))

    def naming(self, sandbox_id: str) -> AbstractContextManager[None]:
        """Around the making of a sandbox's only container; see `engine.networks`."""
        record = self.need(sandbox_id)
        return networks.naming(self._context, record, hostname(record.config, record.id))

    # asking

    def lookup(self, text: str) -> SandboxRecord | None:
        """The row of a sandbox by id or the beginning of one; None when there is none.

        Raises:
            FailedPrecondition: several begin so.
        """
        store = self._context.store
        if is_id(text):
            record = store.sandbox(text)
            return record if record is not None and record.namespace == self._namespace else None
        if not text:
            raise InvalidArgument("find sandbox", "''", "empty id")
        known = store.ids_beginning("sandboxes", self._namespace, text)
        return store.sandbox(resolve_prefix("sandbox", text, known)) if known else None

    def need(self, text: str) -> SandboxRecord:
        """As `lookup`. Raises NotFound."""
        record = self.lookup(text)
        if record is None:
            raise NotFound("find sandbox", repr(text[:64]), "no such sandbox", hint="oakum pod ls")
        return record

    def need_ready(self, text: str) -> SandboxRecord:
        """As `need`. Raises FailedPrecondition unless it is ready."""
        record = self.need(text)
        if record.phase != "ready" or not shim_lives(record):
            raise FailedPrecondition(
                "use sandbox", record.id[:12], "it is not ready", hint="it was stopped or lost"
            )
        return record

    def status(self, text: str) -> SandboxStatus:
        """One sandbox. Raises NotFound."""
        return self._status(self.need(text), exact=True)

    def find(self, text: str) -> SandboxStatus:
        """One sandbox by id, beginning of one, or name. Raises NotFound, FailedPrecondition."""
        record = self.lookup(text) if text else None
        if record is not None:
            return self._status(record, exact=True)
        named = [r for r in self._context.store.sandboxes(self._namespace) if r.config.metadata.name == text]
        if len(named) > 1:
            raise FailedPrecondition(
                "find sandbox", repr(text), f"{len(named)} sandboxes have this name", hint="use the id"
            )
        return self._status(named[0] if named else self.need(text), exact=True)

    def list(self, wanted: SandboxFilter) -> Sequence[SandboxStatus]:
        """Those that match, newest first."""
        found: list[SandboxStatus] = []
        for record in self._context.store.sandboxes(self._namespace):
            if record.phase == "creating" or not record.id.startswith(wanted.id):
                continue
            if any(record.config.labels.get(name) != value for name, value in wanted.labels.items()):
                continue
            status = self._status(record, exact=False)
            if wanted.state in (None, status.state):
                found.append(status)
        return found

    def _status(self, record: SandboxRecord, *, exact: bool) -> SandboxStatus:
        alive = shim_lives(record) if exact else shim_seems_alive(record)
        known = self._told.get(record.id)
        if known is not None and known[0] is record and known[1] is alive:
            return known[2]
        status = sandbox_status(record, self._context.layout.pod(record.id), alive=alive)
        if len(self._told) > _TOLD_MAX:
            self._told = {}
        self._told[record.id] = (record, alive, status)
        return status

    def inspect(self, text: str) -> dict[str, Any]:
        """All there is to say about a sandbox."""
        status = self.find(text)
        record = self.need(status.id)
        store = self._context.store
        return {
            "status": plain(status),
            "phase": record.phase,
            "interface": record.interface,
            "host_interface": record.host_interface,
            "warnings": list(record.warnings),
            "networks": networks.describe(self._context, record),
            "directory": self._context.layout.sandbox(record.id),
            "live_directory": self._context.layout.pod(record.id),
            "containers": [c.id for c in store.containers_of(record.id)],
        }


def name_key(config: SandboxConfig) -> str:
    """What may be there only once; "" for a sandbox that has no name of its own."""
    if config.owner == "container":
        return ""
    # As JSON, so that no choice of names can look like another one.
    metadata = config.metadata
    key = (metadata.namespace, metadata.name, metadata.uid, metadata.attempt)
    return "pod" + msgspec.json.encode(key).decode()


def hostname(config: SandboxConfig, sandbox_id: str) -> str:
    """The pod's host name: the one asked for, the host's own on the host's UTS namespace, else from the id."""
    if config.hostname:
        return config.hostname
    if config.namespaces.uts == "node":
        return os.uname().nodename
    return sandbox_id[:12]


def _check(config: SandboxConfig) -> None:
    if not config.metadata.name and config.owner != "container":
        raise InvalidArgument("run sandbox", "metadata.name", "a sandbox needs a name")
    if len(config.hostname) > 64:
        raise InvalidArgument("run sandbox", repr(config.hostname), "a host name has at most 64 characters")
    if config.namespaces.user != "node":
        user_namespaces.check(config.namespaces)
    parts = config.cgroup_parent.split("/")
    if ".." in parts or (config.cgroup_parent and not _is_cgroup_parent(config.cgroup_parent)):
        raise InvalidArgument("run sandbox", repr(config.cgroup_parent), "not a cgroup path or slice")
    pod_sysctls(config)
    attachment_options(config, config.cgroup_parent)
    for limits in (config.resources, config.overhead):
        if limits is not None:
            check(limits)


def _is_cgroup_parent(text: str) -> bool:
    return text.startswith("/") or ("/" not in text and text.endswith(".slice"))


def _shim_request(record: SandboxRecord, pod: str) -> SandboxRequest:
    from oakum.shim.client import SandboxRequest  # as in _build

    config = record.config
    modes = config.namespaces
    wanted = [("network", modes.network), ("ipc", modes.ipc), ("uts", modes.uts)]
    own = [kind for kind, mode in wanted if mode != "node"]
    if modes.pid == "pod":
        own.append("pid")
    if modes.user == "pod":
        own.append("user")
    return SandboxRequest(
        sandbox_id=record.id,
        directory=pod,
        create_namespaces=tuple(own),
        hostname=hostname(config, record.id) if "uts" in own else "",
        sysctls=pod_sysctls(config),
        cgroup_path=record.cgroup_path if record.owns_cgroup else "",
        pod_resources=linux_resources(config.resources) if config.resources and record.owns_cgroup else {},
        uid_mappings=tuple(id_mappings(modes.uid_mappings)),
        gid_mappings=tuple(id_mappings(modes.gid_mappings)),
        foreign=bool(record.runtime_path),
    )
