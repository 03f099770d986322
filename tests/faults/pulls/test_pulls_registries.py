# SPDX-License-Identifier: Apache-2.0
"""What registries answer, and what comes over the line: a clear error or another try, nothing lost."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from yarl import URL

from oakum.errors import (
    DataLoss,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from oakum.images import registry as registry_module
from oakum.images.credentials import Credentials
from oakum.images.platforms import Platform
from oakum.images.registry import proxy_for
from tests.faults.pulls.box import (
    NAME,
    Client,
    incompressible_image,
    simple_image,
)
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.images import (
    Blob,
    build_index,
    media_type,
)
from tests.support.patience import patient


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
    assert 1.0 <= time.monotonic() - start < patient(10)
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


@pytest.mark.parametrize(
    "location", ["http://[", "http://host:99999/x", "http://me:secret@{}/v2/", "ftp://{}/x"]
)
def test_a_redirect_to_no_address_is_told(client: Client, fake: FakeRegistry, location: str) -> None:
    fake.fault("/manifests/", Fault(status=307, headers={"Location": location.format(fake.address)}))
    with pytest.raises(DataLoss, match="leads to no address"):
        client.pull(fake.address)


def test_a_token_server_without_an_address_is_told(client: Client, fake: FakeRegistry) -> None:
    fake.add(NAME, "1", simple_image())
    fake.require_token("secret")
    fake.token_server = "http://["
    with pytest.raises(Unauthenticated, match="no usable token server"):
        client.pull(fake.address)


def test_passwords_of_other_programs_are_not_sent(
    client: Client, fake: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(registry_module, "is_loopback", lambda _: False)  # as for any registry far away
    image = simple_image()
    fake.add(NAME, "1", image)
    fake.require_token("token")
    assert client.pull(fake.address, insecure_hosts=(fake.address,)).manifest_digest == image.manifest.digest
    assert {seen.headers.get("Authorization", "") for seen in fake.seen} == {"", "Bearer token"}


def test_the_proxy_of_the_environment_is_used(
    client: Client, fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.setenv(name, f"http://me:secret@{fake.address}")
    monkeypatch.setenv("no_proxy", "elsewhere.invalid")
    image = simple_image()
    fake.add(NAME, "1", image)
    host = "registry.invalid:5000"
    assert client.pull(host, insecure_hosts=(host,)).manifest_digest == image.manifest.digest
    asked = fake.requests("GET http://registry.invalid:5000/v2/")
    assert {seen.headers.get("Proxy-Authorization") for seen in asked} == {"Basic bWU6c2VjcmV0"}
    assert proxy_for(URL("https://elsewhere.invalid/")) is None


def test_content_is_asked_for_as_it_is_stored(client: Client, fake: FakeRegistry) -> None:
    fake.add(NAME, "1", simple_image())
    client.pull(fake.address)
    assert {seen.headers.get("Accept-Encoding") for seen in fake.seen} == {"identity"}


def test_a_redirect_in_a_circle_ends(client: Client, fake: FakeRegistry) -> None:
    for _ in range(9):
        fake.fault("manifests", Fault(status=302, headers={"Location": f"/v2/{NAME}/manifests/1"}))
    with pytest.raises(Unavailable, match="redirects"):
        client.pull(fake.address)


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


def test_a_manifest_that_is_cut_is_asked_for_again(client: Client, fake: FakeRegistry) -> None:
    image = simple_image()
    fake.add(NAME, "1", image)
    fake.fault("/manifests/", *[Fault(cut_after=20)] * 3)
    assert client.pull(fake.address).manifest_digest == image.manifest.digest
    fake.fault("/manifests/", *[Fault(cut_after=20)] * 60)
    with pytest.raises(Unavailable, match="pull image"):
        client.pull(fake.address)


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


def test_a_part_that_shows_its_damage_to_the_unpacker_is_fetched_anew(
    client: Client, fake: FakeRegistry
) -> None:
    image = incompressible_image()
    fake.add(NAME, "1", image)
    layer = image.layers[0]
    # What a power cut leaves: the length is on the disk, the end of the data is not. The rest is slow to come.
    part = layer.data[:50_000] + bytes(250_000)
    Path(client.content.ingest_path(layer.digest)).write_bytes(part)
    ended = threading.Event()
    fake.fault(f"/blobs/{layer.digest}", Fault(hold=ended, hold_after=1))
    try:
        assert client.pull(fake.address).layer_digests == (layer.digest,)
    finally:
        ended.set()
    assert client.content.read(layer.digest, 1 << 22) == layer.data
    client.assert_clean()


def test_an_empty_part_beside_its_blob_is_not_unpacked(client: Client, fake: FakeRegistry) -> None:
    image = simple_image()
    fake.add(NAME, "1", image)
    layer = image.layers[0]
    # A waiter makes one when the blob is stored between its look and its turn, and may be killed there.
    client.content.write_blob(layer.data, layer.digest)
    Path(client.content.ingest_path(layer.digest)).write_bytes(b"")
    assert client.pull(fake.address).layer_digests == (layer.digest,)


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
