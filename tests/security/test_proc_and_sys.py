# SPDX-License-Identifier: Apache-2.0
"""Attacks on /proc and /sys: what is mounted there, what is written there, and what of the host shows through.

A control is the same attack on what a naive runtime does: it has to succeed, or the test would prove nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oakum.oci.cgroups.layout import detect_layout
from tests.kernel.oci_box import NAMESPACES
from tests.kernel.oci_cli_box import Runtime
from tests.security.attacks import TRIES, in_mount_namespace, naive

PORT = "net/ipv4/ip_unprivileged_port_start"


# -- CVE-2019-19921: /proc or /sys of the image is a link; as a race it is in test_path_races ----------------------


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_cve_2019_19921_a_link_in_place_of_proc_is_refused(runtime: Runtime, victim: Path, name: str) -> None:
    os.rmdir(f"{runtime.bundle}/rootfs/{name}")
    for target in (str(victim), "tmp", "../../victim"):
        os.symlink(target, f"{runtime.bundle}/rootfs/{name}")
        runtime.write("true")
        done = runtime("create", "-b", runtime.bundle, runtime.new_id(), check=False)
        assert (done.returncode, "symbolic link" in done.stderr) == (1, True), done.stderr
        assert runtime("list", "-q").stdout == ""
        os.unlink(f"{runtime.bundle}/rootfs/{name}")


def test_cve_2019_19921_a_link_on_the_way_to_anything_else_is_followed_inside(runtime: Runtime) -> None:
    rootfs = Path(runtime.bundle, "rootfs")
    os.rename(rootfs / "tmp", rootfs / "real")
    os.symlink("/real", rootfs / "tmp")
    mounts = [*runtime.write("true")["mounts"], {"destination": "/tmp/m", "type": "tmpfs", "source": "t"}]
    runtime.write("sh", "-c", "grep -o ' /real/m tmpfs' /proc/mounts", mounts=mounts)
    assert runtime("run", "-b", runtime.bundle, runtime.new_id()).stdout == " /real/m tmpfs\n"


def test_cve_2019_19921_control(runtime: Runtime, victim: Path) -> None:
    os.rmdir(f"{runtime.bundle}/rootfs/proc")
    os.symlink(str(victim), f"{runtime.bundle}/rootfs/proc")
    done = naive(
        'mount -t proc proc "$1/rootfs/proc" && ls "$2/self/attr" | head -1', runtime.bundle, str(victim)
    )
    assert done.stdout.strip(), done.stderr


# -- CVE-2023-27561: the same by way of a volume -------------------------------------------------------------------


def by_volume(runtime: Runtime, volume: Path) -> list[dict[str, Any]]:
    """Mounts of an image whose /proc leads into a volume that is mounted first and that others write to."""
    rootfs = Path(runtime.bundle, "rootfs")
    os.rmdir(rootfs / "proc")
    os.symlink("vol/proc", rootfs / "proc")
    (volume / "proc").mkdir()
    shared = {"destination": "/vol", "type": "bind", "source": str(volume), "options": ["rbind"]}
    return [shared, *runtime.write("true")["mounts"]]


def test_cve_2023_27561_proc_may_not_lead_into_a_volume(runtime: Runtime, victim: Path) -> None:
    runtime.write("ls", "/vol/proc", mounts=by_volume(runtime, victim))
    done = runtime("run", "-b", runtime.bundle, runtime.new_id(), check=False)
    assert (done.returncode, "symbolic link" in done.stderr, done.stdout) == (1, True, "")


def test_cve_2023_27561_control(runtime: Runtime, victim: Path) -> None:
    by_volume(runtime, victim)
    script = (
        'mkdir "$1/vol" && mount --bind "$2" "$1/vol" && mount -t proc proc "$1/proc" && ls "$1/vol/proc"'
    )
    done = naive(script, f"{runtime.bundle}/rootfs", str(victim))
    assert "self" in done.stdout.split(), done.stderr


def test_cve_2023_27561_a_volume_beside_proc_is_fine(runtime: Runtime, victim: Path) -> None:
    (victim / "file").write_text("of the volume\n")
    shared = {"destination": "/vol", "type": "bind", "source": str(victim), "options": ["rbind"]}
    runtime.write(
        "cat", "/vol/file", "/proc/sys/kernel/ostype", mounts=[shared, *runtime.write("true")["mounts"]]
    )
    assert runtime("run", "-b", runtime.bundle, runtime.new_id()).stdout == "of the volume\nLinux\n"


# -- CVE-2023-28642: /proc is a link, so that labels are written elsewhere -----------------------------------------


def fake_proc(rootfs: Path) -> Path:
    """An image whose /proc is a link to a directory that looks like one; the file a label would be written to."""
    label = rootfs / "fake/self/attr/exec"
    label.parent.mkdir(parents=True)
    label.write_text("untouched")
    os.rmdir(rootfs / "proc")
    os.symlink("fake", rootfs / "proc")
    return label


def test_cve_2023_28642_no_label_is_written_to_what_the_image_calls_proc(runtime: Runtime) -> None:
    label = fake_proc(Path(runtime.bundle, "rootfs"))
    without = [mount for mount in runtime.write("true")["mounts"] if mount["destination"] != "/proc"]
    runtime.write("true", mounts=without, process={"selinuxLabel": "attack"})
    done = runtime("create", "-b", runtime.bundle, runtime.new_id(), check=False)
    # Whether there is such a label only the kernel knows; one without any security module takes none.
    assert done.returncode == 0 or "attr/exec" in done.stderr
    assert label.read_text() == "untouched"
    runtime.write("true", process={"selinuxLabel": "attack"})
    assert runtime("create", "-b", runtime.bundle, runtime.new_id(), check=False).returncode == 1
    assert label.read_text() == "untouched"


def test_cve_2023_28642_control(runtime: Runtime) -> None:
    rootfs = Path(runtime.bundle, "rootfs")
    label = fake_proc(rootfs)
    done = naive('cd "$1" && echo attack > proc/self/attr/exec', str(rootfs))
    assert (done.returncode, label.read_text()) == (0, "attack\n"), done.stderr


def test_cve_2023_28642_an_image_without_proc_runs_where_no_label_is_asked_for(runtime: Runtime) -> None:
    os.rmdir(f"{runtime.bundle}/rootfs/proc")
    runtime.write("cat", "/proc/sys/kernel/ostype")
    assert runtime("run", "-b", runtime.bundle, runtime.new_id()).stdout == "Linux\n"


# -- CVE-2019-16884: a volume over /proc fakes the files that security labels are written to -----------------------


def test_cve_2019_16884_a_fake_proc_receives_nothing(runtime: Runtime, tmp_path: Path) -> None:
    fake = tmp_path / "fake"
    key = "sys/net/ipv4/ip_unprivileged_port_start"
    (fake / key).parent.mkdir(parents=True)
    (fake / key).write_text("untouched")
    spec = runtime.write("cat", f"/real/{key}")
    mounts = [mount for mount in spec["mounts"] if mount["destination"] != "/proc"]
    mounts += [
        {"destination": "/proc", "type": "bind", "source": str(fake), "options": ["rbind"]},
        {"destination": "/real", "type": "proc", "source": "proc"},
    ]
    runtime.write(
        "cat", f"/real/{key}", mounts=mounts, linux={"sysctl": {"net.ipv4.ip_unprivileged_port_start": "81"}}
    )
    done = runtime("run", "-b", runtime.bundle, runtime.new_id())
    assert done.stdout.strip() == "81"
    assert (fake / key).read_text() == "untouched"


def test_a_fake_proc_does_not_say_which_capabilities_there_are(runtime: Runtime, tmp_path: Path) -> None:
    """Those that the kernel is not asked to take would stay in the bounding set."""
    fake = tmp_path / "fake/sys/kernel/cap_last_cap"
    fake.parent.mkdir(parents=True)
    fake.write_text("0\n")
    spec = runtime.write("grep", "CapBnd", "/real/self/status")
    real = {"destination": "/real", "type": "proc", "source": "proc"}
    mounts = [mount for mount in spec["mounts"] if mount["destination"] != "/proc"]
    covered = {"destination": "/proc", "type": "bind", "source": str(tmp_path / "fake"), "options": ["rbind"]}
    said: list[int] = []
    for proc in ([], [covered]):
        runtime.write("grep", "CapBnd", "/real/self/status", mounts=[*mounts, *proc, real])
        done = runtime("run", "-b", runtime.bundle, runtime.new_id())
        said.append(int(done.stdout.split()[1], 16))
    assert said[0] == said[1]
    assert not said[0] >> 21 & 1, "CAP_SYS_ADMIN"


def test_cve_2019_16884_files_that_tools_lay_over_proc_are_allowed(runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "uptime").write_text("1.00 1.00\n")
    cover = {
        "destination": "/proc/uptime",
        "type": "bind",
        "source": str(tmp_path / "uptime"),
        "options": ["bind"],
    }
    mounts = [*runtime.write("true")["mounts"], cover]
    runtime.write("cat", "/proc/uptime", mounts=mounts)
    assert runtime("run", "-b", runtime.bundle, runtime.new_id()).stdout == "1.00 1.00\n"
    for other in ("/proc/1/attr/exec", "/proc/sys/net/ipv4/ip_forward", "/proc/version"):
        runtime.write("true", mounts=[*mounts[:-1], {**cover, "destination": other}])
        done = runtime("create", "-b", runtime.bundle, runtime.new_id(), check=False)
        assert (done.returncode, "inside the container's /proc" in done.stderr) == (1, True), done.stderr


def test_cve_2019_16884_control(runtime: Runtime, tmp_path: Path) -> None:
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "value").write_text("untouched")
    script = 'mount --bind "$2" "$1/rootfs/proc" && echo 81 > "$1/rootfs/proc/value"'
    naive(script, runtime.bundle, str(fake))
    assert (fake / "value").read_text() == "81\n"


# -- CVE-2025-52881: a write to /proc reaches another file of /proc ------------------------------------------------

_COVERED = """
import os, subprocess, sys
from oakum.linux import procfs
key, decoy, tries, way = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
path = f"/proc/{key}"
cover = 'while mount --bind "$1" "$2" && umount -l "$2"; do :; done'
private = procfs.open_private_proc()
swapper = subprocess.Popen(["sh", "-c", cover, "sh", decoy, path])
def wrong():
    with open(decoy) as file:
        return file.read() != "untouched"
