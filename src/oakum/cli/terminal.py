# SPDX-License-Identifier: Apache-2.0
"""The user's own terminal: raw mode, size, and the keys that detach."""

from __future__ import annotations

import os
import termios
import tty
from typing import Any, Final

from oakum.errors import InvalidArgument

DEFAULT_DETACH_KEYS: Final = "ctrl-p,ctrl-q"


def size(fd: int) -> tuple[int, int]:
    """(rows, columns) of the terminal on `fd`; (0, 0) when it is none."""
    try:
        columns, rows = os.get_terminal_size(fd)
    except OSError:
        return 0, 0
    return rows, columns


def parse_detach_keys(text: str) -> bytes:
    r"""The bytes of "ctrl-p,ctrl-q" or "ctrl-x,x"; empty text switches detaching off.

    Raises:
        InvalidArgument: a key is neither one ASCII character nor ctrl- and a letter or one of @[\]^_.
    """
    keys = bytearray()
    for word in filter(None, text.split(",")):
        name = word.strip().lower()
        control = name.removeprefix("ctrl-")
        if len(word) == 1 and word.isascii():
            keys.append(ord(word))
        elif (
            name.startswith("ctrl-") and len(control) == 1 and control in "abcdefghijklmnopqrstuvwxyz@[\\]^_"
        ):
            # a control key sends its letter's code with the upper three bits cleared (ascii(7))
            keys.append(ord(control.upper()) & 0x1F)
        else:
            raise InvalidArgument(
                "parse --detach-keys", repr(text), f"{word!r} is no key", hint="try ctrl-p,ctrl-q"
            )
    return bytes(keys)


class DetachKeys:
    """Watches typed bytes for the sequence that detaches; holds back what may be its beginning."""

    __slots__ = ("_held", "_sequence")

    def __init__(self, sequence: bytes) -> None:
        self._sequence = sequence
        self._held = b""

    def feed(self, typed: bytes) -> tuple[bytes, bool]:
        """What to pass on of `typed`, and whether the sequence is complete (what follows it is dropped)."""
        if not self._sequence:
            return typed, False
        passed = bytearray()
        for position in range(len(typed)):
            self._held += typed[position : position + 1]
            while self._held and not self._sequence.startswith(self._held):
                passed += self._held[:1]
                self._held = self._held[1:]
            if self._held == self._sequence:
                self._held = b""
                return bytes(passed), True
        return bytes(passed), False


class RawMode:
    """The terminal on `fd` passes every key on unread while this context lasts; nothing happens to other files."""

    __slots__ = ("_fd", "_saved")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._saved: list[Any] | None = None

    def __enter__(self) -> RawMode:
        if os.isatty(self._fd):
            self._saved = termios.tcgetattr(self._fd)
            # what is typed ahead belongs to the container: nothing is flushed
            tty.setraw(self._fd, termios.TCSADRAIN)
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._saved is not None:
            try:
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)
            except termios.error:
                # the terminal was closed: there is nothing left to restore
                return
