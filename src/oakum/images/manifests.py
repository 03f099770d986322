# SPDX-License-Identifier: Apache-2.0
"""Manifests and indexes, OCI's and Docker's, read from hostile JSON: pure parsing, checking and choosing.

The inner configuration is `config.py`'s; it is re-exported here because callers look for both together.
Spec: image-spec manifest.md and image-index.md v1.1; Docker Registry image manifest v2, schema 2.
"""

from __future__ import annotations

from typing import Final

import msgspec

from oakum.errors import DataLoss, InvalidArgument, NotFound
from oakum.images.config import CONFIG_LIMIT_BYTES, HistoryEntry, ImageConfig, parse_config
from oakum.images.digests import chain_ids, is_digest
from oakum.images.platforms import Platform, rank

__all__ = [
    "CONFIG_LIMIT_BYTES",
    "MANIFEST_LIMIT_BYTES",
    "MANIFEST_TYPES",
    "Descriptor",
    "HistoryEntry",
    "ImageConfig",
    "Index",
    "Manifest",
    "chain_ids",
    "check_config_platform",
    "check_layers_match",
    "choose",
    "parse_config",
    "parse_index",
    "parse_manifest",
    "parse_manifest_or_index",
]

MANIFEST_LIMIT_BYTES: Final = (
    4 << 20
)  # Spec: distribution-spec, "Pushing Manifests": registries take at least 4 MB
_LAYER_LIMIT: Final = 4096
_SIZE_LIMIT: Final = 1 << 50

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
MANIFEST_TYPES: Final = (DOCKER_MANIFEST, DOCKER_INDEX, OCI_MANIFEST, OCI_INDEX)

