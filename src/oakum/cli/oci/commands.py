# SPDX-License-Identifier: Apache-2.0
"""One command line of `oakum oci`, from its words to its exit code, with every failure said as callers parse it."""

from __future__ import annotations

import os
import sys

from oakum.cli.oci.arguments import Parsed, Usage, parse
from oakum.cli.oci.call import Call
from oakum.cli.oci.log import JSON, TEXT, Caller
from oakum.cli.oci.table import COMMANDS, DEFAULT_ROOT, GLOBAL, HELP, Command
from oakum.errors import FailedPrecondition, InvalidArgument, OakumError, PermissionDenied, SystemFailure
from oakum.model.light import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

_NO_SUCH_COMMAND: Final = 3
_SAID: Final = {"exec": "exec failed: ", "create": "oakum create failed: ", "run": "oakum run failed: "}


def dispatch(arguments: list[str], *, sealed: bool) -> int:
    """Run one command line; its exit code. Every failure has been said."""
    try:
        given = parse(arguments, GLOBAL, stop_at_word=True)
    except Usage as wrong:
        Caller().error(str(wrong))
        return 1
    if given.flag("version"):
        from oakum.cli.oci.help import version

        sys.stdout.write(version())
        return 0
    if given.flag("help") or not given.words or given.words[0] in ("help", "h"):
        from oakum.cli.oci.help import overview

        sys.stdout.write(overview())
        return 0
    caller = Caller(given.text("log"), given.text("log-format") or TEXT, debug=given.flag("debug"))
    if (given.text("log-format") or TEXT) not in (TEXT, JSON):
        Caller().error(f"unknown log-format {given.text('log-format')!r}")
        return 1
    command = COMMANDS.get(given.words[0])
    if command is None:
        caller.error(f"No help topic for '{given.words[0]}'")
        return _NO_SUCH_COMMAND
    return _run(given.words[0], command, given, caller, sealed=sealed)


def _run(name: str, command: Command, given: Parsed, caller: Caller, *, sealed: bool) -> int:
    try:
        parsed = parse(given.words[1:], (*command.options, HELP), stop_at_word=command.stop_at_word)
        if parsed.flag("help"):
            from oakum.cli.oci.help import command_help

            sys.stdout.write(command_help(name, command))
            return 0
        count = len(parsed.words)
        if count < command.least or (command.most is not None and count > command.most):
            from oakum.cli.oci.help import wrong_count

            raise Usage(wrong_count(name, command))
    except Usage as wrong:
        from oakum.cli.oci.help import command_help

        sys.stdout.write(command_help(name, command))
        caller.error(str(wrong))
        return 1
    from oakum.cli.oci.systemd import offer

    offer()
    try:
        call = Call(given.text("root") or _default_root(), caller, parsed, given)
        _guard(name, parsed, sealed=sealed)
        return function_of(command)(call)
    except OakumError as failure:
        caller.error(_words(name, failure))
    except OSError as failure:
        caller.error(_words(name, SystemFailure.from_os_error(failure, "call the system")))
    except Exception as failure:  # edge of the process: callers parse our log, not a traceback
        caller.error(f"oakum {name} failed: unexpected {type(failure).__name__}: {failure}")
        if given.flag("debug"):
            raise
    return command.failed


def function_of(command: Command) -> Callable[[Call], int]:
    """What carries it out; only its own module is loaded."""
    module, _, function = command.act.partition(".")
    loaded = __import__(f"oakum.cli.oci.{module}", fromlist=(function,))
    return cast("Callable[[Call], int]", getattr(loaded, function))


def _words(name: str, failure: OakumError) -> str:
    """One line; callers look for the runtime's own words in it ("container does not exist", "executable file not found")."""
    from oakum.errors import CommandNotRunnable

    text = str(failure)
    if isinstance(failure, CommandNotRunnable):
        text = f"unable to start container process: {failure.brief}"
    elif isinstance(failure, FailedPrecondition) and failure.operation in (
        "use container",
        "signal container",
    ):
        text = failure.cause
    return (_SAID.get(name, "") + text).replace("\n", " ")


def _guard(name: str, parsed: Parsed, *, sealed: bool) -> None:
    """What has to be true of this process before a child of it enters a container. Raises OakumError."""
    if name not in ("create", "run", "exec"):
        return
    from oakum.linux.process import close_from, set_dumpable

    if not sealed:
        raise FailedPrecondition("run", name, "this interpreter is not a sealed copy")
    kept = parsed.number("preserve-fds")
    if kept < 0:
        raise InvalidArgument("read command line", "--preserve-fds", f"{kept} is below zero")
    for number in range(3, 3 + kept):
        try:
            os.fstat(number)
        except OSError:
            raise InvalidArgument(
                "pass descriptors", f"--preserve-fds {kept}", f"descriptor {number} is not open"
            ) from None
    close_from(3 + kept)
    if os.geteuid() == 0:
        # Nobody in a container may look into what has not become the container's process yet. The parent of a
        # rootless one has to write its child's id maps, which it could not then.
        set_dumpable(False)


def _default_root() -> str:
    """The state directory where none is named. Raises PermissionDenied."""
    uid = os.geteuid()
    if uid == 0:
        return DEFAULT_ROOT
    if directory := os.environ.get("XDG_RUNTIME_DIR"):
        return f"{directory}/oakum/oci"
    directory = f"/tmp/oakum-{uid}"  # noqa: S108 - its owner is checked
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        found = os.lstat(directory)
        if found.st_uid != uid or found.st_mode & 0o170077 != 0o040000:
            raise PermissionDenied(
                "use state directory",
                directory,
                "it is not ours alone",
                hint="set XDG_RUNTIME_DIR, or name a directory by --root",
            ) from None
    return f"{directory}/oci"
