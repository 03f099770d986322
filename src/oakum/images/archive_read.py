# SPDX-License-Identifier: Apache-2.0
"""Reads image archives into the content store: OCI layouts and docker's, as directories or tars, hostile or not.

A tar is first read through once, to note where its files lie; nothing is unpacked to disk but blobs that verify.
Spec: image-spec image-layout.md; docker's `manifest.json` (and the older `repositories` of docker 1.x).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from typing import IO, Any, BinaryIO, Final, Protocol, cast

import msgspec

from oakum.errors import DataLoss, InvalidArgument, OakumError
from oakum.images.archived import ImportedImage
from oakum.images.config import CONFIG_LIMIT_BYTES, parse_config
from oakum.images.content import ContentStore, storage_error
from oakum.images.digests import digest_of, is_digest
from oakum.images.inflate import MAGIC_BYTES, inflater_for
from oakum.images.manifests import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    MANIFEST_LIMIT_BYTES,
    Descriptor,
    Index,
    parse_index,
    parse_manifest_or_index,
)
from oakum.images.reference import parse_reference

_JSON_LIMIT_BYTES: Final = 16 << 20
_COPY_BYTES: Final = 1 << 20
_DEPTH: Final = 4
# Who writes names how: OCI's own key, and containerd's with the full name
_NAME_KEYS: Final = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


class _DockerEntry(msgspec.Struct):
    config: str = msgspec.field(name="Config")
    layers: list[str] | None = msgspec.field(name="Layers", default=None)
    tags: list[str] | None = msgspec.field(name="RepoTags", default=None)


class Source(Protocol):
    """Files of an archive by name."""

    def names(self) -> list[str]:
        """All files."""
        ...

    def open(self, name: str) -> tuple[IO[bytes], int]:
        """One file and its length. Raises KeyError."""
        ...


def read_archive(source: str | BinaryIO, content: ContentStore) -> list[ImportedImage]:
    """Bring in all images of `source`. Raises as `archive.import_archive`."""
    with ExitStack() as stack:
        try:
            files = _open_source(source, stack)
            return _Import(files, content).images()
        except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataLoss("import images", _name_of(source), f"damaged archive: {error}") from error
        except OSError as error:
            raise storage_error(error, "import images", _name_of(source)) from error


class _Import:
    def __init__(self, files: Source, content: ContentStore) -> None:
        self._files = files
        self._names = set(files.names())
        self._content = content

    def images(self) -> list[ImportedImage]:
        # docker save writes both since version 25: the index knows the original manifests.
        if "index.json" in self._names:
            return self._oci()
        if "manifest.json" in self._names:
            return self._docker()
        raise InvalidArgument(
            "import images",
            "",
            "neither an OCI layout nor a docker archive",
            hint="index.json or manifest.json is missing",
        )

    # OCI layouts

    def _oci(self) -> list[ImportedImage]:
        index = parse_index(self._bytes("index.json", _JSON_LIMIT_BYTES), "", "index.json")
        found: dict[str, list[str]] = {}
        for entry in index.manifests:
            self._tree(entry.digest, entry.size, _DEPTH)
            names = found.setdefault(entry.digest, [])
            name = _full_name(entry.annotations)
            if name and name not in names:
                names.append(name)
        if not found:
            raise InvalidArgument("import images", "index.json", "names no image")
        return [ImportedImage(digest, tuple(names)) for digest, names in found.items()]

    def _tree(self, digest: str, size: int, depth: int) -> None:
        if depth == 0:
            raise DataLoss("read index", digest, f"indexes nested deeper than {_DEPTH}")
        data = self._blob_bytes(digest, MANIFEST_LIMIT_BYTES)
        if len(data) != size:
            raise DataLoss("verify manifest", digest, f"has {len(data)} bytes, {size} were declared")
        found = parse_manifest_or_index(data, "", digest)
        if isinstance(found, Index):
            for entry in found.manifests:
                # An archive of an index may leave out platforms.
                if _blob_name(entry.digest) in self._names or self._content.has(entry.digest):
                    self._branch(entry, depth - 1)
        else:
            for blob in found.blobs:
                self._store(blob.digest, blob.size)
        self._content.write_blob(data, digest)

    def _branch(self, entry: Descriptor, depth: int) -> None:
        """Part of an index. Beside its images, builders put what is none: attestations, signatures."""
        try:
            self._tree(entry.digest, entry.size, depth)
        except InvalidArgument:
            return  # as a pull, which fetches the chosen image only

    def _blob_bytes(self, digest: str, limit: int) -> bytes:
        name = _blob_name(digest)
        if name not in self._names and self._content.has(digest):
            return self._content.read(digest, limit)
        return self._bytes(name, limit)

    def _store(self, digest: str, size: int) -> None:
        """Copy one blob, verified."""
        if self._content.has(digest):
            return
        file, found = self._open(_blob_name(digest))
        with closing(file):
            if found != size:
                raise DataLoss("import blob", digest, f"has {found} bytes, {size} were declared")
            self._copy(file, digest, size)

    def _copy(self, file: IO[bytes], digest: str, size: int) -> None:
        ingest = self._content.ingest(digest, size)
        if ingest is None:
            return
        try:
            ingest.restart()
            while chunk := file.read(_COPY_BYTES):
                ingest.write(chunk)
            ingest.commit()
        finally:
            ingest.close(keep=False)

    # docker archives

    def _docker(self) -> list[ImportedImage]:
        listed = self._json("manifest.json")
        if not isinstance(listed, list) or not listed:
            raise InvalidArgument("import images", "manifest.json", "names no image")
        return [self._docker_image(entry) for entry in cast("list[Any]", listed)]

    def _docker_image(self, entry: Any) -> ImportedImage:
        config_name, layer_names, tags = _docker_entry(entry)
        config = self._bytes(config_name, CONFIG_LIMIT_BYTES)
        config_digest = digest_of(config)
        diff_ids = parse_config(config, config_digest).diff_ids
        if len(diff_ids) != len(layer_names):
            raise DataLoss(
                "import images",
                config_name,
                f"{len(layer_names)} layers, but the config names {len(diff_ids)}",
            )
        layers: list[dict[str, Any]] = []
        for name, diff_id in zip(layer_names, diff_ids, strict=True):
            layers.append(self._docker_layer(name, diff_id))
        self._content.write_blob(config, config_digest)
        manifest = {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": {"mediaType": DOCKER_CONFIG, "digest": config_digest, "size": len(config)},
            "layers": layers,
        }
        data = json.dumps(manifest, separators=(",", ":")).encode()
        digest = digest_of(data)
        self._content.write_blob(data, digest)
        return ImportedImage(digest, tuple(parse_reference(tag).canonical for tag in tags))

    def _docker_layer(self, name: str, diff_id: str) -> dict[str, Any]:
        """Store a layer of `docker save` and describe it; mostly a plain tar, whose digest is the diff id."""
        file, size = self._open(name)
        with closing(file):
            hasher, diff = hashlib.sha256(), hashlib.sha256()
            inflater = None
            while chunk := file.read(_COPY_BYTES):
                hasher.update(chunk)
                if inflater is None:
                    inflater = inflater_for(chunk[:MAGIC_BYTES])
                for piece in inflater.feed(chunk):
                    diff.update(piece)
            if inflater is not None:
                inflater.finish()
        if f"sha256:{diff.hexdigest()}" != diff_id:
            raise DataLoss("import layer", name, f"its content is sha256:{diff.hexdigest()}, not {diff_id}")
        digest = f"sha256:{hasher.hexdigest()}"
        if not self._content.has(digest):
            file, _ = self._open(name)
            with closing(file):
                self._copy(file, digest, size)
        packed = "" if digest == diff_id else ".gzip"
        return {"mediaType": DOCKER_LAYER + packed, "digest": digest, "size": size}

    # Files

    def _open(self, name: str) -> tuple[IO[bytes], int]:
        try:
            return self._files.open(name)
        except KeyError:
            raise DataLoss("import images", repr(name[:200]), "is missing in the archive") from None

    def _bytes(self, name: str, limit: int) -> bytes:
        file, size = self._open(name)
        with closing(file):
            if size > limit:
                raise DataLoss("import images", repr(name[:200]), f"larger than {limit} bytes")
            return file.read(limit)

    def _json(self, name: str) -> Any:
        try:
            return json.loads(self._bytes(name, _JSON_LIMIT_BYTES))
        except (ValueError, RecursionError) as error:
            raise DataLoss("import images", name, str(error)) from error


class _DirectorySource:
    """An OCI layout in a directory. Its symbolic links are not followed."""

    def __init__(self, path: str) -> None:
        self._path = path

    def names(self) -> list[str]:
        return list(self._walk())

    def _walk(self) -> Iterator[str]:
        for root, _, files in os.walk(self._path):
            for file in files:
                yield os.path.relpath(os.path.join(root, file), self._path)

    def open(self, name: str) -> tuple[IO[bytes], int]:
        try:
            fd = os.open(os.path.join(self._path, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise KeyError(name) from None
        file = os.fdopen(fd, "rb")
        return file, os.fstat(fd).st_size


class _TarSource:
    """An archive in a tar. Links inside it (docker writes repeated layers so) are followed inside it only."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._members: dict[str, tarfile.TarInfo] = {}
        for member in tar:
            self._members[os.path.normpath(member.name).lstrip("/")] = member

    def names(self) -> list[str]:
        return [
            name
            for name, member in self._members.items()
            if member.isreg() or member.issym() or member.islnk()
        ]

    def open(self, name: str) -> tuple[IO[bytes], int]:
        for _ in range(8):
            member = self._members[name]
            if member.isreg():
                file = self._tar.extractfile(member)
                assert file is not None
                return file, member.size
            if member.issym():
                name = os.path.normpath(os.path.join(os.path.dirname(name), member.linkname))
            elif member.islnk():
                name = os.path.normpath(member.linkname).lstrip("/")
            else:
                break
        raise KeyError(name)


