# SPDX-License-Identifier: Apache-2.0
"""A state directory whose files were cut, emptied, replaced or lost: said by name, never guessed at, never a crash."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oakum.errors import DataLoss, NotFound
from oakum.oci.runtime.container import Container, containers, delete
from oakum.oci.runtime.state import Directory, Record

RECORD = Record("c", "/b", "/b/rootfs", "2026-01-01T00:00:00Z", "1.2.0", 0, "/c", {"a": "b"}, 7, 9)
SPEC: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "root": {"path": "rootfs"},
    "process": {"args": ["true"], "cwd": "/"},
    "linux": {"cgroupsPath": "/c", "namespaces": [{"type": "pid"}]},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    made = Directory(str(tmp_path), "c")
    made.make()
    made.save(RECORD)
    made.save_spec(SPEC)  # pyright: ignore[reportArgumentType] - a literal
    return made


@pytest.mark.parametrize("member", Record._fields)
@pytest.mark.parametrize("value", [None, True, -1, 1.5, [], "", {"a": 1}])
def test_a_record_of_the_wrong_types_is_damage(directory: Directory, member: str, value: object) -> None:
    data: dict[str, Any] = {**RECORD._asdict(), member: value}
    if type(value) is type(RECORD._asdict()[member]) and value != -1 and member != "id":
        return  # of the right type
    Path(directory.path, "state.json").write_text(json.dumps(data))
    with pytest.raises(DataLoss, match=r"state\.json"):
        directory.load()


@settings(max_examples=60)
@given(
    name=st.sampled_from(["state.json", "config.json"]),
    cut=st.integers(0, 400),
    garbage=st.binary(max_size=20),
)
def test_a_cut_or_overwritten_file_is_damage_or_reads_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, name: str, cut: int, garbage: bytes
) -> None:
    directory = Directory(str(tmp_path_factory.mktemp("root")), "c")
    directory.make()
    directory.save(RECORD)
    directory.save_spec(SPEC)  # pyright: ignore[reportArgumentType] - a literal
    path = Path(directory.path, name)
    whole = path.read_bytes()
    path.write_bytes(whole[:cut] + garbage)
    for read in (directory.load, directory.load_spec):
        try:
            read()
        except DataLoss:
            continue


@settings(max_examples=60)
@given(JSON)
def test_any_json_in_place_of_the_record_is_damage(
    tmp_path_factory: pytest.TempPathFactory, data: object
) -> None:
    root = str(tmp_path_factory.mktemp("root"))
    directory = Directory(root, "c")
    directory.make()
    Path(directory.path, "state.json").write_text(json.dumps(data))
    with pytest.raises(DataLoss):
        directory.load()
    assert [type(found) for found in containers(root)] == [DataLoss]


def test_a_directory_in_place_of_a_file_is_damage(directory: Directory) -> None:
    for name, read in (("state.json", directory.load), ("config.json", directory.load_spec)):
        os.unlink(f"{directory.path}/{name}")
        os.mkdir(f"{directory.path}/{name}")
        with pytest.raises(DataLoss, match=name):
            read()


def test_what_was_never_made_is_removed_and_what_is_damaged_only_by_force(tmp_path: Path) -> None:
    root = str(tmp_path)
    Directory(root, "never").make()
    assert delete(root, "never") == []
    damaged = Directory(root, "damaged")
    damaged.make()
    Path(damaged.path, "state.json").write_text("{")
    with pytest.raises(DataLoss, match="--force"):
        delete(root, "damaged")
    # Without its spec nobody knows which control group to end: that is said.
    (warning,) = delete(root, "damaged", force=True)
    assert "are not known" in warning
    assert not os.path.exists(damaged.path)
    with pytest.raises(NotFound):
        delete(root, "nosuch")


def test_without_its_spec_a_container_has_no_hooks_and_its_processes_are_ended_one_by_one(
    directory: Directory,
) -> None:
    os.unlink(f"{directory.path}/config.json")
    container = Container(directory, directory.load())
    assert container.hooks("poststop") == []
    assert not container.has_own_pids()
