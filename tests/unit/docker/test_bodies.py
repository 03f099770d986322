# SPDX-License-Identifier: Apache-2.0
"""What Docker is asked to create, and what is refused before it is asked."""

from __future__ import annotations

from typing import Any

import pytest

from oakum.backend.config import (
    ContainerConfig,
    ContainerMetadata,
    HugepageLimit,
    IdMapping,
    Mount,
    NamespaceOptions,
    Resources,
    SandboxConfig,
    SandboxMetadata,
)
from oakum.docker import bodies
from oakum.docker.bodies import Around, Bind, Powers
from oakum.docker.labels import Labels, read_labels
from oakum.errors import InvalidArgument, OakumError, Unimplemented

POD = "a" * 64
LABELS = Labels(kind="container", installation="/r", created_at_ns=7, sandbox_id=POD, cgroup_parent="/p")


def sandbox(**fields: Any) -> SandboxConfig:
    return SandboxConfig(metadata=SandboxMetadata(name="p"), **fields)


def container(**fields: Any) -> ContainerConfig:
    return ContainerConfig(metadata=ContainerMetadata(name="c"), image="i", **fields)


def body_of(config: ContainerConfig, pod: SandboxConfig | None = None, **changed: Any) -> dict[str, Any]:
    around = Around(
        sandbox_id=POD,
        sandbox=pod or sandbox(),
        hostname="h",
        labels=LABELS,
        image_id="sha256:1",
        command_line=("sh", "-c", "true"),
        binds=(Bind("/a", "/b", readonly=True),),
        user="1:2",
        groups=("3",),
        powers=Powers(("CAP_CHOWN", "CAP_NET_RAW"), all_of_them=True),
        host_config={"LogConfig": {"Type": "local"}},
    )
    return bodies.container_body(config, around._replace(**changed))


def test_a_container_joins_its_pod() -> None:
    body = body_of(container(envs=(("A", "1"),), tty=True))
    host = body["HostConfig"]
    assert (host["NetworkMode"], host["IpcMode"]) == (f"container:{POD}", f"container:{POD}")
    assert (host["PidMode"], host["UTSMode"], host["CgroupParent"]) == ("", "", "/p")
    assert (body["Entrypoint"], body["Cmd"], body["Env"]) == (["sh", "-c", "true"], [], ["A=1"])
    assert (body["User"], host["GroupAdd"], body["Tty"]) == ("1:2", ["3"], True)
    assert "Hostname" not in body
    assert "seccomp=unconfined" in host["SecurityOpt"]
    assert host["Mounts"][0] == {
        "Type": "bind",
        "Source": "/a",
        "Target": "/b",
        "ReadOnly": True,
        "BindOptions": {"Propagation": "rprivate", "ReadOnlyNonRecursive": True},
    }


@pytest.mark.parametrize(
    ("mode", "target", "wanted"),
    [
        ("pod", "", f"container:{POD}"),
        ("container", "", ""),
        ("node", "", "host"),
        ("target", "b" * 64, f"container:{'b' * 64}"),
    ],
)
def test_process_namespaces(mode: Any, target: str, wanted: str) -> None:
    config = container(namespaces=NamespaceOptions(pid=mode, target_id=target))
    assert body_of(config)["HostConfig"]["PidMode"] == wanted


def test_on_the_host_s_network() -> None:
    pod = sandbox(namespaces=NamespaceOptions(network="node", ipc="node", uts="node"))
    host = body_of(container(), pod)["HostConfig"]
    assert (host["NetworkMode"], host["IpcMode"], host["UTSMode"]) == ("host", "host", "host")


def test_masked_paths_are_said_also_when_there_are_none() -> None:
    assert "MaskedPaths" not in body_of(container())["HostConfig"]
    assert body_of(container(masked_paths=()))["HostConfig"]["MaskedPaths"] == []
    assert body_of(container(masked_paths=("/x",)))["HostConfig"]["MaskedPaths"] == ["/x"]


