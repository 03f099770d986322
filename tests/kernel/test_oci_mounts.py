# SPDX-License-Identifier: Apache-2.0
"""Mounts as the container and the host see them: binds, propagation, attributes, tmpfs, cgroups, id maps."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from oakum.linux import mount as m
from oakum.oci.cgroups import detect_layout
from tests.kernel.oci_box import Box, Running

pytestmark = pytest.mark.root


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(str(tmp_path / "b"))


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host that is a shared mount, as a volume for Bidirectional propagation has to be."""
    path = tmp_path / "shared"
    path.mkdir()
    with m.new_filesystem("tmpfs") as tree, m.open_tree(-100, str(path), clone=False) as target:
        m.move_mount(tree.fileno(), target.fileno())
    m.set_propagation(str(path), m.MS_SHARED)
    yield path
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        if line.split()[4].startswith(str(path)):
            m.unmount(line.split()[4], detach=True)


def _mount_tmpfs(path: Path) -> None:
    path.mkdir(exist_ok=True)
    with m.new_filesystem("tmpfs") as tree, m.open_tree(-100, str(path), clone=False) as target:
        m.move_mount(tree.fileno(), target.fileno())


def _bind(source: Path, target: str, *options: str) -> dict[str, object]:
    return {"destination": target, "source": str(source), "type": "bind", "options": list(options)}


def test_a_bind_mount_of_a_directory_and_of_a_file(box: Box, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_text("content")
    mounts = [
        _bind(tmp_path / "d", "/data/deep", "rbind", "rprivate"),
        _bind(tmp_path / "d/f", "/etc/one", "bind", "ro"),
    ]
    text = box.shell(
        "cat /data/deep/f /etc/one; echo x > /data/deep/new; (echo y > /etc/one) 2>/dev/null || echo refused",
        mounts=mounts,
    )
    assert text == "contentcontentrefused\n"
    assert (tmp_path / "d/new").read_text() == "x\n"


def test_attributes_of_a_bind_mount(box: Box, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    mounts = [_bind(tmp_path / "d", "/d", "rbind", "nosuid", "nodev", "noexec", "noatime", "ro")]
    options = box.shell("grep ' /d ' /proc/self/mountinfo | cut -d' ' -f6", mounts=mounts).strip().split(",")
    assert set(options) == {"ro", "nosuid", "nodev", "noexec", "noatime"}


@pytest.mark.cgroup
def test_read_only_is_for_the_mount_alone_or_recursive(box: Box, shared: Path) -> None:
    _mount_tmpfs(shared / "sub")
    script = "touch /v/sub/x 2>/dev/null && echo writable || echo refused"
    assert box.shell(script, mounts=[_bind(shared, "/v", "rbind", "ro")]) == "writable\n"
    assert box.shell(script, mounts=[_bind(shared, "/v", "rbind", "rro")]) == "refused\n"
    assert box.shell("ls /v/sub | wc -l", mounts=[_bind(shared, "/v", "bind", "ro")]) == "0\n"


def test_host_to_container_propagation(box: Box, shared: Path) -> None:
    spec = box.spec(
        "sleep",
        "100",
        mounts=[_bind(shared, "/slave", "rbind", "rslave"), _bind(shared, "/private", "rbind", "rprivate")],
    )
    with Running(box, spec) as container:
        _mount_tmpfs(shared / "later")
        (shared / "later/seen").write_text("")
        assert container.exec("ls", "/slave/later").text == "seen\n"
        assert container.exec("ls", "/private/later").text == ""


def test_bidirectional_propagation_reaches_the_host(box: Box, shared: Path) -> None:
    sets = {kind: ["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"] for kind in ("bounding", "effective", "permitted")}
    spec = box.spec("sleep", "100", mounts=[_bind(shared, "/both", "rbind", "rshared")], capabilities=sets)
    with Running(box, spec) as container:
        script = "mkdir /both/inside && mount -t tmpfs none /both/inside && touch /both/inside/hello"
        assert container.exec("sh", "-c", script).code == 0
        assert os.listdir(shared / "inside") == ["hello"]


def test_tmpfs_with_a_size_and_with_the_images_content(box: Box) -> None:
    Path(box.rootfs, "srv").mkdir(mode=0o750)
    Path(box.rootfs, "srv/dir").mkdir()
    Path(box.rootfs, "srv/dir/file").write_text("kept")
    os.chmod(Path(box.rootfs, "srv/dir/file"), 0o4711)
    os.chown(Path(box.rootfs, "srv/dir/file"), 5, 6)
    os.chmod(Path(box.rootfs, "srv/dir/file"), 0o4711)
    os.symlink("dir/file", Path(box.rootfs, "srv/link"))
    mounts = [
        {"destination": "/srv", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "size=1m"]},
        {
            "destination": "/scratch",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["noexec", "size=64k", "mode=1700"],
        },
    ]
    text = box.shell(
        "cat /srv/link; stat -c ' %a %u:%g' /srv/dir/file; stat -c %a /srv /scratch; df /scratch | tail -1 | tr -s ' ' | cut -d' ' -f2; touch /srv/new",
        mounts=mounts,
    )
    assert text.split() == ["kept", "4711", "5:6", "750", "1700", "64"]
    assert not Path(box.rootfs, "srv/new").exists()


@pytest.mark.cgroup
def test_the_containers_own_cgroup_is_shown_read_only(box: Box) -> None:
    mounts = [
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "ro"],
        }
    ]
    script = "ls /sys/fs/cgroup; touch /sys/fs/cgroup/x 2>/dev/null || echo refused; cat $(find /sys/fs/cgroup -name cgroup.procs | grep -E 'pids|cgroup/cgroup.procs' | head -1)"
    lines = box.shell(script, mounts=mounts).split()
    layout = detect_layout()
    if layout.mode == "v2":
        assert "cgroup.procs" in lines
        assert "memory.max" in lines
    else:
        assert {"memory", "pids", "devices", "freezer"} <= set(lines)
        # Process 1 is the shell: so the directory shown is the container's group, not the host's.
        assert "1" in lines[lines.index("refused") :]
    assert "refused" in lines


