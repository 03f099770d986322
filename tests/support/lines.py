# SPDX-License-Identifier: Apache-2.0
"""Killing a piece of our code between any two of its lines."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any


def killed_at_every_line(action: Callable[[], object], *, within: str, step: int = 1) -> Iterator[int]:
    """Run `action` in forked children, killing the first at its first line of files below `within`, the next one later.

    Yields the number of lines that ran, after each killed child; ends when a child got through. `within` is a part of
    the path, such as "oakum/snapshots". The caller checks what was left, and cleans up.
    """
    line = 1
    while killed_at(line, action, within=within):
        yield line
        line += step


def killed_at(line: int, action: Callable[[], object], *, within: str) -> bool:
    """Run `action` in a forked child that is killed at this line; whether it was, or got through before."""
    child = os.fork()
    if child == 0:
        _run_and_die(action, within, line)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        assert os.waitstatus_to_exitcode(status) == 0, "the action failed by itself"
        return False
    assert os.WTERMSIG(status) == signal.SIGKILL
    return True


def _run_and_die(action: Callable[[], object], within: str, line: int) -> None:
    left = line

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if within not in frame.f_code.co_filename:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    status = 1
    try:
        sys.settrace(trace)
        action()
        status = 0
    finally:
        sys.settrace(None)
        os._exit(status)
