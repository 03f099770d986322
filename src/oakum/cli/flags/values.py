# SPDX-License-Identifier: Apache-2.0
"""Numbers and sizes of resource options: bytes, processors, limits, processor sets, times.

Owns the text forms only; what the limits do is the engine's matter.
"""

from __future__ import annotations

import re
from typing import Final

from oakum.backend.config import Rlimit
from oakum.errors import InvalidArgument

# patterns are compiled when an option needs them, not at every start
_SIZE: Final = r"(\d{1,19})(?:\.(\d{1,9}))?\s*([kmgtp]?)(?:i?b)?"
_UNITS: Final = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_DECIMAL: Final = r"(\d{1,6})(?:\.(\d{1,9}))?|\.(\d{1,9})"
_CPU_SET: Final = r"\d{1,5}(?:-\d{1,5})?(?:,\d{1,5}(?:-\d{1,5})?)*"
_AGE: Final = r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,9})s)?"
_INSTANT: Final = r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?\s*(Z|[+-]\d\d:?\d\d)?"
_EPOCH: Final = r"(\d{1,11})(?:\.(\d{1,9}))?"

_INT64_MAX: Final = 2**63 - 1
# RLIM_INFINITY of getrlimit(2) on every 64-bit Linux
_UNLIMITED: Final = 2**64 - 1
# The kernel's default period of the CFS quota: sched-bwc, "cpu.cfs_period_us"
CPU_PERIOD_US: Final = 100_000
# limits of a process's own memory; below this even our part of a container's start fails
_MEMORY_LIMITS: Final = ("as", "data")
_LEAST_MEMORY_BYTES: Final = 32 << 20
_LIMIT_NAMES: Final = frozenset(
    [
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ]
)


