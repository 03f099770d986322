# SPDX-License-Identifier: Apache-2.0
"""Ownership of file descriptors: an `Fd` is owned and closed once; a bare int named `*_fd` is borrowed."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # `types` is small, but this is the first thing that every command loads
if TYPE_CHECKING:
    from types import TracebackType


class Fd:
    """An owned file descriptor. A second `close` does nothing; use after `close` or `steal` raises ValueError."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        """The number, lent to the caller."""
        if self._number < 0:
            raise ValueError("file descriptor is closed")
        return self._number

    @property
    def closed(self) -> bool:
        """Whether it was closed or given away."""
        return self._number < 0

    def close(self) -> None:
        """Close it, if still owned."""
        number, self._number = self._number, -1
        if number >= 0:
            os.close(number)

    def steal(self) -> int:
        """The number; the caller owns it from now on."""
        number = self.fileno()
        self._number = -1
        return number

    def duplicate(self) -> Fd:
        """Another descriptor of the same open file, close-on-exec."""
        return Fd(os.dup(self.fileno()))

    def __enter__(self) -> Fd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Fd({self._number})" if self._number >= 0 else "Fd(closed)"

    def __del__(self) -> None:
        if getattr(self, "_number", -1) >= 0:
            import warnings  # only on the path of a bug: a leak

            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()


def pipe() -> tuple[Fd, Fd]:
    """A close-on-exec pipe: the reading and the writing end."""
    read_fd, write_fd = os.pipe()
    return Fd(read_fd), Fd(write_fd)


def is_open(number: int) -> bool:
    """Whether `number` is an open descriptor of this process."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
