# SPDX-License-Identifier: Apache-2.0
"""What a client must not ask is refused, and the refusal names the field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.convert.checks import refuse_nul
from oakum.api.cri.convert.containers import read_container_config, read_container_filter
from oakum.api.cri.convert.resources import read_resources
from oakum.api.cri.convert.sandboxes import read_sandbox_config, read_sandbox_filter
from oakum.backend.config import SecurityProfile
from oakum.errors import InvalidArgument

UNKNOWN: Any = 99
"""A number that no enum of CRI has."""


def container(**fields: Any) -> pb.ContainerConfig:
    base: dict[str, Any] = {
        "metadata": pb.ContainerMetadata(name="c"),
        "image": pb.ImageSpec(image="busybox"),
    }
    return pb.ContainerConfig(**{**base, **fields})


def inside(**context: Any) -> pb.ContainerConfig:
    return container(
        linux=pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(**context))
    )


def pod(**fields: Any) -> pb.PodSandboxConfig:
    return pb.PodSandboxConfig(**{"metadata": pb.PodSandboxMetadata(name="p"), **fields})


def pod_inside(**context: Any) -> pb.PodSandboxConfig:
    return pod(linux=pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(**context)))


def limits(**values: Any) -> pb.ContainerConfig:
    return container(linux=pb.LinuxContainerConfig(resources=pb.LinuxContainerResources(**values)))


SC = "config.linux.security_context"
CONTAINERS: list[tuple[pb.ContainerConfig, str]] = [
    (pb.ContainerConfig(image=pb.ImageSpec(image="x")), "config.metadata"),
    (container(metadata=pb.ContainerMetadata()), "config.metadata.name"),
    (container(image=pb.ImageSpec()), "config.image.image"),
    (container(working_dir="srv"), "config.working_dir"),
    (container(log_path="../../etc/cron.d/x"), "config.log_path"),
    (container(log_path="/etc/passwd"), "config.log_path"),
    (container(envs=[pb.KeyValue(key="", value=b"v")]), "config.envs[0].key"),
    (container(envs=[pb.KeyValue(key="A"), pb.KeyValue(key="B=C")]), "config.envs[1].key"),
    (container(envs=[pb.KeyValue(key="A", value=b"\xff")]), "config.envs[0].value"),
    (container(stop_signal=UNKNOWN), "config.stop_signal"),
    (container(mounts=[pb.Mount(container_path="data", host_path="/x")]), "config.mounts[0].container_path"),
    (container(mounts=[pb.Mount(container_path="/d", host_path="x")]), "config.mounts[0].host_path"),
    (container(mounts=[pb.Mount(container_path="/d")]), "config.mounts[0].host_path"),
    (
        container(mounts=[pb.Mount(container_path="/d", host_path="/x", propagation=UNKNOWN)]),
        "config.mounts[0].propagation",
    ),
    (
        container(mounts=[pb.Mount(container_path="/d", host_path="/x", recursive_read_only=True)]),
        "config.mounts[0].recursive_read_only",
    ),
    (
        container(
            mounts=[
                pb.Mount(
                    container_path="/d",
                    host_path="/x",
                    recursive_read_only=True,
                    readonly=True,
                    propagation="PROPAGATION_BIDIRECTIONAL",
                )
            ]
        ),
        "config.mounts[0].recursive_read_only",
    ),
    (
        container(mounts=[pb.Mount(container_path="/d", host_path="/x", image=pb.ImageSpec(image="i"))]),
        "config.mounts[0].host_path",
    ),
    (
        container(
            mounts=[
                pb.Mount(
                    container_path="/d",
                    image=pb.ImageSpec(image="i"),
                    image_sub_path="a/../..",
                    readonly=True,
                )
            ]
        ),
        "config.mounts[0].image_sub_path",
    ),
    (
        container(mounts=[pb.Mount(container_path="/d", image=pb.ImageSpec(image="i"))]),
        "config.mounts[0].readonly",
    ),
    (
        container(mounts=[pb.Mount(container_path="/d", host_path="/x", image_sub_path="a")]),
        "config.mounts[0].image_sub_path",
    ),
    (
        container(mounts=[pb.Mount(container_path="/d", host_path="/x", uidMappings=[pb.IDMapping()])]),
        "config.mounts[0].uidMappings[0].length",
    ),
    (container(devices=[pb.Device(container_path="/dev/x", host_path="dev")]), "config.devices[0].host_path"),
    (
        container(devices=[pb.Device(container_path="/dev/x", host_path="/dev/x", permissions="rx")]),
        "config.devices[0].permissions",
    ),
    (container(CDI_devices=[pb.CDIDevice()]), "config.CDI_devices[0].name"),
    (limits(cpu_period=-1), "config.linux.resources.cpu_period"),
    (limits(cpu_quota=-2), "config.linux.resources.cpu_quota"),
    (limits(cpu_shares=-1), "config.linux.resources.cpu_shares"),
    (limits(memory_limit_in_bytes=-2), "config.linux.resources.memory_limit_in_bytes"),
    (limits(memory_swap_limit_in_bytes=-2), "config.linux.resources.memory_swap_limit_in_bytes"),
    (limits(oom_score_adj=1001), "config.linux.resources.oom_score_adj"),
    (
        limits(hugepage_limits=[pb.HugepageLimit(limit=1)]),
        "config.linux.resources.hugepage_limits[0].page_size",
    ),
    (inside(run_as_user=pb.Int64Value(value=-1)), f"{SC}.run_as_user"),
    (inside(run_as_user=pb.Int64Value(value=2**32)), f"{SC}.run_as_user"),
    (inside(run_as_user=pb.Int64Value(value=1), run_as_username="me"), f"{SC}.run_as_username"),
    (inside(run_as_group=pb.Int64Value(value=1)), f"{SC}.run_as_group"),
    (inside(run_as_username="a:b", run_as_group=pb.Int64Value(value=1)), f"{SC}.run_as_group"),
    (inside(supplemental_groups=[1, -5]), f"{SC}.supplemental_groups[1]"),
    (inside(supplemental_groups_policy=UNKNOWN), f"{SC}.supplemental_groups_policy"),
    (inside(masked_paths=["/a", "b"]), f"{SC}.masked_paths[1]"),
    (inside(readonly_paths=["b"]), f"{SC}.readonly_paths[0]"),
    (inside(seccomp=pb.SecurityProfile(profile_type="Localhost")), f"{SC}.seccomp.localhost_ref"),
    (
        inside(seccomp=pb.SecurityProfile(profile_type="Localhost", localhost_ref="p.json")),
        f"{SC}.seccomp.localhost_ref",
    ),
    (inside(seccomp=pb.SecurityProfile(profile_type=UNKNOWN)), f"{SC}.seccomp.profile_type"),
    (inside(apparmor=pb.SecurityProfile(profile_type="Localhost")), f"{SC}.apparmor.localhost_ref"),
    (inside(seccomp_profile_path="whatever"), f"{SC}.seccomp_profile_path"),
    (inside(apparmor_profile="whatever"), f"{SC}.apparmor_profile"),
    (inside(namespace_options=pb.NamespaceOption(pid=UNKNOWN)), f"{SC}.namespace_options.pid"),
    (inside(namespace_options=pb.NamespaceOption(network="CONTAINER")), f"{SC}.namespace_options.network"),
    (inside(namespace_options=pb.NamespaceOption(ipc="TARGET")), f"{SC}.namespace_options.ipc"),
    (inside(namespace_options=pb.NamespaceOption(pid="TARGET")), f"{SC}.namespace_options.target_id"),
    (
        inside(namespace_options=pb.NamespaceOption(userns_options=pb.UserNamespace(mode="POD"))),
        f"{SC}.namespace_options.userns_options",
    ),
    (
        inside(namespace_options=pb.NamespaceOption(userns_options=pb.UserNamespace(mode="TARGET"))),
        f"{SC}.namespace_options.userns_options.mode",
    ),
]
PODS: list[tuple[pb.PodSandboxConfig, str]] = [
    (pb.PodSandboxConfig(), "config.metadata"),
    (pod(metadata=pb.PodSandboxMetadata(uid="u")), "config.metadata.name"),
    (pod(hostname="a\nb"), "config.hostname"),
    (pod(hostname="a b"), "config.hostname"),
    (pod(hostname="x" * 65), "config.hostname"),
    (pod(log_directory="var/log"), "config.log_directory"),
    (pod(log_directory="/var/log/../../etc"), "config.log_directory"),
    (pod(dns_config=pb.DNSConfig(servers=["1.1.1.1\nnameserver 6.6.6.6"])), "config.dns_config.servers"),
    (pod(dns_config=pb.DNSConfig(searches=["a\tb"])), "config.dns_config.searches"),
    (pod(dns_config=pb.DNSConfig(options=["a\x7f"])), "config.dns_config.options"),
    (pod(port_mappings=[pb.PortMapping(container_port=0)]), "config.port_mappings[0].container_port"),
    (pod(port_mappings=[pb.PortMapping(container_port=70000)]), "config.port_mappings[0].container_port"),
    (
        pod(port_mappings=[pb.PortMapping(container_port=1, host_port=-1)]),
        "config.port_mappings[0].host_port",
    ),
    (
        pod(port_mappings=[pb.PortMapping(container_port=1, protocol=UNKNOWN)]),
        "config.port_mappings[0].protocol",
    ),
    (pod(port_mappings=[pb.PortMapping(container_port=1, host_ip="x")]), "config.port_mappings[0].host_ip"),
    (pod(linux=pb.LinuxPodSandboxConfig(cgroup_parent="/a/../../b")), "config.linux.cgroup_parent"),
    (pod_inside(run_as_group=pb.Int64Value(value=1)), f"{SC}.run_as_group"),
    (pod_inside(run_as_user=pb.Int64Value(value=-1)), f"{SC}.run_as_user"),
    (
        pod_inside(namespace_options=pb.NamespaceOption(pid="TARGET", target_id="x")),
        f"{SC}.namespace_options.pid",
    ),
]


@pytest.mark.parametrize(("message", "field"), CONTAINERS, ids=lambda v: v if isinstance(v, str) else "")
def test_a_container_that_cannot_be_meant(message: pb.ContainerConfig, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_container_config(message)
    assert caught.value.subject == field


@pytest.mark.parametrize(("message", "field"), PODS, ids=lambda v: v if isinstance(v, str) else "")
def test_a_pod_that_cannot_be_meant(message: pb.PodSandboxConfig, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_sandbox_config(message)
    assert caught.value.subject == field


def test_a_value_that_may_be_secret_is_not_in_the_refusal() -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_container_config(container(envs=[pb.KeyValue(key="PASSWORD", value=b"hunter2\xff")]))
    assert "hunter2" not in str(caught.value)
    assert "PASSWORD" in str(caught.value)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.ContainerConfig(working_dir="/a\0b"), "working_dir"),
        (pb.ContainerConfig(command=["a", "b\0"]), "command"),
        (pb.ContainerConfig(labels={"a": "\0"}), "labels"),
        (pb.ContainerConfig(labels={"\0": "a"}), "labels"),
        (pb.ContainerConfig(envs=[pb.KeyValue(), pb.KeyValue(key="A", value=b"\0")]), "envs[1].value"),
        (pb.ContainerConfig(metadata=pb.ContainerMetadata(name="\0")), "metadata.name"),
        (
            pb.CreateContainerRequest(
                config=pb.ContainerConfig(mounts=[pb.Mount(host_path="/etc/passwd\0/x")])
            ),
            "config.mounts[0].host_path",
        ),
    ],
)
def test_a_nul_byte_anywhere_is_refused(message: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        refuse_nul(message)
    assert caught.value.subject == field


def test_messages_without_nul_pass() -> None:
    refuse_nul(container(labels={"a": "b"}, mounts=[pb.Mount(container_path="/x")], tty=True))
    refuse_nul(pb.VersionRequest())


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (
            lambda: read_container_filter(pb.ContainerFilter(state=pb.ContainerStateValue(state=UNKNOWN))),
            "filter.state",
        ),
        (
            lambda: read_sandbox_filter(pb.PodSandboxFilter(state=pb.PodSandboxStateValue(state=UNKNOWN))),
            "filter.state",
        ),
        (
            lambda: read_resources(
                pb.LinuxContainerResources(cpu_period=-1), "linux", zero_score_is_said=False
            ),
            "linux.cpu_period",
        ),
    ],
)
def test_other_messages_name_their_field_too(call: Callable[[], object], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        call()
    assert caught.value.subject == field


def test_old_profile_strings_still_count() -> None:
    config = read_container_config(
        inside(seccomp_profile_path="localhost//p/deny.json", apparmor_profile="localhost/mine")
    )
    assert config.seccomp is not None
    assert config.seccomp.localhost_ref == "/p/deny.json"
    assert config.apparmor is not None
    assert (config.apparmor.kind, config.apparmor.localhost_ref) == ("localhost", "mine")
    assert read_container_config(inside(seccomp_profile_path="unconfined")).seccomp is not None
    assert read_container_config(inside()).seccomp is None
    both = inside(seccomp_profile_path="unconfined", seccomp=pb.SecurityProfile())
    assert read_container_config(both).seccomp == SecurityProfile(kind="runtime_default")


def test_on_the_host_s_network_the_host_name_is_the_host_s() -> None:
    config = read_sandbox_config(pod_inside(namespace_options=pb.NamespaceOption(network="NODE")))
    assert (config.namespaces.network, config.namespaces.uts) == ("node", "node")


def test_what_is_not_said_is_the_pod_s() -> None:
    options = read_container_config(container()).namespaces
    assert (options.network, options.pid, options.ipc, options.user) == ("pod", "pod", "pod", "node")
