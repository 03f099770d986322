# SPDX-License-Identifier: Apache-2.0
"""Pulls from registries, over lines and of images that go wrong: a clear error, nothing lost, nothing left behind."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oakum.errors import (
    Cancelled,
    DataLoss,
    InvalidArgument,
    NotFound,
    OakumError,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from oakum.images import registry as registry_module
from oakum.images.content import ContentStore
from oakum.images.credentials import Credentials
from oakum.images.layers import PulledImage, UnpackLimit
from oakum.images.platforms import Platform
from oakum.images.pull import pull
from oakum.images.reference import parse_reference
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.images import (
    Blob,
    BuiltImage,
    build_image,
    build_index,
    digest_of,
    make_layer,
    media_type,
    tar_entry,
)
from tests.support.layer_target import DirectoryTarget

NAME = "team/app"
OWNER = {"uid": os.getuid(), "gid": os.getgid()}
BIG = bytes(range(256)) * 4096  # 1 MiB
DIGEST_OF_NOTHING = "sha256:" + "0" * 64


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "_FIRST_PAUSE_S", 0.01)


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


class Client:
    """One host that pulls: its content store and its layers."""

    def __init__(self, directory: Path) -> None:
        self.content = ContentStore(str(directory / "content"))
        self.layers = DirectoryTarget(directory / "snapshots")

    def pull(self, address: str, tag: str = "1", **options: Any) -> PulledImage:
        reference = parse_reference(
            f"{address}/{NAME}:{tag}" if ":" not in tag else f"{address}/{NAME}@{tag}"
        )
        return pull(reference, content=self.content, layers=self.layers, **options)

    def ingests(self) -> list[str]:
        return os.listdir(os.path.join(self.content.directory, "ingest"))

    def assert_clean(self) -> None:
        """Nothing half done is left: no open layer, no part of a blob, no worker process."""
        assert self.layers.leftovers() == []
        assert self.ingests() == []
        assert _workers() == []


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    made = Client(tmp_path)
    yield made
    assert made.layers.leftovers() == []
    assert _workers() == []


def _workers() -> list[int]:
    """Unpack workers that are children of this process."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        children = [int(pid) for pid in file.read().split()]
    found = []
    for pid in children:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except FileNotFoundError:
            continue
        if b"unpack_worker" in command:
            found.append(pid)
    return found


def simple_image(content: bytes = b"hello", **options: Any) -> BuiltImage:
    return build_image([make_layer([tar_entry("file", "f", content, **OWNER)])], **options)


def incompressible_image() -> BuiltImage:
    return build_image([make_layer([tar_entry("file", "f", os.urandom(1 << 20), **OWNER)])])


# What registries answer


def test_a_repository_that_does_not_exist(client: Client, fake: FakeRegistry) -> None:
    with pytest.raises(NotFound) as caught:
        client.pull(fake.address)
    assert "no such thing here" in str(caught.value)
    assert f"{fake.address}/{NAME}:1" in str(caught.value)
    client.assert_clean()


def test_a_registry_that_says_no(client: Client, fake: FakeRegistry) -> None:
    fake.fault("manifests", Fault(status=403, body=b'{"errors":[{"code":"DENIED","message":"not for you"}]}'))
    with pytest.raises(PermissionDenied, match="not for you"):
        client.pull(fake.address)
    client.assert_clean()


def test_an_anonymous_token_is_fetched_once_and_used_for_all(client: Client, fake: FakeRegistry) -> None:
    fake.add(NAME, "1", simple_image())
    fake.require_token("abc")
    assert client.pull(fake.address).layer_digests
    assert len(fake.requests("/token")) == 1
    assert all(seen.headers.get("Authorization") == "Bearer abc" for seen in fake.requests("/blobs/"))


def test_a_token_server_gets_user_and_password_and_the_registry_does_not(
    client: Client, fake: FakeRegistry
) -> None:
    fake.add(NAME, "1", simple_image())
    fake.require_token("abc", ("jo", "pw"))
    client.pull(fake.address, credentials=Credentials("jo", "pw"))
    token = fake.requests("/token")[0]
    assert "account=jo" in token.path
    assert token.headers["Authorization"].startswith("Basic ")
    assert not any(s.headers.get("Authorization", "").startswith("Basic") for s in fake.requests("/v2/"))


def test_a_wrong_password_is_told_and_not_repeated(client: Client, fake: FakeRegistry) -> None:
    fake.add(NAME, "1", simple_image())
    fake.require_token("abc", ("jo", "pw"))
    with pytest.raises(Unauthenticated) as caught:
        client.pull(fake.address, credentials=Credentials("jo", "sesame"))
    assert "sesame" not in str(caught.value)
    assert len(fake.requests("/token")) == 1
    client.assert_clean()


