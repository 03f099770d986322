# SPDX-License-Identifier: Apache-2.0
"""What the runtime says to its caller: lines of a log file or of standard error, in the forms that callers parse."""

from __future__ import annotations

import os
import sys
import time

from oakum.model import jsontext as json
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

TEXT: Final = "text"
JSON: Final = "json"


class Caller:
    """Who called us, and hears by the file of `--log` (appended), else standard error, as text or as JSON."""

    def __init__(self, path: str = "", form: str = TEXT, *, debug: bool = False) -> None:
        self._path = path
        self._form = form
        self._debug = debug

    def error(self, message: str) -> None:
        """Why the command failed: in the log, and in plain words on standard error if that is not the log."""
        self._write("error", message)
        if self._path and not self._path.startswith("/dev/stderr"):
            _to_stderr(message + "\n")

    def warning(self, message: str) -> None:
        """What the caller should know though the command goes on."""
        self._write("warning", message)

    def debug(self, message: str) -> None:
        """Only with --debug."""
        if self._debug:
            self._write("debug", message)

    def _write(self, level: str, message: str) -> None:
        line = render(level, message, self._form, time.time())
        if not self._path:
            _to_stderr(line)
            return
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as failure:
            _to_stderr(f"cannot open log {self._path}: {failure.strerror}\n{line}")
            return
        try:
            os.write(fd, line.encode("utf-8", "backslashreplace"))
        finally:
            os.close(fd)


def render(level: str, message: str, form: str, now_s: float) -> str:
    """One line of the log."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_s))
    if form == JSON:
        return json.dumps({"level": level, "msg": message, "time": stamp}) + "\n"
    return f'time="{stamp}" level={level} msg={json.quote(message)}\n'


def _to_stderr(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (BrokenPipeError, ValueError):
        return  # nobody listens
