# SPDX-License-Identifier: Apache-2.0
"""A user's stop of a container that has a restart policy: noted before it is done, so that no kill -9 makes it come back."""

from __future__ import annotations

from typing import Final

import msgspec

from oakum.engine.context import Context
from oakum.engine.store.records import ContainerRecord
from oakum.model.signals import parse_signal

# By which people mean an end for good: INT (Ctrl-C), QUIT, KILL and TERM, but not HUP.
_ENDING: Final = (2, 3, 9, 15)


def is_one(record: ContainerRecord, signal_number: int) -> bool:
    """Whether this signal is to end it for good."""
    return bool(record.config.restart) and signal_number in (*_ENDING, parse_signal(record.stop_signal))


def note(context: Context, record: ContainerRecord) -> ContainerRecord:
    """Note it: the policy rests until the container is started by hand. Its row now."""
    with context.locks.holding(record.id) as lock:
        now = context.store.container(record.id)
        if now is None:
            lock.release(gone=True)
            return record
        never_ran = now.phase == "created" and not now.restart_count
        if not now.stopped_by_user and not never_ran:
            now = msgspec.structs.replace(now, stopped_by_user=True)
            context.store.update_container(now)
        return now
