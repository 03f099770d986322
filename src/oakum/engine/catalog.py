# SPDX-License-Identifier: Apache-2.0
"""Finding and listing containers: rows, exit records, and whether shims live. Changes nothing but what it learned.

Nothing here asks a shim, so it costs the same whether shims answer, hang, or are gone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from oakum.backend.status import ContainerFilter, ContainerStatus
from oakum.engine import creation, networks
from oakum.engine.context import Context
from oakum.engine.states import container_state, container_status, read_exit, shim_lives, shim_seems_alive
from oakum.engine.store.records import ContainerRecord, ExitFacts, plain
from oakum.errors import FailedPrecondition, InvalidArgument, NotFound
from oakum.model import restarts
from oakum.model.ids import is_id, resolve_prefix


class Catalog:
    """The containers of one namespace, to be read."""

    def __init__(self, context: Context, namespace: str) -> None:
        self._context = context
        self._namespace = namespace
        # id → row, end, whether its shim lives, and what was made of these
        self._told: dict[str, tuple[ContainerRecord, ExitFacts | None, bool, ContainerStatus]] = {}

    def lookup(self, text: str) -> ContainerRecord | None:
        """The row of a container by id or the beginning of one; None when there is none."""
        store = self._context.store
        if is_id(text):
            record = store.container(text)
            return record if record is not None and record.namespace == self._namespace else None
        if not text:
            raise InvalidArgument("find container", "''", "empty id")
        named = store.container_by_name(self._namespace, f"name {text}")
        if named is not None:
            return named
        known = store.ids_beginning("containers", self._namespace, text)
        return store.container(resolve_prefix("container", text, known)) if known else None

    def need(self, text: str) -> ContainerRecord:
        """As `lookup`. Raises NotFound."""
        record = self.lookup(text)
        if record is None:
            raise NotFound("find container", repr(text[:64]), "no such container", hint="oakum ps --all")
        return record

    def find(self, text: str) -> ContainerStatus:
        """One container by id, beginning of one, or name (of CRI too, where only one has it)."""
        record = self.lookup(text)
        if record is None:
            named = [
                r for r in self._context.store.containers(self._namespace) if r.config.metadata.name == text
            ]
            if len(named) > 1:
                raise FailedPrecondition(
                    "find container", repr(text), f"{len(named)} containers have this name", hint="use the id"
                )
            record = named[0] if named else self.need(text)
        return self._status(record, exact=True)

    def status(self, text: str) -> ContainerStatus:
        """One container. Raises NotFound."""
        return self._status(self.need(text), exact=True)

    def list(self, wanted: ContainerFilter) -> Sequence[ContainerStatus]:
        """Those that match, newest first. Reads rows and exit records, asks no shim."""
        return [status for _, status in self.listed(wanted)]

    def listed(self, wanted: ContainerFilter) -> list[tuple[ContainerRecord, ContainerStatus]]:
        """As `list`, with the rows."""
        store = self._context.store
        alive = {s.id: shim_seems_alive(s) for s in store.sandboxes(self._namespace)}
        found: list[tuple[ContainerRecord, ContainerStatus]] = []
        ended: list[ContainerRecord] = []
        everything = not (wanted.id or wanted.sandbox_id or wanted.labels)
        for record in store.containers(self._namespace):
            if record.phase == "creating" or not (everything or _matches(record, wanted)):
                continue
            end = record.exit
            if end is None and record.phase in ("starting", "started", "removing"):
                end = read_exit(self._context.layout.bundle(record.id))
                if end is not None and record.phase == "started":
                    ended.append(msgspec.structs.replace(record, exit=end))
            status = self._told_before(record, end, alive=alive.get(record.sandbox_id, False))
            if wanted.state in (None, status.state):
                found.append((record, status))
        self._remember(ended)
        if everything and len(self._told) > 2 * len(found) + 64:
            there = {record.id for record, _ in found}
            self._told = {key: told for key, told in tuple(self._told.items()) if key in there}
        return found

    def _told_before(self, record: ContainerRecord, end: ExitFacts | None, *, alive: bool) -> ContainerStatus:
        """The status of a row; the very object that was told last time if nothing has changed."""
        known = self._told.get(record.id)
        if known is not None and known[0] is record and known[1] is end and known[2] is alive:
            return known[3]
        bundle = self._context.layout.bundle(record.id)
        status = container_status(record, end, bundle, alive=alive, now_ns=time.time_ns)
        if (
            status.state != "exited" or end is not None
        ):  # a lost container's end is "now" until recovery writes it
            self._told[record.id] = (record, end, alive, status)
        return status

    def _remember(self, ended: Sequence[ContainerRecord]) -> None:
        """Keep newly found ends in the rows, so that the next listing reads no files for them."""
        if not ended or not self._context.store.writable:
            return
        store = self._context.store
        with store.transaction():
            for record in ended:
                now = store.container(record.id)
                # It may have been started again since its end was read.
                same = now is not None and now.started_at_ns == record.started_at_ns
                if now is not None and same and now.exit is None and now.phase == "started":
                    store.update_container(msgspec.structs.replace(now, exit=record.exit))

    def _status(self, record: ContainerRecord, *, exact: bool) -> ContainerStatus:
        sandbox = self._context.store.sandbox(record.sandbox_id)
        alive = sandbox is not None and (shim_lives(sandbox) if exact else shim_seems_alive(sandbox))
        bundle = self._context.layout.bundle(record.id)
        return container_status(
            record, record.exit or read_exit(bundle), bundle, alive=alive, now_ns=time.time_ns
        )

    def state(self, record: ContainerRecord) -> str:
        """The state of a row's container now."""
        sandbox = self._context.store.sandbox(record.sandbox_id)
        return container_state(
            record,
            record.exit or read_exit(self._context.layout.bundle(record.id)),
            alive=sandbox is not None and shim_lives(sandbox),
        )

    def running(self, container_id: str, operation: str, *, paused: bool = False) -> ContainerRecord:
        """The row of a container that runs (or, if that is all right, is paused). Raises FailedPrecondition."""
        record = self.need(container_id)
        state = self.state(record)
        if state == "running" or (paused and state == "paused"):
            return record
        if self.is_restarting(record):
            raise FailedPrecondition(
                operation, record.id[:12], "the container is restarting", hint="wait until it runs"
            )
        raise FailedPrecondition(
            operation, record.id[:12], f"the container is {state}", hint="it must be running"
        )

    def is_restarting(self, record: ContainerRecord) -> bool:
        """Whether it has ended, and its policy is about to have it started again."""
        return bool(record.config.restart) and self._status(record, exact=True).restarting

    def inspect(self, text: str) -> dict[str, Any]:
        """All there is to say about a container."""
        status = self.find(text)
        record = self.need(status.id)
        snapshot = self._context.snapshotter.container_source(record.id)
        sandbox = self._context.store.sandbox(record.sandbox_id)
        return {
            "status": plain(status),
            "phase": record.phase,
            "restart": {"policy": record.config.restart or restarts.NO, "count": record.restart_count},
            "warnings": list(record.warnings),
            "networks": networks.describe(self._context, sandbox) if sandbox is not None else [],
            "image": {"manifest_digest": record.manifest_digest, "chain_id": record.chain_id},
            "rootfs": snapshot.to_dict(),
            "spec": creation.config_of(self._context, record.id),
        }


def _matches(record: ContainerRecord, wanted: ContainerFilter) -> bool:
    if not record.id.startswith(wanted.id) or not record.sandbox_id.startswith(wanted.sandbox_id):
        return False
    return all(record.config.labels.get(name) == value for name, value in wanted.labels.items())
