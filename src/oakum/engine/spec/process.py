# SPDX-License-Identifier: Apache-2.0
"""What runs in the container: command line, environment, working directory, limits, privileges.

Spec: OCI runtime-spec 1.2 config.md "process"; OCI image-spec 1.1 config.md.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from typing import Any

from oakum.backend.config import ContainerConfig, Rlimit
from oakum.errors import InvalidArgument
from oakum.oci.command import DEFAULT_PATH


def argv(
    command: Sequence[str], args: Sequence[str], entrypoint: Sequence[str], cmd: Sequence[str]
) -> tuple[str, ...]:
    """The command line: `command` replaces the image's entrypoint and with it its cmd; `args` replace cmd.

    Raises:
        InvalidArgument: nothing to run.
    """
    if command:
        found = (*command, *args)
    elif args:
        found = (*entrypoint, *args)
    else:
        found = (*entrypoint, *cmd)
    if not found or not found[0]:
        raise InvalidArgument(
            "create container", "", "no command: the image has none either", hint="say what to run"
        )
    _refuse_nul("command", found)
    return found


def environment(
    image_env: Iterable[str], wanted: Iterable[tuple[str, str]], *, hostname: str, tty: bool
) -> list[str]:
    """NAME=VALUE strings: a default PATH, the image's, HOSTNAME, TERM for a terminal, then the caller's.

    A later value replaces an earlier one in its place. Whatever an image says is data: names without "="
    are left out, values may hold anything but NUL.
    """
    values: dict[str, str] = {"PATH": DEFAULT_PATH}
    if hostname:
        values["HOSTNAME"] = hostname
    if tty:
        values["TERM"] = "xterm"
    for entry in image_env:
        name, separator, value = entry.partition("=")
        if separator and name:
            values[name] = value
    for name, value in wanted:
        if not name or "=" in name:
            raise InvalidArgument("set environment", repr(name), "not a variable name")
        values[name] = value
    found = [f"{name}={value}" for name, value in values.items()]
    _refuse_nul("environment", found)
    return found


def working_dir(wanted: str, image_dir: str) -> str:
    """The absolute directory to start in."""
    chosen = posixpath.normpath(posixpath.join("/", wanted or image_dir or "/"))
    _refuse_nul("working directory", (chosen,))
    return "/" + chosen.lstrip("/")


def rlimits(wanted: Sequence[Rlimit]) -> list[dict[str, Any]]:
    """The runtime spec's rlimits; what is not named stays as the engine has it."""
    found: list[dict[str, Any]] = []
    for limit in wanted:
        kind = limit.type.upper()
        kind = kind if kind.startswith("RLIMIT_") else f"RLIMIT_{kind}"
        # -1 is how command lines write "no limit"; the runtime spec has unsigned 64 bits.
        soft, hard = (value if value >= 0 else 2**64 - 1 for value in (limit.soft, limit.hard))
        if soft > hard:
            raise InvalidArgument("set limit", kind, f"soft limit {soft} is above hard limit {hard}")
        found.append({"type": kind, "soft": soft, "hard": hard})
    return found


def process(
    config: ContainerConfig,
    *,
    command_line: Sequence[str],
    env: list[str],
    cwd: str,
    capabilities: dict[str, Any],
) -> dict[str, Any]:
    """The runtime spec's process object. User and groups are resolved in the container's rootfs later."""
    found: dict[str, Any] = {
        "terminal": config.tty,
        "user": {"uid": 0, "gid": 0},
        "args": list(command_line),
        "env": env,
        "cwd": cwd,
        "capabilities": capabilities,
        "noNewPrivileges": config.no_new_privs,
    }
    limits = rlimits(config.rlimits)
    if limits:
        found["rlimits"] = limits
    if config.resources.oom_score_adj is not None:
        found["oomScoreAdj"] = config.resources.oom_score_adj
    if config.apparmor is not None and config.apparmor.kind == "localhost":
        found["apparmorProfile"] = config.apparmor.localhost_ref.removeprefix("localhost/")
    return found


def _refuse_nul(what: str, texts: Iterable[str]) -> None:
    # execve and mount would silently cut the text there.
    for text in texts:
        if "\0" in text:
            raise InvalidArgument("create container", repr(text[:60]), f"NUL in its {what}")
