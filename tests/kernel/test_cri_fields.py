# SPDX-License-Identifier: Apache-2.0
"""Fields of CRI that a kubelet sends or reads and that no story of its own tells: through a real server and kernel."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.oci.cgroups import detect_layout
from tests.conftest import Directories
from tests.support.cri import CriClient
from tests.support.leaks import remove_cgroups
from tests.support.patience import eventually
from tests.support.registry import Registry, busybox_layer
from tests.support.server import OakumServer

pytestmark = pytest.mark.cgroup

_PARENT = f"/oakum-fields-{os.getpid()}"
_MODE = detect_layout().mode


@pytest.fixture(scope="module")
def cri(
    module_directories: Directories, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[CriClient, str]]:
    with (
        Registry(tmp_path_factory.mktemp("r")) as registry,
        OakumServer(*module_directories, str(tmp_path_factory.mktemp("n"))) as server,
        server.client() as client,
    ):
        image = registry.push_image("fields/busybox", "1", [busybox_layer()], {"Cmd": ["sh"]})
        name = f"{registry.address}/fields/busybox:1"
        assert image
        client.pull(name)
        yield client, name


@pytest.fixture
def pod(cri: tuple[CriClient, str]) -> Iterator[Callable[..., str]]:
    made: list[str] = []

    def run(name: str, **fields: Any) -> str:
        metadata = pb.PodSandboxMetadata(name=name, uid=name, namespace="fields")
        made.append(cri[0].run_pod(pb.PodSandboxConfig(metadata=metadata, **fields)))
        return made[-1]

    yield run
    for each in made:
        cri[0].remove_pod(each)


def started(cri: tuple[CriClient, str], pod: str, *command: str, **fields: Any) -> str:
    config = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="c"),
        image=pb.ImageSpec(image=cri[1], user_specified_image="as/the:user-wrote-it"),
        command=command or ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.05; done"),
        **fields,
    )
    container = cri[0].create(pod, config)
    cri[0].start(container)
    return container


def said(cri: tuple[CriClient, str], container: str, *command: str) -> str:
    answer = cri[0].exec(container, *command)
    assert answer.exit_code == 0, answer
    return answer.stdout.decode()


def test_what_a_pod_asks_of_the_kernel(cri: tuple[CriClient, str], pod: Callable[..., str]) -> None:
    options = pb.NamespaceOption(pid=pb.POD, ipc=pb.POD, network=pb.POD)
    wanted = pb.LinuxPodSandboxConfig(
        cgroup_parent=f"{_PARENT}/pod",
        sysctls={"net.ipv4.ip_local_port_range": "30000\t40000", "kernel.shmmax": "1234567"},
        security_context=pb.LinuxSandboxSecurityContext(
            namespace_options=options,
            seccomp=pb.SecurityProfile(profile_type=pb.SecurityProfile.RuntimeDefault),
        ),
    )
    try:
        sandbox = pod("asks", linux=wanted, labels={"a": "b"}, annotations={"c": "d"})
        container = started(
            cri,
            sandbox,
            linux=pb.LinuxContainerConfig(
                security_context=pb.LinuxContainerSecurityContext(namespace_options=options)
            ),
        )
        assert said(cri, container, "cat", "/proc/sys/net/ipv4/ip_local_port_range").split() == [
            "30000",
            "40000",
        ]
        assert said(cri, container, "cat", "/proc/sys/kernel/shmmax") == "1234567\n"
        pid = _pid(cri, container)
        with open(f"/proc/{pid}/cgroup", encoding="ascii") as file:
            groups = {line.split(":", 2)[2] for line in file.read().splitlines()}
        assert any(group.startswith(f"{_PARENT}/pod/") for group in groups)
        told = cri[0].pod_status(sandbox).status.linux.namespaces.options
        assert (told.pid, told.ipc, told.network) == (pb.POD, pb.POD, pb.POD)
        assert "oakum init" not in said(cri, container, "cat", "/proc/self/cmdline")
        attributes = (
            cri[0].runtime.PodSandboxStats(pb.PodSandboxStatsRequest(pod_sandbox_id=sandbox)).stats.attributes
        )
        assert (attributes.id, attributes.metadata.uid) == (sandbox, "asks")
        assert (dict(attributes.labels), dict(attributes.annotations)) == ({"a": "b"}, {"c": "d"})
        cri[0].remove_pod(sandbox)
    finally:
        remove_cgroups(_PARENT)


def _pid(cri: tuple[CriClient, str], container: str) -> int:
    return int(json.loads(cri[0].status(container, verbose=True).info["info"])["pid"])


def test_every_number_of_statistics(cri: tuple[CriClient, str], pod: Callable[..., str]) -> None:
    sandbox = pod("numbers")
    limit = pb.LinuxContainerConfig(
        resources=pb.LinuxContainerResources(
            memory_limit_in_bytes=64 << 20, memory_swap_limit_in_bytes=64 << 20
        )
    )
    container = started(
        cri,
        sandbox,
        "sh",
        "-c",
        "dd if=/dev/urandom of=/big bs=1M count=4; sync; while :; do :; done",
        linux=limit,
    )

    def of_container() -> pb.ContainerStats:
        return cri[0].runtime.ContainerStats(pb.ContainerStatsRequest(container_id=container)).stats

    def of_pod() -> pb.LinuxPodSandboxStats:
        return cri[0].runtime.PodSandboxStats(pb.PodSandboxStatsRequest(pod_sandbox_id=sandbox)).stats.linux

    eventually(lambda: of_container().writable_layer.used_bytes.value >= 4 << 20, timeout_s=30)
    eventually(lambda: of_pod().cpu.usage_core_nano_seconds.value > 10_000_000, timeout_s=30)
    stats, whole = of_container(), of_pod()
    assert stats.writable_layer.inodes_used.value >= 1
    assert stats.writable_layer.timestamp > 0
    assert stats.writable_layer.fs_id.mountpoint
    for one in (stats, whole):
        assert one.cpu.timestamp > 0
        memory = one.memory
        assert memory.timestamp > 0
        assert 0 < memory.rss_bytes.value <= memory.usage_bytes.value
        assert memory.page_faults.value > memory.major_page_faults.value >= 0
        assert one.io.timestamp > 0
        for pressed in (one.cpu, one.memory, one.io):
            # The kernel accounts pressure by control group in the v2 tree only.
            assert pressed.HasField("psi") == (_MODE != "v1" and os.path.exists("/proc/pressure/cpu"))
            for kind in (pressed.psi.Full, pressed.psi.Some):
                assert kind.Total >= 0
                assert all(0 <= average <= 100 for average in (kind.Avg10, kind.Avg60, kind.Avg300))
    assert 0 < stats.memory.available_bytes.value < 64 << 20
    assert whole.process.timestamp > 0
    assert whole.process.process_count.value >= 1
    if stats.HasField("swap"):
        assert stats.swap.timestamp > 0
        assert stats.swap.swap_usage_bytes.value == 0
        assert stats.swap.swap_available_bytes.value >= 0
    limits = cri[0].status(container).status.resources.linux
    assert limits.memory_swap_limit_in_bytes == 64 << 20


def test_files_of_images_are_counted(cri: tuple[CriClient, str]) -> None:
    (found,) = cri[0].images.ImageFsInfo(pb.ImageFsInfoRequest()).image_filesystems
    assert found.timestamp > 0
    assert found.inodes_used.value > 0


def test_control_group_files_by_name(cri: tuple[CriClient, str], pod: Callable[..., str]) -> None:
    wanted = pb.LinuxContainerConfig(resources=pb.LinuxContainerResources(unified={"pids.max": "77"}))
    sandbox = pod("unified")
    if _MODE == "v2":
        container = started(cri, sandbox, linux=wanted)
        assert said(cri, container, "cat", "/sys/fs/cgroup/pids.max") == "77\n"
        return
    # Version 1 has no such files: a limit that would not be in force is refused.
    with pytest.raises(grpc.RpcError) as caught:
        started(cri, sandbox, linux=wanted)
    assert "pids.max" in str(caught.value.details())


def test_privileges_that_are_given_up(cri: tuple[CriClient, str], pod: Callable[..., str]) -> None:
    for wanted in (True, False):
        context = pb.LinuxContainerSecurityContext(no_new_privs=wanted)
        container = started(
            cri, pod(f"privs-{wanted}"), linux=pb.LinuxContainerConfig(security_context=context)
        )
        assert f"NoNewPrivs:\t{int(wanted)}\n" in said(cri, container, "cat", "/proc/self/status")


def test_apparmor_where_there_is_none(cri: tuple[CriClient, str], pod: Callable[..., str]) -> None:
    """On a host that has it, the profile is in force instead."""
    profile = pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost, localhost_ref="no-such-profile")
    config = pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(apparmor=profile))
    with pytest.raises(grpc.RpcError) as caught:
        started(cri, pod("armor"), linux=config)
    assert "AppArmor" in str(caught.value.details()) or "no-such-profile" in str(caught.value.details())
    unconfined = pb.SecurityProfile(profile_type=pb.SecurityProfile.Unconfined)
    config = pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(apparmor=unconfined))
    assert started(cri, pod("bare"), linux=config)


def test_the_image_as_the_user_wrote_it(cri: tuple[CriClient, str], pod: Callable[..., str]) -> None:
    status = cri[0].status(started(cri, pod("written"))).status
    assert status.image.user_specified_image == "as/the:user-wrote-it"
    assert status.image.image == cri[1]


def test_what_the_server_says_of_itself(cri: tuple[CriClient, str]) -> None:
    status = cri[0].runtime.Status(pb.StatusRequest(verbose=True))
    handlers = {handler.name: handler.features for handler in status.runtime_handlers}
    assert {"", "oakum"} <= set(handlers)
    assert handlers["oakum"].recursive_read_only_mounts
    assert handlers["oakum"].user_namespaces
    assert status.features.mount_options
    assert status.features.supplemental_groups_policy


def test_a_registry_that_wants_a_name(
    cri: tuple[CriClient, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with Registry(tmp_path_factory.mktemp("locked"), username="ann", password="secret") as registry:
        registry.push_image("locked/busybox", "1", [busybox_layer()], {"Cmd": ["sh"]})
        name = f"{registry.address}/locked/busybox:1"
        both = base64.b64encode(b"ann:secret").decode()
        for wrong in ({}, {"username": "ann", "password": "no"}, {"registry_token": "no"}):
            with pytest.raises(grpc.RpcError):
                cri[0].pull(name, **wrong)
        assert cri[0].pull(name, auth=both, server_address=registry.address)
