# SPDX-License-Identifier: Apache-2.0
"""Manifests and indexes of both families, and what hostile ones try."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.errors import DataLoss, InvalidArgument, NotFound
from oakum.images.config import parse_config
from oakum.images.manifests import (
    MANIFEST_LIMIT_BYTES,
    Index,
    Manifest,
    check_config_platform,
    check_layers_match,
    choose,
    parse_index,
    parse_manifest,
    parse_manifest_or_index,
)
from oakum.images.platforms import Platform
from tests.support.images import BuiltImage, build_image, build_index, media_type

AMD64 = Platform("linux", "amd64")


def image(**options: Any) -> BuiltImage:
    return build_image([b"\0" * 1024], **options)


def changed(**changes: Any) -> bytes:
    document = {**json.loads(image().manifest.data), **changes}
    return json.dumps({key: value for key, value in document.items() if value is not ...}).encode()


@pytest.mark.parametrize("media", ["docker", "oci"])
@pytest.mark.parametrize("compression", ["gzip", "zstd", "plain"])
def test_manifests_of_both_families(media: Any, compression: Any) -> None:
    built = image(media=media, compression=compression)
    manifest = parse_manifest(built.manifest.data)
    assert manifest.media_type == media_type(media, "manifest")
    assert manifest.config.digest == built.config.digest
    assert [(layer.digest, layer.size) for layer in manifest.layers] == [
        (layer.digest, len(layer.data)) for layer in built.layers
    ]
    assert len(manifest.blobs) == 2


@pytest.mark.parametrize("media", ["docker", "oci"])
def test_an_index_gives_the_manifest_for_the_platform(media: Any) -> None:
    offers = [(image(architecture=a), {"os": "linux", "architecture": a}) for a in ("arm64", "amd64", "386")]
    index = parse_index(build_index(offers, media=media).data)
    assert choose(index, AMD64).digest == offers[1][0].manifest.digest
    with pytest.raises(NotFound, match=r"linux/386, linux/amd64, linux/arm64"):
        choose(index, Platform("linux", "riscv64"))


def test_attestations_in_an_index_are_passed_over() -> None:
    note = (image(architecture="unknown"), {"os": "unknown", "architecture": "unknown"})
    real = (image(), {"os": "linux", "architecture": "amd64"})
    assert choose(parse_index(build_index([note, real]).data), AMD64).digest == real[0].manifest.digest


def test_the_media_type_may_come_from_the_registry_alone() -> None:
    data = changed(mediaType=...)
    assert isinstance(parse_manifest_or_index(data, media_type("oci", "manifest")), Manifest)
    assert isinstance(parse_manifest_or_index(data, "application/json; charset=utf-8"), Manifest)
    index = json.loads(build_index([(image(), {})]).data)
    del index["mediaType"]
    assert isinstance(parse_manifest_or_index(json.dumps(index).encode()), Index)


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        (b"", DataLoss, "read manifest"),
        (b"{", DataLoss, "read manifest"),
        (b"[]", DataLoss, "read manifest"),
        (b'{"schemaVersion": 1}', InvalidArgument, "schema 1"),
        (b'{"schemaVersion": 3}', DataLoss, "schemaVersion is 3"),
        (changed(config=...), DataLoss, "no config"),
        (changed(manifests=[]), DataLoss, "both a manifest and an index"),
        (changed(mediaType="application/x"), InvalidArgument, "unknown media type"),
        (changed(layers=[{"mediaType": "x", "digest": "sha256:1", "size": 1}]), DataLoss, "not a digest"),
        (changed(layers=[{"digest": "sha256:" + "a" * 64, "size": -1}]), DataLoss, "has the size -1"),
        (changed(layers=[{"digest": "sha256:" + "a" * 64, "size": 1 << 60}]), DataLoss, "has the size"),
        (changed(layers=[{"digest": "sha256:" + "a" * 64, "size": "1"}]), DataLoss, "size"),
        (changed(layers=[{"digest": "sha256:" + "a" * 64}]), DataLoss, "size"),
        (b"[" * 200_000, DataLoss, "read manifest"),
        (b" " * (MANIFEST_LIMIT_BYTES + 1), DataLoss, "larger than"),
    ],
)
def test_what_is_refused(data: bytes, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        parse_manifest_or_index(data)


def test_a_config_that_is_too_large_is_not_even_fetched() -> None:
    built = image()
    descriptor = {**built.config.descriptor, "size": 1 << 30}
    with pytest.raises(DataLoss, match="too large"):
        parse_manifest(changed(config=descriptor))


def test_too_many_layers_are_refused() -> None:
    layer = image().layers[0].descriptor
    with pytest.raises(DataLoss, match="5000 blobs"):
        parse_manifest(changed(layers=[layer] * 5000))


def test_one_blob_has_one_size() -> None:
    built = image()
    layer = json.loads(built.manifest.data)["layers"][0]
    assert parse_manifest(changed(layers=[layer, layer]))
    with pytest.raises(DataLoss, match="two sizes"):
        parse_manifest(changed(layers=[layer | {"size": layer["size"] + 1}, layer]))


def test_a_manifest_is_no_index_and_an_index_no_manifest() -> None:
    with pytest.raises(InvalidArgument):
        parse_index(image().manifest.data)
    with pytest.raises(InvalidArgument):
        parse_manifest(build_index([(image(), {})]).data)


def test_a_config_is_checked_against_platform_and_layers() -> None:
    built = image(architecture="s390x")
    config = parse_config(built.config.data)
    with pytest.raises(NotFound, match="for linux/s390x, not for linux/amd64"):
        check_config_platform(config, AMD64, "x")
    check_layers_match(parse_manifest(built.manifest.data), config)
    with pytest.raises(DataLoss, match="0 layers"):
        check_layers_match(parse_manifest(changed(layers=[])), config)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        parse_manifest_or_index(data)
    except (DataLoss, InvalidArgument):
        return
