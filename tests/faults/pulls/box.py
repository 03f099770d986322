# SPDX-License-Identifier: Apache-2.0
"""One host that pulls, as the tests of faulty pulls see it, and the images they pull."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from oakum.images.content import ContentStore
from oakum.images.layers import PulledImage
from oakum.images.pull import pull
from oakum.images.reference import parse_reference
from tests.support.images import (
    Blob,
    BuiltImage,
    build_image,
    make_layer,
    tar_entry,
)
from tests.support.layer_target import DirectoryTarget
from tests.support.patience import eventually

NAME = "team/app"
OWNER = {"uid": os.getuid(), "gid": os.getgid()}
BIG = bytes(range(256)) * 4096  # 1 MiB
DIGEST_OF_NOTHING = "sha256:" + "0" * 64


class Client:
    """One host that pulls: its content store and its layers."""

    def __init__(self, directory: Path) -> None:
        self.content = ContentStore(str(directory / "content"))
        self.layers = DirectoryTarget(directory / "snapshots")

    def pull(self, address: str, tag: str = "1", **options: Any) -> PulledImage:
        reference = parse_reference(
            f"{address}/{NAME}:{tag}" if ":" not in tag else f"{address}/{NAME}@{tag}"
        )
        return pull(reference, content=self.content, layers=self.layers, **options)

    def ingests(self) -> list[str]:
        return os.listdir(os.path.join(self.content.directory, "ingest"))

    def assert_clean(self) -> None:
        """Nothing half done is left: no open layer, no part of a blob, no worker process."""
        assert eventually(lambda: not self.layers.leftovers())
        assert self.ingests() == []
        assert workers() == []


def workers() -> list[int]:
    """Unpack workers that are children of this process."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        children = [int(pid) for pid in file.read().split()]
    found = []
    for pid in children:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except FileNotFoundError:
            continue
        if b"unpack_worker" in command:
            found.append(pid)
    return found


def simple_image(content: bytes = b"hello", **options: Any) -> BuiltImage:
    return build_image([make_layer([tar_entry("file", "f", content, **OWNER)])], **options)


def incompressible_image() -> BuiltImage:
    return build_image([make_layer([tar_entry("file", "f", os.urandom(1 << 20), **OWNER)])])


def changed_manifest(image: BuiltImage, **changes: Any) -> Blob:
    document = {**json.loads(image.manifest.data), **changes}
    document = {key: value for key, value in document.items() if value is not None}
    return Blob(image.manifest.media_type, json.dumps(document).encode())
