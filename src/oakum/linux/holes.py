# SPDX-License-Identifier: Apache-2.0
"""Files with holes: where their data is."""

from __future__ import annotations

import errno
import os

from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator


def data_areas(fd: int, size_bytes: int) -> Generator[tuple[int, int]]:
    """Start and end of each part of a file that is no hole, in order. Moves the file's offset.

    Source: lseek(2) SEEK_DATA. Raises OSError.
    """
    end = 0
    while end < size_bytes:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # only a hole is left
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end
