# SPDX-License-Identifier: Apache-2.0
"""Images from one store into the other: an archive in a file that has no name, so that nothing can be left of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, Final

from oakum.errors import ImageNotFound, SystemFailure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oakum.backend.status import Image
    from oakum.docker.images import Images
    from oakum.engine.engine import Namespace

_PIECE_BYTES: Final = 1 << 20
NAMELESS: Final = "oakum.invalid/handed-over"
"""What an image is called that had no tag where it came from: without a name it would be collected."""


def to_native(docker: Images, namespace: Namespace, image: str, *, directory: str) -> Sequence[Image]:
    """Bring an image of Docker's, with all of its tags, into the native store. Raises ImageNotFound, OakumError."""
    found = _need(docker.status(image), image)
    with _spool(directory) as file:
        docker.save(found.id, file.write)
        file.flush()
        imported = namespace.import_images(f"/proc/self/fd/{file.fileno()}")
    for name in found.repo_tags or (f"{NAMELESS}:{found.id.removeprefix('sha256:')[:12]}",):
        namespace.tag_image(found.id, name)
    return imported


def to_docker(namespace: Namespace, docker: Images, image: str, *, directory: str) -> None:
    """Bring an image of the native store, with all of its tags, to Docker. Raises ImageNotFound, OakumError."""
    found = _need(namespace.image_status(image), image)
    with _spool(directory) as file:
        namespace.export_images([found.id], file, archive_format="docker")
        file.seek(0)
        docker.load(_pieces(file))
    for name in found.repo_tags:
        docker.tag(found.id, name)


def _need(found: Image | None, image: str) -> Image:
    if found is None:
        raise ImageNotFound("hand image over", repr(image[:200]), "it is not there")
    return found


def _spool(directory: str) -> BinaryIO:
    try:
        os.makedirs(directory, mode=0o711, exist_ok=True)
        return tempfile.TemporaryFile(dir=directory)
    except OSError as error:
        raise SystemFailure.from_os_error(error, "make temporary file", directory) from error


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(_PIECE_BYTES):
        yield piece
