# SPDX-License-Identifier: Apache-2.0
"""What image archives hold, as both their reader and their writer say it."""

from __future__ import annotations

from typing import Literal, NamedTuple

ArchiveFormat = Literal["oci", "docker"]


class ImportedImage(NamedTuple):
    """An image found in an archive: its manifest or index, and the full names that it had there (maybe none)."""

    target_digest: str
    names: tuple[str, ...]


class ExportedImage(NamedTuple):
    """An image to write: its manifest or index, and the full names that it gets in the archive."""

    target_digest: str
    names: tuple[str, ...]
