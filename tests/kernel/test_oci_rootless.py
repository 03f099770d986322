# SPDX-License-Identifier: Apache-2.0
"""`oakum oci` for a user without any rights: ids mapped by newuidmap or only the own one, control groups where delegated."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import oakum
from oakum.oci.cgroups import Cgroup, detect_layout
from tests.support.patience import eventually
from tests.support.rootfs import make_rootfs

UID = 65534
FIRST, COUNT = 300_000, 1000  # what /etc/subuid gives to the user


def interpreter() -> str:
    """A Python that others than root may run too; the tests' own may be in root's home."""
    for path in (os.path.realpath(sys.executable), shutil.which("python3", path="/usr/bin:/usr/local/bin")):
        words = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
        words += ["env", str(path), "-c", "import _ctypes"]
        if path and subprocess.run(words, check=False, stderr=subprocess.DEVNULL).returncode == 0:
            return path
    raise AssertionError("no interpreter here is for everybody")


class Rootless:
    """The command line as that user, with a bundle of theirs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bundle = directory / "bundle"
        self.root = directory / "state"
        self.python = interpreter()
        self.path = os.environ["PATH"]
        make_rootfs(str(self.bundle / "rootfs"))
        shutil.copytree(
            Path(oakum.__file__).parent,
            directory / "oakum",
            ignore=shutil.ignore_patterns("__pycache__", "_proto"),
        )
        for name in ("subuid", "subgid"):
            (directory / name).write_text(f"{UID}:{FIRST}:{COUNT}\n")
        subprocess.run(["chown", "-R", f"{UID}:{UID}", str(directory)], check=True)

    def __call__(
        self, *arguments: str, check: bool = True, group: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run one command, with the user's ids in /etc/subuid of a mount namespace of its own."""
        mounts = "".join(
            f"mount --bind {self.directory}/{name} /etc/{name} && " for name in ("subuid", "subgid")
        )
        joins = "".join(
            f"echo $$ > {tree.mountpoint}{group}/cgroup.procs && "
            for tree in detect_layout().hierarchies
            if group
        )
        words = ["unshare", "-m", "sh", "-c", f'{mounts}{joins}exec "$@"', "sh"]
        words += ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
        words += [
            "env",
            "-i",
            f"PATH={self.path}",
            self.python,
            "-IS",
            f"{self.directory}/oakum/cli/oci/__main__.py",
        ]
        out, err = self.directory / "out", self.directory / "err"
        with open(out, "wb") as stdout, open(err, "wb") as stderr:
            done = subprocess.run(
                [*words, "--root", str(self.root), *arguments],
                check=False, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, timeout=60, cwd=self.bundle,
            )  # fmt: skip
        result = subprocess.CompletedProcess(
            done.args, done.returncode, out.read_text(errors="replace"), err.read_text(errors="replace")
        )
        assert not check or done.returncode == 0, (arguments, result.stderr)
        return result

    def write(self, *args: str, ids: int = 1, user: dict[str, Any] | None = None, **linux: Any) -> None:
        """The bundle's config.json as `spec --rootless` makes it, with `args` as its command."""
        path = self.bundle / "config.json"
        path.unlink(missing_ok=True)
        self("spec", "--rootless")
        spec = json.loads(path.read_text())
        spec["process"].update(terminal=False, args=list(args), user=user or spec["process"]["user"])
        if ids > 1:
            for kind in ("uid", "gid"):
                spec["linux"][f"{kind}Mappings"].append({"containerID": 1, "hostID": FIRST, "size": ids - 1})
        spec["linux"].update(linux)
        path.write_text(json.dumps(spec))

    def state(self, container: str) -> dict[str, Any]:
        return json.loads(self("state", container).stdout)

    def close(self) -> None:
        for name in os.listdir(self.root) if self.root.exists() else []:
            self("delete", "--force", name)


@pytest.fixture
def rootless() -> Iterator[Rootless]:
    # where every user may go, which the tests' own directories are not
    directory = tempfile.mkdtemp(prefix="oakum-rootless-", dir="/tmp")
    os.chmod(directory, 0o755)
    try:
        made = Rootless(Path(directory))
        yield made
        made.close()
    finally:
        shutil.rmtree(directory)


def test_the_spec_it_writes_runs_with_the_own_id_alone(rootless: Rootless) -> None:
    rootless.write(
        "sh", "-c", "id -u; cat /proc/self/uid_map /proc/self/setgroups; mkdir /x || echo read-only; exit 3"
    )
    done = rootless("run", "own", check=False)
    assert done.stdout.split() == ["0", "0", str(UID), "1", "deny", "read-only"], done.stderr
    assert done.returncode == 3
    assert rootless("list", "-q").stdout == ""


def test_the_whole_life(rootless: Rootless) -> None:
    rootless.write("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.05; done")
    rootless("create", "--pid-file", str(rootless.directory / "pid"), "life")
    state = rootless.state("life")
    assert (state["status"], state["owner"]) == ("created", "")
    pid = int((rootless.directory / "pid").read_text())
    assert (pid, os.stat(f"/proc/{pid}").st_uid) == (state["pid"], UID)
    rootless("start", "life")
    assert rootless.state("life")["status"] == "running"
    script = (
        "until grep -q 'SigCgt.*[4-7c-f]...$' /proc/1/status; do sleep 0.05; done; "  # it heeds TERM
        "id -u; hostname; kill -0 1 && echo sees its first; exit 5"
    )
    done = rootless("exec", "life", "sh", "-c", script, check=False)
    assert (done.returncode, done.stdout) == (5, "0\noakum\nsees its first\n")
    rootless("exec", "--detach", "--pid-file", str(rootless.directory / "further"), "life", "sleep", "60")
    further = int((rootless.directory / "further").read_text())
    assert os.readlink(f"/proc/{further}/ns/pid") == os.readlink(f"/proc/{pid}/ns/pid")
    assert "nobody" in rootless("list").stdout
    assert rootless("delete", "life", check=False).returncode == 1
    rootless("kill", "life", "TERM")
    eventually(lambda: rootless.state("life")["status"] == "stopped")
    rootless("delete", "life")
    assert not os.path.exists(f"/proc/{further}")
    assert rootless("state", "life", check=False).returncode == 1


def test_many_ids_by_the_programs_that_may_map_them(rootless: Rootless) -> None:
    rootless.write(
        "sh",
        "-c",
        "cat /proc/self/uid_map; id -u; id -G",
        ids=100,
        user={"uid": 7, "gid": 8, "additionalGids": [9]},
    )
    done = rootless("run", "many")
    lines = done.stdout.splitlines()
    assert [line.split() for line in lines[:2]] == [["0", str(UID), "1"], ["1", str(FIRST), "99"]]
    assert lines[2:] == ["7", "8 9"]
    # More than /etc/subuid has for this user: nobody maps them, and nothing stays.
    rootless.write("true", ids=COUNT + 5)
    done = rootless("run", "many", check=False)
    assert done.returncode == 1
    assert "newuidmap" in done.stderr
    assert "/etc/subuid" in done.stderr
    assert rootless("list", "-q").stdout == ""


def test_without_those_programs_it_says_which_are_missing(rootless: Rootless) -> None:
    bare = rootless.directory / "bin"
    bare.mkdir()
    for name in ("unshare", "sh", "mount", "setpriv", "env"):
        (bare / name).symlink_to(str(shutil.which(name)))
    rootless.path = str(bare)
    rootless.write("echo", "runs")
    assert rootless("run", "one").stdout == "runs\n"
    rootless.write("true", user={"uid": 0, "gid": 0, "additionalGids": [5]})
    assert "setgroups" in rootless("run", "groups", check=False).stderr
    rootless.write("true", ids=100)
    done = rootless("run", "many", check=False)
    assert done.returncode == 1
    assert "newuidmap: not installed" in done.stderr
    assert "uidmap" in done.stderr


@pytest.mark.parametrize(
    ("linux", "said"),
    [
        ({"resources": {"memory": {"limit": 1 << 26}}}, "Delegate=yes"),
        (
            {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]},
            "user namespace of its own",
        ),
    ],
)
def test_what_only_root_can_do_is_refused_by_name(
    rootless: Rootless, linux: dict[str, Any], said: str
) -> None:
    rootless.write("true", **linux)
    done = rootless("--log-format", "json", "run", "no", check=False)
    assert done.returncode == 1
    assert said in json.loads(done.stderr.splitlines()[-1])["msg"]
    assert rootless("list", "-q").stdout == ""


