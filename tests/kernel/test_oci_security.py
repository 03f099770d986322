# SPDX-License-Identifier: Apache-2.0
"""Images and specs that try to get out, each by a way that worked on some runtime once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oakum.errors import OakumError, PermissionDenied
from tests.kernel.oci_box import Box, Running

pytestmark = [pytest.mark.root]


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(str(tmp_path / "b"))


def test_a_mountpoint_that_is_a_link_out_stays_inside(box: Box, tmp_path: Path) -> None:
    outside, volume = tmp_path / "outside", tmp_path / "volume"
    outside.mkdir()
    volume.mkdir()
    (volume / "f").write_text("in")
    os.symlink(str(outside), os.path.join(box.rootfs, "link"))
    os.symlink("../../../../../.." + str(outside), os.path.join(box.rootfs, "climb"))
    mounts = [
        {"destination": f"/{name}/x", "source": str(volume), "options": ["rbind"]}
        for name in ("link", "climb")
    ]
    assert box.shell(f"cat {outside}/x/f /climb/x/f", mounts=mounts) == "inin"
    assert os.listdir(outside) == []


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_proc_and_sys_may_not_be_links(box: Box, name: str) -> None:
    os.rmdir(os.path.join(box.rootfs, name))
    os.symlink("tmp", os.path.join(box.rootfs, name))
    with pytest.raises(PermissionDenied, match="symbolic link"):
        box.run(box.spec("true"))


def test_nothing_is_mounted_inside_proc_but_known_files(box: Box, tmp_path: Path) -> None:
    (tmp_path / "fake").write_text("fake\n")
    (tmp_path / "dir").mkdir()
    good = {"destination": "/proc/uptime", "source": str(tmp_path / "fake"), "options": ["bind"]}
    assert box.output("cat", "/proc/uptime", mounts=[good]) == "fake\n"
    for target, source in (("/proc/self/attr/exec", "fake"), ("/proc/sys/kernel", "dir"), ("/proc/1", "dir")):
        with pytest.raises(OakumError, match="proc"):
            box.run(
                box.spec(
                    "true",
                    mounts=[{"destination": target, "source": str(tmp_path / source), "options": ["bind"]}],
                )
            )


def test_a_link_into_proc_does_not_get_around_that(box: Box, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    os.symlink("/proc/sys", os.path.join(box.rootfs, "innocent"))
    mount = {"destination": "/innocent", "source": str(tmp_path / "dir"), "options": ["bind"]}
    with pytest.raises(PermissionDenied, match="/proc"):
        box.run(box.spec("true", mounts=[mount]))


def test_a_working_directory_through_a_descriptor_leads_nowhere(box: Box) -> None:
    # CVE-2024-21626: a leaked descriptor of a host directory as process.cwd
    host = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(host, True)
    try:
        for number in range(3, 12):
            with pytest.raises(OakumError):
                box.run(box.spec("ls", cwd=f"/proc/self/fd/{number}"))
        with Running(box, box.spec("sleep", "100")) as container:
            for number in range(3, 12):
                with pytest.raises(OakumError):
                    container.exec("ls", process={"cwd": f"/proc/self/fd/{number}"})
    finally:
        os.close(host)


def test_a_passwd_that_is_a_link_or_a_pipe_neither_escapes_nor_hangs(box: Box) -> None:
    passwd = os.path.join(box.rootfs, "etc/passwd")
    os.unlink(passwd)
    os.symlink("../../../../../../../../etc/passwd", passwd)
    with pytest.raises(OakumError, match="daemon"):
        box.run(box.spec("true"), user="daemon")
    os.unlink(passwd)
    os.mkfifo(passwd)
    with pytest.raises(OakumError, match="daemon"):
        box.run(box.spec("true"), user="daemon")


def test_dev_null_of_the_image_is_not_what_masks(box: Box) -> None:
    # The image's /dev/null is a link to a file it wants writable (CVE-2025-31133): the host's own device is used.
    spec = box.spec(
        "sh", "-c", "stat -c %F /proc/keys; ls -la /tmp/trap", linux={"maskedPaths": ["/proc/keys"]}
    )
    spec["mounts"] = [mount for mount in spec["mounts"] if not mount["destination"].startswith("/dev")]
    Path(box.rootfs, "tmp/trap").write_text("untouched")
    os.symlink("/tmp/trap", os.path.join(box.rootfs, "dev/null"))
    with pytest.raises(OakumError):
        box.run(spec)  # default devices are not laid over what the image put there
    assert Path(box.rootfs, "tmp/trap").read_text() == "untouched"


def test_a_terminal_needs_the_real_multiplexer(box: Box) -> None:
    # The image offers a file of its own as /dev/pts/ptmx (CVE-2025-52565).
    spec = box.spec("true", terminal=True)
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["destination"] != "/dev/pts"]
    with pytest.raises(OakumError, match="ptmx"):
        box.run(spec)


def test_the_interpreter_is_not_reachable_from_the_container(box: Box) -> None:
    # CVE-2019-5736: /proc/1/exe of a container is its own command, from the first moment it can look.
    assert box.shell("readlink /proc/1/exe; readlink /proc/self/exe").split() == [
        "/bin/busybox",
        "/bin/busybox",
    ]


def test_seccomp_program_is_loaded_and_holds(box: Box) -> None:
    # load the system call number; mkdir (83) and mkdirat (258) give EPERM, all else is allowed
    import struct

    def instruction(code: int, jt: int, jf: int, k: int) -> bytes:
        return struct.pack("=HBBI", code, jt, jf, k)

    program = b"".join(
        (
            instruction(0x20, 0, 0, 0),
            instruction(0x15, 1, 0, 83),
            instruction(0x15, 0, 1, 258),
            instruction(0x06, 0, 0, 0x00050001),
            instruction(0x06, 0, 0, 0x7FFF0000),
        )
    )
    if os.uname().machine == "x86_64":
        script = "grep Seccomp: /proc/self/status; mkdir /x 2>/dev/null || echo refused"
        for no_new_privs in (True, False):
            spec = box.spec("sh", "-c", script, noNewPrivileges=no_new_privs)
            assert box.run(spec, seccomp_bpf=program).text.split() == ["Seccomp:", "2", "refused"]
    with pytest.raises(OakumError, match="seccomp"):
        box.run(box.spec("true"), seccomp_bpf=b"\0" * 8)