def parse_size(option: str, text: str) -> int:
    """Bytes of "512m", "1.5g", "64MiB", "4096": units are powers of 1024.

    Raises:
        InvalidArgument: not a size, or above 2^63 - 1.
    """
    match = re.fullmatch(_SIZE, text.strip(), re.IGNORECASE | re.ASCII)
    if match is None:
        raise InvalidArgument(
            f"parse {option}", repr(text), "not a size", hint="try 512m, 1.5g or a number of bytes"
        )
    whole, fraction, unit = match[1], match[2] or "", match[3].lower()
    scale = 1 << _UNITS[unit]
    size = int(whole) * scale + (int(fraction) * scale // 10 ** len(fraction) if fraction else 0)
    if size > _INT64_MAX:
        raise InvalidArgument(f"parse {option}", repr(text), "too large")
    return size


def parse_swap(memory_bytes: int, text: str) -> int:
    """Bytes of memory plus swap together; "-1" means no limit and gives -1.

    Raises:
        InvalidArgument: not a size, below the memory limit, or without one.
    """
    if text.strip() == "-1":
        return -1
    total = parse_size("--memory-swap", text)
    if not memory_bytes:
        raise InvalidArgument("parse --memory-swap", repr(text), "needs a memory limit", hint="add --memory")
    if total < memory_bytes:
        raise InvalidArgument(
            "parse --memory-swap",
            repr(text),
            "below the memory limit",
            hint="it counts memory and swap together, so give at least --memory",
        )
    return total


def parse_cpus(text: str) -> int:
    """Microseconds of processor time per period of 100 ms for "0.5" or "2" processors.

    Raises:
        InvalidArgument: not a number, or below the kernel's least quota of 1 ms (sched-bwc).
    """
    match = re.fullmatch(_DECIMAL, text.strip(), re.ASCII)
    if match is None:
        raise InvalidArgument("parse --cpus", repr(text), "not a number of processors", hint="try 0.5 or 2")
    fraction = match[2] or match[3] or ""
    quota = int(match[1] or "0") * CPU_PERIOD_US
    if fraction:
        quota += int(fraction) * CPU_PERIOD_US // 10 ** len(fraction)
    if quota and quota < 1000:
        raise InvalidArgument("parse --cpus", repr(text), "too little", hint="the least is 0.01")
    return quota


def parse_cpu_set(option: str, text: str) -> str:
    """`text` when it is a list such as "0-3,6"; empty stays empty.

    Raises:
        InvalidArgument: it is not, or a range runs backwards.
    """
    text = text.strip()
    if not text:
        return ""
    if not re.fullmatch(_CPU_SET, text, re.ASCII):
        raise InvalidArgument(f"parse {option}", repr(text), "not a list of numbers", hint="try 0-1 or 0,2")
    for part in text.split(","):
        low, _, high = part.partition("-")
        if high and int(high) < int(low):
            raise InvalidArgument(f"parse {option}", repr(text), f"the range {part} runs backwards")
    return text


def _limit(option: str, text: str, value: str) -> int:
    if value in ("-1", "unlimited"):
        return _UNLIMITED
    if not (value.isascii() and value.isdecimal()) or len(value) > 19:
        raise InvalidArgument(
            f"parse {option}", repr(text), f"{value!r} is no limit", hint="try nofile=1024:4096"
        )
    return int(value)


def parse_ulimit(text: str) -> Rlimit:
    """The limit that "nofile=1024:4096" or "core=-1" describes; one number sets both.

    Raises:
        InvalidArgument: unknown name, not a number, or soft above hard.
    Source: getrlimit(2).
    """
    name, equals, values = text.partition("=")
    name = name.strip().lower()
    if not equals or name not in _LIMIT_NAMES:
        raise InvalidArgument(
            "parse --ulimit",
            repr(text),
            "not NAME=SOFT[:HARD]",
            hint="names: " + " ".join(sorted(_LIMIT_NAMES)),
        )
    soft_text, colon, hard_text = values.strip().partition(":")
    soft = _limit("--ulimit", text, soft_text)
    hard = _limit("--ulimit", text, hard_text) if colon else soft
    if soft > hard:
        raise InvalidArgument("parse --ulimit", repr(text), "the soft limit is above the hard one")
    if name in _MEMORY_LIMITS and soft < _LEAST_MEMORY_BYTES:
        raise InvalidArgument(
            "parse --ulimit",
            repr(text),
            f"no process starts with less than {_LEAST_MEMORY_BYTES} bytes",
            hint="it is given in bytes (`ulimit -v` of shells has KiB); to limit what a container uses: --memory",
        )
    return Rlimit(type=f"RLIMIT_{name.upper()}", soft=soft, hard=hard)


def _nanoseconds(fraction: str | None) -> int:
    return int((fraction or "").ljust(9, "0"))


def _parse_instant(text: str) -> int | None:
    match = re.fullmatch(_INSTANT, text, re.ASCII)
    if match is None:
        return None
    import datetime as dt  # `logs --since` only

    zone = (match[5] or "").replace("Z", "+00:00")
    try:
        moment = dt.datetime.fromisoformat(f"{match[1]}T{match[2] or '00:00'}:{match[3] or '00'}{zone}")
    except ValueError:
        return None
    # a time without zone is the user's own clock
    return int(moment.astimezone(dt.UTC).timestamp()) * 1_000_000_000 + _nanoseconds(match[4])


def parse_since(text: str, *, now_ns: int, option: str = "--since") -> int:
    """Nanoseconds since the epoch of "10m", "1h30m", "2026-01-02T03:04:05Z" or a Unix time.

    Raises:
        InvalidArgument: none of these.
    """
    text = text.strip()
    if text and (match := re.fullmatch(_AGE, text, re.ASCII)):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return now_ns - (((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 1_000_000_000
    if match := re.fullmatch(_EPOCH, text, re.ASCII):
        return int(match[1]) * 1_000_000_000 + _nanoseconds(match[2])
    moment = _parse_instant(text)
    if moment is None:
        raise InvalidArgument(
            f"parse {option}", repr(text), "not a time", hint="try 10m, 2h or 2026-01-02T03:04:05Z"
        )
    return moment
