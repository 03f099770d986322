# SPDX-License-Identifier: Apache-2.0
"""The state directory of `oakum oci`: what a killed process leaves, and names that are no paths."""

from __future__ import annotations

import os
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.errors import AlreadyExists, DataLoss, InvalidArgument, NotFound
from oakum.oci.runtime.container import Container
from oakum.oci.runtime.state import Directory, Record, check_id, list_ids, start_ticks

RECORD = Record(
    "c", "/b", "/b/rootfs", "2026-01-01T00:00:00Z", "1.2.0", 0, "/c", {"a": "b"}, pid=7, start_ticks=9
)


@given(st.text(max_size=40))
def test_an_id_names_one_directory_or_is_refused(text: str) -> None:
    allowed = set(string.ascii_letters + string.digits + "_+-.")
    try:
        assert check_id(text) == text
    except InvalidArgument:
        assert not text or set(text) - allowed or text in (".", "..")
    else:
        assert os.path.normpath(f"/r/{text}") == f"/r/{text}"


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    directory = Directory(str(tmp_path), "c")
    directory.make()
    directory.save(RECORD)
    assert directory.load() == RECORD
    assert list_ids(str(tmp_path)) == ["c"]
    with pytest.raises(AlreadyExists, match="given ID already exists"):
        directory.make()
    directory.remove()
    directory.remove()
    with pytest.raises(NotFound, match="container does not exist"):
        directory.load()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"id": "c"}', b"\xff"])
def test_damage_is_said_and_not_guessed_at(tmp_path: Path, data: bytes) -> None:
    directory = Directory(str(tmp_path), "c")
    directory.make()
    Path(directory.path, "state.json").write_bytes(data)
    with pytest.raises(DataLoss):
        directory.load()


def test_a_maker_that_was_killed_left_a_stopped_container(tmp_path: Path) -> None:
    directory = Directory(str(tmp_path), "c")
    directory.make()
    container = Container(directory, RECORD._replace(pid=0))
    with directory.lock():
        assert container.status() == "creating"
    assert container.status() == "stopped"


def test_another_process_with_the_same_id_is_not_the_container(tmp_path: Path) -> None:
    directory = Directory(str(tmp_path), "c")
    directory.make()
    ticks = start_ticks(os.getpid())
    assert ticks is not None
    assert Container(directory, RECORD._replace(pid=os.getpid(), start_ticks=ticks)).alive()
    assert not Container(directory, RECORD._replace(pid=os.getpid(), start_ticks=ticks + 1)).alive()


def test_who_waits_for_a_deleted_container_is_told(tmp_path: Path) -> None:
    directory = Directory(str(tmp_path), "c")
    with pytest.raises(NotFound):
        directory.lock()