def _open_source(source: str | BinaryIO, stack: ExitStack) -> Source:
    if isinstance(source, str) and os.path.isdir(source):
        return _DirectorySource(source)
    file = stack.enter_context(open(source, "rb")) if isinstance(source, str) else source  # noqa: SIM115 - the stack
    if not file.seekable():
        # A pipe: the index of a layout may come last, so all of it is needed first.
        file = _spool(file, stack)
    head = file.read(MAGIC_BYTES)
    file.seek(-len(head), io.SEEK_CUR)
    if head.startswith(b"\x1f\x8b"):
        with gzip.GzipFile(fileobj=file) as packed:
            file = _spool(cast("BinaryIO", packed), stack)
    return _TarSource(stack.enter_context(tarfile.open(fileobj=file, mode="r:")))


def _spool(file: BinaryIO, stack: ExitStack) -> BinaryIO:
    """All of `file`, in a temporary file that the stack closes."""
    spool = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack
    shutil.copyfileobj(file, spool, _COPY_BYTES)
    spool.seek(0)
    return cast("BinaryIO", spool)


def _docker_entry(entry: Any) -> tuple[str, list[str], list[str]]:
    try:
        fields = msgspec.convert(entry, _DockerEntry)
    except msgspec.ValidationError as error:
        raise DataLoss("import images", "manifest.json", str(error)) from error
    layers = [os.path.normpath(name) for name in fields.layers or ()]
    return os.path.normpath(fields.config), layers, fields.tags or []


def _blob_name(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/") if is_digest(digest) else ""


def _full_name(annotations: Mapping[str, str]) -> str:
    for key in _NAME_KEYS:
        text = annotations.get(key, "")
        # The OCI key often holds a bare tag, which names no image by itself.
        if "/" in text or (key == _NAME_KEYS[0] and text) or ":" in text:
            try:
                return parse_reference(text).canonical
            except OakumError:
                continue
    return ""


def _name_of(source: str | BinaryIO) -> str:
    return source if isinstance(source, str) else str(getattr(source, "name", ""))
