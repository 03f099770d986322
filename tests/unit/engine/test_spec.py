# SPDX-License-Identifier: Apache-2.0
"""The runtime specification that comes out of a configuration, an image and a sandbox."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.backend.config import (
    ContainerConfig,
    ContainerMetadata,
    Mount,
    NamespaceOptions,
    Resources,
    Rlimit,
    SandboxConfig,
    SandboxMetadata,
    SecurityProfile,
)
from oakum.engine.spec import builder, capabilities, devices, mounts, process, resources
from oakum.engine.spec.sysctls import dotted, pod_sysctls
from oakum.errors import InvalidArgument
from oakum.oci.spec import parse

IMAGE = builder.ImageFacts(
    entrypoint=("/entry",), cmd=("serve",), env=("PATH=/bin", "A=image", "broken"), working_dir="/srv"
)


def config(**fields: Any) -> ContainerConfig:
    return ContainerConfig(metadata=ContainerMetadata(name="c"), image="i", **fields)


def sandbox(**fields: Any) -> SandboxConfig:
    return SandboxConfig(metadata=SandboxMetadata(name="p"), **fields)


def spec(
    wanted: ContainerConfig | None = None, pod: SandboxConfig | None = None, **fields: Any
) -> dict[str, Any]:
    around = builder.Surroundings(
        sandbox=pod or sandbox(),
        pod_path="/run/pods/p",
        hostname="web",
        cgroup_path="/oakum/p/c",
        files={"/etc/hosts": "/files/hosts"},
        **fields,
    )
    made = builder.build(wanted or config(), IMAGE, around)
    return dict(parse(msgspec.json.decode(msgspec.json.encode(made))))  # the runtime takes it


def at(made: dict[str, Any], destination: str) -> dict[str, Any]:
    (found,) = [m for m in made["mounts"] if m["destination"] == destination]
    return found


@pytest.mark.parametrize(
    ("command", "args", "wanted"),
    [
        ((), (), ("/entry", "serve")),
        ((), ("other",), ("/entry", "other")),
        (("/bin/sh",), (), ("/bin/sh",)),
        (("/bin/sh",), ("-c", "true"), ("/bin/sh", "-c", "true")),
    ],
)
def test_the_command_line(command: tuple[str, ...], args: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    assert tuple(spec(config(command=command, args=args))["process"]["args"]) == wanted


def test_nothing_to_run_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no command"):
        process.argv((), (), (), ())


def test_the_environment_is_layered() -> None:
    env = spec(config(envs=(("A", "mine"), ("EMPTY", "")), tty=True))["process"]["env"]
    assert env == ["PATH=/bin", "HOSTNAME=web", "TERM=xterm", "A=mine", "EMPTY="]


@given(st.lists(st.text(max_size=20).filter(lambda t: "\0" not in t), max_size=10))
def test_whatever_an_image_says_only_pairs_come_out(entries: list[str]) -> None:
    env = process.environment(entries, [], hostname="", tty=False)
    assert all("=" in entry[1:] for entry in env)
    assert len({entry.partition("=")[0] for entry in env}) == len(env)


@given(
    st.text(max_size=40).filter(lambda t: "\0" not in t), st.text(max_size=40).filter(lambda t: "\0" not in t)
)
def test_the_working_directory_is_always_absolute(wanted: str, image: str) -> None:
    found = process.working_dir(wanted, image)
    assert found.startswith("/")
    assert not found.startswith("//")
    assert ".." not in found.split("/")


def test_nul_is_refused_where_the_kernel_would_cut() -> None:
    with pytest.raises(InvalidArgument, match="NUL"):
        spec(config(command=("a\0b",)))


def test_an_ordinary_container_has_the_usual_capabilities_and_no_inheritable_ones() -> None:
    sets = spec()["process"]["capabilities"]
    assert set(sets["bounding"]) == set(capabilities.DEFAULT)
    assert sets["inheritable"] == sets["ambient"] == []


@pytest.mark.parametrize(
    ("add", "drop", "has", "has_not"),
    [
        (("net_admin",), (), "CAP_NET_ADMIN", "CAP_SYS_ADMIN"),
        (("CAP_NET_ADMIN",), ("ALL",), "CAP_NET_ADMIN", "CAP_CHOWN"),
        (("ALL",), ("SYS_ADMIN",), "CAP_NET_ADMIN", "CAP_SYS_ADMIN"),
        ((), ("chown",), "CAP_KILL", "CAP_CHOWN"),
        (("ALL", "KILL"), ("ALL",), "CAP_KILL", "CAP_CHOWN"),
    ],
)
def test_adding_and_dropping_capabilities(
    add: tuple[str, ...], drop: tuple[str, ...], has: str, has_not: str
) -> None:
    found = capabilities.effective(add, drop, privileged=False)
    assert has in found
    assert has_not not in found


def test_unknown_capabilities_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="CAP_NONE"):
        capabilities.effective(("CAP_NONE",), (), privileged=False)


def test_ambient_capabilities_come_with_inheritable_ones() -> None:
    found = capabilities.sets(capabilities.DEFAULT, ("NET_BIND_SERVICE",))
    assert found["ambient"] == found["inheritable"] == ["CAP_NET_BIND_SERVICE"]
    with pytest.raises(InvalidArgument, match="does not have it"):
        capabilities.sets(capabilities.DEFAULT, ("SYS_ADMIN",))


def test_a_privileged_container_hides_nothing_and_may_all() -> None:
    made = spec(config(privileged=True), nodes=[devices.Node("/dev/x", "c", 9, 9)])
    assert made["linux"]["maskedPaths"] == made["linux"]["readonlyPaths"] == []
    assert made["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert "rw" in at(made, "/sys")["options"]
    assert "rw" in at(made, "/sys/fs/cgroup")["options"]
    assert set(made["process"]["capabilities"]["effective"]) == set(capabilities.ALL)
    assert [d["path"] for d in made["linux"]["devices"]] == ["/dev/x"]


def test_an_ordinary_container_cannot_write_sys_and_sees_no_kcore() -> None:
    made = spec()
    assert "ro" in at(made, "/sys")["options"]
    assert "/proc/kcore" in made["linux"]["maskedPaths"]
    assert "/proc/sys" in made["linux"]["readonlyPaths"]
    assert made["linux"]["resources"]["devices"][0] == {"allow": False, "access": "rwm"}


def test_the_caller_may_say_what_is_masked() -> None:
    assert spec(config(masked_paths=(), readonly_paths=("/x",)))["linux"]["maskedPaths"] == []


def test_namespaces_of_a_pod() -> None:
    kinds = {n["type"]: n.get("path", "") for n in spec()["linux"]["namespaces"]}
    assert kinds == {
        "mount": "",
        "pid": "",
        "network": "/run/pods/p/ns/net",
        "ipc": "/run/pods/p/ns/ipc",
        "uts": "/run/pods/p/ns/uts",
    }


def test_what_a_pod_shares_with_the_host_is_not_in_the_list() -> None:
    modes = NamespaceOptions(network="node", ipc="node", uts="node", pid="node")
    made = spec(config(namespaces=modes), sandbox(namespaces=modes))
    assert [n["type"] for n in made["linux"]["namespaces"]] == ["mount"]
    assert at(made, "/dev/shm")["source"] == "/dev/shm"


def test_a_shared_pid_namespace_is_the_pods() -> None:
    modes = NamespaceOptions(pid="pod")
    kinds = {
        n["type"]: n.get("path")
        for n in spec(config(namespaces=modes), sandbox(namespaces=modes))["linux"]["namespaces"]
    }
    assert kinds["pid"] == "/run/pods/p/ns/pid"


def test_the_pods_files_and_memory_are_in_every_container() -> None:
    made = spec()
    assert at(made, "/dev/shm")["source"] == "/run/pods/p/shm"
    assert at(made, "/etc/hosts") == {
        "destination": "/etc/hosts",
        "type": "bind",
        "source": "/files/hosts",
        "options": ["rbind", "rprivate", "rw"],
    }
    assert "ro" in at(spec(config(readonly_rootfs=True)), "/etc/hosts")["options"]


def test_a_callers_mount_replaces_ours() -> None:
    made = spec(
        config(
            mounts=(
                Mount(container_path="/etc/hosts", host_path="/mine"),
                Mount(container_path="/dev", host_path="/dev"),
            )
        )
    )
    assert at(made, "/etc/hosts")["source"] == "/mine"
    assert [m["destination"] for m in made["mounts"] if m["destination"].startswith("/dev")] == ["/dev"]


def test_mounts_come_outermost_first() -> None:
    wanted = (
        Mount(container_path="/a/b/c", host_path="/3"),
        Mount(container_path="/a", host_path="/1"),
        Mount(container_path="//a/./b/", host_path="/2"),
    )
    places = [m["destination"] for m in spec(config(mounts=wanted))["mounts"]]
    assert places.index("/a") < places.index("/a/b") < places.index("/a/b/c")


@pytest.mark.parametrize(
    "mount",
    [
        Mount(container_path="relative", host_path="/x"),
        Mount(container_path="/", host_path="/x"),
        Mount(container_path="/../..", host_path="/x"),
        Mount(container_path="/x", host_path="/x", recursive_read_only=True),
        Mount(
            container_path="/x",
            host_path="/x",
            recursive_read_only=True,
            readonly=True,
            propagation="bidirectional",
        ),
    ],
)
def test_impossible_mounts_are_refused(mount: Mount) -> None:
    with pytest.raises(InvalidArgument):
        spec(config(mounts=(mount,)))


def test_two_mounts_at_one_place_are_refused() -> None:
    twice = (Mount(container_path="/x", host_path="/a"), Mount(container_path="/x/", host_path="/b"))
    with pytest.raises(InvalidArgument, match="two mounts"):
        spec(config(mounts=twice))


def test_propagation_reaches_the_root() -> None:
    made = spec(
        config(
            mounts=(Mount(container_path="/x", host_path="/a", propagation="bidirectional", readonly=True),)
        )
    )
    assert made["linux"]["rootfsPropagation"] == "rshared"
    assert at(made, "/x")["options"] == ["rbind", "rshared", "ro"]
    assert "rootfsPropagation" not in spec()["linux"]


def test_an_image_as_a_volume_is_read_only() -> None:
    wanted = config(mounts=(Mount(container_path="/i", image="x"),))
    assert at(spec(wanted, image_views={"/i": ["/l1", "/l2"]}), "/i")["options"][0] == "lowerdir=/l1:/l2"
    one = at(spec(wanted, image_views={"/i": ["/l1"]}), "/i")
    assert one["type"] == "bind"
    assert "ro" in one["options"]


def test_limits() -> None:
    made = resources.linux_resources(
        Resources(
            cpu_shares=512,
            cpu_quota_us=50_000,
            cpu_period_us=100_000,
            memory_limit_bytes=1 << 20,
            pids_limit=9,
            unified={"memory.high": "5"},
        )
    )
    assert made == {
        "cpu": {"shares": 512, "quota": 50_000, "period": 100_000},
        "memory": {"limit": 1 << 20, "swap": 1 << 20},
        "pids": {"limit": 9},
        "unified": {"memory.high": "5"},
    }
    assert resources.linux_resources(Resources()) == {}


@pytest.mark.parametrize(
    "limits",
    [
        Resources(memory_limit_bytes=1),
        Resources(memory_limit_bytes=1 << 20, memory_swap_limit_bytes=1 << 19),
        Resources(cpu_quota_us=10),
        Resources(cpu_period_us=10),
        Resources(oom_score_adj=1001),
        Resources(unified={"../x": "1"}),
        Resources(unified={"cgroup": "1"}),
    ],
)
def test_limits_that_cannot_be_meant(limits: Resources) -> None:
    with pytest.raises(InvalidArgument):
        resources.check(limits)


def test_an_update_changes_only_what_it_says() -> None:
    before = Resources(cpu_shares=512, memory_limit_bytes=1 << 20, unified={"a.b": "1"}, oom_score_adj=5)
    change = Resources(memory_limit_bytes=1 << 21, unified={"c.d": "2"}, oom_score_adj=0)
    after = resources.merge(before, change)
    assert after.cpu_shares == 512
    assert after.memory_limit_bytes == 1 << 21
    assert after.unified == {"a.b": "1", "c.d": "2"}
    assert after.oom_score_adj == 0
    said = resources.said_by(change, after)
    assert said.cpu_shares == 0
    assert resources.linux_resources(said)["memory"] == {"limit": 1 << 21, "swap": 1 << 21}


def test_raising_memory_over_the_old_swap_limit_raises_both() -> None:
    before = Resources(memory_limit_bytes=10 << 20, memory_swap_limit_bytes=10 << 20)
    assert resources.merge(before, Resources(memory_limit_bytes=20 << 20)).memory_swap_limit_bytes == 20 << 20


def test_rlimits() -> None:
    made = process.rlimits((Rlimit(type="nofile", soft=10, hard=-1),))
    assert made == [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 2**64 - 1}]
    with pytest.raises(InvalidArgument):
        process.rlimits((Rlimit(type="RLIMIT_NOFILE", soft=-1, hard=10),))


def test_sysctls_of_the_pods_own_namespaces() -> None:
    found = pod_sysctls(
        sandbox(sysctls={"net.ipv4.ip_forward": "1", "kernel.shmmax": "7", "kernel/sem": "1 2 3 4"})
    )
    assert found["net.ipv4.ip_forward"] == "1"
    assert found["kernel.sem"] == "1 2 3 4"
    assert found["net.ipv4.ip_unprivileged_port_start"] == "0"
    assert "net.ipv4.ip_unprivileged_port_start" not in pod_sysctls(
        sandbox(namespaces=NamespaceOptions(network="node"))
    )


@pytest.mark.parametrize(
    "name", ["kernel.pid_max", "vm.swappiness", "net..x", "../x", "net.ipv4.x\n", "kernel.core_pattern", ""]
)
def test_sysctls_of_the_host_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        pod_sysctls(sandbox(sysctls={name: "1"}))


def test_sysctls_of_a_shared_namespace_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="shares the host's network"):
        pod_sysctls(sandbox(sysctls={"net.core.somaxconn": "1"}, namespaces=NamespaceOptions(network="node")))


def test_names_with_slashes_keep_the_dots_of_interfaces() -> None:
    assert dotted("net/ipv4/conf/eth0.1/forwarding") == "net.ipv4.conf.eth0/1.forwarding"


def test_apparmor_is_only_said_where_it_is_on() -> None:
    wanted = config(apparmor=SecurityProfile(kind="localhost", localhost_ref="localhost/p"))
    assert spec(wanted, apparmor=True)["process"]["apparmorProfile"] == "p"
    assert "apparmorProfile" not in spec(wanted)["process"]


@given(st.text(max_size=60))
def test_no_path_leaves_the_container(path: str) -> None:
    try:
        found = mounts.clean(path)
    except InvalidArgument:
        return
    assert found.startswith("/")
    assert ".." not in found.split("/")
