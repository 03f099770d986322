# SPDX-License-Identifier: Apache-2.0
"""The engine's database: rows come back as they went in, names are unique, other processes' changes are seen."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oakum.backend.config import ContainerConfig, ContainerMetadata, SandboxConfig, SandboxMetadata
from oakum.engine.store import schema
from oakum.engine.store.database import Store, WouldWait
from oakum.engine.store.records import ContainerRecord, ImageName, ImageRecord, SandboxRecord
from oakum.errors import AlreadyExists, DataLoss, FailedPrecondition, ResourceExhausted


def sandbox(
    identity: str, *, namespace: str = "default", key: str = "", phase: str = "ready", at: int = 1
) -> SandboxRecord:
    return SandboxRecord(
        id=identity,
        namespace=namespace,
        name_key=key or identity,
        phase=phase,  # type: ignore[arg-type]
        created_at_ns=at,
        config=SandboxConfig(metadata=SandboxMetadata(name="pod", uid="u"), labels={"a": "b"}),
    )


def container(
    identity: str, sandbox_id: str, *, key: str = "", phase: str = "created", at: int = 1
) -> ContainerRecord:
    return ContainerRecord(
        id=identity,
        namespace="default",
        sandbox_id=sandbox_id,
        name_key=key or identity,
        phase=phase,  # type: ignore[arg-type]
        created_at_ns=at,
        config=ContainerConfig(metadata=ContainerMetadata(name="c"), image="busybox"),
    )


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "meta.db")


@pytest.fixture
def store(path: str) -> Iterator[Store]:
    opened = Store(path)
    yield opened
    opened.close()


def test_a_row_comes_back_as_it_went_in(store: Store) -> None:
    store.put_sandbox(sandbox("a" * 64))
    assert store.sandbox("a" * 64) == sandbox("a" * 64)
    assert store.sandbox("b" * 64) is None


def test_a_name_is_given_once_in_a_namespace(store: Store) -> None:
    store.put_sandbox(sandbox("a" * 64, key="web"))
    with pytest.raises(AlreadyExists):
        store.put_sandbox(sandbox("b" * 64, key="web"))
    store.put_sandbox(sandbox("c" * 64, key="web", namespace="k8s.io"))


def test_listing_is_newest_first_and_by_namespace(store: Store) -> None:
    store.put_sandbox(sandbox("a" * 64, at=1))
    store.put_sandbox(sandbox("b" * 64, at=3))
    store.put_sandbox(sandbox("c" * 64, at=2, namespace="k8s.io"))
    assert [s.id[0] for s in store.sandboxes("default")] == ["b", "a"]
    assert [s.id[0] for s in store.sandboxes()] == ["b", "c", "a"]


def test_a_kept_listing_notices_our_own_and_other_processes_changes(store: Store, path: str) -> None:
    other = Store(path)
    try:
        assert store.sandboxes() == ()
        store.put_sandbox(sandbox("a" * 64))
        assert len(store.sandboxes()) == 1
        other.put_sandbox(sandbox("b" * 64))
        assert len(store.sandboxes()) == 2
        other.delete_sandbox("a" * 64)
        assert [s.id for s in store.sandboxes()] == ["b" * 64]
        assert store.sandboxes() is store.sandboxes()
    finally:
        other.close()


def test_a_listing_read_in_a_transaction_that_is_rolled_back_is_not_kept(store: Store) -> None:
    def change() -> None:
        with store.transaction():
            store.put_sandbox(sandbox("a" * 64))
            assert len(store.sandboxes()) == 1
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        change()
    assert store.sandboxes() == ()


def test_a_nested_transaction_is_part_of_the_outer_one(store: Store) -> None:
    def change() -> None:
        with store.transaction():
            with store.transaction():
                store.put_sandbox(sandbox("a" * 64))
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        change()
    assert store.sandbox("a" * 64) is None


def test_a_container_needs_its_sandbox(store: Store) -> None:
    with pytest.raises(AlreadyExists):
        store.put_container(container("c" * 64, "a" * 64))
    store.put_sandbox(sandbox("a" * 64))
    store.put_container(container("c" * 64, "a" * 64))
    assert [c.id for c in store.containers_of("a" * 64)] == ["c" * 64]


def test_unsettled_are_those_in_a_passing_phase(store: Store) -> None:
    for letter, phase in (("a", "ready"), ("b", "creating"), ("c", "stopping"), ("d", "stopped")):
        store.put_sandbox(sandbox(letter * 64, phase=phase))
    for letter, phase in (("1", "created"), ("2", "starting"), ("3", "started"), ("4", "removing")):
        store.put_container(container(letter * 64, "a" * 64, phase=phase))
    sandboxes, containers = store.unsettled()
    assert sorted(i[0] for i in sandboxes) == ["b", "c"]
    assert sorted(i[0] for i in containers) == ["2", "4"]


def test_ids_are_found_by_their_beginning(store: Store) -> None:
    store.put_sandbox(sandbox("ab" * 32))
    store.put_sandbox(sandbox("ac" * 32))
    store.put_sandbox(sandbox("ad" * 32, namespace="k8s.io"))
    assert store.ids_beginning("sandboxes", "default", "a") == ["ab" * 32, "ac" * 32]
    assert store.ids_beginning("sandboxes", "default", "ab") == ["ab" * 32]
    assert store.ids_beginning("sandboxes", "default", "b") == []


def test_an_image_name_moves_to_the_image_that_was_pulled_last(store: Store) -> None:
    def name(digest: str) -> ImageName:
        return ImageName(
            namespace="default",
            name="docker.io/library/x:1",
            manifest_digest=digest,
            target_digest=digest,
            created_at_ns=1,
        )

    for digest in ("sha256:1", "sha256:2"):
        store.put_image(ImageRecord(manifest_digest=digest, config_digest=f"{digest}c"), [name(digest)])
    found = store.image_by_name("default", "docker.io/library/x:1")
    assert found is not None
    assert found.manifest_digest == "sha256:2"
    assert len(store.images()) == 2
    assert store.image_by_name("k8s.io", "docker.io/library/x:1") is None


def test_an_image_with_a_name_cannot_be_forgotten(store: Store) -> None:
    name = ImageName(
        namespace="n", name="x", manifest_digest="sha256:1", target_digest="sha256:1", created_at_ns=1
    )
    store.put_image(ImageRecord(manifest_digest="sha256:1", config_digest="c"), [name])
    with pytest.raises(sqlite3.IntegrityError):
        store.delete_images(["sha256:1"])
    store.delete_image_names("n", ["x"])
    store.delete_images(["sha256:1"])
    assert store.images() == ()


def test_a_database_of_a_newer_version_is_refused(path: str) -> None:
    Store(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    connection.close()
    with pytest.raises(FailedPrecondition, match="newer"):
        Store(path)


def test_what_is_no_database_is_said_to_be_damaged(path: str) -> None:
    Path(path).write_bytes(b"not a database at all, but long enough to be looked at" * 10)
    with pytest.raises(DataLoss):
        Store(path)


def test_a_damaged_row_is_named(store: Store, path: str) -> None:
    store.put_sandbox(sandbox("a" * 64))
    connection = sqlite3.connect(path)
    connection.execute("UPDATE sandboxes SET data = 'x'")
    connection.commit()
    connection.close()
    with pytest.raises(DataLoss, match="a" * 64):
        store.sandbox("a" * 64)


def test_the_database_is_for_its_owner_only(store: Store, path: str) -> None:
    store.put_sandbox(sandbox("a" * 64))
    assert {file.stat().st_mode & 0o777 for file in Path(path).parent.iterdir()} == {0o600}


def test_a_failed_commit_leaves_no_transaction_open(store: Store) -> None:
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(ResourceExhausted, match="no space"):
        store.put_sandbox(SandboxRecord(**{**_fields(sandbox("a" * 64)), "name_key": "x" * 1_000_000}))
    store._connection.execute("PRAGMA max_page_count = 1000000")
    store.put_sandbox(sandbox("b" * 64))
    assert [record.id for record in store.sandboxes()] == ["b" * 64]


def test_a_transaction_that_a_full_disk_cuts_off_leaves_none_of_its_rows(store: Store) -> None:
    connection = store._connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 4}")
    with pytest.raises(ResourceExhausted):
        _put_many(store)
    assert store.sandboxes() == ()
    connection.execute("PRAGMA max_page_count = 100000")
    with store.transaction():
        store.put_sandbox(sandbox("next"))
    assert [record.id for record in store.sandboxes()] == ["next"]


def _put_many(store: Store) -> None:
    with store.transaction():
        for number in range(500):
            store.put_sandbox(sandbox(f"{number}"))


def _fields(record: SandboxRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


def test_what_is_asked_at_once_waits_for_no_thread_and_no_process(store: Store, path: str) -> None:
    store.put_sandbox(sandbox("a" * 64))
    other = Store(path)
    with other.transaction():  # another process changes something, for as long as it likes
        other.put_sandbox(sandbox("b" * 64))
        with store.at_once():
            assert [s.id for s in store.sandboxes()] == ["a" * 64]
    with store.at_once():
        assert {s.id for s in store.sandboxes()} == {"a" * 64, "b" * 64}
    other.close()
    begun, done = threading.Event(), threading.Event()

    def change() -> None:
        with store.transaction():
            begun.set()
            done.wait(60)

    thread = threading.Thread(target=change)
    thread.start()
    assert begun.wait(60)
    try:
        with pytest.raises(WouldWait), store.at_once():
            pass
    finally:
        done.set()
        thread.join(60)
    with store.at_once():
        assert len(store.sandboxes()) == 2


def test_what_is_asked_at_once_changes_nothing_and_reads_no_long_list(store: Store) -> None:
    with pytest.raises(WouldWait), store.at_once(), store.transaction():
        pass
    with store.transaction():  # and afterwards as ever
        for number in range(65):
            store.put_sandbox(sandbox(f"{number:064x}"))
    assert len(store.sandboxes()) == 65
    with pytest.raises(WouldWait), store.at_once():
        store.sandboxes()
    assert len(store.sandboxes()) == 65
