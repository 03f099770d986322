# SPDX-License-Identifier: Apache-2.0
"""Signal names and numbers as container tools write them, real-time ones included."""

from __future__ import annotations

from oakum.errors import InvalidArgument
from oakum.model.light import signal

# The C library keeps 32 and 33 for itself: SIGRTMIN is 34 in every image's eyes (signal(7)).
_RTMIN, _RTMAX = 34, 64
# The C module's constants are these and some that are no signals: SIG_DFL, SIG_BLOCK.
_NUMBERS = {
    name[3:]: int(number)
    for name, number in vars(signal).items()
    if name.startswith("SIG") and not name.startswith(("SIG_", "SIGRT")) and isinstance(number, int)
}
_NAMES = {number: name for name, number in _NUMBERS.items() if name not in ("CLD", "IOT", "POLL")}


def parse_signal(text: str) -> int:
    """The number of "TERM", "SIGTERM", "15", "RTMIN+3" or "SIGRTMAX-2".

    Raises:
        InvalidArgument: no such signal.
    Source: signal(7).
    """
    name = text.strip().upper().removeprefix("SIG")
    if name.isdecimal() and name.isascii():
        number = int(name)
    elif name.startswith(("RTMIN", "RTMAX")):
        number = _real_time(name)
    else:
        number = _NUMBERS.get(name, 0)
    if not 1 <= number <= _RTMAX:
        raise InvalidArgument(
            "parse signal", repr(text), "no such signal", hint="try SIGTERM, 15 or SIGRTMIN+3"
        )
    return number


def signal_name(number: int) -> str:
    """The name of signal `number` ("SIGTERM", "SIGRTMIN+3"), or the number as text where it has none."""
    if _RTMIN <= number <= _RTMAX:
        return f"SIGRTMIN+{number - _RTMIN}" if number > _RTMIN else "SIGRTMIN"
    return f"SIG{_NAMES[number]}" if number in _NAMES else str(number)


def _real_time(name: str) -> int:
    """The number of "RTMIN", "RTMIN+3" or "RTMAX-2", 0 when it is none."""
    sign, digits = name[5:6], name[6:]
    first = _RTMIN if name.startswith("RTMIN") else _RTMAX
    if sign == "":
        return first
    if sign not in "+-" or not (digits.isascii() and digits.isdecimal() and len(digits) <= 2):
        return 0
    number = first + int(sign + digits)
    return number if _RTMIN <= number <= _RTMAX else 0
