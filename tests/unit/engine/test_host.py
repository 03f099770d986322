# SPDX-License-Identifier: Apache-2.0
"""What is read off this machine for a container: devices, capabilities, sources of mounts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oakum.backend.config import Device, Mount
from oakum.engine import host
from oakum.engine.spec.capabilities import ALL
from oakum.errors import InvalidArgument, NotFound


def test_a_device_by_its_numbers() -> None:
    (node,) = host.requested_nodes([Device(container_path="/dev/x", host_path="/dev/null", permissions="r")])
    assert (node.path, node.type, node.major, node.minor, node.permissions) == ("/dev/x", "c", 1, 3, "r")


def test_a_directory_of_devices() -> None:
    nodes = host.requested_nodes([Device(container_path="/dev/all", host_path="/dev")])
    assert "/dev/all/null" in [node.path for node in nodes]


def test_what_is_no_device(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InvalidArgument, match="neither"):
        host.requested_nodes([Device(container_path="/dev/x", host_path=str(file))])
    with pytest.raises(NotFound):
        host.requested_nodes([Device(container_path="/dev/x", host_path=str(tmp_path / "none"))])
    for permissions in ("", "rx"):
        with pytest.raises(InvalidArgument, match="permissions"):
            host.requested_nodes(
                [Device(container_path="/dev/x", host_path="/dev/null", permissions=permissions)]
            )


def test_all_devices_are_the_hosts_and_not_what_containers_have_of_their_own() -> None:
    paths = [node.path for node in host.all_nodes()]
    assert "/dev/null" not in paths
    assert not [path for path in paths if path.startswith(("/dev/pts/", "/dev/shm/"))]
    assert len(paths) == len(set(paths))


def test_capabilities_are_those_of_the_bounding_set() -> None:
    known = host.known_capabilities()
    assert known
    assert list(known) == [name for name in ALL if name in known]


def test_the_kernels_version() -> None:
    assert os.uname().release.startswith(".".join(map(str, host.kernel_version())))


def test_links_in_a_mounts_source_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (found,) = host.check_mount_sources(
        [Mount(container_path="/x", host_path=str(tmp_path / "link"))], make_missing=False
    )
    assert found.host_path == str(tmp_path / "real")


def test_a_missing_source_is_made_or_refused(tmp_path: Path) -> None:
    mount = Mount(container_path="/x", host_path=str(tmp_path / "a/b"))
    with pytest.raises(NotFound, match="on the host"):
        host.check_mount_sources([mount], make_missing=False)
    host.check_mount_sources([mount], make_missing=True)
    assert (tmp_path / "a/b").is_dir()


@pytest.mark.parametrize("source", ["", "relative", "/nul\0"])
def test_a_source_is_an_absolute_path(source: str) -> None:
    with pytest.raises(InvalidArgument):
        host.check_mount_sources([Mount(container_path="/x", host_path=source)], make_missing=True)


def test_what_has_no_source_needs_none() -> None:
    mounts = [Mount(container_path="/t", tmpfs=True), Mount(container_path="/i", image="x")]
    assert host.check_mount_sources(mounts, make_missing=False) == mounts
