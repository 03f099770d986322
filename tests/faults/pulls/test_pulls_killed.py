# SPDX-License-Identifier: Apache-2.0
"""Pulls that end in the middle, many at once, and workers that die: nothing is left, a second try converges."""

from __future__ import annotations

import gzip
import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from oakum.errors import (
    Cancelled,
    OakumError,
)
from oakum.images.content import ContentStore
from oakum.images.layers import PulledImage
from tests.faults.pulls.box import (
    BIG,
    NAME,
    OWNER,
    Client,
    changed_manifest,
    incompressible_image,
    workers,
)
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.images import (
    Blob,
    build_image,
    digest_of,
    make_layer,
    tar_entry,
)
from tests.support.patience import eventually, patient


def test_cancelling_ends_a_pull_that_hangs(client: Client, fake: FakeRegistry) -> None:
    image = incompressible_image()
    fake.add(NAME, "1", image)
    gate, gone = threading.Event(), threading.Event()
    fake.fault(f"/blobs/{image.layers[0].digest}", Fault(hold=gate, hold_after=500_000))
    threading.Timer(0.7, gone.set).start()
    start = time.monotonic()
    with pytest.raises(Cancelled):
        client.pull(fake.address, cancelled=gone.is_set)
    assert time.monotonic() - start < patient(5)
    gate.set()
    assert client.layers.leftovers() == []
    assert workers() == []
    assert client.pull(fake.address).layer_digests == (image.layers[0].digest,)
    client.assert_clean()


_PULLER = """
    import sys
    from oakum.images.content import ContentStore
    from oakum.images.pull import pull
    from oakum.images.reference import parse_reference
    from tests.support.layer_target import DirectoryTarget
    directory, name = sys.argv[1:]
    print("ready", flush=True)
    pull(parse_reference(name), content=ContentStore(directory + "/content"),
         layers=DirectoryTarget(directory + "/snapshots"))
"""


def start_puller(directory: Path, name: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_PULLER), str(directory), name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def orphans_of(directory: Path) -> list[int]:
    """Processes that still have a file below `directory` open."""
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            targets = [
                os.readlink(f"/proc/{entry.name}/fd/{fd}") for fd in os.listdir(f"/proc/{entry.name}/fd")
            ]
        except OSError:
            continue
        if any(target.startswith(str(directory)) for target in targets):
            found.append(int(entry.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("moment", ["manifests", "blobs", "middle"])
def test_a_killed_pull_leaves_no_process_and_a_second_one_converges(
    tmp_path: Path, fake: FakeRegistry, number: signal.Signals, moment: str
) -> None:
    image = incompressible_image()
    fake.add(NAME, "1", image)
    gate = threading.Event()
    layer = image.layers[0].digest
    fault = Fault(hold=gate, hold_after=600_000 if moment == "middle" else 0)
    fake.fault("manifests" if moment == "manifests" else f"/blobs/{layer}", fault)
    directory = tmp_path / "victim"
    process = start_puller(directory, f"{fake.address}/{NAME}:1")
    try:
        wanted = "manifests" if moment == "manifests" else f"/blobs/{layer}"
        eventually(lambda: fake.requests(wanted))
        if moment == "middle":
            part = directory / "content/ingest" / layer.replace(":", "-")
            eventually(lambda: part.exists() and part.stat().st_size >= 500_000)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        gate.set()
    assert process.returncode != 0
    if number == signal.SIGINT:
        assert b"KeyboardInterrupt" in errors
        assert os.listdir(directory / "snapshots/open") == []
    eventually(lambda: not orphans_of(directory), "no worker outlives its parent")

    # The snapshotter's clean-up is its own affair; blobs go on where they were.
    second = Client(tmp_path / "second")
    second.content = ContentStore(str(directory / "content"))
    pulled = second.pull(fake.address)
    assert pulled.manifest_digest == image.manifest.digest
    second.assert_clean()
    if moment == "middle":
        assert fake.requests(f"/blobs/{layer}")[-1].headers.get("Range", "").startswith("bytes=")


def test_many_pulls_at_once_fetch_each_blob_once(tmp_path: Path, fake: FakeRegistry) -> None:
    image = incompressible_image()
    fake.add(NAME, "1", image)
    layer = image.layers[0].digest
    fake.fault(f"/blobs/{layer}", Fault(hold=(gate := threading.Event())))
    results: list[PulledImage | OakumError] = []
    shared = Client(tmp_path / "shared")

    def one(number: int) -> None:
        mine = Client(tmp_path / f"client{number}")
        mine.content = shared.content
        results.append(mine.pull(fake.address))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    process = start_puller(tmp_path / "shared", f"{fake.address}/{NAME}:1")
    eventually(lambda: fake.requests(f"/blobs/{layer}"))
    time.sleep(0.5)
    gate.set()
    for thread in threads:
        thread.join(60)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert len(results) == 6
    assert {result.manifest_digest for result in results if isinstance(result, PulledImage)} == {
        image.manifest.digest
    }
    assert len(fake.requests(f"/blobs/{layer}")) == 1
    shared.assert_clean()


def test_a_worker_that_dies_is_told(client: Client, fake: FakeRegistry) -> None:
    image = incompressible_image()
    fake.add(NAME, "1", image)
    gate = threading.Event()
    fake.fault(f"/blobs/{image.layers[0].digest}", Fault(hold=gate, hold_after=500_000))

    def kill_worker() -> None:
        eventually(workers)
        os.kill(workers()[0], signal.SIGKILL)
        gate.set()

    killer = threading.Thread(target=kill_worker)
    killer.start()
    with pytest.raises(OakumError, match="it ended with -9"):
        client.pull(fake.address)
    killer.join()
    assert client.pull(fake.address).layer_digests


def test_an_image_with_the_same_layer_twice(client: Client, fake: FakeRegistry) -> None:
    layer = make_layer([tar_entry("file", "f", b"x", **OWNER)])
    image = build_image([layer, layer, layer])
    fake.add(NAME, "1", image)
    pulled = client.pull(fake.address)
    assert client.layers.committed == list(pulled.config.chain_ids)
    assert len(fake.requests(f"GET .*/blobs/{image.layers[0].digest}")) == 1


def test_zeros_behind_the_gzip_stream_are_padding(client: Client, fake: FakeRegistry) -> None:
    layer = make_layer([tar_entry("file", "f", BIG, **OWNER)])
    half = len(layer) // 2
    stream = io.BytesIO()
    stream.write(gzip.compress(layer[:half]) + gzip.compress(layer[half:]) + bytes(700))
    whole = build_image([layer])
    packed = Blob(whole.layers[0].media_type, stream.getvalue())
    fake.blobs |= {packed.digest: packed.data, whole.config.digest: whole.config.data}
    fake.add_manifest(NAME, "1", changed_manifest(whole, layers=[packed.descriptor]))
    assert client.pull(fake.address).chain_id == digest_of(layer)
