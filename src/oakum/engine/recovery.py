# SPDX-License-Identifier: Apache-2.0
"""Putting right what killed processes left: finish or undo every change whose worker is dead.

Who works on an object holds its lock, so a row in a passing phase with a free lock is nobody's. Idempotent,
and safe beside any number of other engines at work: a lock that is held is left alone, and a directory counts
as forgotten only when its row was missing after the directory was seen (rows come first and go last).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from oakum.engine import creation, garbage, half_restored, networks, pod_checkpoints, pods
from oakum.engine.context import Context
from oakum.engine.locks import ObjectLock
from oakum.engine.named_volumes import NamedVolumes
from oakum.engine.states import shim_lives, shim_seems_alive
from oakum.engine.storage import remove_directory
from oakum.engine.store.records import ContainerRecord, SandboxRecord
from oakum.errors import OakumError
from oakum.model.ids import is_id

# Far longer than a container takes to be made in a sandbox that is there.
_ABANDONED_S: Final = 900


class Worker(Protocol):
    """What recovery needs of a namespace: the endings that its calls have too."""

    def undo_sandbox(self, record: SandboxRecord) -> None:
        """Remove every trace of a sandbox without containers."""
        ...

    def finish_sandbox_stop(self, record: SandboxRecord) -> None:
        """Do the rest of a stop."""
        ...

    def finish_sandbox_removal(self, record: SandboxRecord) -> None:
        """Do the rest of a removal."""
        ...

    def settle_networks(self, record: SandboxRecord) -> str:
        """Bring a sandbox's networks to what its row says; what was done."""
        ...

    def finish_container_start(self, record: ContainerRecord) -> str:
        """Find out how far a start has come; the state it came to."""
        ...

    def finish_container_removal(self, record: ContainerRecord) -> None:
        """Do the rest of a removal."""
        ...

    def thaw_sandbox(self, sandbox_id: str) -> str:
        """Let go on what somebody froze for a checkpoint; what was done, "" for nothing."""
        ...


def recover(context: Context, worker: Callable[[str], Worker]) -> list[str]:
    """Finish or undo what is half done, and take in what ended unseen. Two queries when there is nothing to do."""
    if not os.path.exists(context.layout.database):
        return []
    done: list[str] = []
    store = context.store
    if not store.writable:
        return done  # on a read-only file system all there is to do is look
    sandbox_ids, container_ids = store.unsettled()
    lost = [s.id for s in store.sandboxes() if s.phase == "ready" and not shim_seems_alive(s)]
    # Sandboxes first: undoing one needs no container, removing one removes its containers.
    for sandbox_id in (*sandbox_ids, *lost):
        _with_lock(
            context, sandbox_id, lambda lock, key=sandbox_id: _sandbox(context, worker, key, lock), done
        )
    for container_id in container_ids:
        _with_lock(
            context, container_id, lambda lock, key=container_id: _container(context, worker, key, lock), done
        )
    done += networks.recover(context, lambda key: _networks(context, worker, key))
    return done


def _abandoned(context: Context, worker: Callable[[str], Worker]) -> list[str]:
    """Sandboxes made for one container each whose maker was killed before that one was there: nobody lists them."""
    done: list[str] = []
    latest_ns = time.time_ns() - _ABANDONED_S * 1_000_000_000

    def undo(lock: ObjectLock, sandbox_id: str) -> str:
        record = context.store.sandbox(sandbox_id)
        if record is None or context.store.containers_of(sandbox_id):
            return ""
        worker(record.namespace).undo_sandbox(record)
        lock.release(gone=True)
        return f"sandbox {sandbox_id[:12]}: its container was never made, undone"

    for record in context.store.sandboxes():
        # Its lock is free for a moment between the making of the two: only age tells.
        old = record.config.owner == "container" and record.created_at_ns < latest_ns
        if old and not context.store.containers_of(record.id):
            _with_lock(context, record.id, lambda lock, key=record.id: undo(lock, key), done)
    return done


def _networks(context: Context, worker: Callable[[str], Worker], sandbox_id: str) -> str:
    def finish(lock: ObjectLock) -> str:
        record = context.store.sandbox(sandbox_id)
        if record is not None:
            return worker(record.namespace).settle_networks(record)
        networks.forget(context, sandbox_id)
        lock.release(gone=True)
        return ""

    said: list[str] = []
    _with_lock(context, sandbox_id, finish, said)
    return "".join(said)


def recover_fully(context: Context, worker: Callable[[str], Worker]) -> list[str]:
    """As `recover`, and remove every directory, snapshot, address and lock that belongs to no row."""
    context.store.require_writable()
    done = recover(context, worker)
    done += _abandoned(context, worker)
    done += _orphaned_pods(context)
    done += _orphaned_directories(context)
    done += _half_restored(context, worker)
    done += _frozen(context, worker)
    done += _orphaned_snapshots(context)
    done += _orphaned_addresses(context)
    done += _orphaned_locks(context)
    done += garbage.collect(context)
    for namespace in context.store.namespaces():
        NamedVolumes(context, namespace).cleanup()
    context.snapshotter.cleanup()
    context.content.cleanup()
    return done


def _with_lock(context: Context, name: str, step: Callable[[ObjectLock], str], done: list[str]) -> None:
    """One object, if nobody works on it. A failure is said and does not keep the others from being recovered."""
    lock = None
    try:
        lock = context.locks.try_acquire(name)
        if lock is None:
            return
        said = step(lock)
    except OakumError as error:
        said = f"{name[:12]}: not recovered: {error}"
    finally:
        if lock is not None:
            lock.release()
    if said:
        done.append(said)


