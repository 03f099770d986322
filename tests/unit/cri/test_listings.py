# SPDX-License-Identifier: Apache-2.0
"""Listings from kept bytes say the same as messages would, and what has changed is never told from memory."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.chunks import CHUNK_ITEMS
from oakum.api.cri.convert.containers import write_container
from oakum.api.cri.listings import Listing
from oakum.backend.config import ContainerConfig, ContainerMetadata
from oakum.backend.status import ContainerStatus


def container(name: str, text: str = "") -> ContainerStatus:
    config = ContainerConfig(metadata=ContainerMetadata(name=name), image="i", labels={"l": text})
    return ContainerStatus(id=name, sandbox_id="s", config=config, state="running", created_at_ns=1)


def listing() -> Listing[ContainerStatus]:
    return Listing(pb.ListContainersResponse.CONTAINERS_FIELD_NUMBER, write_container)


def plain(items: Sequence[ContainerStatus]) -> bytes:
    return pb.ListContainersResponse(containers=[write_container(i) for i in items]).SerializeToString()


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=300), max_size=5))
def test_bytes_are_those_of_the_message(texts: list[str]) -> None:
    items = [container(str(n), text) for n, text in enumerate(texts)]
    kept = listing()
    assert kept.response(items, all_there_are=True) == plain(items)
    assert kept.response(items[::-1], all_there_are=False) == plain(items[::-1])


def test_what_has_changed_is_told_anew() -> None:
    kept, before = listing(), container("a")
    kept.response([before], all_there_are=True)
    after = msgspec.structs.replace(before, state="exited")
    assert kept.response([after], all_there_are=True) == plain([after])
    other = msgspec.structs.replace(after, config=container("a", "another label").config)
    assert kept.response([other], all_there_are=False) == plain([other])


def test_what_is_gone_is_forgotten() -> None:
    kept = listing()
    kept.response([container(str(n)) for n in range(1000)], all_there_are=True)
    kept.response([container("only")], all_there_are=True)
    assert list(kept._kept) == ["only"]  # pyright: ignore[reportPrivateUsage] - memory is what it is about


def test_pieces_are_whole_and_none_is_empty() -> None:
    kept, items = listing(), [container(str(n)) for n in range(CHUNK_ITEMS + 3)]
    pieces = list(kept.responses(items, all_there_are=True))
    assert [len(pb.StreamContainersResponse.FromString(p).containers) for p in pieces] == [CHUNK_ITEMS, 3]
    assert b"".join(pieces) == plain(items)
    assert list(kept.responses([], all_there_are=True)) == []
    large = [container(str(n), "x" * 700_000) for n in range(3)]
    assert len(list(kept.responses(large, all_there_are=True))) == 3
