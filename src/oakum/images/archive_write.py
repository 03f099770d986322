# SPDX-License-Identifier: Apache-2.0
"""Writes images of the content store as one tar: an OCI layout, or what `docker load` reads.

Spec: image-spec image-layout.md; docker's `manifest.json`.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
from collections.abc import Sequence
from contextlib import closing
from typing import IO, Any, BinaryIO, Final, cast

from oakum.errors import NotFound
from oakum.images.archived import ArchiveFormat, ExportedImage
from oakum.images.config import CONFIG_LIMIT_BYTES
from oakum.images.content import ContentStore
from oakum.images.graph import read_manifest, resolve
from oakum.images.inflate import MAGIC_BYTES, inflater_for
from oakum.images.manifests import OCI_INDEX, Index
from oakum.images.platforms import Platform
from oakum.images.reference import parse_reference

_READ_BYTES: Final = 1 << 20
_SPOOL_BYTES: Final = 32 << 20


def write_archive(
    images: Sequence[ExportedImage],
    out: BinaryIO,
    content: ContentStore,
    form: ArchiveFormat,
    platform: Platform,
) -> None:
    """Write `images` to `out`. Raises as `archive.export_archive`."""
    with closing(_Writer(out, content)) as writer:
        if form == "oci":
            writer.oci(images)
        else:
            writer.docker(images, platform)


class _Writer:
    def __init__(self, out: BinaryIO, content: ContentStore) -> None:
        self._tar = tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed below
        self._content = content
        self._written: set[str] = set()

    def close(self) -> None:
        self._tar.close()

    def oci(self, images: Sequence[ExportedImage]) -> None:
        entries: list[dict[str, Any]] = []
        for image in images:
            found = read_manifest(self._content, image.target_digest)
            self._tree(image.target_digest)
            descriptor: dict[str, Any] = {
                "mediaType": found.media_type,
                "digest": image.target_digest,
                "size": self._content.size(image.target_digest),
            }
            for name in image.names or ("",):
                entries.append({**descriptor, **_annotations(name)})
        self._file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        self._file("index.json", json.dumps(index).encode())

    def docker(self, images: Sequence[ExportedImage], platform: Platform) -> None:
        listed: list[dict[str, Any]] = []
        for image in images:
            _, manifest, config = resolve(self._content, image.target_digest, platform)
            encoded = manifest.config.digest.partition(":")[2]
            layers: list[str] = []
            for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True):
                name = f"{diff_id.partition(':')[2]}.tar"
                layers.append(name)
                self._plain_layer(name, layer.digest)
            self._file(f"{encoded}.json", self._content.read(manifest.config.digest, CONFIG_LIMIT_BYTES))
            tags = [parse_reference(name).familiar for name in image.names if "@" not in name]
            listed.append({"Config": f"{encoded}.json", "RepoTags": tags, "Layers": layers})
        self._file("manifest.json", json.dumps(listed).encode())

    def _tree(self, digest: str) -> None:
        found = read_manifest(self._content, digest)
        if isinstance(found, Index):
            here = [entry.digest for entry in found.manifests if self._content.has(entry.digest)]
            if not here:
                raise NotFound("export image", digest, "no image of its index is in the store")
            for child in here:
                self._tree(child)
        else:
            for blob in found.blobs:
                self._blob(blob.digest)
        self._blob(digest)

    def _blob(self, digest: str) -> None:
        name = "blobs/" + digest.replace(":", "/")
        if name in self._written:
            return
        with self._content.open_blob(digest) as fd:
            size = os.fstat(fd.fileno()).st_size
            with os.fdopen(os.dup(fd.fileno()), "rb") as file:
                self._add(name, file, size)

    def _plain_layer(self, name: str, digest: str) -> None:
        """A layer as docker wants it: inflated, so its length is known only afterwards."""
        if name in self._written:
            return
        with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as spool:
            with self._content.open_blob(digest) as fd:
                inflater = None
                while chunk := os.read(fd.fileno(), _READ_BYTES):
                    if inflater is None:
                        inflater = inflater_for(chunk[:MAGIC_BYTES])
                    for piece in inflater.feed(chunk):
                        spool.write(piece)
                if inflater is not None:
                    inflater.finish()
            size = spool.tell()
            spool.seek(0)
            self._add(name, cast("IO[bytes]", spool), size)

    def _file(self, name: str, data: bytes) -> None:
        if name not in self._written:
            self._add(name, io.BytesIO(data), len(data))

    def _add(self, name: str, file: IO[bytes], size: int) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o644
        self._tar.addfile(info, file)
        self._written.add(name)


def _annotations(name: str) -> dict[str, Any]:
    if not name:
        return {}
    reference = parse_reference(name)
    return {
        "annotations": {
            "io.containerd.image.name": reference.canonical,
            "org.opencontainers.image.ref.name": reference.tag or reference.canonical,
        }
    }
