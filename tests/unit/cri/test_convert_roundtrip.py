# SPDX-License-Identifier: Apache-2.0
"""What the backend's types say survives the way to CRI and back, whatever it is."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.convert.checks import MAX_ID
from oakum.api.cri.convert.containers import read_container_config, write_container_config
from oakum.api.cri.convert.enums import SIGNAL_NAMES, read_signal, write_signal
from oakum.api.cri.convert.resources import read_resources, write_resources
from oakum.api.cri.convert.sandboxes import read_sandbox_config, write_sandbox_config
from oakum.backend import config as backend
from oakum.errors import InvalidArgument

# large messages take their time on a busy machine
PATIENTLY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
NAME = TEXT.filter(bool)
LINE = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
PATH = TEXT.filter(lambda t: ".." not in t).map(lambda t: "/" + t)
BELOW_ROOT = PATH.filter(lambda t: bool(t.strip("/.")))
BELOW = TEXT.filter(lambda t: ".." not in t and not t.startswith("/"))
TABLE = st.dictionaries(NAME, TEXT, max_size=3)
COUNT = st.integers(0, 2**62)
ID = st.integers(0, MAX_ID)
FLAG = st.booleans()


def many(one: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(one, max_size=3).map(tuple)


def some(one: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | one


MAPPINGS = many(
    st.builds(
        backend.IdMapping,
        host_id=st.integers(0, 2**32 - 1),
        container_id=st.integers(0, 2**32 - 1),
        length=st.integers(1, 2**32 - 1),
    )
)
SECCOMP = st.builds(
    backend.SecurityProfile, kind=st.sampled_from(["runtime_default", "unconfined"])
) | st.builds(backend.SecurityProfile, kind=st.just("localhost"), localhost_ref=PATH)
APPARMOR = st.builds(
    backend.SecurityProfile,
    kind=st.just("localhost"),
    localhost_ref=NAME.filter(lambda t: not t.startswith("localhost/")),
)
SELINUX = st.builds(backend.SELinuxOptions, user=TEXT, role=TEXT, type=TEXT, level=TEXT)


@st.composite
def resources(draw: st.DrawFn, score: st.SearchStrategy[int | None]) -> backend.Resources:
    memory = draw(st.sampled_from((-1, 0)) | st.integers(4096, 2**63 - 1))
    return backend.Resources(
        cpu_period_us=draw(st.just(0) | st.integers(1000, 1_000_000)),
        cpu_quota_us=draw(st.sampled_from((-1, 0)) | st.integers(1000, 2**44 - 1)),
        cpu_shares=draw(COUNT),
        memory_limit_bytes=memory,
        memory_swap_limit_bytes=draw(st.sampled_from((-1, 0)) | st.integers(max(memory, 1), 2**63 - 1)),
        oom_score_adj=draw(score),
        cpuset_cpus=draw(CPUS),
        cpuset_mems=draw(CPUS),
        hugepage_limits=draw(
            many(
                st.builds(
                    backend.HugepageLimit,
                    page_size=st.sampled_from(("64KB", "2MB", "1GB")),
                    limit_bytes=st.integers(0, 2**64 - 1),
                )
            )
        ),
        unified=draw(TABLE),
    )


CPUS = st.sampled_from(("", "0", "0-3,8", "12,14-15"))
SCORE = st.integers(-1000, 1000)
SCORE_OR_NOTHING = SCORE.map(lambda s: s or None)


POD_OR_NODE: list[backend.NamespaceMode] = ["pod", "node"]


@st.composite
def namespaces(draw: st.DrawFn, pids: list[Any]) -> backend.NamespaceOptions:
    network: backend.NamespaceMode = draw(st.sampled_from(POD_OR_NODE))
    user: backend.NamespaceMode = draw(st.sampled_from(POD_OR_NODE))
    maps = MAPPINGS.filter(bool) if user == "pod" else st.just(())
    return backend.NamespaceOptions(
        network=network,
        uts="node" if network == "node" else "pod",
        pid=draw(st.sampled_from(pids)),
        ipc=draw(st.sampled_from(["pod", "container", "node"])),
        target_id=draw(NAME),
        user=user,
        uid_mappings=draw(maps),
        gid_mappings=draw(maps),
    )


@st.composite
def sandboxes(draw: st.DrawFn) -> backend.SandboxConfig:
    user = draw(some(ID))
    return backend.SandboxConfig(
        metadata=draw(
            st.builds(
                backend.SandboxMetadata,
                name=NAME,
                uid=TEXT,
                namespace=TEXT,
                attempt=st.integers(0, 2**32 - 1),
            )
        ),
        hostname=draw(st.from_regex(r"[a-z][a-z0-9.-]{0,60}", fullmatch=True)),
        log_directory=draw(st.just("") | PATH),
        dns=draw(st.builds(backend.DnsConfig, servers=many(LINE), searches=many(LINE), options=many(LINE))),
        port_mappings=draw(
            many(
                st.builds(
                    backend.PortMapping,
                    container_port=st.integers(1, 65535),
                    host_port=st.integers(0, 65535),
                    protocol=st.sampled_from(["tcp", "udp", "sctp"]),
                    host_ip=st.just("") | st.ip_addresses().map(str),
                )
            )
        ),
        labels=draw(TABLE),
        annotations=draw(TABLE),
        cgroup_parent=draw(PATH),
        sysctls=draw(TABLE),
        namespaces=draw(namespaces(["pod", "container", "node"])),
        privileged=draw(FLAG),
        readonly_rootfs=draw(FLAG),
        run_as_user=user,
        run_as_group=draw(some(ID)) if user is not None else None,
        supplemental_groups=draw(many(ID)),
        strict_groups=draw(FLAG),
        seccomp=draw(some(SECCOMP)),
        apparmor=draw(some(APPARMOR)),
        selinux=draw(some(SELINUX)),
        overhead=draw(some(resources(SCORE_OR_NOTHING))),
        resources=draw(some(resources(SCORE_OR_NOTHING))),
    )


@st.composite
def mounts(draw: st.DrawFn) -> backend.Mount:
    image = draw(st.just("") | NAME)
    recursive = draw(FLAG)
    return backend.Mount(
        container_path=draw(BELOW_ROOT),
        host_path="" if image else draw(PATH),
        readonly=bool(image) or recursive or draw(FLAG),
        recursive_read_only=recursive,
        selinux_relabel=draw(FLAG),
        propagation="private"
        if recursive
        else draw(st.sampled_from(["private", "host_to_container", "bidirectional"])),
        uid_mappings=draw(MAPPINGS),
        gid_mappings=draw(MAPPINGS),
        image=image,
        image_sub_path=draw(BELOW) if image else "",
        options=draw(many(TEXT)),
    )


USER_NAME = st.from_regex(r"[a-z_][a-z0-9_-]{0,8}", fullmatch=True)
USER = (
    st.just("")
    | USER_NAME
    | ID.map(str)
    | st.tuples(USER_NAME | ID.map(str), ID.map(str)).map(":".join)
    | st.tuples(USER_NAME, USER_NAME).map(":".join)
)

CONTAINERS = st.builds(
    backend.ContainerConfig,
    metadata=st.builds(backend.ContainerMetadata, name=NAME, attempt=st.integers(0, 2**32 - 1)),
    image=NAME,
    user_specified_image=TEXT,
    command=many(TEXT),
    args=many(TEXT),
    working_dir=st.just("") | PATH,
    envs=many(st.tuples(NAME.filter(lambda t: "=" not in t), TEXT)),
    mounts=many(mounts()),
    devices=many(
        st.builds(
            backend.Device,
            container_path=BELOW_ROOT,
            host_path=PATH,
            permissions=st.sampled_from(["r", "rw", "rwm", "m"]),
        )
    ),
    cdi_devices=many(NAME),
    labels=TABLE,
    annotations=TABLE,
    log_path=BELOW,
    stdin=FLAG,
    stdin_once=FLAG,
    tty=FLAG,
    resources=st.just(backend.Resources()) | resources(SCORE),
    add_capabilities=many(TEXT),
    drop_capabilities=many(TEXT),
    ambient_capabilities=many(TEXT),
    privileged=FLAG,
    namespaces=namespaces(["pod", "container", "node", "target"]),
    user=USER,
    supplemental_groups=many(ID),
    strict_groups=FLAG,
    readonly_rootfs=FLAG,
    no_new_privs=FLAG,
    masked_paths=many(PATH),
    readonly_paths=many(PATH),
    seccomp=some(SECCOMP),
    apparmor=some(APPARMOR),
    selinux=some(SELINUX),
    stop_signal=st.sampled_from(sorted(set(SIGNAL_NAMES.values()))),
)


@PATIENTLY
@given(sandboxes())
def test_a_pod_s_configuration_comes_back_whole(config: backend.SandboxConfig) -> None:
    wire = write_sandbox_config(config).SerializeToString()
    assert read_sandbox_config(pb.PodSandboxConfig.FromString(wire)) == config


@PATIENTLY
@given(CONTAINERS)
def test_a_container_s_configuration_comes_back_whole(config: backend.ContainerConfig) -> None:
    wire = write_container_config(config).SerializeToString()
    assert read_container_config(pb.ContainerConfig.FromString(wire)) == config


@PATIENTLY
@given(CONTAINERS, sandboxes())
def test_what_is_read_can_be_stored_as_json(
    container: backend.ContainerConfig, sandbox: backend.SandboxConfig
) -> None:
    read = read_container_config(write_container_config(container))
    assert msgspec.json.decode(msgspec.json.encode(read), type=backend.ContainerConfig) == container
    again = read_sandbox_config(write_sandbox_config(sandbox))
    assert msgspec.json.decode(msgspec.json.encode(again), type=backend.SandboxConfig) == sandbox


@given(st.binary(max_size=200))
def test_a_message_of_any_bytes_is_read_or_refused_by_name(data: bytes) -> None:
    named: list[str] = []
    for kind, read in (
        (pb.ContainerConfig, read_container_config),
        (pb.PodSandboxConfig, read_sandbox_config),
    ):
        message: Any = kind()
        try:
            message.ParseFromString(data)
        except Exception:  # noqa: BLE001 grpc itself refuses what is no message
            continue
        try:
            read(message)
        except InvalidArgument as refusal:
            named.append(refusal.subject)
    assert all(subject.startswith("config") for subject in named)


def test_zero_says_something_about_oom_score_only_when_a_container_is_made() -> None:
    message = write_resources(backend.Resources(cpu_shares=2))
    assert read_resources(message, "linux", zero_score_is_said=True).oom_score_adj == 0
    assert read_resources(message, "linux", zero_score_is_said=False).oom_score_adj is None


def test_every_signal_of_cri_has_a_name_and_comes_back() -> None:
    names = {name: read_signal("stop_signal", number) for name, number in pb.Signal.items()}
    assert names["SIGNAL_SIGTERM"] == "SIGTERM"
    assert names["SIGNAL_SIGRTMINPLUS3"] == "SIGRTMIN+3"
    assert names["SIGNAL_SIGRTMAX"] == "SIGRTMIN+30"
    assert names["SIGNAL_RUNTIME_DEFAULT"] == ""
    for name in set(names.values()):
        assert read_signal("stop_signal", write_signal(name)) == name
    assert write_signal("15") == pb.SIGNAL_SIGTERM
    assert write_signal("SIGNONSENSE") == pb.SIGNAL_RUNTIME_DEFAULT
