# SPDX-License-Identifier: Apache-2.0
"""Pods with users of their own: root inside is nobody outside, and the files of images still are root's inside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from oakum.backend.config import IdMapping, Mount, NamespaceOptions
from oakum.errors import InvalidArgument
from tests.support.engines import Lab

pytestmark = pytest.mark.cgroup

_FIRST = 200_000
_LINES = (
    IdMapping(host_id=_FIRST, container_id=0, length=1000),
    IdMapping(host_id=_FIRST + 5000, container_id=1000, length=64_536),
)
USERS = NamespaceOptions(user="pod", uid_mappings=_LINES, gid_mappings=_LINES)


def test_root_inside_is_nobody_outside(lab: Lab, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    os.chown(shared, _FIRST, _FIRST)
    with lab.pod("users", namespaces=USERS) as pod:
        container = lab.started(
            pod, mounts=(Mount(host_path=str(shared), container_path="/shared"),), privileged=False
        )
        pid = lab.cri.container_status(container).pid
        assert os.stat(f"/proc/{pid}").st_uid == _FIRST
        assert lab.run(container, "id", "-u") == "0\n"
        mapped = [line.split() for line in lab.run(container, "cat", "/proc/self/uid_map").splitlines()]
        assert mapped == [["0", "200000", "1000"], ["1000", "205000", "64536"]]
        # what the image brought is root's, and root may change it
        assert lab.run(container, "stat", "-c", "%u:%g", "/bin/busybox") == "0:0\n"
        lab.run(
            container, "sh", "-c", "echo mine > /new && chown 1000:7 /new && chmod 600 /new && rm /bin/true"
        )
        assert lab.run(container, "stat", "-c", "%u:%g", "/new") == "1000:7\n"
        lab.run(container, "sh", "-c", "echo out > /shared/file && chown 1001 /shared/file")
        assert os.stat(shared / "file").st_uid == _FIRST + 5001
        # it is root of its own shared memory, and of nothing else
        lab.run(container, "sh", "-c", "touch /dev/shm/x")
        assert "Operation not permitted" in lab.run(
            container, "sh", "-c", "hostname x 2>&1; mknod /z b 8 0 2>&1 || true"
        )
        lab.cri.stop_container(container, timeout_s=5)
        assert lab.cri.container_status(container).exit_code == 0


def test_layers_stay_as_they_are(lab: Lab) -> None:
    """The next pod, with other users or none, finds them as the image has them."""
    with lab.pod("first", namespaces=USERS) as pod:
        container = lab.started(pod)
        lab.run(container, "sh", "-c", "chown 5:5 /bin/busybox && chmod 700 /bin && stat -c %u /")
        assert lab.run(container, "stat", "-c", "%u", "/", "/bin/busybox").split() == ["0", "5"]
    assert lab.output("stat -c '%u %a' /bin/busybox /bin").splitlines()[0].startswith("0 ")


def test_image_volumes_and_users_and_execs(lab: Lab) -> None:
    script = "cat /data/seed; stat -c '%u:%g' /data/seed; echo more >> /data/seed && echo written"
    said = lab.output(script, pod={"namespaces": USERS}, image=lab.image("volumes"))
    assert said.splitlines() == ["from the image", "7:8", "written"]
    assert "uid=1000(app)" in lab.output("id", pod={"namespaces": USERS}, image=lab.image("user"))


def test_processes_of_one_pod_are_shared_with_its_users(lab: Lab) -> None:
    with lab.pod("shared", namespaces=replace(USERS, pid="pod")) as pod:
        options = NamespaceOptions(pid="pod")
        one = lab.started(pod, "one", namespaces=options)
        two = lab.started(pod, "two", namespaces=options)
        assert lab.run(one, "sh", "-c", "ps | grep -c 'sleep 0.0[5]' || true").strip().isdigit()
        assert lab.cri.container_status(two).state == "running"


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"uid_mappings": ()}, "0 lines"),
        ({"uid_mappings": _LINES[1:]}, "container's 0"),
        ({"gid_mappings": (*_LINES, _LINES[0])}, "two lines"),
        ({"uid_mappings": (IdMapping(host_id=2**32 - 2, container_id=0, length=5),)}, "no range"),
        ({"network": "node"}, "host's other namespaces"),
    ],
)
def test_mappings_that_cannot_be(lab: Lab, change: dict[str, Any], cause: str) -> None:
    wanted = replace(USERS, **change)
    with pytest.raises(InvalidArgument, match=cause):
        lab.cri.run_sandbox(lab.sandbox("never", namespaces=wanted))
    assert not [s for s in lab.cri.list_sandboxes() if s.config.metadata.name == "never"]
