# SPDX-License-Identifier: Apache-2.0
"""Signal names and numbers as container tools write them, real-time ones included."""

from __future__ import annotations

import re
import signal

from oakum.errors import InvalidArgument

# The C library keeps 32 and 33 for itself: SIGRTMIN is 34 in every image's eyes (signal(7)).
_RTMIN, _RTMAX = 34, 64
_REAL_TIME = re.compile(r"RT(MIN|MAX)(?:([+-])(\d{1,2}))?")


def parse_signal(text: str) -> int:
    """The number of "TERM", "SIGTERM", "15", "RTMIN+3" or "SIGRTMAX-2".

    Raises:
        InvalidArgument: no such signal.
    Source: signal(7).
    """
    name = text.strip().upper().removeprefix("SIG")
    if name.isdecimal() and name.isascii():
        number = int(name)
    elif match := _REAL_TIME.fullmatch(name):
        offset = int(f"{match[2] or '+'}{match[3] or 0}")
        number = (_RTMIN if match[1] == "MIN" else _RTMAX) + offset
        if not _RTMIN <= number <= _RTMAX:
            number = 0
    else:
        member = getattr(signal, f"SIG{name}", None)
        number = int(member) if isinstance(member, signal.Signals) else 0
    if not 1 <= number <= _RTMAX:
        raise InvalidArgument(
            "parse signal", repr(text), "no such signal", hint="try SIGTERM, 15 or SIGRTMIN+3"
        )
    return number


def signal_name(number: int) -> str:
    """The name of signal `number` ("SIGTERM", "SIGRTMIN+3"), or the number as text where it has none."""
    if _RTMIN <= number <= _RTMAX:
        return f"SIGRTMIN+{number - _RTMIN}" if number > _RTMIN else "SIGRTMIN"
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
