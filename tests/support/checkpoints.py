# SPDX-License-Identifier: Apache-2.0
"""Images of containers' archives as tools make them, and archives without CRIU. Owns no part of what is tested."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

from tests.support.images import Blob, BuiltImage, build_image, build_index, make_layer, tar_entry

CRIO = "io.kubernetes.cri-o.annotations.checkpoint.name"
CONTAINERD = "org.criu.checkpoint.container.name"


def checkpoint_image(archive: Path, annotation: str = CRIO) -> BuiltImage:
    """An archive unpacked and packed again as an image's only layer, in another order, as `buildah add` does it."""
    with tarfile.open(archive) as tar:
        found = {info.name: tar.extractfile(info) for info in tar}
        files = {name: file.read() for name, file in found.items() if file is not None}
    entries = [tar_entry("checkpoint", "d", mode=0o700), tar_entry("run", "d")]
    entries += [tar_entry(name, payload=data, mode=0o600) for name, data in sorted(files.items())]
    return annotated(build_image([make_layer(entries)], media="oci"), {annotation: "counter"})


def annotated(image: BuiltImage, annotations: dict[str, str]) -> BuiltImage:
    """The image with annotations in its manifest."""
    manifest = {**json.loads(image.manifest.data), "annotations": annotations}
    return image._replace(manifest=Blob(image.manifest.media_type, json.dumps(manifest).encode()))


def annotated_index(image: BuiltImage, annotations: dict[str, str]) -> Blob:
    """An index of the image, with annotations."""
    index = build_index([(image, {"os": "linux", "architecture": "amd64"})], media="oci")
    return Blob(index.media_type, json.dumps({**json.loads(index.data), "annotations": annotations}).encode())


def fake_criu(_program: str, action: str, arguments: list[str], work: str, *_: object, **__: object) -> None:
    """In the place of `criu.call`, for what is around a dump: images that nobody could restore."""
    assert action == "dump"
    assert "--leave-running" in arguments
    for name in ("inventory.img", "core-1.img", "pages-1.img", "dump.log", "stats-dump"):
        Path(work, name).write_bytes(f"what CRIU says in {name}\n".encode() * 3000)
