# SPDX-License-Identifier: Apache-2.0
"""`oakum oci events`: statistics and out-of-memory events, a JSON object a line, in the shape that runc's have."""

from __future__ import annotations

import json
import sys
import time

from oakum.cli.oci.statistics import collect
from oakum.errors import FailedPrecondition, InvalidArgument
from oakum.model.light import TYPE_CHECKING
from oakum.oci.cgroups.layout import detect_layout
from oakum.oci.runtime.container import Container

if TYPE_CHECKING:
    from typing import Any, Final

_UNITS_S: Final = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_LOOK_S: Final = 0.1


def write_events(root: str, container_id: str, *, interval: str, once: bool) -> int:
    """Write events until the container ends, or its statistics once. Raises FailedPrecondition, InvalidArgument."""
    interval_s = duration_s(interval)
    container = Container.find(root, container_id)
    if container.status() == "stopped":
        raise FailedPrecondition(
            "use container", container_id, f"container with id {container_id} is not running"
        )
    kills = container.cgroup.oom_kills()
    due_s = time.monotonic() + (0 if once else interval_s)
    while True:
        if time.monotonic() >= due_s:
            _write(container, "stats", collect(detect_layout(), container.record.cgroup_path))
            due_s += interval_s
        if once or not container.alive():
            return 0
        now = container.cgroup.oom_kills()
        if now > kills:
            _write(container, "oom", None)
        kills = now
        time.sleep(min(_LOOK_S, max(0.0, due_s - time.monotonic())))


def _write(container: Container, kind: str, data: dict[str, Any] | None) -> None:
    event: dict[str, Any] = {"type": kind, "id": container.id}
    if data is not None:
        event["data"] = data
    sys.stdout.write(json.dumps(event, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def duration_s(text: str) -> float:
    """Seconds of "5s", "500ms", "1m". Raises InvalidArgument unless it is above zero."""
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = _UNITS_S.get(text[len(digits) :])
    try:
        value = float(digits) * (unit or 0)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise InvalidArgument("read command line", f"--interval {text!r}", "not a duration above zero, as 5s")
    return value
