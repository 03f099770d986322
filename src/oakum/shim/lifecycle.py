# SPDX-License-Identifier: Apache-2.0
"""The life of a container as a table: which event may happen in which state, and where it leads.

    creating ──created──► created ──start──► starting ──executed──► running ◄──resume── paused
       │                     │                  │                      │  ──pause──►      │
       └───────failed────────┼──────────────────┴────ended─────────────┴──────ended───────┘
                             └──ended──► ending ──recorded──► exited ──delete──► (gone)

`ending` is the time between the end of the first process and the durable exit record: output is drained, what
is left in the cgroup is killed. Pure: no input or output here.
"""

from __future__ import annotations

from typing import Final

from oakum.errors import FailedPrecondition

CREATING: Final = "creating"
CREATED: Final = "created"
STARTING: Final = "starting"
RUNNING: Final = "running"
PAUSED: Final = "paused"
ENDING: Final = "ending"
EXITED: Final = "exited"
GONE: Final = "gone"

STATES: Final = (CREATING, CREATED, STARTING, RUNNING, PAUSED, ENDING, EXITED, GONE)

# event -> state -> next state
TABLE: Final[dict[str, dict[str, str]]] = {
    "created": {CREATING: CREATED},
    "failed": {CREATING: GONE},
    "start": {CREATED: STARTING},
    "executed": {STARTING: RUNNING},
    "pause": {RUNNING: PAUSED},
    "resume": {PAUSED: RUNNING},
    "ended": {CREATED: ENDING, STARTING: ENDING, RUNNING: ENDING, PAUSED: ENDING},
    "recorded": {ENDING: EXITED},
    "delete": {EXITED: GONE},
    # These change nothing; the table says when they may be asked for.
    "exec": {RUNNING: RUNNING},
    "signal": {CREATED: CREATED, STARTING: STARTING, RUNNING: RUNNING, PAUSED: PAUSED},
    "stop": {s: s for s in (CREATED, STARTING, RUNNING, PAUSED, ENDING, EXITED)},
    "wait": {s: s for s in (CREATED, STARTING, RUNNING, PAUSED, ENDING, EXITED)},
    "attach": {s: s for s in (CREATED, STARTING, RUNNING, PAUSED)},
    "update": {s: s for s in (CREATED, STARTING, RUNNING, PAUSED)},
    "resize": {s: s for s in (CREATED, STARTING, RUNNING, PAUSED)},
    "close stdin": {s: s for s in (CREATED, STARTING, RUNNING, PAUSED)},
    "reopen log": {s: s for s in (CREATED, STARTING, RUNNING, PAUSED, ENDING)},
}

_HINTS: Final[dict[tuple[str, str], str]] = {
    ("exec", PAUSED): "resume it first",
    ("exec", CREATED): "start it first",
    ("start", RUNNING): "it runs already",
    ("start", EXITED): "create a new container",
}


def allowed(event: str, state: str) -> bool:
    """Whether `event` may happen in `state`."""
    return state in TABLE[event]


def follow(event: str, state: str, container_id: str) -> str:
    """The state after `event`.

    Raises:
        FailedPrecondition: the event may not happen in this state.
    """
    after = TABLE[event].get(state)
    if after is None:
        hint = _HINTS.get((event, state), "")
        raise FailedPrecondition(event, f"container {container_id}", f"it is {state}", hint=hint)
    return after
