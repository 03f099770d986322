# SPDX-License-Identifier: Apache-2.0
"""Bad input to `oakum oci`: a clear error with the place of the fault, exit code 1, and nothing that stays.

`OAKUM_TESTS_ALL=1` runs every wrong document there is instead of a part.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.oci_cli_box import Runtime
from tests.support.patience import eventually
from tests.support.runtime_spec import mistakes

# a prime: no field is always passed over
STEP = 1 if os.environ.get("OAKUM_TESTS_ALL") else 11


def machine(runtime: Runtime) -> tuple[list[str], list[str]]:
    """What a container would have left: control groups at the places named here, and mounts."""
    groups = [
        f"{tree.mountpoint}{path}"
        for tree in runtime.box.layout.hierarchies
        for path in ("/oakum-test", "/bad")
    ]
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
        mounts = [line for line in file if runtime.bundle in line]
    return [group for group in groups if os.path.exists(group)], mounts


def test_every_wrong_document_is_refused_and_leaves_nothing(runtime: Runtime) -> None:
    config = Path(runtime.bundle, "config.json")
    wrong: list[str] = []
    for mistake in list(mistakes())[::STEP]:
        config.write_text(json.dumps(mistake.document))
        done = runtime("create", "-b", runtime.bundle, "bad", check=False)
        if (done.returncode, done.stderr.count("\n")) != (
            1,
            1,
        ) or f" {mistake.field.name}: " not in done.stderr:
            wrong.append(f"{mistake.field.name} {mistake.what}: {done}")
    assert wrong == []
    assert not os.path.exists(f"{runtime.root}/bad")
    assert runtime("list", "-q").stdout == ""
    assert machine(runtime) == ([], [])


def test_a_wrong_process_or_limit_is_refused_and_changes_nothing(runtime: Runtime) -> None:
    container = runtime.started("sleep", "600")
    file = runtime.directory / "document.json"
    wrong: list[str] = []
    for member, command, code in (
        ("process", ("exec", "--process", str(file), container), 255),
        ("linux.resources", ("update", "-r", str(file), container), 1),
    ):
        path = f"$.{member}."
        inside = [mistake for mistake in mistakes() if mistake.field.name.startswith(path)]
        for mistake in inside[::STEP]:
            document: Any = mistake.document
            for name in member.split("."):
                document = document[name]
            file.write_text(json.dumps(document))
            done = runtime(*command, check=False)
            named = f" $.{mistake.field.name.removeprefix(path)}: "
            if (done.returncode, done.stderr.count("\n")) != (code, 1) or named not in done.stderr:
                wrong.append(f"{mistake.field.name} {mistake.what}: {done}")
    assert wrong == []
    assert runtime.state(container)["status"] == "running"
    assert len(json.loads(runtime("ps", "-f", "json", container).stdout)) == 1


def test_a_file_that_is_no_document(runtime: Runtime) -> None:
    for text, said in (
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"1" * 5000, "not JSON"),
        (b"[]", "$: an array where an object belongs"),
        (b"null", "$: null where an object belongs"),
        (b"{}", "$.ociVersion: missing"),
        (b'{"ociVersion": "1.2.0"}', "$.process: missing"),
        (b'{"ociVersion": "1.2.0", "process": {"args": ["x"], "cwd": "/"}}', "$.root: missing"),
        (b'{"ociVersion": "1.2.0", "root": {"path": NaN}}', "$.root.path: a fraction"),
    ):
        Path(runtime.bundle, "config.json").write_bytes(text)
        for command in ("create", "run"):
            done = runtime(command, "-b", runtime.bundle, "bad", check=False)
            assert (done.returncode, said in done.stderr) == (1, True), done
    assert not os.path.exists(f"{runtime.root}/bad")


def test_a_document_that_contradicts_itself_or_the_host(runtime: Runtime) -> None:
    def refused(*named: str, **changes: Any) -> None:
        runtime.write("true", **changes)
        ended = runtime("create", "-b", runtime.bundle, "bad", check=False)
        assert ended.returncode == 1
        assert all(name in ended.stderr for name in named), ended.stderr
        assert not os.path.exists(f"{runtime.root}/bad")
        assert machine(runtime) == ([], [])

    path = {"cgroupsPath": "/bad"}
    refused("$.linux.cgroupsPath", linux={"cgroupsPath": "/bad/../../x"})
    refused("$.linux.namespaces", linux={**path, "namespaces": []})
    refused("$.hostname", linux={**path, "namespaces": [{"type": "mount"}]})
    refused(
        "$.linux.uidMappings",
        linux={**path, "namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "user"}]},
    )
    refused("$.linux.sysctl.kernel.panic", linux={**path, "sysctl": {"kernel.panic": "1"}})
    refused("$.mounts[0].source", mounts=[{"destination": "/x", "type": "bind"}], linux=path)
    refused("$.mounts[0].destination", mounts=[{"destination": "/../x", "type": "tmpfs"}], linux=path)
    refused("$.mounts[0].type", mounts=[{"destination": "/x"}], linux=path)
    # what only the kernel knows is named by the step that it refused
    refused("/nosuch", mounts=[{"destination": "/x", "type": "bind", "source": "/nosuch"}], linux=path)
    refused("nosuchfs", mounts=[{"destination": "/x", "type": "nosuchfs"}], linux=path)
    refused("root file system", "/nosuch", root={"path": "/nosuch"}, linux=path)
    refused("net.ipv4.nosuch", linux={**path, "sysctl": {"net.ipv4.nosuch": "1"}})
    refused("nosuch", process={"args": ["nosuch"]}, linux=path)
    refused("/nosuch", process={"cwd": "/etc/passwd/nosuch"}, linux=path)


def test_one_id_is_one_container_also_for_five_at_once(runtime: Runtime) -> None:
    runtime.write("sleep", "600")
    container = runtime.new_id()
    create = ("create", "-b", runtime.bundle, container)
    with ThreadPoolExecutor(5) as pool:
        ended = list(pool.map(lambda _: Runtime.__call__(runtime, *create, check=False), range(5)))
    assert sorted(done.returncode for done in ended) == [0, 1, 1, 1, 1]
    assert all("container with given ID already exists" in d.stderr for d in ended if d.returncode)
    pid = runtime.state(container)["pid"]
    assert runtime(*create, check=False).returncode == 1
    state = runtime.state(container)
    assert (state["pid"], state["status"]) == (pid, "created")


def test_what_cannot_be_done_now_changes_nothing(runtime: Runtime) -> None:
    container = runtime.started("sleep", "600")
    assert "is not stopped: running" in runtime("delete", container, check=False).stderr
    assert "already running" in runtime("start", container, check=False).stderr
    assert "not paused" in runtime("resume", container, check=False).stderr
    assert runtime.state(container)["status"] == "running"
    for words in (("kill", container, "NOSUCH"), ("kill", container, "0"), ("kill", container, "99")):
        assert runtime(*words, check=False).returncode == 1, words
    assert runtime.state(container)["status"] == "running"
    runtime("kill", container, "KILL")
    eventually(lambda: runtime.state(container)["status"] == "stopped")
    for words, code in (
        (("kill", container), 1),
        (("kill", container, "KILL"), 1),
        (("start", container), 1),
        (("pause", container), 1),
        (("exec", container, "true"), 255),
    ):
        ended = runtime(*words, check=False)
        assert (ended.returncode, ended.stderr.count("level=error")) == (code, 1), ended
    assert runtime.state(container)["status"] == "stopped"
    runtime("delete", container)
    for name in ("state", "start", "kill", "delete", "pause", "resume", "update", "ps", "events"):
        ended = runtime(name, container, check=False)
        assert (ended.returncode, "container does not exist" in ended.stderr) == (1, True), (name, ended)
        assert runtime(name, check=False).returncode == 1, name


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "types", "gone", "directory"])
def test_a_damaged_container_is_told_apart_and_force_ends_all_of_it(runtime: Runtime, damage: str) -> None:
    whole = runtime.started("sleep", "600")
    container = runtime.started("sleep", "600")
    pid = runtime.state(container)["pid"]
    path = Path(runtime.root, container, "state.json")
    data = path.read_bytes()
    path.unlink()
    if damage == "directory":
        path.mkdir()
    elif damage != "gone":
        types = json.dumps({**json.loads(data), "pid": [pid]}).encode()
        path.write_bytes({"cut": data[:50], "empty": b"", "garbage": os.urandom(64), "types": types}[damage])
    listed = runtime("list", "-q")
    assert listed.stdout.split() == [whole]
    assert container in listed.stderr
    for words in (
        ("state",),
        ("start",),
        ("kill",),
        ("pause",),
        ("delete",),
        ("update", "--pids-limit", "9"),
    ):
        ended = runtime(words[0], container, *words[1:], check=False)
        assert (ended.returncode, container in ended.stderr) == (1, True), ended
    os.kill(pid, 0)
    if damage == "directory":
        path.rmdir()
    runtime("delete", "--force", container)
    eventually(lambda pid=pid: not os.path.exists(f"/proc/{pid}"))
    assert os.listdir(runtime.root) == [whole]
    assert runtime.state(whole)["status"] == "running"


def test_lost_files_of_a_container_do_not_keep_it_from_being_removed(runtime: Runtime) -> None:
    for name in ("config.json", "lock", "start.fifo", "status.fifo"):
        container = runtime.create("sleep", "600")
        pid = runtime.state(container)["pid"]
        os.unlink(f"{runtime.root}/{container}/{name}")
        runtime("state", container)
        runtime("delete", "--force", container)
        eventually(lambda pid=pid: not os.path.exists(f"/proc/{pid}"))
    assert os.listdir(runtime.root) == []
