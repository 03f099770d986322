# SPDX-License-Identifier: Apache-2.0
"""The door to image archives: OCI layouts (directory or tar) and `docker save` tars, in and out.

Import brings blobs into the store and says which images there are; unpacking them is `unpack.unpack_local`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

from oakum.images.archived import ArchiveFormat, ExportedImage, ImportedImage
from oakum.images.content import ContentStore
from oakum.images.platforms import Platform, host_platform


def import_archive(source: str | BinaryIO, *, content: ContentStore) -> list[ImportedImage]:
    """Bring all images of `source` into the store: an OCI layout directory, or a tar (plain or gzip) of one or of docker.

    Raises:
        InvalidArgument: not an image archive.
        DataLoss: a part is damaged, missing or not what its digest says.
        ResourceExhausted: the disk is full.
    """
    from oakum.images.archive_read import read_archive  # tarfile; only imports need it

    return read_archive(source, content)


def export_archive(
    images: Sequence[ExportedImage],
    out: BinaryIO,
    *,
    content: ContentStore,
    form: ArchiveFormat = "oci",
    platform: Platform | None = None,
) -> None:
    """Write images as one tar to `out`. "docker" holds one platform of each; "oci" all that is in the store.

    Raises:
        NotFound: a blob is not in the store.
        DataLoss: a blob is damaged.
    """
    from oakum.images.archive_write import write_archive  # tarfile; only exports need it

    write_archive(images, out, content, form, platform or host_platform())