_CONFIG_TYPES: Final = (OCI_CONFIG, DOCKER_CONFIG)
_LAYER_TYPES: Final = frozenset(
    (
        OCI_LAYER,
        f"{OCI_LAYER}+gzip",
        f"{OCI_LAYER}+zstd",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        DOCKER_LAYER,
        f"{DOCKER_LAYER}.gzip",
        f"{DOCKER_LAYER}.zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    )
)
_SCHEMA_1: Final = "application/vnd.docker.distribution.manifest.v1"


class Descriptor(msgspec.Struct, frozen=True, kw_only=True):
    """A blob by digest, size and media type; `platform` only in an index."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    annotations: dict[str, str] = {}


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One image for one platform; layers lowest first."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str] = {}

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Config and layers."""
        return (self.config, *self.layers)


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """Several manifests, for several platforms."""

    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: dict[str, str] = {}


class _Platform(msgspec.Struct):
    os: str | None = None
    architecture: str | None = None
    variant: str | None = None


class _Descriptor(msgspec.Struct):
    digest: str
    size: int
    media_type: str | None = msgspec.field(name="mediaType", default=None)
    platform: _Platform | None = None
    annotations: dict[str, str] | None = None


class _Document(msgspec.Struct):
    schema_version: int | None = msgspec.field(name="schemaVersion", default=None)
    media_type: str | None = msgspec.field(name="mediaType", default=None)
    config: _Descriptor | None = None
    layers: list[_Descriptor] | None = None
    manifests: list[_Descriptor] | None = None
    annotations: dict[str, str] | None = None


_DECODER = msgspec.json.Decoder(_Document)


def parse_manifest_or_index(data: bytes, media_type: str = "", digest: str = "") -> Manifest | Index:
    """What `data` is; `media_type` is what the registry called it, `digest` is only for messages.

    Raises:
        DataLoss: not JSON, or not a manifest.
        InvalidArgument: a manifest of a kind that is no container image.
    """
    document = _decode(data, digest)
    kind = document.media_type or media_type.partition(";")[0].strip()
    if kind.startswith(_SCHEMA_1) or document.schema_version == 1:
        raise InvalidArgument(
            "read manifest",
            digest,
            "Docker schema 1 is not supported",
            hint="push the image again with a newer tool",
        )
    if document.schema_version != 2:
        raise DataLoss("read manifest", digest, f"schemaVersion is {document.schema_version}, not 2")
    if kind not in MANIFEST_TYPES:
        # The field is optional in OCI's manifests, and what servers say instead is often plain JSON.
        if document.media_type or kind not in (
            "",
            "application/json",
            "text/plain",
            "application/octet-stream",
        ):
            raise InvalidArgument("read manifest", digest, f"unknown media type {kind[:120]!r}")
        kind = OCI_INDEX if document.manifests is not None else OCI_MANIFEST
    if document.manifests is not None and (document.config is not None or document.layers is not None):
        # One document that two readers understand differently is an attack, not an image.
        raise DataLoss("read manifest", digest, "is both a manifest and an index")
    if kind in (OCI_INDEX, DOCKER_INDEX):
        return _index(document, kind, digest)
    return _manifest(document, kind, digest)


def parse_manifest(data: bytes, media_type: str = "", digest: str = "") -> Manifest:
    """The manifest in `data`. Raises as `parse_manifest_or_index`, and InvalidArgument for an index."""
    found = parse_manifest_or_index(data, media_type, digest)
    if isinstance(found, Index):
        raise InvalidArgument("read manifest", digest, "is an index of manifests")
    return found


def parse_index(data: bytes, media_type: str = "", digest: str = "") -> Index:
    """The index in `data`. Raises as `parse_manifest_or_index`, and InvalidArgument for a manifest."""
    found = parse_manifest_or_index(data, media_type, digest)
    if isinstance(found, Manifest):
        raise InvalidArgument("read index", digest, "is a single manifest")
    return found


def choose(index: Index, platform: Platform, digest: str = "") -> Descriptor:
    """The manifest (or inner index) that serves `platform` best; the first of equals.

    Raises:
        NotFound: none does.
    """
    ranked = [
        (position, entry)
        for entry in index.manifests
        if entry.media_type in MANIFEST_TYPES
        and (position := rank(platform, entry.platform or Platform())) is not None
    ]
    if not ranked:
        there = sorted(
            {str(e.platform) for e in index.manifests if e.platform and e.platform.os != "unknown"}
        )
        raise NotFound(
            "choose image",
            digest,
            f"no manifest for {platform}",
            hint=f"there are {', '.join(there[:12])}" if there else "the index names no platform",
        )
    return min(ranked, key=lambda pair: pair[0])[1]


def check_config_platform(config: ImageConfig, platform: Platform, name: str) -> None:
    """Refuse an image that this platform cannot run. Raises NotFound."""
    offered = Platform(config.os, config.architecture, config.variant)
    if rank(platform, offered) is None:
        raise NotFound(
            "choose image",
            name,
            f"the image is for {offered}, not for {platform}",
            hint="ask its publisher for an image of this platform",
        )


def check_layers_match(manifest: Manifest, config: ImageConfig, digest: str = "") -> None:
    """Refuse a manifest whose layers are not those of its configuration. Raises DataLoss."""
    if len(manifest.layers) != len(config.diff_ids):
        raise DataLoss(
            "read manifest",
            digest,
            f"{len(manifest.layers)} layers, but the config names {len(config.diff_ids)}",
        )


def _decode(data: bytes, digest: str) -> _Document:
    if len(data) > MANIFEST_LIMIT_BYTES:
        raise DataLoss("read manifest", digest, f"larger than {MANIFEST_LIMIT_BYTES} bytes")
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataLoss("read manifest", digest, str(error)) from error


def _index(document: _Document, kind: str, digest: str) -> Index:
    if document.manifests is None:
        raise DataLoss("read index", digest, "names no manifests")
    _check_count(len(document.manifests), digest)
    return Index(
        media_type=kind,
        manifests=tuple(_descriptor(raw, digest) for raw in document.manifests),
        annotations=document.annotations or {},
    )


def _manifest(document: _Document, kind: str, digest: str) -> Manifest:
    if document.config is None:
        raise DataLoss("read manifest", digest, "the image has no config")
    config = _descriptor(document.config, digest)
    if config.media_type and config.media_type not in _CONFIG_TYPES:
        raise InvalidArgument(
            "read manifest",
            digest,
            f"not a container image: its config is {config.media_type[:120]!r}",
        )
    if config.size > CONFIG_LIMIT_BYTES:
        raise DataLoss("read manifest", digest, f"a config of {config.size} bytes is too large")
    layers = [_descriptor(raw, digest) for raw in document.layers or ()]
    _check_count(len(layers), digest)
    sizes = {config.digest: config.size}
    for layer in layers:
        if layer.media_type not in _LAYER_TYPES:
            raise InvalidArgument(
                "read manifest", digest, f"unknown layer media type {layer.media_type[:120]!r}"
            )
        if sizes.setdefault(layer.digest, layer.size) != layer.size:
            raise DataLoss("read manifest", digest, f"gives {layer.digest} two sizes")
    return Manifest(
        media_type=kind, config=config, layers=tuple(layers), annotations=document.annotations or {}
    )


def _descriptor(raw: _Descriptor, digest: str) -> Descriptor:
    if not is_digest(raw.digest):
        raise DataLoss("read manifest", digest, f"{raw.digest[:160]!r} is not a digest")
    if not 0 <= raw.size <= _SIZE_LIMIT:
        raise DataLoss("read manifest", digest, f"{raw.digest} has the size {raw.size}")
    platform = None
    if raw.platform is not None:
        platform = Platform(
            raw.platform.os or "", raw.platform.architecture or "", raw.platform.variant or ""
        )
    return Descriptor(
        media_type=raw.media_type or "",
        digest=raw.digest,
        size=raw.size,
        platform=platform,
        annotations=raw.annotations or {},
    )


def _check_count(count: int, digest: str) -> None:
    if count > _LAYER_LIMIT:
        raise DataLoss("read manifest", digest, f"names {count} blobs, more than {_LAYER_LIMIT}")
