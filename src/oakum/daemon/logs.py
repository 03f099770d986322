# SPDX-License-Identifier: Apache-2.0
"""Log lines of the server, as text (`time LEVEL event key=value ...`) or one JSON object each, on stderr.

Fields travel as `extra={"fields": {...}}`; the RPC that a line belongs to is added by itself. Values are
quoted wherever they could break a line or pretend to be another field.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable
from typing import Any, Final, TextIO

from oakum.daemon.config import LogConfig, LogLevel

_PLAIN: Final = re.compile(r"[\w.,:;/@+*%()\[\]{}<>!?&^~|#$-]+")


def _when(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


def _fields(record: logging.LogRecord, rpc: str) -> dict[str, Any]:
    given: dict[str, Any] = getattr(record, "fields", {})
    return {"rpc": rpc, **given} if rpc else dict(given)


class TextFormatter(logging.Formatter):
    """`2026-01-02T03:04:05.678Z INFO event key=value`; a traceback follows on lines of its own."""

    def __init__(self, rpc: Callable[[], str]) -> None:
        super().__init__()
        self._rpc = rpc

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        parts = [_when(record), record.levelname, _one_line(record.getMessage())]
        parts += [f"{key}={_quoted(value)}" for key, value in _fields(record, self._rpc()).items()]
        line = " ".join(parts)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, rpc: Callable[[], str]) -> None:
        super().__init__()
        self._rpc = rpc

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        line: dict[str, Any] = {
            "time": _when(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_fields(record, self._rpc()),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _one_line(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _quoted(value: object) -> str:
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable()).replace("\x7f", "\\u007f")


def set_up_logs(config: LogConfig, rpc: Callable[[], str], stream: TextIO | None = None) -> None:
    """Send all log lines to `stream` (stderr), in the form that is wanted; `rpc` names the current RPC."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(rpc) if config.format == "json" else TextFormatter(rpc))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # libraries speak up when something is wrong
    root.setLevel(logging.WARNING)
    set_level(config.level)


def set_level(level: LogLevel) -> None:
    """Change what of our own is logged, at any time."""
    logging.getLogger("oakum").setLevel(level.upper())
