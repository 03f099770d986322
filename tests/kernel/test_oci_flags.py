# SPDX-License-Identifier: Apache-2.0
"""Flags of `oakum oci` that few callers use, and a container whose processes are more than one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from oakum.oci.cgroups import detect_layout
from tests.kernel.oci_box import NAMESPACES
from tests.kernel.oci_cli_box import Runtime
from tests.support.patience import eventually


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    made = Runtime(tmp_path)
    yield made
    made.close()


def test_kill_all_reaches_every_process_also_in_the_hosts_pid_namespace(runtime: Runtime) -> None:
    """The first process ends, its child does not: nobody but the control group knows of it."""
    container = runtime.started(
        "sh", "-c", "sh -c 'trap : USR1; while :; do sleep 0.05; done' & exec sleep 600",
        linux={"namespaces": [{"type": kind} for kind in NAMESPACES if kind != "pid"]},
    )  # fmt: skip

    def processes() -> list[int]:
        return json.loads(runtime("ps", "--format", "json", container).stdout)

    eventually(lambda: len(processes()) >= 2)
    first = runtime.state(container)["pid"]
    (child,) = [pid for pid in processes() if pid != first and os.path.exists(f"/proc/{pid}/task/{pid}/children")
                and b"trap" in Path(f"/proc/{pid}/cmdline").read_bytes()]  # fmt: skip
    runtime("kill", "--all", container, "USR1")
    eventually(lambda: runtime.state(container)["status"] == "stopped")
    assert os.path.exists(f"/proc/{child}"), "it catches that signal"
    runtime("kill", "--all", container, "KILL")
    eventually(lambda: not os.path.exists(f"/proc/{child}"))
    runtime("delete", container)


def test_exec_with_everything_it_can_be_told(runtime: Runtime) -> None:
    container = runtime.started("sleep", "600", process={"noNewPrivileges": False})
    done = runtime(
        "exec", "--user=5", "-g", "7", "--additional-gids", "8", "--no-new-privs", "--cap", "CAP_NET_RAW",
        "-e", "A=1", "-e", "A=2", container,
        "sh", "-c", "id -u; id -G; grep NoNewPrivs /proc/self/status; echo $A; grep CapBnd /proc/self/status",
    )  # fmt: skip
    uid, groups, privileges, variable, bounding = done.stdout.splitlines()
    assert (uid, groups, privileges.split()[-1], variable) == ("5", "0 7 8", "1", "2")
    assert int(bounding.split()[-1], 16) >> 13 & 1, "CAP_NET_RAW"
    refused = runtime("exec", "--user", "5x", container, "true", check=False)
    assert (refused.returncode, "not a numeric id" in refused.stderr) == (255, True)
    unknown = runtime("exec", "--cap", "CAP_NO_SUCH", container, "true")
    assert "CAP_NO_SUCH" in unknown.stderr, "a warning, as the specification has it"


@pytest.mark.cgroup
def test_exec_into_a_group_below_the_containers(runtime: Runtime) -> None:
    container = runtime.started("sleep", "600")
    refused = runtime("exec", "--cgroup", "../up", container, "true", check=False)
    assert (refused.returncode, "'..'" in refused.stderr) == (255, True)
    tree = detect_layout().unified
    assert tree is not None, "neither hybrid nor pure"
    spec = json.loads(Path(runtime.bundle, "config.json").read_text())
    sub = Path(f"{tree.mountpoint}{spec['linux']['cgroupsPath']}/sub")
    sub.mkdir()
    done = runtime("exec", "--cgroup", "sub", container, "cat", "/proc/self/cgroup")
    assert "0::/sub\n" in done.stdout
    runtime("delete", "--force", container)
    assert not sub.exists()


def test_a_container_that_is_kept_can_be_looked_at(runtime: Runtime) -> None:
    runtime.write("sh", "-c", "exit 4")
    container = runtime.new_id()
    assert runtime("run", "--keep", "-b", runtime.bundle, container, check=False).returncode == 4
    assert runtime.state(container)["status"] == "stopped"
    assert runtime("list").stdout.splitlines()[1].split()[:3] == [container, "0", "stopped"]
    runtime("delete", container)


def test_log_lines_are_what_containerd_parses(runtime: Runtime) -> None:
    """The last line of the log is the cause; as text in the form of logrus; with --debug there is more."""
    log = runtime.directory / "log.json"
    assert (
        runtime("--log", str(log), "--log-format", "json", "state", "no\u00e9", check=False).returncode == 1
    )
    runtime("--log", str(log), "--log-format=json", "state", "nobody", check=False)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["level"] for line in lines] == ["error", "error"]
    assert lines[-1]["msg"].endswith("container does not exist")
    assert lines[-1]["time"].endswith("Z")
    text = runtime("state", 'a"b', check=False).stderr
    assert text.startswith('time="')
    assert ' level=error msg="' in text
    assert text.count("\n") == 1
    refused = runtime("--log-format", "xml", "list", check=False)
    assert (refused.returncode, "unknown log-format" in refused.stderr) == (1, True)


def test_rootless_is_a_word_that_is_understood(runtime: Runtime) -> None:
    runtime.write("true")
    for word in ("auto", "true", "false"):
        runtime("--rootless", word, "run", "-b", runtime.bundle, runtime.new_id())
    refused = runtime("--rootless=maybe", "run", "-b", runtime.bundle, runtime.new_id(), check=False)
    assert (refused.returncode, "neither true nor false nor auto" in refused.stderr) == (1, True)