def test_capabilities() -> None:
    def given(**fields: Any) -> set[str]:
        host = body_of(container(**fields))["HostConfig"]
        assert host["CapDrop"] == ["ALL"]
        return set(host["CapAdd"])

    assert "CapAdd" not in body_of(container())["HostConfig"]
    assert given(add_capabilities=("ALL",)) == {"CAP_CHOWN", "CAP_NET_RAW"}
    assert given(add_capabilities=("ALL",), drop_capabilities=("chown",)) == {"CAP_NET_RAW"}
    assert given(drop_capabilities=("ALL",), add_capabilities=("NET_ADMIN",)) == {"CAP_NET_ADMIN"}
    assert "CAP_KILL" not in given(drop_capabilities=("KILL",))


def test_privileged_is_docker_s_own_switch_where_that_works() -> None:
    whole = body_of(container(privileged=True))["HostConfig"]
    assert whole["Privileged"] is True
    assert "CapAdd" not in whole
    parts = body_of(container(privileged=True), powers=Powers(("CAP_CHOWN",), all_of_them=False))[
        "HostConfig"
    ]
    assert parts["Privileged"] is False
    assert parts["CapAdd"] == ["CAP_CHOWN"]
    assert parts["DeviceCgroupRules"] == ["a *:* rwm"]


def test_limits() -> None:
    wanted = Resources(
        memory_limit_bytes=64 << 20,
        cpu_shares=5,
        hugepage_limits=(HugepageLimit(page_size="2MB", limit_bytes=4),),
    )
    assert bodies.limits(wanted) == {"CpuShares": 5, "Memory": 64 << 20, "MemorySwap": 64 << 20}
    assert bodies.own_limits(wanted) == Resources(hugepage_limits=wanted.hugepage_limits)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (container(ambient_capabilities=("CAP_KILL",)), Unimplemented),
        (
            container(
                mounts=(
                    Mount(
                        container_path="/m",
                        host_path="/",
                        uid_mappings=(IdMapping(host_id=0, container_id=0, length=1),),
                    ),
                )
            ),
            Unimplemented,
        ),
        (container(privileged=True), InvalidArgument),
        (container(namespaces=NamespaceOptions(pid="pod")), InvalidArgument),
    ],
)
def test_containers_that_cannot_be(config: ContainerConfig, kind: type[OakumError]) -> None:
    with pytest.raises(kind):
        bodies.check_container(sandbox(), config)


@pytest.mark.parametrize(
    ("fields", "systemd", "kind"),
    [
        ({"namespaces": NamespaceOptions(user="pod")}, False, Unimplemented),
        ({"cgroup_parent": "a.slice"}, False, InvalidArgument),
        ({"cgroup_parent": "/a"}, True, InvalidArgument),
        ({"cgroup_parent": "/a/../b"}, False, InvalidArgument),
        ({"hostname": "h" * 65}, False, InvalidArgument),
        ({"sysctls": {"vm.swappiness": "1"}}, False, InvalidArgument),
    ],
)
def test_sandboxes_that_cannot_be(fields: dict[str, Any], systemd: bool, kind: type[OakumError]) -> None:
    with pytest.raises(kind):
        bodies.check_sandbox(sandbox(**fields), systemd=systemd)


def test_names_are_taken_by_their_keys_and_docker_takes_them() -> None:
    one = bodies.object_name("pod", "We b/ü" * 30, "key")
    assert one == bodies.object_name("pod", "We b/ü" * 30, "key")
    assert one != bodies.object_name("pod", "We b/ü" * 30, "other")
    assert one.replace("_", "").replace("-", "").isalnum()
    assert one.isascii()
    assert len(one) < 128


def test_labels_come_back_and_others_are_none_of_ours() -> None:
    assert read_labels(LABELS.write(), "/r") == LABELS
    assert read_labels(LABELS.write(), "/other") is None
    assert read_labels({"dev.oakum.kind": "spy", "dev.oakum.installation": "/r"}, "/r") is None
    assert read_labels(None, "/r") is None
