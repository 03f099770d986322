# SPDX-License-Identifier: Apache-2.0
"""Images from a real registry, unpacked as root and seen through a real overlay mount."""

from __future__ import annotations

import os
import shutil
import ssl
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oakum.errors import (
    DataLoss,
    OakumError,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from oakum.images.archive import export_archive, import_archive
from oakum.images.archived import ExportedImage
from oakum.images.content import ContentStore
from oakum.images.credentials import Credentials
from oakum.images.layers import PulledImage
from oakum.images.platforms import Platform
from oakum.images.pull import pull
from oakum.images.push import push
from oakum.images.reference import parse_reference
from oakum.images.unpack import unpack_local
from tests.support.images import build_image, busybox_layer, make_layer, tar_entry
from tests.support.layer_target import DirectoryTarget
from tests.support.registry import Registry

pytestmark = pytest.mark.root

CAP_NET_RAW = bytes.fromhex("0100000200200000000000000000000000000000")


class Host:
    """A host that pulls and mounts: content, layers, and overlays of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.content = ContentStore(str(directory / "content"))
        self.layers = DirectoryTarget(directory / "snapshots")

    def pull(self, name: str, **options: Any) -> PulledImage:
        return pull(parse_reference(name), content=self.content, layers=self.layers, **options)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path) as running:
        yield running


@pytest.fixture
def mounted(tmp_path: Path, host: Host) -> Iterator[Callable[[str], Path]]:
    """Mounts a chain of layers read-only and gives the merged root."""
    mounts: list[str] = []

    def mount(chain_id: str) -> Path:
        target = tmp_path / f"merged{len(mounts)}"
        target.mkdir()
        empty = tmp_path / f"empty{len(mounts)}"
        empty.mkdir()
        lower = ":".join([*host.layers.layer_directories(chain_id), str(empty)])
        options = f"ro,lowerdir={lower}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(target)], check=True)
        mounts.append(str(target))
        return target

    yield mount
    for target in mounts:
        subprocess.run(["umount", target], check=True)


@pytest.mark.parametrize("media", ["docker", "oci"])
@pytest.mark.parametrize("compression", ["gzip", "zstd", "plain"])
def test_busybox_from_a_registry_runs(
    host: Host, registry: Registry, mounted: Callable[[str], Path], media: Any, compression: Any
) -> None:
    digest = registry.push_image(
        "library/busybox",
        "latest",
        [busybox_layer()],
        {"Cmd": ["sh"], "Env": ["A=b"]},
        media=media,
        compression=compression,
    )
    image = host.pull(f"{registry.address}/library/busybox")
    assert (image.manifest_digest, image.config.cmd, image.config.env) == (digest, ("sh",), ("A=b",))
    root = mounted(image.chain_id)
    said = subprocess.run(
        ["chroot", root, "/bin/cat", "/etc/passwd"], capture_output=True, text=True, check=True
    )
    assert said.stdout.startswith("root:x:0:0:")
    assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777


def test_every_kind_of_file_arrives_as_it_was(
    host: Host, registry: Registry, mounted: Callable[[str], Path]
) -> None:
    long_name = "d" * 120 + "/" + "e" * 120 + "/" + "f" * 90
    entries = [
        tar_entry("dir", "d", mode=0o2750, uid=7, gid=8, mtime=1_000_000_000),
        tar_entry("dir/setuid", "f", b"#!", 0o4755, uid=5, gid=6, mtime=1_234_567_890),
        tar_entry("dir/plain", "f", b"x", 0o600),
        tar_entry("hard", "h", "dir/setuid"),
        tar_entry("soft", "l", "/nowhere", uid=9, gid=10, mtime=1_100_000_000),
        tar_entry("null", "c", (1, 3), 0o666),
        tar_entry("disk", "b", (7, 200), 0o660, uid=0, gid=6),
        tar_entry("pipe", "p", mode=0o622, uid=1),
        tar_entry("exact", "f", b"", 0o644, pax_headers={"mtime": "1600000000.123456789"}),
        tar_entry("ping", "f", b"\x7fELF", 0o755, pax_headers=_xattr("security.capability", CAP_NET_RAW)),
        tar_entry("noted", "d", pax_headers=_xattr("user.note", b"hello")),
        tar_entry(long_name, "f", b"deep", 0o644),
        tar_entry("ünïcode", "f", b"", 0o644),
        tar_entry("big", "f", os.urandom(3 << 20), 0o640, uid=1000, gid=1000),
    ]
    registry.push_image("all", "1", [make_layer(entries)])
    root = mounted(host.pull(f"{registry.address}/all:1").chain_id)

    def facts(name: str) -> tuple[int, int, int, int]:
        found = os.lstat(root / name)
        return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, int(found.st_mtime)

    assert facts("dir") == (0o2750, 7, 8, 1_000_000_000)
    assert facts("dir/setuid") == (0o4755, 5, 6, 1_234_567_890)
    assert facts("dir/plain")[:3] == (0o600, 0, 0), "a setgid directory hands its group on only afterwards"
    assert os.path.samefile(root / "hard", root / "dir/setuid")
    assert os.readlink(root / "soft") == "/nowhere"
    assert facts("soft")[1:] == (9, 10, 1_100_000_000)
    null, disk, pipe = (os.lstat(root / name) for name in ("null", "disk", "pipe"))
    assert stat.S_ISCHR(null.st_mode)
    assert null.st_rdev == os.makedev(1, 3)
    assert stat.S_IMODE(null.st_mode) == 0o666
    assert stat.S_ISBLK(disk.st_mode)
    assert (disk.st_rdev, disk.st_gid) == (os.makedev(7, 200), 6)
    assert stat.S_ISFIFO(pipe.st_mode)
    assert stat.S_IMODE(pipe.st_mode) == 0o622
    assert os.lstat(root / "exact").st_mtime_ns == 1_600_000_000_123_456_789
    assert os.getxattr(root / "ping", "security.capability") == CAP_NET_RAW
    assert os.getxattr(root / "noted", "user.note") == b"hello"
    assert (root / long_name).read_bytes() == b"deep"
    assert (root / "ünïcode").exists()
    assert facts("big")[:3] == (0o640, 1000, 1000)
    assert (root / "big").stat().st_size == 3 << 20


def _xattr(name: str, value: bytes) -> dict[str, str]:
    return {f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape")}


def test_layers_hide_replace_and_keep_what_lies_below(
    host: Host, registry: Registry, mounted: Callable[[str], Path]
) -> None:
    lower = [
        tar_entry("gone", "f", b"old"),
        tar_entry("kept", "f", b"old"),
        tar_entry("replaced", "d"),
        tar_entry("replaced/old", "f", b"old"),
        tar_entry("opaque", "d"),
        tar_entry("opaque/old", "f", b"old"),
        tar_entry("remade", "d"),
        tar_entry("remade/old", "f", b"old"),
        tar_entry("sticky", "d", mode=0o1777, uid=3, gid=4, mtime=1_050_000_000),
        tar_entry("sticky/deep", "d", mode=0o700),
        tar_entry("sticky/deep/old", "f", b"old"),
        tar_entry("target", "f", b"linked", 0o4711, uid=11, gid=12),
    ]
    upper = [
        tar_entry(".wh.gone", "f", b""),
        tar_entry("replaced", "f", b"now a file"),
        tar_entry("opaque/.wh..wh..opq", "f", b""),
        tar_entry("opaque/new", "f", b"new"),
        tar_entry(".wh.remade", "f", b""),
        tar_entry("remade", "d"),
        tar_entry("remade/new", "f", b"new"),
        tar_entry("sticky/deep/new", "f", b"new"),
        tar_entry("alias", "h", "target"),
        tar_entry(".wh..wh.plnk", "f", b"aufs"),
    ]
    registry.push_image("stack", "1", [make_layer(lower), make_layer(upper)])
    image = host.pull(f"{registry.address}/stack:1")
    root = mounted(image.chain_id)
    assert sorted(os.listdir(root)) == ["alias", "kept", "opaque", "remade", "replaced", "sticky", "target"]
    assert (root / "replaced").read_bytes() == b"now a file"
    assert os.listdir(root / "opaque") == ["new"]
    assert os.listdir(root / "remade") == ["new"]
    assert sorted(os.listdir(root / "sticky/deep")) == ["new", "old"]
    sticky = os.stat(root / "sticky")
    assert (stat.S_IMODE(sticky.st_mode), sticky.st_uid, sticky.st_gid) == (0o1777, 3, 4)
    assert stat.S_IMODE(os.stat(root / "sticky/deep").st_mode) == 0o700
    alias = os.stat(root / "alias")
    assert (root / "alias").read_bytes() == b"linked"
    assert (stat.S_IMODE(alias.st_mode), alias.st_uid, alias.st_gid) == (0o4711, 11, 12)
    assert os.path.samefile(root / "alias", root / "target")


def test_marks_of_overlay_in_a_layer_are_not_taken_over(host: Host, registry: Registry) -> None:
    entries = [tar_entry("dir", "d", pax_headers=_xattr("trusted.overlay.redirect", b"/etc"))]
    registry.push_image("marks", "1", [make_layer(entries)])
    image = host.pull(f"{registry.address}/marks:1")
    assert "trusted.overlay.redirect" not in os.listxattr(host.layers.path(image.chain_id) + "/dir")


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0", "gnu"])
def test_sparse_files_stay_sparse(host: Host, registry: Registry, tmp_path: Path, version: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with (source / "disk").open("wb") as file:
        file.truncate(10 << 30)
        for position, text in ((0, b"first"), (5 << 30, b"middle"), ((10 << 30) - 4096, b"last")):
            file.seek(position)
            file.write(text)
    tar = tmp_path / "layer.tar"
    how = ["--format=gnu"] if version == "gnu" else ["--format=pax", f"--sparse-version={version}"]
    subprocess.run(["tar", "-C", source, "--sparse", *how, "-cf", tar, "disk"], check=True)
    registry.push_image("sparse", "1", [tar.read_bytes()])
    found = Path(host.layers.path(host.pull(f"{registry.address}/sparse:1").chain_id), "disk")
    assert found.stat().st_size == 10 << 30
    assert found.stat().st_blocks * 512 < 1 << 20
    with found.open("rb") as file:
        for position, text in ((0, b"first"), (5 << 30, b"middle"), ((10 << 30) - 4096, b"last")):
            file.seek(position)
            assert file.read(len(text)) == text


def test_a_tree_of_this_machine_arrives_as_gnu_tar_unpacks_it(
    host: Host, registry: Registry, tmp_path: Path
) -> None:
    """Whatever odd things lie in /usr/share/perl and /etc: the two unpackers agree."""
    tar = tmp_path / "tree.tar"
    trees = ["usr/share/perl", "etc"]
    subprocess.run(["tar", "-C", "/", "--xattrs", "--format=pax", "-cf", tar, *trees], check=True)
    expected = tmp_path / "expected"
    expected.mkdir()
    subprocess.run(["tar", "-C", expected, "--xattrs", "--xattrs-include=*", "-xpf", tar], check=True)
    registry.push_image("tree", "1", [tar.read_bytes()])
    found = host.layers.path(host.pull(f"{registry.address}/tree:1").chain_id)
    listing = ["find", ".", "-printf", "%p %y %m %U %G %s %l %n\n"]

    def tree(directory: str | Path, command: list[str]) -> list[str]:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
        lines = sorted(done.stdout.splitlines())
        # The size of a directory is the file system's affair, and parents that the tar left out are ours.
        return [line for line in lines if " d " not in line]

    assert tree(found, listing) == tree(expected, listing)
    times = ["find", ".", "-mindepth", "4", "-printf", "%p %T@\n"]
    assert tree(found, times) == tree(expected, times)
    subprocess.run(["diff", "-r", "--no-dereference", found, expected], check=True)
    shutil.rmtree(expected)


def test_tls_and_a_password(tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    with Registry(tmp_path, tls=True, username="jo", password="pw") as registry:
        registry.push_image("private", "1", [busybox_layer()])
        name = f"{registry.address}/private:1"
        with pytest.raises(Unavailable, match="certificate"):
            host.pull(name)
        monkeypatch.setenv("SSL_CERT_FILE", registry.ca_path)
        assert ssl.get_default_verify_paths().cafile == registry.ca_path
        with pytest.raises(Unauthenticated, match="wants a user and password"):
            host.pull(name)
        with pytest.raises(Unauthenticated, match="turned down"):
            host.pull(name, credentials=Credentials("jo", "wrong"))
        image = host.pull(name, credentials=Credentials("jo", "pw"))
        copy = parse_reference(f"{registry.address}/copy:1")
        push(copy, image.target_digest, content=host.content, credentials=Credentials("jo", "pw"))
        assert registry.get_manifest("copy", "1") == registry.get_manifest("private", "1")


def test_the_platform_is_chosen_from_an_index_and_kept(host: Host, registry: Registry) -> None:
    layer = make_layer([tar_entry("file", "f", b"x")])
    offers = [
        (
            build_image([layer], {"Cmd": [arch]}, media="oci", architecture=arch),
            {"os": "linux", "architecture": arch},
        )
        for arch in ("s390x", "amd64", "arm64")
    ]
    index = registry.push_index("multi", "1", offers)
    for architecture in ("arm64", "amd64"):
        image = host.pull(f"{registry.address}/multi:1", platform=Platform("linux", architecture))
        assert (image.index_digest, image.config.cmd) == (index, (architecture,))
    again = unpack_local(index, content=host.content, layers=host.layers, platform=Platform("linux", "amd64"))
    assert again.config.cmd == ("amd64",)


@pytest.mark.parametrize("form", ["oci", "docker"])
@pytest.mark.parametrize("media", ["oci", "docker"])
def test_exports_are_read_by_skopeo_and_by_us(
    host: Host, registry: Registry, tmp_path: Path, form: Any, media: Any
) -> None:
    for number in ("one", "two"):
        extra = make_layer([tar_entry(number, "f", number.encode())])
        registry.push_image(number, "1", [busybox_layer(), extra], {"Cmd": [number]}, media=media)
    images = [host.pull(f"{registry.address}/{number}:1") for number in ("one", "two")]
    archive = tmp_path / "images.tar"
    exported = [
        ExportedImage(image.target_digest, (f"docker.io/library/{name}:1",))
        for name, image in zip(("one", "two"), images, strict=True)
    ]
    with archive.open("wb") as out:
        export_archive(exported, out, content=host.content, form=form)

    reference = f"docker-archive:{archive}:two:1"
    if form == "oci":
        # Within a layout, skopeo finds only images with OCI's own manifests by name; digests are worth more than that,
        # so Docker's stay as they are, and it reads a layout of one.
        with archive.open("wb") as out:
            export_archive(exported[1:], out, content=host.content, form=form)
        reference = f"oci-archive:{archive}" + (":1" if media == "oci" else "")
    subprocess.run(["skopeo", "copy", "-q", reference, f"dir:{tmp_path}/copied"], check=True)
    inspected = subprocess.run(
        ["skopeo", "inspect", "--config", reference], capture_output=True, text=True, check=True
    )
    assert '"two"' in inspected.stdout

    other = Host(tmp_path / "other")
    found = import_archive(str(archive), content=other.content)
    wanted = exported if form == "docker" else exported[1:]
    assert [image.names for image in found] == [image.names for image in wanted]
    unpacked = [
        unpack_local(image.target_digest, content=other.content, layers=other.layers) for image in found
    ]
    assert unpacked[-1].chain_id == images[-1].chain_id
    assert unpacked[-1].config_digest == images[-1].config_digest


def test_archives_of_skopeo_are_imported(host: Host, registry: Registry, tmp_path: Path) -> None:
    registry.push_image("tool", "1", [busybox_layer()], {"Cmd": ["sh"]})
    source = f"docker://{registry.address}/tool:1"
    copy = ["skopeo", "copy", "-q", "--src-tls-verify=false", source]
    subprocess.run([*copy, f"docker-archive:{tmp_path}/docker.tar:example.com/tool:9"], check=True)
    subprocess.run([*copy, f"oci-archive:{tmp_path}/oci.tar:example.com/tool:9"], check=True)
    subprocess.run([*copy, f"oci:{tmp_path}/layout:example.com/tool:9"], check=True)
    for source_path in ("docker.tar", "oci.tar", "layout"):
        (image,) = import_archive(str(tmp_path / source_path), content=host.content)
        assert image.names == ("example.com/tool:9",)
        assert unpack_local(image.target_digest, content=host.content, layers=host.layers).config.cmd == (
            "sh",
        )


def test_a_pushed_image_is_what_skopeo_reads_and_is_mounted_from_its_neighbour(
    host: Host, registry: Registry, tmp_path: Path
) -> None:
    digest = registry.push_image("origin", "1", [busybox_layer()], {"Cmd": ["sh"]})
    image = host.pull(f"{registry.address}/origin:1")
    stages: list[tuple[str, str]] = []

    def watch(digest: str, stage: str, done_bytes: int, total_bytes: int) -> None:
        stages.append((digest, stage))

    target = parse_reference(f"{registry.address}/team/copy:2")
    push(target, image.target_digest, content=host.content, mount_from=["origin"], progress=watch)
    assert {stage for _, stage in stages} == {"exists"}, "everything could be mounted"
    inspect = ["skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", f"docker://{target}"]
    assert subprocess.run(inspect, capture_output=True, text=True, check=True).stdout.strip() == digest
    with Registry(tmp_path) as other:
        stages.clear()
        push(
            parse_reference(f"{other.address}/new:1"),
            image.target_digest,
            content=host.content,
            progress=watch,
        )
        assert "done" in {stage for _, stage in stages}
        subprocess.run(
            [
                "skopeo",
                "copy",
                "-q",
                "--src-tls-verify=false",
                f"docker://{other.address}/new:1",
                f"dir:{tmp_path}/d",
            ],
            check=True,
        )


def test_a_full_disk_is_told_and_gives_its_space_back(tmp_path: Path, registry: Registry) -> None:
    for where in ("blob", "layer"):
        size = 16 << 20
        content = os.urandom(size) if where == "blob" else bytes(size)
        registry.push_image("large", where, [make_layer([tar_entry("file", "f", content)])])
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], check=True)
    try:
        host = Host(small)
        for where in ("blob", "layer"):
            with pytest.raises(ResourceExhausted, match="No space left"):
                host.pull(f"{registry.address}/large:{where}")
            assert host.layers.leftovers() == []
            assert host.layers.committed == []
        free = os.statvfs(small)
        assert free.f_bavail * free.f_frsize > 3 << 20
        registry.push_image("little", "1", [make_layer([tar_entry("file", "f", b"x")])])
        assert host.pull(f"{registry.address}/little:1").layer_digests
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_device_node_in_a_user_namespace_is_refused(host: Host, registry: Registry, tmp_path: Path) -> None:
    entries = [tar_entry("dev", "d"), tar_entry("dev/mem", "c", (1, 1), 0o600)]
    registry.push_image("device", "1", [make_layer(entries)])
    script = (
        "import sys\n"
        "from oakum.errors import OakumError\n"
        "from oakum.images.content import ContentStore\n"
        "from oakum.images.pull import pull\n"
        "from oakum.images.reference import parse_reference\n"
        "from tests.support.layer_target import DirectoryTarget\n"
        "try:\n"
        "    pull(parse_reference(sys.argv[1]), content=ContentStore(sys.argv[2] + '/c'),\n"
        "         layers=DirectoryTarget(sys.argv[2] + '/l'))\n"
        "except OakumError as error:\n"
        "    print(error.code, error)\n"
    )
    inside = tmp_path / "inside"
    inside.mkdir()
    done = subprocess.run(
        [
            "unshare",
            "--user",
            "--map-root-user",
            sys.executable,
            "-c",
            script,
            f"{registry.address}/device:1",
            inside,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.startswith(PermissionDenied.code), done
    assert "CAP_MKNOD" in done.stdout
    assert os.listdir(inside / "l/open") == []
    assert os.listdir(inside / "l/layers") == []


def test_a_device_node_may_not_be_overwritten_through(host: Host, registry: Registry) -> None:
    """A file entry over a device entry makes a file; nothing is written into the device."""
    entries = [tar_entry("node", "c", (1, 5), 0o666), tar_entry("node", "f", b"content")]
    registry.push_image("over", "1", [make_layer(entries)])
    image = host.pull(f"{registry.address}/over:1")
    found = Path(host.layers.path(image.chain_id), "node")
    assert stat.S_ISREG(found.lstat().st_mode)
    assert found.read_bytes() == b"content"


def test_127_layers(host: Host, registry: Registry) -> None:
    layers = [make_layer([tar_entry(f"file{number}", "f", str(number).encode())]) for number in range(127)]
    registry.push_image("deep", "1", layers)
    image = host.pull(f"{registry.address}/deep:1")
    assert len(host.layers.layer_directories(image.chain_id)) == 127
    assert host.layers.committed == list(image.config.chain_ids)


def test_a_pull_of_what_is_here_fetches_nothing_but_the_manifest(host: Host, registry: Registry) -> None:
    registry.push_image("again", "1", [busybox_layer()])
    first = host.pull(f"{registry.address}/again:1")
    stages: list[str] = []
    second = host.pull(f"{registry.address}/again:1", progress=lambda *step: stages.append(step[1]))
    assert first == second
    assert set(stages) == {"exists"}


def test_layers_that_were_lost_are_unpacked_from_the_store(host: Host, registry: Registry) -> None:
    registry.push_image("lost", "1", [busybox_layer()])
    image = host.pull(f"{registry.address}/lost:1")
    shutil.rmtree(host.layers.path(image.chain_id))
    unpack_local(image.target_digest, content=host.content, layers=host.layers)
    assert os.path.exists(host.layers.path(image.chain_id) + "/bin/busybox")


def test_a_damaged_blob_in_the_store_is_noticed_when_unpacked(host: Host, registry: Registry) -> None:
    registry.push_image("rot", "1", [busybox_layer()])
    image = host.pull(f"{registry.address}/rot:1")
    path = Path(host.content.path(image.layer_digests[0]))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.chmod(0o600)
    path.write_bytes(data)
    shutil.rmtree(host.layers.path(image.chain_id))
    with pytest.raises(DataLoss):
        unpack_local(image.target_digest, content=host.content, layers=host.layers)
    assert host.layers.leftovers() == []


def test_hard_links_into_a_chain_that_lacks_the_target_fail(host: Host, registry: Registry) -> None:
    lower = make_layer([tar_entry("a", "f", b"x"), tar_entry("d", "d")])
    for number, target in enumerate(("missing", "d", "a/below")):
        registry.push_image("links", str(number), [lower, make_layer([tar_entry("link", "h", target)])])
        with pytest.raises(OakumError, match="hard link"):
            host.pull(f"{registry.address}/links:{number}")
        assert host.layers.leftovers() == []


def test_tar_formats_give_the_same_tree(host: Host, registry: Registry) -> None:
    entries = [tar_entry("dir", "d"), tar_entry("dir/" + "n" * 90, "f", b"x"), tar_entry("l", "l", "t" * 150)]
    for number, form in enumerate((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)):
        registry.push_image("formats", str(number), [make_layer(entries, tar_format=form)])
        root = Path(host.layers.path(host.pull(f"{registry.address}/formats:{number}").chain_id))
        assert (root / "dir" / ("n" * 90)).read_bytes() == b"x"
        assert os.readlink(root / "l") == "t" * 150