def test_a_token_that_expires_in_the_middle_is_fetched_again(client: Client, fake: FakeRegistry) -> None:
    fake.add(NAME, "1", simple_image())
    fake.require_token("abc")
    challenge = f'Bearer realm="http://{fake.address}/token",service="fake"'
    fake.fault("/blobs/", Fault(status=401, headers={"WWW-Authenticate": challenge}))
    assert client.pull(fake.address).layer_digests
    assert len(fake.requests("/token")) == 2


def test_too_many_requests_are_waited_for_as_long_as_the_registry_says(
    client: Client, fake: FakeRegistry
) -> None:
    fake.add(NAME, "1", simple_image())
    fake.fault("manifests", Fault(status=429, headers={"Retry-After": "1"}))
    start = time.monotonic()
    client.pull(fake.address)
    assert 1.0 <= time.monotonic() - start < 10
    assert len(fake.requests("manifests/1")) == 2


def test_a_registry_that_wants_an_hour_of_patience_is_not_waited_for(
    client: Client, fake: FakeRegistry
) -> None:
    fake.fault("manifests", Fault(status=429, headers={"Retry-After": "3600"}))
    with pytest.raises(ResourceExhausted, match="3600 s"):
        client.pull(fake.address)
    assert len(fake.requests("manifests")) == 1


def test_server_errors_are_retried(client: Client, fake: FakeRegistry) -> None:
    fake.add(NAME, "1", simple_image())
    fake.fault("manifests", Fault(status=500), Fault(status=503))
    fake.fault("/blobs/", Fault(status=502))
    assert client.pull(fake.address).layer_digests


def test_server_errors_without_end_are_told(client: Client, fake: FakeRegistry) -> None:
    fake.fault("manifests", *[Fault(status=500)] * 9)
    with pytest.raises(Unavailable, match="answered 500"):
        client.pull(fake.address)
    assert len(fake.requests("manifests")) == 5


def test_nobody_listens(client: Client, fake: FakeRegistry) -> None:
    with FakeRegistry() as other:
        address = other.address
    with pytest.raises(Unavailable, match=address):
        client.pull(address)
    client.assert_clean()


def test_an_html_page_in_place_of_a_manifest(client: Client, fake: FakeRegistry) -> None:
    fake.add_manifest(NAME, "1", Blob("text/html", b"<html>please log in</html>"))
    with pytest.raises(DataLoss, match="read manifest"):
        client.pull(fake.address)


def test_credentials_do_not_follow_a_redirect(client: Client, fake: FakeRegistry) -> None:
    image = simple_image()
    fake.add(NAME, "1", image)
    fake.require_token("secret")
    with FakeRegistry() as store:
        store.add(NAME, "1", image)
        digest = image.layers[0].digest
        target = f"http://{store.address}/v2/{NAME}/blobs/{digest}"
        fake.fault(f"/blobs/{digest}", Fault(status=307, headers={"Location": target}))
        client.pull(fake.address)
        assert len(store.requests("/blobs/")) == 1
        assert all("Authorization" not in seen.headers for seen in store.seen)


def test_a_redirect_in_a_circle_ends(client: Client, fake: FakeRegistry) -> None:
    for _ in range(9):
        fake.fault("manifests", Fault(status=302, headers={"Location": f"/v2/{NAME}/manifests/1"}))
    with pytest.raises(Unavailable, match="redirects"):
        client.pull(fake.address)


# What comes over the line


def test_a_cut_line_is_resumed_where_it_broke(client: Client, fake: FakeRegistry) -> None:
    image = incompressible_image()
    fake.add(NAME, "1", image)
    digest = image.layers[0].digest
    fake.fault(f"/blobs/{digest}", Fault(cut_after=300_000), Fault(cut_after=200_000))
    client.pull(fake.address)
    ranges = [seen.headers.get("Range", "") for seen in fake.requests(f"/blobs/{digest}")]
    assert len(ranges) == 3
    offsets = [int(text.removeprefix("bytes=").rstrip("-") or 0) for text in ranges]
    assert 0 == offsets[0] < offsets[1] < offsets[2]
    client.assert_clean()


def test_a_server_that_ignores_ranges_still_serves_a_cut_blob(client: Client, fake: FakeRegistry) -> None:
    image = incompressible_image()
    fake.add(NAME, "1", image)
    fake.fault(f"/blobs/{image.layers[0].digest}", Fault(cut_after=300_000), Fault(ignore_range=True))
    assert client.pull(fake.address).manifest_digest == image.manifest.digest


def test_a_line_that_never_gets_further_is_given_up_and_its_part_kept(
    client: Client, fake: FakeRegistry
) -> None:
    image = incompressible_image()
    fake.add(NAME, "1", image)
    fake.fault(f"/blobs/{image.layers[0].digest}", Fault(cut_after=1000), *[Fault(refuse=True)] * 60)
    with pytest.raises(Unavailable, match="download blob"):
        client.pull(fake.address)
    assert len(client.ingests()) == 1

    fake_again = fake  # the line works again: only the rest is fetched
    fake_again._faults.clear()
    fake_again.seen.clear()
    client.pull(fake.address)
    (seen,) = fake.requests(f"/blobs/{image.layers[0].digest}")
    assert seen.headers["Range"].startswith("bytes=")
    client.assert_clean()


