# SPDX-License-Identifier: Apache-2.0
"""The one place where failures become words on standard error and an exit code."""

from __future__ import annotations

import sys
from typing import Final

from oakum.cli.text import printable
from oakum.errors import CommandNotRunnable, Internal, OakumError, exit_code

# what docker's command line ends with when it, and not the container, failed
EXIT_RUN_FAILED: Final = 125
EXIT_NOT_INVOKED: Final = 126
EXIT_INTERRUPTED: Final = 130
EXIT_BROKEN_PIPE: Final = 141
EXIT_BUG: Final = 70  # EX_SOFTWARE of sysexits.h


def render(error: OakumError) -> str:
    """Operation, object and cause on one line; what to try on the next."""
    lines = [f"oakum: {printable(error.brief)}"]
    if error.hint:
        lines.append(f"       {printable(error.hint)}")
    for note in getattr(error, "__notes__", ()):
        lines.append(f"       {printable(str(note))}")
    return "\n".join(lines)


def say(line: str) -> None:
    """Write a line to standard error; a reader that has gone away is no reason to fail."""
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (BrokenPipeError, ValueError):
        return


def report(error: OakumError, *, as_json: bool = False) -> int:
    """Say what failed; the exit code for it."""
    if as_json:
        import json  # errors of scripts only

        say(json.dumps({"error": error.to_dict()}))
    else:
        say(render(error))
    if isinstance(error, Internal):
        say("       this is a bug in oakum: please report it with the command you ran and `oakum version`")
    return exit_code(error)


def report_bug(error: BaseException) -> int:
    """Say that oakum itself is at fault, with the traceback; the exit code for it."""
    import traceback  # bugs only

    say("".join(traceback.format_exception(error)).rstrip())
    say(f"oakum: unexpected {type(error).__name__}: {printable(str(error))}")
    say("       this is a bug in oakum: please report it with the lines above and `oakum version`")
    return EXIT_BUG


def run_exit_code(error: OakumError) -> int:
    """The exit code of `run`, `create` and `start` for `error`: 126 and 127 as shells have them, else 125."""
    if isinstance(error, CommandNotRunnable):
        return error.exit_code
    code = exit_code(error)
    return code if code == EXIT_INTERRUPTED else EXIT_RUN_FAILED
