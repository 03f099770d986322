# SPDX-License-Identifier: Apache-2.0
"""Images that are none, or not for this machine: refused with what is wrong."""

from __future__ import annotations

import json

import pytest

from oakum.errors import (
    DataLoss,
    InvalidArgument,
    NotFound,
)
from oakum.images.platforms import Platform
from tests.faults.pulls.box import (
    NAME,
    Client,
    changed_manifest,
    simple_image,
)
from tests.support.fake_registry import FakeRegistry
from tests.support.images import (
    Blob,
    build_index,
    digest_of,
)


def test_an_image_without_a_config(client: Client, fake: FakeRegistry) -> None:
    fake.add_manifest(NAME, "1", changed_manifest(simple_image(), config=None))
    with pytest.raises(DataLoss, match="no config"):
        client.pull(fake.address)


def test_an_unknown_kind_of_manifest(client: Client, fake: FakeRegistry) -> None:
    manifest = changed_manifest(simple_image(), mediaType="application/vnd.example.thing+json")
    fake.add_manifest(NAME, "1", manifest)
    with pytest.raises(InvalidArgument, match=r"vnd\.example\.thing"):
        client.pull(fake.address)


def test_a_chart_is_not_a_container_image(client: Client, fake: FakeRegistry) -> None:
    image = simple_image()
    config = {**image.config.descriptor, "mediaType": "application/vnd.cncf.helm.config.v1+json"}
    fake.add_manifest(NAME, "1", changed_manifest(image, config=config))
    with pytest.raises(InvalidArgument, match="not a container image"):
        client.pull(fake.address)


def test_an_unknown_kind_of_layer(client: Client, fake: FakeRegistry) -> None:
    image = simple_image()
    layers = [{**image.layers[0].descriptor, "mediaType": "application/x-rar"}]
    fake.add_manifest(NAME, "1", changed_manifest(image, layers=layers))
    with pytest.raises(InvalidArgument, match="x-rar"):
        client.pull(fake.address)


def test_an_image_for_another_processor(client: Client, fake: FakeRegistry) -> None:
    fake.add(NAME, "1", simple_image(architecture="s390x"))
    with pytest.raises(NotFound, match=r"for linux/s390x, not for linux/amd64"):
        client.pull(fake.address, platform=Platform("linux", "amd64"))
    assert client.layers.opened == []


def test_an_index_without_our_platform_says_which_there_are(client: Client, fake: FakeRegistry) -> None:
    image = simple_image(architecture="s390x")
    fake.add_manifest(NAME, "1", build_index([(image, {"os": "linux", "architecture": "s390x"})]))
    with pytest.raises(NotFound, match="linux/s390x"):
        client.pull(fake.address, platform=Platform("linux", "amd64"))


def test_layers_that_the_config_does_not_know(client: Client, fake: FakeRegistry) -> None:
    image = simple_image()
    fake.add(NAME, "x", image)
    fake.add_manifest(NAME, "1", changed_manifest(image, layers=[image.layers[0].descriptor] * 2))
    with pytest.raises(DataLoss, match="2 layers, but the config names 1"):
        client.pull(fake.address)


def test_a_layer_whose_content_is_not_what_the_config_says(client: Client, fake: FakeRegistry) -> None:
    image = simple_image()
    document = json.loads(image.config.data)
    document["rootfs"]["diff_ids"] = [digest_of(b"something else")]
    config = Blob(image.config.media_type, json.dumps(document).encode())
    fake.add(NAME, "x", image)
    fake.blobs[config.digest] = config.data
    fake.add_manifest(NAME, "1", changed_manifest(image, config=config.descriptor))
    with pytest.raises(DataLoss, match="verify layer"):
        client.pull(fake.address)
    assert client.layers.committed == []