def test_a_part_damaged_on_disk_is_fetched_anew(client: Client, fake: FakeRegistry) -> None:
    image = incompressible_image()
    fake.add(NAME, "1", image)
    layer = image.layers[0]
    Path(client.content.ingest_path(layer.digest)).write_bytes(bytes(5000))
    assert client.pull(fake.address).layer_digests == (layer.digest,)
    assert client.content.read(layer.digest, 1 << 22) == layer.data
    client.assert_clean()


def test_a_blob_with_other_content(client: Client, fake: FakeRegistry) -> None:
    image = incompressible_image()
    fake.add(NAME, "1", image)
    layer = image.layers[0]
    fake.blobs[layer.digest] = layer.data[:-1] + bytes([layer.data[-1] ^ 1])
    with pytest.raises(DataLoss):
        client.pull(fake.address)
    assert not client.content.has(layer.digest)
    assert client.layers.committed == []
    client.assert_clean()


@pytest.mark.parametrize("change", [-100, 100])
def test_a_blob_that_is_shorter_or_longer_than_the_manifest_says(
    client: Client, fake: FakeRegistry, change: int
) -> None:
    image = incompressible_image()
    fake.add(NAME, "1", image)
    layer = image.layers[0]
    fake.blobs[layer.digest] = layer.data[:change] if change < 0 else layer.data + bytes(change)
    with pytest.raises(DataLoss, match="the manifest says"):
        client.pull(fake.address)
    assert not client.content.has(layer.digest)
    client.assert_clean()


def test_a_body_longer_than_its_announced_length_is_not_stored(client: Client, fake: FakeRegistry) -> None:
    image = incompressible_image()
    fake.add(NAME, "1", image)
    layer = image.layers[0]
    for _ in range(8):
        fake.fault(f"/blobs/{layer.digest}", Fault(length=len(layer.data) - 10))
    with pytest.raises(DataLoss, match="the manifest says"):
        client.pull(fake.address)
    client.assert_clean()


def test_a_manifest_pulled_by_digest_must_have_that_digest(client: Client, fake: FakeRegistry) -> None:
    image = simple_image()
    fake.add(NAME, "1", image)
    fake.manifests[NAME, image.manifest.digest] = Blob(image.manifest.media_type, image.manifest.data + b" ")
    with pytest.raises(DataLoss, match="has the digest"):
        client.pull(fake.address, image.manifest.digest)


def test_an_index_that_lies_about_the_size_of_a_manifest(client: Client, fake: FakeRegistry) -> None:
    image = simple_image()
    fake.add(NAME, "x", image)
    index = json.loads(build_index([(image, {"os": "linux", "architecture": "amd64"})]).data)
    index["manifests"][0]["size"] += 1
    fake.add_manifest(NAME, "1", Blob(media_type("oci", "index"), json.dumps(index).encode()))
    with pytest.raises(DataLoss, match="were declared"):
        client.pull(fake.address, platform=Platform("linux", "amd64"))


# What images are


def changed_manifest(image: BuiltImage, **changes: Any) -> Blob:
    document = {**json.loads(image.manifest.data), **changes}
    document = {key: value for key, value in document.items() if value is not None}
    return Blob(image.manifest.media_type, json.dumps(document).encode())


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


# What layers hold


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


# Ends in the middle


def test_cancelling_ends_a_pull_that_hangs(client: Client, fake: FakeRegistry) -> None:
    image = incompressible_image()
    fake.add(NAME, "1", image)
    gate, gone = threading.Event(), threading.Event()
    fake.fault(f"/blobs/{image.layers[0].digest}", Fault(hold=gate, hold_after=500_000))
    threading.Timer(0.7, gone.set).start()
    start = time.monotonic()
    with pytest.raises(Cancelled):
        client.pull(fake.address, cancelled=gone.is_set)
    assert time.monotonic() - start < 5
    gate.set()
    assert client.layers.leftovers() == []
    assert _workers() == []
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
        cwd=Path(__file__).parents[2],
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


def eventually(condition: Any, timeout_s: float = 10) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


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
        assert eventually(lambda: fake.requests(wanted))
        if moment == "middle":
            part = directory / "content/ingest" / layer.replace(":", "-")
            assert eventually(lambda: part.exists() and part.stat().st_size >= 500_000)
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        gate.set()
    assert process.returncode != 0
    if number == signal.SIGINT:
        assert b"KeyboardInterrupt" in errors
        assert os.listdir(directory / "snapshots/open") == []
    assert eventually(lambda: not orphans_of(directory)), "a worker outlived its parent"

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
    assert eventually(lambda: fake.requests(f"/blobs/{layer}"))
    time.sleep(0.5)
    gate.set()
    for thread in threads:
        thread.join(30)
    _, errors = process.communicate(timeout=30)
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
        assert eventually(_workers)
        os.kill(_workers()[0], signal.SIGKILL)
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
