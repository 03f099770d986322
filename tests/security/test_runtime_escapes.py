# SPDX-License-Identifier: Apache-2.0
"""The attacks that broke runc and crun, made against `oakum oci`; each with a control that shows that it is one.

A control is the same attack on what a naive runtime does: it has to succeed, or the test would prove nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from tests.kernel.oci_box import NAMESPACES
from tests.kernel.oci_cli_box import Runtime
from tests.security.attacks import naive, without_dev

ALL_CAPABILITIES = ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_DAC_READ_SEARCH"]


# -- CVE-2019-5736: the runtime's own program overwritten through /proc/PID/exe ------------------------------------


def overwrite(runtime: Runtime, pid: int) -> str:
    """From a container that sees the host's processes and has every right: hold PID's program, end it, write to it."""
    script = (
        f"exec 2>&1; exec 3< /proc/{pid}/exe || echo cannot open; kill -9 {pid}; while kill -0 {pid} 2>/dev/null; do :; done;"
        " echo owned > /proc/self/fd/3 && echo overwritten"
    )
    runtime.write(
        "sh", "-c", script,
        process={"capabilities": dict.fromkeys(("bounding", "effective", "permitted"), ALL_CAPABILITIES)},
        linux={"namespaces": [{"type": kind} for kind in NAMESPACES if kind != "pid"]},
    )  # fmt: skip
    return runtime("run", "-b", runtime.bundle, runtime.new_id(), check=False).stdout


def test_cve_2019_5736_the_interpreter_cannot_be_overwritten(program: Runtime) -> None:
    container = program.create("true")
    pid = program.state(container)["pid"]
    assert os.readlink(f"/proc/{pid}/exe").startswith("/memfd:oakum")
    said = overwrite(program, pid)
    assert "cannot open" not in said
    assert "overwritten" not in said
    assert "/proc/self/fd/3" in said  # it was tried, and refused


def test_cve_2019_5736_control(program: Runtime, tmp_path: Path) -> None:
    sleep = tmp_path / "sleep"
    shutil.copy("/bin/busybox", sleep)
    process = subprocess.Popen([str(sleep), "60"])
    try:
        said = overwrite_while_reaping(program, process)
    finally:
        process.kill()
        process.wait()
    assert "overwritten" in said
    assert sleep.read_text() == "owned\n"


def overwrite_while_reaping(runtime: Runtime, process: subprocess.Popen[bytes]) -> str:
    """`overwrite` of a child of ours: it has to be reaped to be gone."""
    waiter = threading.Thread(target=process.wait)
    waiter.start()
    try:
        return overwrite(runtime, process.pid)
    finally:
        process.kill()
        waiter.join()


def test_cve_2019_5736_a_command_that_is_its_own_interpreter(program: Runtime) -> None:
    script = Path(program.bundle, "rootfs/bin/evil")
    script.write_text("#!/proc/self/exe\n")
    script.chmod(0o755)
    interpreter = Path(os.path.realpath(sys.executable))
    before = interpreter.stat()
    container = program.started("sleep", "600")
    done = program("exec", container, "/bin/evil", check=False)
    assert done.returncode != 0
    after = interpreter.stat()
    assert (before.st_mtime_ns, before.st_size, before.st_ino) == (
        after.st_mtime_ns,
        after.st_size,
        after.st_ino,
    )


def test_cve_2019_5736_a_script_with_an_interpreter_of_the_image_runs(runtime: Runtime) -> None:
    script = Path(runtime.bundle, "rootfs/bin/fine")
    script.write_text("#!/bin/sh\nreadlink /proc/self/exe; readlink /proc/$$/exe\n")
    script.chmod(0o755)
    container = runtime.started("sleep", "600")
    assert runtime("exec", container, "/bin/fine").stdout.split() == ["/bin/busybox", "/bin/busybox"]


# -- CVE-2024-21626: the working directory through a leaked descriptor ---------------------------------------------


def test_cve_2024_21626_no_descriptor_of_the_host_is_a_way_out(program: Runtime, victim: Path) -> None:
    (victim / "secret").write_text("of the host")
    for number in range(3, 10):
        program.write("cat", "secret", process={"cwd": f"/proc/self/fd/{number}"})
        argv = program.argv("run", "-b", program.bundle, program.new_id())
        shell = ["sh", "-c", f'exec "$@" {number}< {victim}', "sh", *argv]
        done = subprocess.run(shell, check=False, capture_output=True, text=True, timeout=30)
        assert done.returncode != 0, number
        assert "of the host" not in done.stdout


def test_cve_2024_21626_neither_for_an_exec(program: Runtime, victim: Path) -> None:
    (victim / "secret").write_text("of the host")
    container = program.started("sleep", "600")
    for number in (3, 5, 9):
        argv = program.argv("exec", "--cwd", f"/proc/self/fd/{number}", container, "cat", "secret")
        shell = ["sh", "-c", f'exec "$@" {number}< {victim}', "sh", *argv]
        done = subprocess.run(shell, check=False, capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stdout) == (255, ""), number


def test_cve_2024_21626_control(runtime: Runtime, victim: Path) -> None:
    (victim / "secret").write_text("of the host")
    program = "import os, sys; os.chroot(sys.argv[1]); os.fchdir(7); os.execv('/bin/cat', ['cat', 'secret'])"
    shell = [
        "sh",
        "-c",
        f'exec "$@" 7< {victim}',
        "sh",
        sys.executable,
        "-c",
        program,
        f"{runtime.bundle}/rootfs",
    ]
    assert subprocess.run(shell, check=True, capture_output=True, text=True).stdout == "of the host"


def test_cve_2024_21626_a_directory_of_the_container_may_be_one_of_proc_too(runtime: Runtime) -> None:
    for cwd, shown in (
        ("/proc/self", "/proc/1"),
        ("/tmp", "/tmp"),
        ("/made/when/missing", "/made/when/missing"),
    ):
        runtime.write("sh", "-c", "pwd -P", process={"cwd": cwd})
        assert runtime("run", "-b", runtime.bundle, runtime.new_id()).stdout.strip() == shown


# -- CVE-2022-29162: capabilities of an exec were inheritable ------------------------------------------------------


def test_cve_2022_29162_an_exec_inherits_nothing(runtime: Runtime) -> None:
    container = runtime.started("sleep", "600")
    argv = ("exec", "--cap", "CAP_NET_RAW", container, "grep", "CapInh", "/proc/self/status")
    assert int(runtime(*argv).stdout.split()[1], 16) == 0


def test_cve_2022_29162_who_asks_for_inheritable_ones_gets_them(runtime: Runtime, tmp_path: Path) -> None:
    container = runtime.started("sleep", "600")
    sets = {kind: ["CAP_NET_RAW"] for kind in ("bounding", "permitted", "effective", "inheritable")}
    process = {
        "args": ["grep", "CapInh", "/proc/self/status"],
        "cwd": "/",
        "env": ["PATH=/bin"],
        "capabilities": sets,
    }
    (tmp_path / "p.json").write_text(json.dumps(process))
    done = runtime("exec", "--process", str(tmp_path / "p.json"), container)
    assert int(done.stdout.split()[1], 16) == 1 << 13


def test_cve_2022_29162_control(runtime: Runtime) -> None:
    # What an inheritable capability is good for: a program that says it takes it over gets it, whoever runs it.
    rootfs = Path(runtime.bundle, "rootfs")
    (rootfs / "own").mkdir()
    taker = rootfs / "own/busybox"
    shutil.copy(rootfs / "bin/busybox", taker)
    inherits = bytes.fromhex(
        "0100000200000000002000000000000000000000"
    )  # capabilities(7), version 2: CAP_NET_RAW, inheritable
    os.setxattr(taker, "security.capability", inherits)
    seen: list[int] = []
    for sets in (
        ("bounding", "permitted", "effective", "inheritable"),
        ("bounding", "permitted", "effective"),
    ):
        process = {
            "capabilities": {kind: ["CAP_NET_RAW"] for kind in sets},
            "user": {"uid": 33, "gid": 33},
            "noNewPrivileges": False,
        }
        runtime.write("/own/busybox", "grep", "CapPrm", "/proc/self/status", process=process)
        seen.append(int(runtime("run", "-b", runtime.bundle, runtime.new_id()).stdout.split()[1], 16))
    assert seen == [1 << 13, 0]


# -- CVE-2025-31133: what masks a path is the image's ---------------------------------------------------------------


def test_cve_2025_31133_the_image_does_not_say_what_masks(runtime: Runtime, tmp_path: Path) -> None:
    rootfs = f"{runtime.bundle}/rootfs"
    Path(rootfs, "hidden").write_text("secret\n")
    Path(rootfs, "decoy").write_text("of the attacker\n")
    os.symlink("/decoy", f"{rootfs}/dev/null")
    mounts = without_dev(runtime.write("true"))
    runtime.write("cat", "/hidden", mounts=mounts, linux={"maskedPaths": ["/hidden"]})
    done = runtime("run", "-b", runtime.bundle, runtime.new_id(), check=False)
    assert done.returncode == 1
    assert "attacker" not in done.stdout
    os.unlink(f"{rootfs}/dev/null")
    assert runtime("run", "-b", runtime.bundle, runtime.new_id()).stdout == ""


def test_cve_2025_31133_control(runtime: Runtime) -> None:
    rootfs = f"{runtime.bundle}/rootfs"
    Path(rootfs, "hidden").write_text("secret\n")
    Path(rootfs, "decoy").write_text("of the attacker\n")
    os.symlink(f"{rootfs}/decoy", f"{rootfs}/dev/null")
    done = naive('mount --bind "$1/dev/null" "$1/hidden" && cat "$1/hidden"', rootfs)
    assert done.stdout == "of the attacker\n", done.stderr


def test_cve_2025_31133_files_and_directories_are_masked_and_links_to_them(runtime: Runtime) -> None:
    rootfs = Path(runtime.bundle, "rootfs")
    (rootfs / "hidden").mkdir()
    (rootfs / "hidden/file").write_text("secret")
    os.symlink("hidden", rootfs / "alias")
    runtime.write(
        "sh",
        "-c",
        "ls /hidden | wc -l; wc -c < /proc/version",
        linux={"maskedPaths": ["/alias", "/proc/version", "/nosuch"]},
    )
    assert runtime("run", "-b", runtime.bundle, runtime.new_id()).stdout.split() == ["0", "0"]


# -- CVE-2026-41579: /dev of the image is a link --------------------------------------------------------------------


def test_cve_2026_41579_devices_are_made_in_the_image_only(runtime: Runtime, victim: Path) -> None:
    rootfs = Path(runtime.bundle, "rootfs")
    os.rmdir(rootfs / "dev")
    os.symlink(str(victim), rootfs / "dev")
    runtime.write("ls", "/dev/zero", mounts=without_dev(runtime.write("true")))
    runtime("run", "-b", runtime.bundle, runtime.new_id(), check=False)
    assert os.listdir(victim) == []


def test_cve_2026_41579_control(runtime: Runtime, victim: Path) -> None:
    rootfs = Path(runtime.bundle, "rootfs")
    os.rmdir(rootfs / "dev")
    os.symlink(str(victim), rootfs / "dev")
    os.mknod(rootfs / "dev" / "zero", 0o600 | 0o020000, os.makedev(1, 5))
    assert os.listdir(victim) == ["zero"]


def test_cve_2026_41579_an_image_with_a_dev_of_its_own_gets_its_devices(runtime: Runtime) -> None:
    rootfs = Path(runtime.bundle, "rootfs")
    os.rmdir(rootfs / "dev")
    os.mkdir(rootfs / "devices")
    os.symlink("devices", rootfs / "dev")
    runtime.write(
        "sh",
        "-c",
        "head -c 3 /dev/zero | wc -c; ls -d /devices/zero",
        mounts=without_dev(runtime.write("true")),
    )
    assert runtime("run", "-b", runtime.bundle, runtime.new_id()).stdout.split() == ["3", "/devices/zero"]
