# SPDX-License-Identifier: Apache-2.0
"""Builds small images for tests from this machine's busybox: layers as tar bytes, blobs and manifests.

Owns no process and no network; `registry.py` pushes what is built here.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import zstandard

Media = Literal["docker", "oci"]
Compression = Literal["gzip", "zstd", "plain"]

BUSYBOX = "/bin/busybox"
MTIME = 1_700_000_000

_TYPES = {
    "docker": {
        "manifest": "application/vnd.docker.distribution.manifest.v2+json",
        "index": "application/vnd.docker.distribution.manifest.list.v2+json",
        "config": "application/vnd.docker.container.image.v1+json",
        "gzip": "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "zstd": "application/vnd.docker.image.rootfs.diff.tar.zstd",
        "plain": "application/vnd.docker.image.rootfs.diff.tar",
    },
    "oci": {
        "manifest": "application/vnd.oci.image.manifest.v1+json",
        "index": "application/vnd.oci.image.index.v1+json",
        "config": "application/vnd.oci.image.config.v1+json",
        "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
        "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
        "plain": "application/vnd.oci.image.layer.v1.tar",
    },
}


class Blob(NamedTuple):
    """Bytes with their media type."""

    media_type: str
    data: bytes

    @property
    def digest(self) -> str:
        return digest_of(self.data)

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data)}


class BuiltImage(NamedTuple):
    """An image that lies nowhere yet."""

    manifest: Blob
    config: Blob
    layers: tuple[Blob, ...]


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def media_type(media: Media, part: str) -> str:
    """The media type of "manifest", "index", "config", "gzip", "zstd" or "plain"."""
    return _TYPES[media][part]


def tar_entry(
    path: str, kind: str = "f", payload: Any = b"", mode: int = 0o755, **fields: Any
) -> tuple[tarfile.TarInfo, bytes]:
    """One entry: kind f(ile), d(ir), l (symlink), h (hard link), c, b, p (devices and fifo); fields of TarInfo."""
    info = tarfile.TarInfo(path)
    info.mode, info.mtime = mode, MTIME
    data = b""
    if kind == "f":
        data = payload
        info.size = len(data)
    else:
        info.type = {
            "d": tarfile.DIRTYPE,
            "l": tarfile.SYMTYPE,
            "h": tarfile.LNKTYPE,
            "c": tarfile.CHRTYPE,
            "b": tarfile.BLKTYPE,
            "p": tarfile.FIFOTYPE,
        }[kind]
        if kind in "lh":
            info.linkname = payload
        elif kind in "cb":
            info.devmajor, info.devminor = payload
    for name, value in fields.items():
        setattr(info, name, value)
    return info, data


def make_layer(
    entries: Sequence[tuple[tarfile.TarInfo, bytes]], *, tar_format: int = tarfile.PAX_FORMAT
) -> bytes:
    """The tar of `entries`, in their order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tar_format) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@lru_cache(maxsize=1)
def busybox_layer() -> bytes:
    """A root file system: busybox with its applets as hard links, etc/passwd, etc/group, www/index.html."""
    with open(BUSYBOX, "rb") as source:
        busybox = source.read()
    listed = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout
    dirs = [
        "bin",
        "etc",
        "dev",
        "home",
        "var",
        "var/run",
        "var/log",
        "usr",
        "usr/bin",
        "usr/sbin",
        "sbin",
        "www",
        "run",
        "lib",
    ]
    entries = [tar_entry(d, "d") for d in dirs]
    entries += [tar_entry("proc", "d", mode=0o555), tar_entry("sys", "d", mode=0o555)]
    entries += [tar_entry("tmp", "d", mode=0o1777), tar_entry("root", "d", mode=0o700)]
    entries.append(tar_entry("bin/busybox", "f", busybox))
    entries += [tar_entry("bin/" + name, "h", "bin/busybox") for name in listed.split() if name != "busybox"]
    entries.append(tar_entry("usr/bin/env", "l", "/bin/env"))
    passwd = (
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
        "www-data:x:33:33:www-data:/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n"
    )
    group = "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\naudio:x:29:www-data\nnogroup:x:65534:\n"
    for path, text in (
        ("etc/passwd", passwd),
        ("etc/group", group),
        ("www/index.html", "<h1>it works</h1>\n"),
    ):
        entries.append(tar_entry(path, "f", text.encode(), 0o644))
    return make_layer(entries)


def compress(tar: bytes, compression: Compression) -> bytes:
    """The layer's blob."""
    if compression == "gzip":
        return gzip.compress(tar, 1, mtime=0)
    if compression == "zstd":
        return zstandard.ZstdCompressor(level=1).compress(tar)
    return tar


def build_image(
    layers: Sequence[bytes],
    config: dict[str, Any] | None = None,
    *,
    media: Media = "docker",
    compression: Compression = "gzip",
    architecture: str = "amd64",
    os_name: str = "linux",
) -> BuiltImage:
    """An image of `layers` (tars, lowest first); `config` is the inner "config" object: Cmd, Env, User ..."""
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    document = {
        "architecture": architecture,
        "os": os_name,
        "created": "2026-01-01T00:00:00Z",
        "config": {"Env": [path], **(config or {})},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in layers]},
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "test"} for _ in layers],
    }
    config_blob = Blob(media_type(media, "config"), json.dumps(document, sort_keys=True).encode())
    blobs = tuple(Blob(media_type(media, compression), compress(tar, compression)) for tar in layers)
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type(media, "manifest"),
        "config": config_blob.descriptor,
        "layers": [blob.descriptor for blob in blobs],
    }
    return BuiltImage(Blob(media_type(media, "manifest"), json.dumps(manifest).encode()), config_blob, blobs)


def build_index(images: Sequence[tuple[BuiltImage, dict[str, str]]], *, media: Media = "oci") -> Blob:
    """An index of images, each with its platform ({"os": ..., "architecture": ..., "variant": ...})."""
    document = {
        "schemaVersion": 2,
        "mediaType": media_type(media, "index"),
        "manifests": [{**image.manifest.descriptor, "platform": platform} for image, platform in images],
    }
    return Blob(media_type(media, "index"), json.dumps(document).encode())
