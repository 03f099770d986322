# SPDX-License-Identifier: Apache-2.0
"""What a collection must keep: whatever a name of any namespace leads to, and whatever a container stands on."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from oakum.engine.garbage import plan
from oakum.engine.store.records import ImageName, ImageRecord
from tests.unit.engine.test_database import container


def image(number: int, *chains: str) -> ImageRecord:
    return ImageRecord(
        manifest_digest=f"m{number}", config_digest=f"c{number}", chain_ids=chains, chain_id=chains[-1]
    )


def name(number: int, target: str = "", namespace: str = "default") -> ImageName:
    return ImageName(
        namespace=namespace,
        name=f"n{number}",
        manifest_digest=f"m{number}",
        target_digest=target or f"m{number}",
        created_at_ns=1,
    )


def test_a_named_image_with_its_index_and_layers() -> None:
    needed = plan([image(1, "a", "b"), image(2, "a", "c")], [name(1, "index1", "somewhere")], [])
    assert needed.manifests == {"m1"}
    assert needed.roots == {"m1", "index1"}
    assert needed.chain_ids == {"a", "b"}


def test_a_container_keeps_its_nameless_image_and_its_mounted_ones() -> None:
    record = msgspec.structs.replace(
        container("1" * 64, "2" * 64), manifest_digest="m1", chain_id="b", image_mounts=(("view", "m2"),)
    )
    needed = plan([image(1, "a", "b"), image(2, "c"), image(3, "d")], [], [record])
    assert needed.manifests == {"m1", "m2"}
    assert needed.chain_ids == {"a", "b", "c"}
    assert needed.views == {"view"}


def test_nothing_is_needed_of_nothing() -> None:
    needed = plan([image(1, "a")], [], [])
    assert not needed.manifests
    assert not needed.chain_ids


@given(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9)))
def test_exactly_what_is_used_is_kept(named: set[int], used: set[int]) -> None:
    images = [image(n, "base", f"top{n}") for n in range(10)]
    containers = [
        msgspec.structs.replace(container(f"{n:064x}", "2" * 64), manifest_digest=f"m{n}", chain_id=f"top{n}")
        for n in used
    ]
    needed = plan(images, [name(n) for n in named], containers)
    assert needed.manifests == {f"m{n}" for n in named | used}
    assert needed.chain_ids == {f"top{n}" for n in named | used} | ({"base"} if named | used else set())
