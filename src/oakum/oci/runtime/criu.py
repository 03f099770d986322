# SPDX-License-Identifier: Apache-2.0
"""Running CRIU: whether it works on this host, one call of it, and what its log says went wrong.

What it is told to do is `checkpoint`'s business. Source: criu(8).
"""

from __future__ import annotations

import os
import signal

from oakum.errors import FailedPrecondition, Unimplemented
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

_LOG_LIMIT_BYTES: Final = 8 << 20
_CHECK_LOG: Final = "check.log"
# The time, and of a process that it restores its number.
_HEAD_LIMIT: Final = 24


def problem(program: str, work: str) -> str:
    """Why CRIU cannot work on this host, in its own words; "" when it can. Its log goes to the directory `work`."""
    try:
        code = _run([program, "check", "-W", work, "-o", _CHECK_LOG], silent=True)
    except FileNotFoundError:
        return f"{program} is not installed"
    except OSError as failure:
        return f"{program} cannot be executed: {failure.strerror}"
    return "" if code == 0 else said(f"{work}/{_CHECK_LOG}") or f"`{program} check` ended with {code}"


def call(
    program: str, action: str, arguments: list[str], work: str, subject: str, *, silent: bool = False
) -> None:
    """Have CRIU `action` ("dump", "pre-dump", "restore"); its log is `work`/`action`.log.

    Its standard streams are ours, it hands them to what it restores; with `silent` they are nothing, and nobody sees the log.

    Raises:
        Unimplemented: it is not there or does not work on this host.
        FailedPrecondition: there is something of this container that it cannot carry, or of the images.
    """
    log = f"{action}.log"
    try:
        code = _run([program, action, "-W", work, "-o", log, "-v4", *arguments], silent=silent)
    except OSError as failure:
        why = "is not installed" if isinstance(failure, FileNotFoundError) else str(failure.strerror)
        raise Unimplemented(action, subject, f"{program} {why}", hint="install criu") from failure
    if code:
        # only what fails is asked for the deeper reason
        if why := problem(program, work):
            raise Unimplemented(action, subject, f"CRIU does not work on this host: {why}")
        raise FailedPrecondition(
            action,
            subject,
            said(f"{work}/{log}") or f"criu ended with {code}",
            hint="" if silent else f"see {work}/{log}",
        )


def stream_names(pid: int) -> list[str]:
    """What CRIU calls a process's three standard streams: "pipe:[N]", "file[M:N]" for a file of another mount namespace.

    Anything else is what the link says, as is "/dev/null" for one that is closed. Source: criu(8), --external, --inherit-fd.
    """
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="replace") as file:
        mounts = {int(line.split(" ", 1)[0]) for line in file}
    return [_stream_name(pid, number, mounts) for number in range(3)]


def _stream_name(pid: int, number: int, mounts: set[int]) -> str:
    try:
        name = os.readlink(f"/proc/{pid}/fd/{number}")
        if not name.startswith("/"):
            return name
        inode = os.stat(f"/proc/{pid}/fd/{number}").st_ino
        with open(f"/proc/{pid}/fdinfo/{number}", encoding="ascii") as file:
            mount = next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))
    except FileNotFoundError:
        return "/dev/null"
    return name if mount in mounts else f"file[{mount:x}:{inode:x}]"


def external(streams: list[str]) -> list[str]:
    """The arguments of a dump for streams that are files of the host."""
    return [
        part for name in sorted(set(streams)) if name.startswith("file[") for part in ("--external", name)
    ]


def said(log: str) -> str:
    """The first error in a log of CRIU's that is about the matter, without time and place; "" when there is none."""
    try:
        with open(log, "rb") as file:
            lines = file.read(_LOG_LIMIT_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        head, found, text = line.partition("Error (")
        # what it tries out at the beginning and can do without is an error in its log, too
        if found and "tun: Unable to create tun" not in text and len(head) < _HEAD_LIMIT:
            return text.partition("): ")[2].strip()[:300]
    return ""


def _run(argv: list[str], *, silent: bool = False) -> int:
    """The exit code of a program whose log is a file; what it says besides goes nowhere if `silent`. Raises OSError."""
    environment = {"PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin", "LC_ALL": "C"}
    path = _found(argv[0], environment["PATH"])
    nowhere = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
    pid = os.posix_spawn(
        path,
        argv,
        environment,
        file_actions=nowhere if silent else (),
        setsigmask=(),
        setsigdef=(signal.SIGPIPE,),
    )
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _found(program: str, search: str) -> str:
    if "/" in program:
        return program
    for directory in search.split(":"):
        path = f"{directory}/{program}"
        if directory and os.access(path, os.X_OK):
            return path
    raise FileNotFoundError(program)