@pytest.mark.cgroup
def test_an_id_mapped_volume(box: Box, tmp_path: Path) -> None:
    # On a tmpfs where that can be id-mapped (6.3): not every file system below a test's directory can.
    volume = tmp_path / "volume"
    volume.mkdir()
    on_tmpfs = tuple(int(n) for n in os.uname().release.split(".")[:2]) >= (6, 3)
    if on_tmpfs:
        _mount_tmpfs(volume)
    try:
        os.chmod(volume, 0o777)
        (volume / "f").write_text("")
        os.chown(volume / "f", 1000, 1000)
        mapping = [{"containerID": 1000, "hostID": 5000, "size": 10}]
        mount = {**_bind(volume, "/v", "rbind"), "uidMappings": mapping, "gidMappings": mapping}
        assert box.shell("stat -c %u:%g /v/f", mounts=[mount]) == "5000:5000\n"
    finally:
        if on_tmpfs:
            m.unmount(str(volume), detach=True)


def test_a_later_mount_covers_an_earlier_one_and_order_is_kept(box: Box, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one/f").write_text("1")
    mounts = [
        {"destination": "/a", "type": "tmpfs", "source": "tmpfs"},
        _bind(tmp_path / "one", "/a/b/c", "rbind"),
    ]
    assert box.shell("cat /a/b/c/f; ls /a", mounts=mounts) == "1b\n"


def test_the_hosts_dev_bound_is_left_as_it_is(box: Box) -> None:
    spec = box.spec("sh", "-c", "test -c /dev/null && ls /dev/stdin >/dev/null; echo done")
    spec["mounts"] = [mount for mount in spec["mounts"] if not mount["destination"].startswith("/dev")]
    spec["mounts"].append(_bind(Path("/dev"), "/dev", "rbind", "rslave"))
    before = sorted(os.listdir("/dev"))
    assert box.run(spec).text.endswith("done\n")
    assert sorted(os.listdir("/dev")) == before
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
