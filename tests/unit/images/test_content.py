# SPDX-License-Identifier: Apache-2.0
"""Blobs come in whole or not at all, once for all who want them, and go on where a killed writer stopped."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from oakum.errors import Cancelled, DataLoss, InvalidArgument, NotFound
from oakum.images.content import ContentStore
from oakum.images.digests import digest_of

DATA = os.urandom(300_000)
DIGEST = digest_of(DATA)


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(str(tmp_path))


def ingests(store: ContentStore) -> list[str]:
    return os.listdir(os.path.join(store.directory, "ingest"))


def test_a_blob_comes_in(store: ContentStore) -> None:
    assert not store.has(DIGEST)
    ingest = store.ingest(DIGEST, len(DATA))
    assert ingest is not None
    ingest.write(DATA[:1000])
    ingest.write(memoryview(DATA)[1000:])
    assert not store.has(DIGEST)
    ingest.commit()
    assert store.read(DIGEST, len(DATA)) == DATA
    assert store.size(DIGEST) == len(DATA)
    assert [blob.digest for blob in store.list()] == [DIGEST]
    assert ingests(store) == []
    assert store.ingest(DIGEST, len(DATA)) is None


@pytest.mark.parametrize("data", [DATA[:-1], DATA[:-1] + bytes([DATA[-1] ^ 1])])
def test_wrong_content_is_refused_and_forgotten(store: ContentStore, data: bytes) -> None:
    ingest = store.ingest(DIGEST, len(DATA))
    assert ingest is not None
    ingest.write(data)
    with pytest.raises(DataLoss):
        ingest.commit()
    assert not store.has(DIGEST)
    assert ingest.offset == 0
    ingest.close()
    assert ingests(store) == []


def test_more_than_was_declared_is_refused_at_once(store: ContentStore) -> None:
    ingest = store.ingest(DIGEST, 10)
    assert ingest is not None
    with pytest.raises(DataLoss, match="longer than the 10 bytes"):
        ingest.write(b"x" * 11)
    ingest.close()


def test_a_part_is_kept_and_resumed(store: ContentStore) -> None:
    first = store.ingest(DIGEST, len(DATA))
    assert first is not None
    first.write(DATA[:100_000])
    first.close()
    second = store.ingest(DIGEST, len(DATA))
    assert second is not None
    assert second.offset == 100_000
    second.write(DATA[100_000:])
    second.commit()
    assert store.read(DIGEST, len(DATA)) == DATA


def test_a_part_longer_than_the_blob_is_thrown_away(store: ContentStore) -> None:
    Path(store.ingest_path(DIGEST)).write_bytes(DATA + b"more")
    ingest = store.ingest(DIGEST, len(DATA))
    assert ingest is not None
    assert ingest.offset == 0
    ingest.close()


def test_only_one_at_a_time_and_the_others_find_it_done(store: ContentStore) -> None:
    holder = store.try_ingest(DIGEST, len(DATA))
    assert holder is not None
    assert store.try_ingest(DIGEST, len(DATA)) is None
    results: list[object] = []
    waiters = [
        threading.Thread(target=lambda: results.append(store.ingest(DIGEST, len(DATA)))) for _ in range(5)
    ]
    for waiter in waiters:
        waiter.start()
    time.sleep(0.05)
    assert results == []
    holder.write(DATA)
    holder.commit()
    for waiter in waiters:
        waiter.join(60)
    assert results == [None] * 5
    assert ingests(store) == []


def test_one_waiter_goes_on_when_the_holder_gives_up(store: ContentStore) -> None:
    holder = store.try_ingest(DIGEST, len(DATA))
    assert holder is not None
    holder.write(DATA[:5])
    offsets: list[int] = []

    def take_over() -> None:
        ingest = store.ingest(DIGEST, len(DATA))
        assert ingest is not None
        offsets.append(ingest.offset)
        ingest.close(keep=False)

    waiter = threading.Thread(target=take_over)
    waiter.start()
    time.sleep(0.05)
    holder.close()
    waiter.join(60)
    assert offsets == [5]
    assert ingests(store) == []


def test_waiting_can_be_cancelled(store: ContentStore) -> None:
    holder = store.try_ingest(DIGEST, len(DATA))
    assert holder is not None
    with pytest.raises(Cancelled):
        store.ingest(DIGEST, len(DATA), lambda: True)
    holder.close()


def test_damage_on_disk_is_noticed_when_read(store: ContentStore) -> None:
    store.write_blob(DATA, DIGEST)
    path = Path(store.path(DIGEST))
    path.chmod(0o600)
    path.write_bytes(DATA[:-1] + bytes([DATA[-1] ^ 1]))
    with pytest.raises(DataLoss, match="damaged on disk"):
        store.read(DIGEST, len(DATA))
    with pytest.raises(DataLoss, match="longer than"):
        store.read(DIGEST, 100)


def test_what_is_missing_is_not_found(store: ContentStore) -> None:
    for call in (store.size, store.open_blob):
        with pytest.raises(NotFound):
            call(DIGEST)
    assert store.delete(DIGEST) == 0


def test_deleting_frees(store: ContentStore) -> None:
    store.write_blob(DATA, DIGEST)
    assert store.delete(DIGEST) == len(DATA)
    assert not store.has(DIGEST)


@pytest.mark.parametrize("digest", ["../../etc/passwd", "sha256:../x", "sha256:" + "A" * 64])
def test_only_digests_become_paths(store: ContentStore, digest: str) -> None:
    with pytest.raises(InvalidArgument):
        store.path(digest)


def test_only_stale_parts_that_nobody_holds_are_cleaned_up(store: ContentStore) -> None:
    held = store.try_ingest(DIGEST, len(DATA))
    assert held is not None
    held.write(b"x")
    stale, fresh = (store.ingest_path(digest_of(name)) for name in (b"stale", b"fresh"))
    for path in (stale, fresh):
        Path(path).write_bytes(b"12345")
    for path in (stale, store.ingest_path(DIGEST)):
        os.utime(path, (0, 0))
    assert store.cleanup() == 5
    assert sorted(ingests(store)) == sorted([os.path.basename(fresh), DIGEST.replace(":", "-")])
    held.close()
