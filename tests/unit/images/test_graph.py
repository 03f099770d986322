# SPDX-License-Identifier: Apache-2.0
"""What must stay when garbage is collected, and what an image in the store is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from oakum.errors import NotFound
from oakum.images.content import ContentStore
from oakum.images.graph import describe, reachable
from oakum.images.platforms import Platform
from tests.support.images import Blob, BuiltImage, build_image, build_index

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(str(tmp_path))


def put(store: ContentStore, *blobs: Blob) -> set[str]:
    for blob in blobs:
        store.write_blob(blob.data, blob.digest)
    return {blob.digest for blob in blobs}


def all_of(image: BuiltImage) -> tuple[Blob, ...]:
    return (image.manifest, image.config, *image.layers)


def test_an_image_keeps_its_parts_and_nothing_else(store: ContentStore) -> None:
    one, two = build_image([b"1" * 512, b"2" * 512]), build_image([b"1" * 512, b"3" * 512])
    kept = put(store, *all_of(one))
    put(store, *all_of(two))
    assert reachable(store, [one.manifest.digest]) == kept
    assert reachable(store, []) == set()


def test_an_index_keeps_the_platforms_that_are_here(store: ContentStore) -> None:
    here, away = (
        build_image([b"1" * 512], architecture="amd64"),
        build_image([b"2" * 512], architecture="arm64"),
    )
    index = build_index(
        [(here, {"os": "linux", "architecture": "amd64"}), (away, {"os": "linux", "architecture": "arm64"})]
    )
    kept = put(store, index, *all_of(here))
    assert reachable(store, [index.digest]) == kept | {away.manifest.digest}
    image = describe(store, index.digest, AMD64)
    assert (image.manifest_digest, image.index_digest) == (here.manifest.digest, index.digest)
    assert image.target_digest == index.digest
    with pytest.raises(NotFound):
        describe(store, index.digest, ARM64)


def test_a_damaged_manifest_keeps_itself(store: ContentStore) -> None:
    broken = Blob("x", b"{")
    put(store, broken)
    assert reachable(store, [broken.digest]) == {broken.digest}


def test_an_index_may_name_what_is_no_image(store: ContentStore) -> None:
    image = build_image([b"1" * 512])
    odd = Blob("x", b'{"schemaVersion":1}')
    document = json.loads(build_index([(image, {"os": "linux", "architecture": "amd64"})]).data)
    document["manifests"].append(odd.descriptor | {"mediaType": image.manifest.media_type})
    index = Blob(document["mediaType"], json.dumps(document).encode())
    kept = put(store, index, odd, *all_of(image))
    assert reachable(store, [index.digest]) == kept


def test_sizes_count_what_was_fetched(store: ContentStore) -> None:
    image = build_image([b"1" * 5000], compression="plain")
    put(store, *all_of(image))
    found = describe(store, image.manifest.digest, AMD64)
    assert found.size_bytes == sum(len(blob.data) for blob in all_of(image))
    assert found.index_digest == ""
