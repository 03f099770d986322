# SPDX-License-Identifier: Apache-2.0
"""What a client was promised when it was given a URL: which container or pod, and which streams. Values only."""

from __future__ import annotations

from typing import NamedTuple


class Wanted(NamedTuple):
    """The streams of an exec or attach; a terminal has no `stderr` of its own."""

    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    tty: bool = False


class ExecRequest(NamedTuple):
    """A command to run in a container."""

    container_id: str
    argv: tuple[str, ...]
    wanted: Wanted


class AttachRequest(NamedTuple):
    """A container to join."""

    container_id: str
    wanted: Wanted


class ForwardRequest(NamedTuple):
    """A pod whose ports are to be reached; `ports` counts for clients that do not name the port themselves."""

    sandbox_id: str
    ports: tuple[int, ...] = ()


Request = ExecRequest | AttachRequest | ForwardRequest

KINDS: dict[type[Request], str] = {
    ExecRequest: "exec",
    AttachRequest: "attach",
    ForwardRequest: "portforward",
}
"""The first part of a URL's path, by what is asked for."""


class Outcome(NamedTuple):
    """How an exec or attach ended: an exit code, or why there is none."""

    exit_code: int = 0
    error: str = ""
