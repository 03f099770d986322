# SPDX-License-Identifier: Apache-2.0
"""A container as its own process sees it: namespaces, mounts, devices, identity, limits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from oakum.errors import (
    CommandNotRunnable,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OakumError,
    SystemFailure,
)
from oakum.model.rootfs import RootfsSource
from oakum.oci.container import CreateRequest, create
from oakum.oci.spec import parse
from tests.kernel.oci_box import NAMESPACES, Box, Running

pytestmark = [pytest.mark.root, pytest.mark.cgroup]


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(str(tmp_path))


def _fields(text: str) -> dict[str, str]:
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def test_every_namespace_is_the_containers_own(box: Box) -> None:
    script = "for n in mnt pid ipc uts net cgroup user; do echo $n $(readlink /proc/self/ns/$n); done"
    seen = dict(line.split() for line in box.shell(script).splitlines())
    for name in ("mnt", "pid", "ipc", "uts", "net", "cgroup"):
        assert seen[name] != os.readlink(f"/proc/self/ns/{name}")
    assert seen["user"] == os.readlink("/proc/self/ns/user")


def test_it_is_process_one_with_its_own_hostname_and_session(box: Box) -> None:
    lines = box.shell(
        "echo $$; hostname; cut -d' ' -f6 /proc/1/stat; cat /sys/class/net/lo/operstate"
    ).split()
    assert lines[:3] == ["1", "box", "1"]
    assert lines[3] in ("up", "unknown")


def test_only_the_containers_mounts_are_left(box: Box) -> None:
    mounts = [line.split()[4] for line in box.output("cat", "/proc/self/mountinfo").splitlines()]
    assert mounts == ["/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys"]


def test_no_descriptor_and_no_group_of_the_parent_gets_in(box: Box) -> None:
    secret = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(secret, True)
    before = os.getgroups()
    try:
        os.setgroups([4, 27])
        text = box.shell(
            "ls /proc/self/fd | tr '\\n' ' '; id -G; grep -E '^(Groups|SigIgn|SigBlk)' /proc/self/status"
        )
    finally:
        os.setgroups(before)
        os.close(secret)
    first, groups, ignored_line = text.splitlines()[0].rsplit(" ", 1)[0].split(), text.splitlines()[0], text
    assert set(first) <= {"0", "1", "2", "3"}  # 3 is ls reading the directory
    assert groups.split()[-1] == "0"
    assert _fields(ignored_line)["Groups"] == ""
    assert int(_fields(ignored_line)["SigBlk"], 16) == 0
    assert (
        int(_fields(ignored_line)["SigIgn"], 16) & ~(1 << 1 | 1 << 2) == 0
    )  # sh -c may ignore INT and QUIT only


def test_default_devices_and_links(box: Box) -> None:
    text = box.shell(
        "stat -c '%n %t:%T %a' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty;"
        "for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done; echo x > /dev/null; head -c 4 /dev/zero | wc -c"
    )
    assert text.splitlines() == [
        "/dev/null 1:3 666",
        "/dev/zero 1:5 666",
        "/dev/full 1:7 666",
        "/dev/random 1:8 666",
        "/dev/urandom 1:9 666",
        "/dev/tty 5:0 666",
        "/proc/self/fd",
        "/proc/self/fd/0",
        "/proc/self/fd/1",
        "/proc/self/fd/2",
        "pts/ptmx",
        "4",
    ]


def test_a_device_of_the_spec_is_made_with_its_owner(box: Box) -> None:
    device = {"path": "/dev/oak", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 7, "gid": 8}
    assert (
        box.output("stat", "-c", "%t:%T %a %u:%g", "/dev/oak", linux={"devices": [device]}) == "1:5 640 7:8\n"
    )


def test_capabilities_are_exactly_the_five_sets(box: Box) -> None:
    sets = {
        "bounding": ["CAP_CHOWN", "CAP_NET_RAW", "CAP_KILL"],
        "effective": ["CAP_CHOWN", "CAP_KILL"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "inheritable": ["CAP_KILL"],
        "ambient": ["CAP_KILL"],
    }
    user = {"uid": 1000, "gid": 1000}
    seen = _fields(box.output("cat", "/proc/self/status", capabilities=sets, user=user))
    assert int(seen["CapBnd"], 16) == 1 << 0 | 1 << 13 | 1 << 5
    assert int(seen["CapInh"], 16) == 1 << 5
    # An unprivileged process keeps over execve what is ambient, and nothing else.
    assert int(seen["CapPrm"], 16) == int(seen["CapEff"], 16) == int(seen["CapAmb"], 16) == 1 << 5
    assert seen["NoNewPrivs"] == "1"


def test_a_capability_the_host_lacks_is_left_out_and_said(box: Box) -> None:
    sets = {kind: ["CAP_CHOWN", "CAP_MADE_UP"] for kind in ("bounding", "effective", "permitted")}
    result = box.run(box.spec("true", capabilities=sets))
    assert result.status.warnings == ("capability CAP_MADE_UP is not granted: unknown",)


def test_user_groups_umask_and_home(box: Box) -> None:
    user = {"uid": 1000, "gid": 100, "umask": 0o027, "additionalGids": [5, 6]}
    assert box.shell("id -u; id -g; id -G; umask; echo $HOME", user=user).split() == [
        "1000",
        "100",
        "100",
        "5",
        "6",
        "0027",
        "/",
    ]


def test_a_user_name_is_looked_up_in_the_image(box: Box) -> None:
    Path(box.rootfs, "etc").mkdir(exist_ok=True)
    Path(box.rootfs, "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\noak:x:123:45::/srv/oak:/bin/sh\n")
    Path(box.rootfs, "etc/group").write_text("tar:x:77:oak\npitch:x:78:\n")
    script = ("sh", "-c", "id -u; id -g; id -G; echo $HOME")
    named = box.run(box.spec(*script), user="oak")
    assert named.text.split() == ["123", "45", "45", "77", "/srv/oak"]
    assert (named.status.uid, named.status.gid, named.status.groups) == (123, 45, (45, 77))
    grouped = box.run(box.spec(*script), user="oak:pitch", extra_groups=(9,), strict_groups=True)
    assert grouped.text.split() == ["123", "78", "78", "9", "/srv/oak"]
    with pytest.raises(NotFound, match="unable to find user nobody-here"):
        box.run(box.spec("true"), user="nobody-here")


def test_rlimits_hold_and_one_too_high_is_clamped_with_a_warning(box: Box) -> None:
    limits = [
        {"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]
    assert box.shell("ulimit -n; ulimit -Hn; ulimit -c", rlimits=limits).split() == ["64", "128", "0"]


def test_oom_score_adj_is_set_or_clamped_with_a_warning(box: Box) -> None:
    assert box.output("cat", "/proc/self/oom_score_adj", oomScoreAdj=300) == "300\n"
    lower = box.run(box.spec("cat", "/proc/self/oom_score_adj", oomScoreAdj=-900))
    if lower.text == "-900\n":
        assert lower.status.warnings == ()
    else:
        assert lower.status.warnings == (
            f"oom_score_adj stays at {lower.text.strip()}: this host forbids lowering it to -900",
        )


def test_sysctls_are_the_containers_own(box: Box) -> None:
    sysctl = {"net.ipv4.ip_unprivileged_port_start": "80", "kernel.shmmax": "1048576"}
    here = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()
    script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmax"
    assert box.shell(script, linux={"sysctl": sysctl, "readonlyPaths": ["/proc/sys"]}).split() == [
        "80",
        "1048576",
    ]
    assert Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text() == here


def test_a_sysctl_of_the_host_is_refused(box: Box) -> None:
    with pytest.raises(InvalidArgument, match=r"vm\.swappiness"):
        box.run(box.spec("true", linux={"sysctl": {"vm.swappiness": "1"}}))


def test_masked_and_read_only_paths(box: Box) -> None:
    linux = {
        "maskedPaths": ["/proc/keys", "/sys/firmware", "/nowhere"],
        "readonlyPaths": ["/proc/sys", "/nowhere"],
    }
    script = "wc -c < /proc/keys; ls /sys/firmware | wc -l; echo 1 > /proc/sys/kernel/shmmax || echo refused"
    assert box.shell(f"({script}) 2>/dev/null", linux=linux).split() == ["0", "0", "refused"]


def test_a_read_only_root(box: Box) -> None:
    spec = box.spec("sh", "-c", "touch /x 2>/dev/null || echo refused; touch /dev/shm/x && echo fine")
    spec["root"]["readonly"] = True
    assert box.run(spec).text.split() == ["refused", "fine"]


@pytest.mark.parametrize(
    ("args", "message", "code"),
    [
        (["oak-not-there"], 'exec: "oak-not-there": executable file not found in $PATH', 127),
        (["/oak/not/there"], 'exec: "/oak/not/there": stat /oak/not/there: no such file or directory', 127),
        (["/plain"], 'exec: "/plain": permission denied', 126),
        (["/bin"], 'exec: "/bin": is a directory', 126),
    ],
)
def test_a_command_that_cannot_run_says_why(box: Box, args: list[str], message: str, code: int) -> None:
    Path(box.rootfs, "plain").write_text("data")
    with pytest.raises(CommandNotRunnable) as caught:
        box.run(box.spec(*args))
    assert caught.value.brief == message
    assert caught.value.exit_code == code


def test_a_file_of_another_format_fails_at_start(box: Box) -> None:
    Path(box.rootfs, "strange").write_bytes(b"\x7fELF\x01\x02\x03")
    Path(box.rootfs, "strange").chmod(0o755)
    with pytest.raises(CommandNotRunnable, match="exec /strange: exec format error") as caught:
        box.run(box.spec("/strange"))
    assert caught.value.exit_code == 126


def test_the_working_directory_is_made_when_missing_and_has_to_be_one(box: Box) -> None:
    assert box.output("pwd", cwd="/srv/new/dir") == "/srv/new/dir\n"
    Path(box.rootfs, "plain").write_text("")
    with pytest.raises(SystemFailure, match="/plain"):
        box.run(box.spec("true", cwd="/plain"))


def test_environment_is_only_the_specs(box: Box) -> None:
    seen = set(box.output("env", env=["PATH=/bin", "A=1", "A=2", "HOME=/h", "odd"]).splitlines())
    assert seen == {"PATH=/bin", "A=2", "HOME=/h"}


def test_a_terminal_is_the_containers_own(box: Box) -> None:
    spec = box.spec(
        "sh",
        "-c",
        "tty; stty size; ls -l /dev/console | cut -c1; echo hi > /dev/console",
        terminal=True,
        consoleSize={"height": 40, "width": 90},
    )
    result = box.run(spec)
    assert result.text.replace("\r", "").split("\n")[:4] == ["/dev/pts/0", "40 90", "c", "hi"]


def test_an_overlay_is_mounted_inside_only(box: Box, tmp_path: Path) -> None:
    for name in ("low", "up", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "low/marker").write_text("from below\n")
    source = RootfsSource((str(tmp_path / "low"), box.rootfs), str(tmp_path / "up"), str(tmp_path / "work"))
    result = box.run(
        box.spec("sh", "-c", "cat /marker; echo new > /written; mount | head -1 | cut -d' ' -f5"),
        rootfs=source,
    )
    assert result.text.split("\n")[:2] == ["from below", "overlay"]
    assert (tmp_path / "up/written").read_text() == "new\n"
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_a_root_of_127_layers(box: Box, tmp_path: Path) -> None:
    layers = [tmp_path / f"layer-with-a-rather-long-name-{n}" for n in range(126)]
    for number, layer in enumerate(layers):
        layer.mkdir()
        (layer / f"f{number}").write_text("")
    (tmp_path / "up").mkdir()
    (tmp_path / "work").mkdir()
    source = RootfsSource((*map(str, layers), box.rootfs), str(tmp_path / "up"), str(tmp_path / "work"))
    assert box.run(box.spec("sh", "-c", "ls / | grep -c '^f'"), rootfs=source).text == "126\n"


def test_namespaces_are_joined_by_path_and_by_descriptor(box: Box) -> None:
    with Running(box, box.spec("sleep", "100")) as other:
        kinds = {"network": "net", "ipc": "ipc", "uts": "uts"}
        script = "for n in net ipc uts; do readlink /proc/self/ns/$n; done"
        wanted = [os.readlink(f"/proc/{other.pid}/ns/{name}") for name in kinds.values()]
        by_path = [{"type": k, "path": f"/proc/{other.pid}/ns/{n}"} for k, n in kinds.items()]
        rest = [{"type": kind} for kind in NAMESPACES if kind not in kinds]
        assert box.shell(script, linux={"namespaces": [*rest, *by_path]}).split() == wanted
        fds = {
            k: os.open(f"/proc/{other.pid}/ns/{n}", os.O_RDONLY) for k, n in {**kinds, "pid": "pid"}.items()
        }
        try:
            own = os.readlink("/proc/self/ns/pid_for_children")
            spec = box.spec("sh", "-c", script + "; cat /proc/1/cmdline | tr '\\0' ' '")
            assert box.run(spec, namespace_fds=fds).text.split() == [*wanted, "sleep", "100"]
            assert os.readlink("/proc/self/ns/pid_for_children") == own
        finally:
            for fd in fds.values():
                os.close(fd)


def test_a_user_namespace_with_mappings(box: Box) -> None:
    for directory, _, files in os.walk(box.rootfs):
        os.chown(directory, 200000, 200000)
        for name in files:
            os.chown(os.path.join(directory, name), 200000, 200000, follow_symlinks=False)
    mapping = [{"containerID": 0, "hostID": 200000, "size": 65536}]
    linux = {
        "namespaces": [{"type": kind} for kind in (*NAMESPACES, "user")],
        "uidMappings": mapping,
        "gidMappings": mapping,
    }
    script = (
        "cat /proc/self/uid_map; id -u; touch /made; echo x > /dev/null; stat -c %u /proc/1 /made;"
        "cat /proc/self/oom_score_adj"
    )
    seen = box.shell(script, linux=linux, oomScoreAdj=250).split()
    assert seen == ["0", "200000", "65536", "0", "0", "0", "250"]
    assert os.stat(os.path.join(box.rootfs, "made")).st_uid == 200000


def test_killed_before_start_it_is_a_clear_error(box: Box) -> None:
    spec = box.spec("sleep", "100")
    child = box.create(spec)
    try:
        child.wait_status()
        child.signal(9)
        os.waitpid(child.pid, 0)
        with pytest.raises(FailedPrecondition):
            child.start()
    finally:
        child.close()
        box.remove(spec)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"mounts": [{"destination": "/d", "source": "/oak-no-such-source", "options": ["bind"]}]},
            "/oak-no-such-source",
        ),
        ({"mounts": [{"destination": "/d", "type": "tmpfs", "options": ["sizzle=3"]}]}, "sizzle"),
        ({"mounts": [{"destination": "/d", "type": "oakfs"}]}, "oakfs"),
        ({"rlimits": [{"type": "RLIMIT_OAK", "soft": 1, "hard": 1}]}, "RLIMIT_OAK"),
    ],
)
def test_a_failure_in_the_child_names_the_call_and_the_target(
    box: Box, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(OakumError) as caught:
        box.run(box.spec("true", **change))
    assert message in str(caught.value)


def test_a_spec_without_a_mount_namespace_is_refused(box: Box) -> None:
    with pytest.raises(InvalidArgument, match="mount namespace"):
        create(CreateRequest("x", parse(box.spec("true", linux={"namespaces": []})), box.bundle))
