# SPDX-License-Identifier: Apache-2.0
"""Exit records: from a wait status to the value, written durably beside the container's config.

Owns exit.json of a bundle. The record is on the disk before anyone is told (`write`).
"""

from __future__ import annotations

import json
import os
from typing import Final

from oakum.errors import CommandNotRunnable, OakumError, SystemFailure
from oakum.linux import durable
from oakum.model.exits import ExitRecord

FILE_NAME: Final = "exit.json"
# What a container that could not be started exits with, where the error itself has no number for it.
START_FAILED: Final = 128


def from_wait_status(
    status: int, *, oom_killed: bool, started_at_ns: int, finished_at_ns: int, message: str = ""
) -> ExitRecord:
    """The record for a wait(2) status."""
    code = os.waitstatus_to_exitcode(status)
    signal_number = -code if code < 0 else 0
    exit_code = 128 + signal_number if signal_number else code
    reason = "OOMKilled" if oom_killed and exit_code else "Error" if exit_code else "Completed"
    return ExitRecord(
        exit_code=exit_code,
        signal=signal_number,
        oom_killed=oom_killed and exit_code != 0,
        started_at_ns=started_at_ns,
        finished_at_ns=finished_at_ns,
        reason=reason,
        message=message,
    )


def from_start_error(error: OakumError, finished_at_ns: int) -> ExitRecord:
    """The record of a container whose command never ran."""
    return ExitRecord(
        exit_code=error.exit_code if isinstance(error, CommandNotRunnable) else START_FAILED,
        signal=0,
        oom_killed=False,
        started_at_ns=0,
        finished_at_ns=finished_at_ns,
        reason="StartError",
        message=str(error),
    )


def write(bundle: str, record: ExitRecord) -> None:
    """Write exit.json; when this returns it survives a power cut. Raises SystemFailure."""
    path = os.path.join(bundle, FILE_NAME)
    try:
        durable.write_reserved(path, json.dumps(record.to_dict()).encode(), 0o644)
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "write exit record", path) from failure


def read(bundle: str) -> ExitRecord | None:
    """The record in a bundle; None when there is none (yet), or it is damaged."""
    try:
        with open(os.path.join(bundle, FILE_NAME), "rb") as file:
            return ExitRecord.from_dict(json.load(file))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
