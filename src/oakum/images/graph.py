# SPDX-License-Identifier: Apache-2.0
"""What hangs together in the content store: from manifests and indexes down to their blobs. Deletes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from oakum.errors import DataLoss, InvalidArgument, NotFound
from oakum.images.config import CONFIG_LIMIT_BYTES, ImageConfig, parse_config
from oakum.images.content import ContentStore
from oakum.images.layers import PulledImage
from oakum.images.manifests import (
    MANIFEST_LIMIT_BYTES,
    Index,
    Manifest,
    check_config_platform,
    check_layers_match,
    choose,
    parse_manifest_or_index,
)
from oakum.images.platforms import Platform

INDEX_DEPTH = 4


def read_manifest(content: ContentStore, digest: str) -> Manifest | Index:
    """The manifest or index in the store. Raises NotFound, DataLoss, InvalidArgument."""
    return parse_manifest_or_index(content.read(digest, MANIFEST_LIMIT_BYTES), "", digest)


def read_config(content: ContentStore, manifest: Manifest) -> ImageConfig:
    """The configuration of a manifest in the store. Raises NotFound, DataLoss."""
    return parse_config(content.read(manifest.config.digest, CONFIG_LIMIT_BYTES), manifest.config.digest)


def resolve(
    content: ContentStore, digest: str, platform: Platform, name: str = ""
) -> tuple[str, Manifest, ImageConfig]:
    """The manifest of the store that serves `platform`, starting from a manifest or an index.

    Raises:
        NotFound: a part is missing, or nothing is there for this platform.
        DataLoss: a part is damaged, or indexes are nested too deep.
    """
    for _ in range(INDEX_DEPTH):
        found = read_manifest(content, digest)
        if isinstance(found, Manifest):
            config = read_config(content, found)
            check_config_platform(config, platform, name or digest)
            check_layers_match(found, config, digest)
            return digest, found, config
        digest = choose(found, platform, name or digest).digest
    raise DataLoss("read index", digest, f"indexes nested deeper than {INDEX_DEPTH}")


def describe(content: ContentStore, target: str, platform: Platform, name: str = "") -> PulledImage:
    """The image that the manifest or index `target` of the store means on `platform`. Raises as `resolve`."""
    digest, manifest, config = resolve(content, target, platform, name)
    return PulledImage(
        manifest_digest=digest,
        index_digest="" if digest == target else target,
        config_digest=manifest.config.digest,
        media_type=manifest.media_type,
        size_bytes=content.size(digest) + sum(blob.size for blob in manifest.blobs),
        config=config,
        chain_id=config.chain_id,
        layer_digests=tuple(layer.digest for layer in manifest.layers),
    )


def reachable(content: ContentStore, digests: Iterable[str]) -> set[str]:
    """Every blob that the manifests and indexes `digests` need, themselves included.

    Parts that are not in the store (other platforms of an index) are named but not followed. A damaged
    manifest, and what is no image, keeps only itself.
    """
    seen: set[str] = set()
    pending = list(digests)
    while pending:
        digest = pending.pop()
        if digest in seen:
            continue
        seen.add(digest)
        pending.extend(_children(content, digest, seen))
    return seen


def _children(content: ContentStore, digest: str, seen: set[str]) -> Iterator[str]:
    try:
        found = read_manifest(content, digest)
    except (NotFound, DataLoss, InvalidArgument):
        return
    if isinstance(found, Index):
        yield from (entry.digest for entry in found.manifests)
    else:
        seen.update(blob.digest for blob in found.blobs)
