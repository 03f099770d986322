# SPDX-License-Identifier: Apache-2.0
"""Archives go out and come in whole, and damaged or hostile ones leave nothing in the store."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from oakum.errors import DataLoss, InvalidArgument, NotFound, SystemFailure
from oakum.images.archive import export_archive, import_archive
from oakum.images.archived import ExportedImage
from oakum.images.content import ContentStore
from oakum.images.graph import describe, reachable
from oakum.images.platforms import Platform
from tests.support.images import BuiltImage, build_image, build_index, digest_of, make_layer, tar_entry

LAYERS = [make_layer([tar_entry(name, "f", name.encode() * 500)]) for name in ("one", "two")]
NAME = "docker.io/library/app:1"


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(str(tmp_path / "content"))


def put(store: ContentStore, image: BuiltImage) -> str:
    for blob in (image.manifest, image.config, *image.layers):
        store.write_blob(blob.data, blob.digest)
    return image.manifest.digest


def tar_of(files: dict[str, bytes]) -> io.BytesIO:
    return io.BytesIO(make_layer([tar_entry(name, "f", data) for name, data in files.items()]))


def docker_files(image: BuiltImage, **changes: Any) -> dict[str, bytes]:
    entry = {"Config": "c.json", "RepoTags": ["app:1"], "Layers": ["0/layer.tar", "1/layer.tar"], **changes}
    files = {f"{number}/layer.tar": data for number, data in enumerate(LAYERS)}
    return {"c.json": image.config.data, **files, "manifest.json": json.dumps([entry]).encode()}


@pytest.mark.parametrize("form", ["oci", "docker"])
@pytest.mark.parametrize("packed", [False, True])
def test_several_images_there_and_back(store: ContentStore, tmp_path: Path, form: Any, packed: bool) -> None:
    images = [build_image(LAYERS[:count], {"Cmd": [str(count)]}, media="oci") for count in (1, 2)]
    exported = [
        ExportedImage(put(store, image), (f"docker.io/library/app:{n}",)) for n, image in enumerate(images)
    ]
    out = io.BytesIO()
    export_archive(exported, out, content=store, form=form)
    data = gzip.compress(out.getvalue()) if packed else out.getvalue()
    other = ContentStore(str(tmp_path / "other"))
    found = import_archive(io.BytesIO(data), content=other)
    assert [image.names for image in found] == [image.names for image in exported]
    if form == "oci":
        assert [image.target_digest for image in found] == [image.target_digest for image in exported]
    # Nothing but what the images need came in.
    assert {blob.digest for blob in other.list()} == reachable(
        other, [image.target_digest for image in found]
    )


def test_an_index_is_exported_with_what_is_here(store: ContentStore, tmp_path: Path) -> None:
    here, away = build_image(LAYERS), build_image(LAYERS, architecture="arm64")
    index = build_index(
        [(image, {"os": "linux", "architecture": a}) for image, a in ((here, "amd64"), (away, "arm64"))]
    )
    put(store, here)
    store.write_blob(index.data, index.digest)
    out = io.BytesIO()
    export_archive([ExportedImage(index.digest, (NAME,))], out, content=store)
    other = ContentStore(str(tmp_path / "other"))
    (found,) = import_archive(io.BytesIO(out.getvalue()), content=other)
    assert found == (index.digest, (NAME,))
    assert other.has(here.manifest.digest)
    with pytest.raises(NotFound):
        export_archive(
            [ExportedImage(index.digest, ())],
            io.BytesIO(),
            content=other,
            form="docker",
            platform=Platform("linux", "arm64"),
        )


def test_a_pipe_is_read_as_well(store: ContentStore) -> None:
    data = tar_of(docker_files(build_image(LAYERS))).getvalue()
    read_fd, write_fd = os.pipe()

    def write() -> None:
        with os.fdopen(write_fd, "wb") as out:
            out.write(data)

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(read_fd, "rb") as source:
        (image,) = import_archive(source, content=store)
    writer.join()
    assert image.names == (NAME,)


def test_layers_repeated_as_links_as_docker_writes_them(store: ContentStore) -> None:
    image = build_image([LAYERS[0], LAYERS[0]])
    files = docker_files(image)
    del files["1/layer.tar"]
    entries = [tar_entry(name, "f", data) for name, data in files.items()]
    entries.append(tar_entry("1/layer.tar", "l", "../0/layer.tar"))
    (found,) = import_archive(io.BytesIO(make_layer(entries)), content=store)
    assert store.has(digest_of(LAYERS[0]))
    assert found.names == (NAME,)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"Layers": ["0/layer.tar"]}, DataLoss, "1 layers, but the config names 2"),
        ({"Layers": ["1/layer.tar", "0/layer.tar"]}, DataLoss, "not sha256"),
        ({"Layers": ["0/layer.tar", "missing"]}, DataLoss, "missing in the archive"),
        ({"Layers": ["0/layer.tar", "../../../etc/passwd"]}, DataLoss, "missing in the archive"),
        ({"Config": "../../etc/passwd"}, DataLoss, "missing in the archive"),
        ({"Config": 1}, DataLoss, "Expected `str`"),
        ({"Layers": {}}, DataLoss, "Expected `array"),
        ({"RepoTags": ["NOT A NAME"]}, InvalidArgument, "image reference"),
    ],
)
def test_docker_archives_that_lie(
    store: ContentStore, changes: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        import_archive(tar_of(docker_files(build_image(LAYERS), **changes)), content=store)
    assert os.listdir(os.path.join(store.directory, "ingest")) == []


def oci_files(image: BuiltImage) -> dict[str, bytes]:
    blobs = {
        f"blobs/{b.digest.replace(':', '/')}": b.data for b in (image.manifest, image.config, *image.layers)
    }
    index = {"schemaVersion": 2, "manifests": [image.manifest.descriptor]}
    return {**blobs, "oci-layout": b"{}", "index.json": json.dumps(index).encode()}


def test_an_oci_layout_with_other_content_in_a_blob(store: ContentStore) -> None:
    image = build_image(LAYERS, media="oci")
    layer = f"blobs/{image.layers[0].digest.replace(':', '/')}"
    files = oci_files(image)
    for damaged in (files[layer][:-1] + b"?", files[layer] + b"?"):
        with pytest.raises(DataLoss):
            import_archive(tar_of({**files, layer: damaged}), content=store)
        assert not store.has(image.layers[0].digest)
        assert not store.has(image.manifest.digest)


@pytest.mark.parametrize("data", [b"", b"garbage" * 500, b"\x1f\x8b" + bytes(50)])
def test_what_is_no_archive(store: ContentStore, data: bytes) -> None:
    with pytest.raises((DataLoss, InvalidArgument)):
        import_archive(io.BytesIO(data), content=store)


def test_an_archive_of_something_else_and_a_cut_one(store: ContentStore) -> None:
    with pytest.raises(InvalidArgument, match="neither an OCI layout nor a docker archive"):
        import_archive(tar_of({"readme": b"hello"}), content=store)
    whole = tar_of(oci_files(build_image(LAYERS))).getvalue()
    with pytest.raises((DataLoss, InvalidArgument)):
        import_archive(io.BytesIO(whole[: len(whole) // 2]), content=store)


def test_a_link_out_of_a_layout_directory_is_not_followed(store: ContentStore, tmp_path: Path) -> None:
    image = build_image(LAYERS, media="oci")
    layout = tmp_path / "layout"
    for name, data in oci_files(image).items():
        (layout / name).parent.mkdir(parents=True, exist_ok=True)
        (layout / name).write_bytes(data)
    config = layout / "blobs" / image.config.digest.replace(":", "/")
    outside = tmp_path / "outside"
    config.rename(outside)
    config.symlink_to(outside)
    with pytest.raises(SystemFailure, match="ELOOP"):
        import_archive(str(layout), content=store)
    config.unlink()
    outside.rename(config)
    (found,) = import_archive(str(layout), content=store)
    assert found.target_digest == image.manifest.digest


def test_a_directory_that_is_not_there(store: ContentStore, tmp_path: Path) -> None:
    with pytest.raises(SystemFailure, match="ENOENT"):
        import_archive(str(tmp_path / "missing"), content=store)


def test_docker_archives_hold_plain_layers(store: ContentStore) -> None:
    image = build_image(LAYERS, compression="zstd", media="oci")
    out = io.BytesIO()
    export_archive([ExportedImage(put(store, image), (NAME,))], out, content=store, form="docker")
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        listed = json.load(tar.extractfile("manifest.json") or io.BytesIO())
        assert listed[0]["RepoTags"] == ["app:1"]
        layers = [tar.extractfile(name) for name in listed[0]["Layers"]]
        assert [layer.read() for layer in layers if layer] == LAYERS


def test_attestations_beside_an_image_are_left_out(store: ContentStore) -> None:
    image = build_image(LAYERS, media="oci")
    statement = b"{}"
    document = json.loads(image.manifest.data)
    document["layers"] = [
        {"mediaType": "application/vnd.in-toto+json", "digest": digest_of(statement), "size": len(statement)}
    ]
    attestation = json.dumps(document).encode()
    index = json.loads(build_index([(image, {"os": "linux", "architecture": "amd64"})]).data)
    index["manifests"].append(
        {
            "mediaType": image.manifest.media_type,
            "digest": digest_of(attestation),
            "size": len(attestation),
            "platform": {"os": "unknown", "architecture": "unknown"},
        }
    )
    inner = json.dumps(index).encode()
    index["manifests"] = [{"mediaType": index["mediaType"], "digest": digest_of(inner), "size": len(inner)}]
    blobs = (inner, attestation, statement)
    files = {f"blobs/sha256/{digest_of(blob)[7:]}": blob for blob in blobs}
    archive = oci_files(image) | files | {"index.json": json.dumps(index).encode()}
    (found,) = import_archive(tar_of(archive), content=store)
    assert found.target_digest == digest_of(inner)
    assert describe(store, digest_of(inner), Platform("linux", "amd64")).layer_digests
    assert not store.has(digest_of(attestation))


def test_a_damaged_compressed_archive(store: ContentStore) -> None:
    data = bytearray(gzip.compress(tar_of(oci_files(build_image(LAYERS))).getvalue(), 9))
    data[40:60] = bytes(20)
    with pytest.raises(DataLoss, match="damaged archive"):
        import_archive(io.BytesIO(bytes(data)), content=store)
