# SPDX-License-Identifier: Apache-2.0
"""What processes cost in memory: proportional set size, in which shared pages count by their share."""

from __future__ import annotations

from collections.abc import Iterable


def pss_mb(pids: Iterable[int]) -> float:
    """The sum over `pids` in MB; processes that end meanwhile count nothing.

    Source: proc_pid_smaps_rollup(5).
    """
    total_kb = 0
    for pid in set(pids):
        try:
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
                total_kb += sum(int(line.split()[1]) for line in f if line.startswith("Pss:"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total_kb / 1024


def children(pid: int) -> list[int]:
    """The direct children of a process, of all its threads."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
            return [int(word) for word in f.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def command(pid: int) -> list[str]:
    """The words of a process's command line; none when it is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return [word.decode(errors="replace") for word in f.read().split(b"\0")]
    except (FileNotFoundError, ProcessLookupError):
        return []


def with_helpers(pids: Iterable[int], payload: str) -> list[int]:
    """`pids` and their descendants but those that run `payload`, the container's own process."""
    found: list[int] = []
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        if payload not in command(pid)[:2]:
            found.append(pid)
            waiting += children(pid)
    return found
