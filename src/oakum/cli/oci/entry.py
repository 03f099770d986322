# SPDX-License-Identifier: Apache-2.0
"""The first lines of `oakum oci`: what enters a container runs from a sealed copy of the interpreter, before all else.

Imports next to nothing, because for those commands it is imported twice.
"""

from __future__ import annotations

import gc
import os
import sys

from oakum.linux.sealed import execute_sealed, runs_sealed, seal_in_place

TYPE_CHECKING = False  # `typing` itself would be imported twice
if TYPE_CHECKING:
    from typing import Any, NoReturn

# Commands whose child enters a container, and global options that take a value.
_ENTERING = ("create", "run", "exec")
_VALUED = ("--log", "--log-format", "--root", "--criu", "--rootless")
_PROGRAM = (
    "import sys; n = 2 + int(sys.argv[1]); sys.path[:] = sys.argv[2:n]; "
    "from oakum.cli.oci.start import install; install(sys.argv[n:], last=True); "
    "from oakum.cli.oci.entry import run; run(sys.argv[n:])"
)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run one command line of the runtime and end this process."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _open_stdio()
    gc.disable()  # it ends soon
    if command_of(arguments) in _ENTERING and not (runs_sealed() or seal_in_place()):
        _keep()
        execute_sealed(_PROGRAM, arguments)
    run(arguments)


def run(arguments: list[str]) -> NoReturn:
    """Run it in this process, which is the sealed one if it has to be."""
    gc.disable()  # it ends soon
    from oakum.cli.oci.commands import dispatch  # after the line above, which is worth a tenth of the time

    code = dispatch(arguments, sealed=command_of(arguments) in _ENTERING and runs_sealed())
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (BrokenPipeError, ValueError):
        code = code or 1
    _keep()
    os._exit(code)


def _keep() -> None:
    """Let the next command find at once what this one has had to look for."""
    modules: Any = sys.meta_path[0]
    if hasattr(modules, "lacks") and modules.lacks():
        from oakum.cli.oci.keeping import keep  # once after an installation

        try:
            keep(modules)
        except Exception:  # noqa: BLE001 - what the command has done is done, whatever becomes of the sources meanwhile
            return  # it is only faster with it


def command_of(arguments: list[str]) -> str:
    """The command in a command line, or ""."""
    skip = False
    for word in arguments:
        if skip:
            skip = False
        elif not word.startswith("-"):
            return word
        else:
            skip = "-" + word.lstrip("-") in {v[1:] for v in _VALUED}
    return ""


def _open_stdio() -> None:
    """Make sure that 0, 1 and 2 are taken, or something of ours would become the container's input or output."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number, which is this one
            os.set_inheritable(number, True)
