# SPDX-License-Identifier: Apache-2.0
"""How values read to people: sizes, ages, short ids, and text from outside made safe to print. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from oakum.backend.status import ContainerStatus

_SIZE_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_BINARY_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
# largest first: seconds in a unit, its name, and how many of it before the larger unit reads better
_AGE_UNITS: Final = (
    (31_536_000, "year", 2),
    (2_592_000, "month", 2),
    (604_800, "week", 2),
    (86_400, "day", 2),
    (3_600, "hour", 2),
    (60, "minute", 1),
    (1, "second", 1),
)
_NS: Final = 1_000_000_000
SHORT_ID: Final = 12


def _scaled(value: float, step: int, units: tuple[str, ...]) -> str:
    power = 0
    while abs(value) >= step and power + 1 < len(units):
        value /= step
        power += 1
    if power == 0:
        return f"{int(value)}{units[0]}"
    return f"{value:.3g}{units[power]}" if abs(value) < 999.5 else f"{value:.0f}{units[power]}"


def human_size(size_bytes: int) -> str:
    """Bytes in decimal units, three digits, as image lists have them: 4.27MB."""
    return _scaled(float(size_bytes), 1000, _SIZE_UNITS)


def human_memory(size_bytes: int) -> str:
    """Bytes in binary units, three digits, as limits are given: 512MiB."""
    return _scaled(float(size_bytes), 1024, _BINARY_UNITS)


def human_duration(seconds: float) -> str:
    """A stretch of time in its largest fitting unit: "4 seconds", "3 hours"."""
    whole = max(0, int(seconds))
    if whole < 1:
        return "less than a second"
    for length, name, least in _AGE_UNITS:
        count = whole // length
        if count >= least:
            return f"{count} {name}{'' if count == 1 else 's'}"
    return f"{whole} seconds"


def human_age(moment_ns: int, *, now_ns: int) -> str:
    """How long ago `moment_ns` was; 0 means never and gives "-"."""
    if moment_ns <= 0:
        return "-"
    return human_duration((now_ns - moment_ns) / _NS) + " ago"


def iso_time(moment_ns: int) -> str:
    """RFC 3339 in UTC with nanoseconds; 0 gives ""."""
    if moment_ns <= 0:
        return ""
    import time  # a builtin module; here beside its only use

    seconds, rest = divmod(moment_ns, _NS)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"


def short_id(identifier: str) -> str:
    """The first twelve digits of an id, without "sha256:"."""
    return identifier.removeprefix("sha256:")[:SHORT_ID]


def printable(text: str) -> str:
    """`text` with everything that could move a cursor or ring a bell written out, as labels may hold anything."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def shorten(text: str, length: int) -> str:
    """`text` cut to `length` characters, with an ellipsis at the cut."""
    return text if len(text) <= length else text[: length - 1] + "…"


def shown_state(status: ContainerStatus) -> str:
    """The state in docker's words: what has ended and is about to run again is "restarting"."""
    return "restarting" if status.restarting else status.state