seen = number = 0
try:
    # The mounts are slower than the writes: it has to be covered often enough, too.
    while number < tries or (way == "careful" and seen < 50):
        number += 1
        cover_is_there = os.path.ismount(path)
        seen += cover_is_there
        if way == "careful":
            procfs.write(private.fileno(), key, "100")
        elif not cover_is_there:
            with open(path, "w") as file:
                file.write("100")
        if way == "naive" and wrong():
            break
    assert swapper.poll() is None, "the race was over before the test was"
finally:
    swapper.kill()
    swapper.wait()
    private.close()
print(seen, "decoy" if wrong() else "kernel")
"""


def covered(tmp_path: Path, way: str) -> str:
    decoy = tmp_path / "decoy"
    decoy.write_text("untouched")
    tries = TRIES * (1 if way == "careful" else 200)
    argv = ["unshare", "--net", sys.executable, "-c", _COVERED, f"sys/{PORT}", str(decoy), str(tries), way]
    done = in_mount_namespace(*argv)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[1]


@pytest.mark.cgroup
def test_cve_2025_52881_a_write_reaches_the_kernel_whatever_is_mounted_over_the_file(tmp_path: Path) -> None:
    assert covered(tmp_path, "careful") == "kernel"


def test_cve_2025_52881_control(tmp_path: Path) -> None:
    assert covered(tmp_path, "naive") == "decoy"


def test_cve_2025_52881_the_whole_runtime_writes_past_what_covers_proc(
    runtime: Runtime, tmp_path: Path
) -> None:
    decoy = tmp_path / "decoy"
    decoy.write_text("untouched")
    runtime.write(
        "cat",
        f"/proc/sys/{PORT}",
        linux={"sysctl": {f"{PORT.replace('/', '.')}": "82"}},
        process={"oomScoreAdj": 500},
    )
    script = (
        'mount --bind "$1" "/proc/sys/$2" && mount --bind "$1" /proc/self/oom_score_adj; shift 2; exec "$@"'
    )
    argv = runtime.argv("run", "-b", runtime.bundle, runtime.new_id())
    done = in_mount_namespace("sh", "-c", script, "sh", str(decoy), PORT, *argv)
    assert (done.stdout, done.returncode) == ("82\n", 0), done.stderr
    assert decoy.read_text() == "untouched"


# -- CVE-2023-25809: the user's own control groups, writable through /sys ------------------------------------------


@pytest.fixture
def delegated() -> Iterator[str]:
    """A control group that belongs to the user who is root in the container, as a user manager makes them; below /sys."""
    tree = detect_layout().unified
    assert tree is not None
    path = f"{tree.mountpoint}/oakum-security-{os.getpid()}"
    os.mkdir(path)
    os.chown(path, 200000, 200000)
    yield path
    for directory, _, _ in os.walk(path, topdown=False):
        os.rmdir(directory)


def rootless(runtime: Runtime, script: str, mount: dict[str, Any]) -> str:
    """What a script prints whose user has no rights on the host, in the host's cgroup and network namespaces."""
    ours = [{"containerID": 0, "hostID": 200000, "size": 65536}]
    for directory, _, _ in os.walk(f"{runtime.bundle}/rootfs"):
        os.chown(directory, 200000, 200000)
    spec = runtime.write("sh", "-c", script)
    mounts = [m for m in spec["mounts"] if m["destination"] not in ("/sys", "/dev/mqueue")]
    kinds = [kind for kind in NAMESPACES if kind not in ("cgroup", "network")]
    linux = {"namespaces": [{"type": k} for k in (*kinds, "user")], "uidMappings": ours, "gidMappings": ours}
    runtime.write(
        "sh",
        "-c",
        script,
        mounts=[*mounts, mount],
        linux={**linux, "cgroupsPath": spec["linux"]["cgroupsPath"]},
    )
    os.chmod(runtime.directory, 0o755)
    done = runtime("run", "-b", runtime.bundle, runtime.new_id(), check=False)
    return done.stdout or done.stderr


