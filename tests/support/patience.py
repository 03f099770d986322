# SPDX-License-Identifier: Apache-2.0
"""Waiting for what a test expects to come, OAKUM_TESTS_PATIENCE times as long as on a quiet machine.

scripts/test sets it: 6, for machines that are slow and busy, and 20 in its emulated ones.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def patient(seconds: float) -> float:
    """What `seconds` on a quiet machine may take on this one: to tell what moves from what hangs, not to measure."""
    return seconds * float(os.environ.get("OAKUM_TESTS_PATIENCE", "1"))


def eventually(check: Callable[[], T], what: str = "it", timeout_s: float = 10.0) -> T:
    """Wait until `check` gives something true, which is the result; fails after `timeout_s` times the patience."""
    limit_s = patient(timeout_s)
    deadline = time.monotonic() + limit_s
    while not (found := check()):
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what}"
        time.sleep(0.01)
    return found
