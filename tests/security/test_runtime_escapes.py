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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.oci_box import NAMESPACES
from tests.kernel.oci_cli_box import Runtime

ALL_CAPABILITIES = ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_DAC_READ_SEARCH"]


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    made = Runtime(tmp_path)
    yield made
    made.close()


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A directory of the host that no container may touch."""
    made = tmp_path / "victim"
    made.mkdir()
    return made


def naive(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What a runtime would do that goes by paths: as root, in a mount namespace of its own that nobody else sees."""
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *arguments]
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=30)


def without_dev(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The mounts of a spec that leaves /dev to the image."""
    return [mount for mount in spec["mounts"] if not mount["destination"].startswith("/dev")]


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


def test_cve_2019_5736_the_interpreter_cannot_be_overwritten(runtime: Runtime) -> None:
    container = runtime.create("true")
    pid = runtime.state(container)["pid"]
    assert os.readlink(f"/proc/{pid}/exe").startswith("/memfd:oakum")
    said = overwrite(runtime, pid)
    assert "cannot open" not in said
    assert "overwritten" not in said
    assert "/proc/self/fd/3" in said  # it was tried, and refused


def test_cve_2019_5736_control(runtime: Runtime, tmp_path: Path) -> None:
    program = tmp_path / "sleep"
    shutil.copy("/bin/busybox", program)
    process = subprocess.Popen([str(program), "60"])
    try:
        said = overwrite_while_reaping(runtime, process)
    finally:
        process.kill()
        process.wait()
    assert "overwritten" in said
    assert program.read_text() == "owned\n"


def overwrite_while_reaping(runtime: Runtime, process: subprocess.Popen[bytes]) -> str:
    """`overwrite` of a child of ours: it has to be reaped to be gone."""
    waiter = threading.Thread(target=process.wait)
    waiter.start()
    try:
        return overwrite(runtime, process.pid)
    finally:
        process.kill()
        waiter.join()


def test_cve_2019_5736_a_command_that_is_its_own_interpreter(runtime: Runtime) -> None:
    script = Path(runtime.bundle, "rootfs/bin/evil")
    script.write_text("#!/proc/self/exe\n")
    script.chmod(0o755)
    interpreter = Path(os.path.realpath(sys.executable))
    before = interpreter.stat()
    container = runtime.started("sleep", "60")
    done = runtime("exec", container, "/bin/evil", check=False)
    assert done.returncode != 0
    after = interpreter.stat()
    assert (before.st_mtime_ns, before.st_size, before.st_ino) == (
        after.st_mtime_ns,
        after.st_size,
        after.st_ino,
    )


# -- CVE-2024-21626: the working directory through a leaked descriptor ---------------------------------------------


def test_cve_2024_21626_no_descriptor_of_the_host_is_a_way_out(runtime: Runtime, victim: Path) -> None:
    (victim / "secret").write_text("of the host")
    for number in range(3, 12):
        runtime.write("cat", "secret", process={"cwd": f"/proc/self/fd/{number}"})
        argv = runtime.argv("run", "-b", runtime.bundle, runtime.new_id())
        shell = ["sh", "-c", f'exec "$@" {min(number, 9)}< {victim}', "sh", *argv]
        done = subprocess.run(shell, check=False, capture_output=True, text=True, timeout=30)
        assert done.returncode != 0, number
        assert "of the host" not in done.stdout


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


# -- CVE-2019-19921, CVE-2023-27561, CVE-2023-28642: /proc or /sys of the image is a link --------------------------


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


def test_cve_2019_19921_control(runtime: Runtime, victim: Path) -> None:
    os.rmdir(f"{runtime.bundle}/rootfs/proc")
    os.symlink(str(victim), f"{runtime.bundle}/rootfs/proc")
    done = naive(
        'mount -t proc proc "$1/rootfs/proc" && ls "$2/self/attr" | head -1', runtime.bundle, str(victim)
    )
    assert done.stdout.strip(), done.stderr


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


def test_cve_2019_16884_control(runtime: Runtime, tmp_path: Path) -> None:
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "value").write_text("untouched")
    script = 'mount --bind "$2" "$1/rootfs/proc" && echo 81 > "$1/rootfs/proc/value"'
    naive(script, runtime.bundle, str(fake))
    assert (fake / "value").read_text() == "81\n"


# -- CVE-2022-29162: capabilities of an exec were inheritable ------------------------------------------------------


def test_cve_2022_29162_an_exec_inherits_nothing(runtime: Runtime, tmp_path: Path) -> None:
    container = runtime.started("sleep", "60")
    argv = ("exec", "--cap", "CAP_NET_RAW", container, "grep", "CapInh", "/proc/self/status")
    assert int(runtime(*argv).stdout.split()[1], 16) == 0
    # The other way, and the control: who asks for them outright gets them, and this is where they would be seen.
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


# -- CVE-2024-40635, CVE-2026-30892: numbers of users that are read as others ---------------------------------------


@pytest.mark.parametrize("text", ["4294967296", "4294967295", "-1", "0x0", "33abc", "\u0661"])
def test_cve_2024_40635_no_number_wraps_around_to_root(runtime: Runtime, text: str) -> None:
    container = runtime.started("sleep", "60")
    done = runtime("exec", "--user", text, container, "id", "-u", check=False)
    assert (done.returncode, done.stdout) == (255, "")
    assert runtime("exec", "--user", "4294967294", container, "id", "-u").stdout == "4294967294\n"


def test_cve_2024_40635_neither_in_the_spec(runtime: Runtime) -> None:
    runtime.write("id", "-u", process={"user": {"uid": 1 << 32, "gid": 0}})
    done = runtime("run", "-b", runtime.bundle, runtime.new_id(), check=False)
    assert (done.returncode, "$.process.user.uid" in done.stderr) == (1, True)
    assert (1 << 32) & 0xFFFFFFFF == 0  # the control: what a 32 bit id makes of it
