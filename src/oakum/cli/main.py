# SPDX-License-Identifier: Apache-2.0
"""The entry point of the `oakum` program: a fast start, the command line of `app`, a fast end."""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False  # `typing` itself costs `oakum oci` a tenth of its time
if TYPE_CHECKING:
    from typing import Final, NoReturn

_INTERRUPTED: Final = 130  # report.EXIT_INTERRUPTED, which may not have been loaded yet


def _heed_lost_interrupts() -> None:
    """Let a Ctrl-C that falls into a destructor or a weak reference's callback end the process, as the signal would.

    Python prints such a KeyboardInterrupt, drops it, and goes on: the user's request would be gone. Imports are full
    of such callbacks. Whoever has something to put in order takes signals by `signals.SignalQueue` instead.
    """
    usual = sys.unraisablehook

    def hook(lost: sys.UnraisableHookArgs) -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):
            import signal

            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        usual(lost)

    sys.unraisablehook = hook


def _open_standard_streams() -> None:
    """Put /dev/null where a standard stream was closed (`>&-`): else the next file opened would take its number."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            null_fd = os.open(os.devnull, os.O_RDWR)
            if null_fd != fd:
                os.dup2(null_fd, fd)
                os.close(null_fd)
            setattr(sys, name, open(fd, mode, closefd=False, encoding="utf-8"))  # noqa: SIM115 - for the life of the process
    for stream in (sys.stdout, sys.stderr):
        # a terminal that lacks a letter shows its number: better than no answer at all
        getattr(stream, "reconfigure", _no_encoding)(errors="backslashreplace")


def _no_encoding(**_: str) -> None:
    """For a stream that is no file: it takes every letter."""


def main() -> NoReturn:
    """Run the command line of this process, and end it."""
    _heed_lost_interrupts()
    try:
        os._exit(_run())
    except KeyboardInterrupt:
        # While it was loaded, or while the last things were closed: those the kernel closes as well.
        os._exit(_INTERRUPTED)


def _run() -> int:
    """The exit code; all is flushed and closed. Taking the interpreter apart would only cost the user 5 to 10 ms."""
    _open_standard_streams()
    if sys.argv[1:2] == ["oci"]:
        # has a start of its own, faster still
        from oakum.cli.oci.start import main as oci

        oci(sys.argv[2:])
    # Start-up makes many objects and no garbage: with the usual threshold the collector would run through them
    # a dozen times before the command does, which is a tenth of the time until then (measured).
    gc.set_threshold(50_000, 20, 100)
    # imports click, and must come after the line above
    from oakum.cli.app import finish, invoke

    return finish(invoke())


if __name__ == "__main__":
    main()