@pytest.mark.cgroup
@pytest.mark.parametrize(
    "mount",
    [
        {"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "ro"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "rw"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]},
    ],
)  # fmt: skip
def test_cve_2023_25809_the_hosts_control_groups_are_read_only(
    runtime: Runtime, delegated: str, mount: dict[str, Any]
) -> None:
    if mount["destination"] != "/sys":
        os.makedirs(f"{runtime.bundle}/rootfs/sys/fs/cgroup")
    said = rootless(
        runtime, f"mkdir {delegated}/evil || mkdir /sys/fs/cgroup/unified/evil || echo refused", mount
    )
    assert said == "refused\n"
    assert not os.path.exists(f"{delegated}/evil")


def test_cve_2023_25809_control(runtime: Runtime, delegated: str) -> None:
    script = (
        'mount --rbind /sys "$1/sys" && mount -o remount,bind,ro "$1/sys" &&'
        ' exec chroot --userspec=200000:200000 "$1" /bin/mkdir "$2/evil"'
    )
    os.chmod(runtime.directory, 0o755)
    done = naive(script, f"{runtime.bundle}/rootfs", delegated)
    assert os.path.isdir(f"{delegated}/evil"), done.stderr


@pytest.mark.cgroup
def test_cve_2023_25809_groups_of_its_own_may_be_writable(runtime: Runtime) -> None:
    groups = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]}
    mounts = [*runtime.write("true")["mounts"], groups]
    script = "cd /sys/fs/cgroup; [ -d unified ] && cd unified; mkdir own && rmdir own && echo fine"
    runtime.write("sh", "-c", script, mounts=mounts)
    assert runtime("run", "-b", runtime.bundle, runtime.new_id()).stdout == "fine\n"