def _sandbox(context: Context, worker: Callable[[str], Worker], sandbox_id: str, lock: ObjectLock) -> str:
    record = context.store.sandbox(sandbox_id)
    if record is None:
        lock.release(gone=True)
        return ""
    name = f"sandbox {sandbox_id[:12]}"
    hands = worker(record.namespace)
    if record.phase == "creating":
        hands.undo_sandbox(record)
        lock.release(gone=True)
        return f"{name}: half made, undone"
    if record.phase == "removing":
        hands.finish_sandbox_removal(record)
        lock.release(gone=True)
        return f"{name}: half removed, finished"
    if record.phase == "stopping":
        hands.finish_sandbox_stop(record)
        return f"{name}: half stopped, finished"
    if record.phase == "ready" and not shim_lives(record):
        hands.finish_sandbox_stop(record)
        return f"{name}: its shim is gone, what it left was cleared away"
    return ""


def _container(context: Context, worker: Callable[[str], Worker], container_id: str, lock: ObjectLock) -> str:
    record = context.store.container(container_id)
    if record is None:
        lock.release(gone=True)
        return ""
    name = f"container {container_id[:12]}"
    if record.phase == "creating":
        creation.discard(context, record)
        lock.release(gone=True)
        return f"{name}: half made, undone"
    if record.phase == "removing":
        worker(record.namespace).finish_container_removal(record)
        lock.release(gone=True)
        return f"{name}: half removed, finished"
    if record.phase == "starting":
        return f"{name}: half started, now {worker(record.namespace).finish_container_start(record)}"
    return ""


def _listed(directory: str) -> list[str]:
    try:
        return [name for name in os.listdir(directory) if is_id(name)]
    except FileNotFoundError:
        return []


def _orphaned_pods(context: Context) -> list[str]:
    done: list[str] = []
    for name in _listed(context.layout.pods):
        record = context.store.sandbox(name)
        if record is None:
            pods.end_shim(context, name, None)
            remove_directory(context.layout.pods, name)
            done.append(f"sandbox {name[:12]}: unknown, ended")
        elif record.phase == "stopped" and os.listdir(f"{context.layout.pods}/{name}"):
            # Whoever began to revive it (engine.again) was killed.
            _with_lock(context, name, lambda _, key=name: _half_revived(context, key), done)
    return done


def _half_revived(context: Context, sandbox_id: str) -> str:
    record = context.store.sandbox(sandbox_id)
    if record is None or record.phase != "stopped":
        return ""
    pods.end_shim(context, sandbox_id, record)
    remove_directory(context.layout.pods, sandbox_id)
    return f"sandbox {sandbox_id[:12]}: half revived, stopped"


def _orphaned_directories(context: Context) -> list[str]:
    done: list[str] = []
    for name in _listed(context.layout.containers):
        if context.store.container(name) is None:
            remove_directory(context.layout.containers, name)
            done.append(f"container {name[:12]}: unknown, directory removed")
    for name in _listed(context.layout.sandboxes):
        if context.store.sandbox(name) is None:
            remove_directory(context.layout.sandboxes, name)
            done.append(f"sandbox {name[:12]}: unknown, directory removed")
    return done


def _frozen(context: Context, worker: Callable[[str], Worker]) -> list[str]:
    done: list[str] = []
    for name in _listed(context.layout.sandboxes):
        if pod_checkpoints.noted(context, name):
            _with_lock(context, name, lambda _, key=name: _half_checkpointed(context, worker, key), done)
    return done


def _half_checkpointed(context: Context, worker: Callable[[str], Worker], sandbox_id: str) -> str:
    record = context.store.sandbox(sandbox_id)
    return worker(record.namespace).thaw_sandbox(sandbox_id) if record is not None else ""


def _orphaned_snapshots(context: Context) -> list[str]:
    gone = [name for name in context.snapshotter.containers() if context.store.container(name) is None]
    for name in gone:
        context.snapshotter.remove_container(name)
    return [f"snapshot {name[:12]}: of no container, removed" for name in gone]


def _half_restored(context: Context, worker: Callable[[str], Worker]) -> list[str]:
    """Sandboxes whose restorer was killed: what is there of them is removed."""
    done: list[str] = []

    def remove(lock: ObjectLock, sandbox_id: str) -> str:
        record = context.store.sandbox(sandbox_id)
        said = (
            half_restored.recover(context, record, worker(record.namespace).finish_sandbox_removal)
            if record
            else ""
        )
        if said:
            lock.release(gone=True)
        return said

    for name in _listed(context.layout.sandboxes):
        if half_restored.noted(context, name):
            _with_lock(context, name, lambda lock, key=name: remove(lock, key), done)
    return done


class _Everybody(frozenset[str]):
    """Contains every id: `BuiltinNetwork.gc` is to restore rules and links here, not to judge who lives."""

    def __contains__(self, _item: object) -> bool:
        return True


def _orphaned_addresses(context: Context) -> list[str]:
    done: list[str] = []
    for attachment in context.network.attachments():
        name = attachment.sandbox_id
        record = context.store.sandbox(name)
        if record is None or record.phase == "stopped":
            context.network.abandon(name)
            still = context.network.attachment(name) is not None
            done.append(f"address of sandbox {name[:12]}: {'to be freed yet' if still else 'freed'}")
    done += networks.write_names(context)
    try:
        context.network.gc(_Everybody())
    except OakumError as error:
        # A plugin that fails keeps nobody from being served; what it owes is repeated.
        done.append(f"networks: not tidied up: {error}")
    return done


def _orphaned_locks(context: Context) -> list[str]:
    names: Iterable[str] = context.locks.names()
    gone = [n for n in names if context.store.sandbox(n) is None and context.store.container(n) is None]
    # A lock that is held belongs to somebody who is about to write its row.
    return [f"lock {name[:12]}: of nothing, removed" for name in gone if context.locks.forget(name)]
