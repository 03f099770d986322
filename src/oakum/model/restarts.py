# SPDX-License-Identifier: Apache-2.0
"""When a container that has ended is started again, and after how long: docker's restart policies. Pure; starts nothing."""

from __future__ import annotations

from oakum.errors import InvalidArgument
from oakum.model.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Final

NO: Final = "no"
ON_FAILURE: Final = "on-failure"
ALWAYS: Final = "always"
UNLESS_STOPPED: Final = "unless-stopped"

FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 60.0
# After a run of so long the next delay is the first one again.
PROVEN_S: Final = 10.0

_RETRIES_MAX: Final = 1 << 31


class RestartPolicy(NamedTuple):
    """`max_retries` is how often at most a container is started again, for "on-failure" only; 0: no limit."""

    name: str = NO
    max_retries: int = 0

    def to_text(self) -> str:
        """As `parse_policy` reads it; "" for none at all."""
        if self.name == NO:
            return ""
        return f"{self.name}:{self.max_retries}" if self.max_retries else self.name


def parse_policy(text: str) -> RestartPolicy:
    """The policy that "no", "on-failure", "on-failure:5", "always", "unless-stopped" or "" names.

    Raises:
        InvalidArgument: it is none of them.
    """
    name, colon, number = text.partition(":")
    if name not in ("", NO, ON_FAILURE, ALWAYS, UNLESS_STOPPED):
        raise InvalidArgument(
            "parse restart policy",
            repr(text),
            "unknown policy",
            hint="no, on-failure, on-failure:5, always or unless-stopped",
        )
    if not colon:
        return RestartPolicy(name or NO)
    if name != ON_FAILURE:
        raise InvalidArgument("parse restart policy", repr(text), "only on-failure takes a number")
    if not (number.isascii() and number.isdecimal()) or int(number[:11]) >= _RETRIES_MAX:
        raise InvalidArgument(
            "parse restart policy", repr(text), "not a number of restarts", hint="try on-failure:5"
        )
    return RestartPolicy(name, int(number))


def wants_restart(policy: RestartPolicy, exit_code: int, count: int) -> bool:
    """Whether a container that has ended by itself, and was started again `count` times, is to run once more."""
    if policy.name == ON_FAILURE:
        return exit_code != 0 and (policy.max_retries == 0 or count < policy.max_retries)
    return policy.name in (ALWAYS, UNLESS_STOPPED)


def next_delay_s(last_s: float, ran_s: float) -> float:
    """How long to wait before the next start; `last_s` is how long it was before the run that has ended, 0 for the first one."""
    if last_s <= 0 or ran_s >= PROVEN_S:
        return FIRST_DELAY_S
    return min(2 * last_s, LONGEST_DELAY_S)