def test_what_needs_a_control_group_says_that_there_is_none(rootless: Rootless) -> None:
    rootless.write("sleep", "60")
    rootless("run", "--detach", "bare")
    for command in (
        ["pause", "bare"],
        ["ps", "bare"],
        ["update", "--pids-limit", "5", "bare"],
        ["events", "--stats", "bare"],
    ):
        done = rootless(*command, check=False)
        assert done.returncode == 1, command
        assert "none was delegated" in done.stderr, command
    rootless("kill", "--all", "bare", "KILL")
    eventually(lambda: rootless.state("bare")["status"] == "stopped")


@pytest.mark.cgroup
def test_delegated_groups_are_used_and_limited(rootless: Rootless) -> None:
    layout, parent = detect_layout(), f"/oakum-rootless-{os.getpid()}"
    outer = Cgroup(layout, parent)
    caller = Cgroup(layout, f"{parent}/caller")
    try:
        caller.create()
        for tree in layout.hierarchies:
            for group in (outer, caller):
                subprocess.run(["chown", "-R", f"{UID}:{UID}", group.directory(tree)], check=True)
        rootless.write(
            "sleep",
            "60",
            cgroupsPath=f"{parent}/box",
            resources={"pids": {"limit": 17}, "devices": [{"allow": False}]},
        )
        rootless("run", "--detach", "box", group=f"{parent}/caller")
        tree = layout.of("pids") or layout.hierarchies[0]
        assert Path(f"{tree.mountpoint}{parent}/box/pids.max").read_text() == "17\n"
        assert rootless.state("box")["pid"] in Cgroup(layout, f"{parent}/box").processes()
        # seen from the container's own cgroup namespace: its group is the root of every tree
        groups = rootless("exec", "box", "cat", "/proc/self/cgroup", group=f"{parent}/caller").stdout.split()
        assert groups
        assert all(line.endswith(":/") for line in groups), groups
        rootless("update", "--pids-limit", "9", "box")
        assert Path(f"{tree.mountpoint}{parent}/box/pids.max").read_text() == "9\n"
        rootless("delete", "--force", "box")
        assert not Cgroup(layout, f"{parent}/box").exists()
    finally:
        outer.remove()


def test_the_default_state_directory_is_the_users_own(rootless: Rootless) -> None:
    directory = Path(f"/tmp/oakum-{UID}")
    assert not directory.exists(), "left by somebody"
    words = [rootless.python, "-IS", f"{rootless.directory}/oakum/cli/oci/__main__.py", "list", "-q"]
    try:
        for _ in range(2):
            done = subprocess.run(
                words, check=False, capture_output=True, text=True, env={}, user=UID, group=UID
            )
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        os.chown(directory, 0, 0)
        done = subprocess.run(words, check=False, capture_output=True, text=True, env={}, user=UID, group=UID)
        assert done.returncode == 1
        assert "not ours alone" in done.stderr
    finally:
        shutil.rmtree(directory)
