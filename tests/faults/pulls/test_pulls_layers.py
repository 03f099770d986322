# SPDX-License-Identifier: Apache-2.0
"""What layers hold: no name, link or size gets out of the layer or beyond its limit."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from oakum.errors import (
    DataLoss,
)
from oakum.images import workers as worker_module
from oakum.images.layers import UnpackLimit
from tests.faults.pulls.box import (
    BIG,
    NAME,
    OWNER,
    Client,
    changed_manifest,
)
from tests.support.fake_registry import FakeRegistry
from tests.support.images import (
    Blob,
    BuiltImage,
    build_image,
    digest_of,
    make_layer,
    tar_entry,
)


def hostile(entries: list[Any]) -> BuiltImage:
    return build_image([make_layer([tar_entry("good", "f", b"x", **OWNER), *entries])])


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/../evil", "./..", "a/..", "../../../../../../../../tmp/evil"]
)
def test_a_name_that_climbs_out(client: Client, fake: FakeRegistry, tmp_path: Path, name: str) -> None:
    fake.add(NAME, "1", hostile([tar_entry(name, "f", b"evil", **OWNER)]))
    with pytest.raises(DataLoss, match=r"leaves the root with '\.\.'"):
        client.pull(fake.address)
    assert not list(tmp_path.rglob("evil"))
    client.assert_clean()


def test_an_absolute_name_stays_inside(client: Client, fake: FakeRegistry, tmp_path: Path) -> None:
    target = f"{tmp_path}/outside"
    fake.add(NAME, "1", hostile([tar_entry(target, "f", b"inside", **OWNER)]))
    image = client.pull(fake.address)
    assert not os.path.exists(target)
    assert Path(client.layers.path(image.chain_id) + target).read_bytes() == b"inside"


@pytest.mark.parametrize("link", ["{outside}", "../../../../../../../../../../{outside}"])
def test_a_path_through_a_symbolic_link_stays_inside(
    client: Client, fake: FakeRegistry, tmp_path: Path, link: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = link.format(outside=outside)
    entries = [tar_entry("link", "l", link, **OWNER), tar_entry("link/evil", "f", b"evil", **OWNER)]
    fake.add(NAME, "1", hostile(entries))
    image = client.pull(fake.address)
    assert os.listdir(outside) == []
    # It lies where a process inside the image would look for it.
    assert Path(client.layers.path(image.chain_id) + f"{outside}/evil").read_bytes() == b"evil"


def test_a_file_over_a_symbolic_link_replaces_the_link(
    client: Client, fake: FakeRegistry, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    entries = [tar_entry("link", "l", str(outside), **OWNER), tar_entry("link", "f", b"evil", **OWNER)]
    fake.add(NAME, "1", hostile(entries))
    image = client.pull(fake.address)
    assert outside.read_bytes() == b"precious"
    found = Path(client.layers.path(image.chain_id), "link")
    assert not found.is_symlink()
    assert found.read_bytes() == b"evil"


@pytest.mark.parametrize("target", ["../../../outside", "{outside}", "climb/outside"])
def test_a_hard_link_does_not_reach_out(
    client: Client, fake: FakeRegistry, tmp_path: Path, target: str
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    entries = [
        tar_entry("climb", "l", str(tmp_path), **OWNER),
        tar_entry("stolen", "h", target.format(outside=outside), **OWNER),
    ]
    fake.add(NAME, "1", hostile(entries))
    with pytest.raises(DataLoss, match=r"leaves the root|not in the image"):
        client.pull(fake.address)
    assert outside.stat().st_nlink == 1
    client.assert_clean()


def test_ten_gigabytes_declared_in_a_small_file(client: Client, fake: FakeRegistry) -> None:
    info, _ = tar_entry("huge", "f", b"", **OWNER)
    info.size = 10 << 30
    tar = info.tobuf(tarfile.PAX_FORMAT) + b"only this" + bytes(503)
    fake.add(NAME, "1", build_image([tar]))
    with pytest.raises(DataLoss, match="ends in the middle"):
        client.pull(fake.address)
    client.assert_clean()


def test_a_decompression_bomb_is_stopped_at_the_limit(client: Client, fake: FakeRegistry) -> None:
    layer = make_layer([tar_entry("zeros", "f", bytes(64 << 20), **OWNER)])
    fake.add(NAME, "1", build_image([layer]))
    with pytest.raises(DataLoss, match="grows to more than"):
        client.pull(fake.address, limit=UnpackLimit(floor_bytes=1 << 20, ratio=50))
    client.assert_clean()
    assert client.pull(fake.address).chain_id == digest_of(layer)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_cut_compressed_stream(client: Client, fake: FakeRegistry, compression: Any) -> None:
    layer = make_layer([tar_entry("file", "f", BIG, **OWNER)])
    whole = build_image([layer], compression=compression, media="oci")
    packed = Blob(whole.layers[0].media_type, whole.layers[0].data[:-20])
    fake.blobs |= {packed.digest: packed.data, whole.config.digest: whole.config.data}
    fake.add_manifest(NAME, "1", changed_manifest(whole, layers=[packed.descriptor]))
    with pytest.raises(DataLoss, match=r"cut short|damaged"):
        client.pull(fake.address)
    client.assert_clean()


def test_garbage_in_place_of_a_tar(client: Client, fake: FakeRegistry) -> None:
    fake.add(NAME, "1", build_image([b"this is no tar at all" * 100]))
    with pytest.raises(DataLoss, match="read tar"):
        client.pull(fake.address)
    client.assert_clean()


def test_more_left_to_other_layers_than_a_pull_takes(
    client: Client, fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_LINE_LIMIT", 10_000)
    links = [tar_entry(f"{'n' * 60}{number}", "h", "elsewhere", **OWNER) for number in range(500)]
    fake.add(NAME, "1", build_image([make_layer(links)]))
    with pytest.raises(DataLoss, match="only lower layers can settle"):
        client.pull(fake.address)
