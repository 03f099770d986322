# SPDX-License-Identifier: Apache-2.0
"""Planning: what a spec becomes, in which order, and what is refused before anything is touched."""

from __future__ import annotations

from typing import Any

import pytest

from oakum.errors import InvalidArgument, Unimplemented
from oakum.linux import mount as m
from oakum.oci.cgroups.layout import Hierarchy, Layout
from oakum.oci.options import parse_options
from oakum.oci.plan import (
    BindMount,
    CgroupBind,
    FilesystemMount,
    Link,
    MakeDevice,
    Plan,
    Remount,
    make_plan,
    sysctl_namespace,
)

V2 = Layout("v2", (Hierarchy("/sys/fs/cgroup", 2, ("cpu", "memory")),))
HYBRID = Layout(
    "hybrid",
    (
        Hierarchy("/cg/cpu,cpuacct", 1, ("cpu", "cpuacct")),
        Hierarchy("/cg/systemd", 1, (), "systemd"),
        Hierarchy("/cg/unified", 2, ()),
    ),
)


def plan(layout: Layout | None = V2, joined: frozenset[str] = frozenset(), **changes: Any) -> Plan:
    spec: Any = {"ociVersion": "1.2.0", "root": {"path": "rootfs"}, "process": {"args": ["x"], "cwd": "/"}}
    spec["linux"] = {
        "namespaces": [{"type": kind} for kind in ("mount", "pid", "uts", "ipc", "network", "cgroup")]
    }
    spec["linux"].update(changes.pop("linux", {}))
    spec.update(changes)
    return make_plan(spec, bundle="/b", layout=layout, cgroup_path="/oakum/c1", joined=joined)


def test_namespaces_are_made_joined_by_path_or_by_descriptor() -> None:
    made = plan(
        linux={
            "namespaces": [
                {"type": "mount"},
                {"type": "network", "path": "/n"},
                {"type": "ipc", "path": "/i"},
                {"type": "uts"},
            ]
        },
        joined=frozenset({"ipc", "pid"}),
    )
    assert made.create == ("mount", "uts")
    assert made.join == (("ipc", ""), ("pid", ""), ("network", "/n"))


def test_relative_paths_are_the_bundles() -> None:
    made = plan(mounts=[{"destination": "data", "source": "vol", "options": ["bind"]}])
    assert made.root_path == "/b/rootfs"
    assert made.steps[0] == BindMount("/b/vol", "/data", parse_options(["bind"]))


def test_cgroup_v2_is_a_bind_of_the_containers_own_group() -> None:
    made = plan(mounts=[{"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro", "nosuid"]}])
    (step,) = [s for s in made.steps if isinstance(s, CgroupBind)]
    assert (step.source, step.target) == ("/sys/fs/cgroup/oakum/c1", "/sys/fs/cgroup")
    assert step.options.set_flags == m.ATTR_RDONLY | m.ATTR_NOSUID
    assert made.needs_cgroup


def test_hybrid_cgroups_are_a_tmpfs_of_binds_and_links_sealed_at_the_end() -> None:
    made = plan(HYBRID, mounts=[{"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]}])
    steps = made.steps[: [isinstance(s, Remount) for s in made.steps].index(True) + 1]
    assert isinstance(steps[0], FilesystemMount)
    assert not steps[0].options.read_only
    assert [s.target for s in steps if isinstance(s, CgroupBind)] == [
        "/sys/fs/cgroup/cpu,cpuacct",
        "/sys/fs/cgroup/systemd",
        "/sys/fs/cgroup/unified",
    ]
    assert [s for s in steps if isinstance(s, Link)] == [
        Link("cpu,cpuacct", "/sys/fs/cgroup/cpu"),
        Link("cpu,cpuacct", "/sys/fs/cgroup/cpuacct"),
    ]
    assert steps[-1] == Remount("/sys/fs/cgroup", m.ATTR_RDONLY)


def test_without_a_cgroup_namespace_v2_shows_the_whole_tree() -> None:
    kinds = [{"type": kind} for kind in ("mount", "pid")]
    made = plan(mounts=[{"destination": "/sys/fs/cgroup", "type": "cgroup2"}], linux={"namespaces": kinds})
    assert [s.source for s in made.steps if isinstance(s, CgroupBind)] == ["/sys/fs/cgroup"]


def test_default_devices_yield_to_the_specs_and_to_a_bound_dev() -> None:
    own = {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600}
    made = plan(linux={"devices": [own, {"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2}]})
    devices = {s.path: s for s in made.steps if isinstance(s, MakeDevice)}
    assert devices["/dev/null"].mode == 0o600
    assert "/dev/ptmx" not in devices
    bound = plan(mounts=[{"destination": "/dev", "source": "/dev", "options": ["rbind"]}])
    assert not [s for s in bound.steps if isinstance(s, MakeDevice | Link)]


def test_a_plan_can_be_read() -> None:
    made = plan(
        mounts=[{"destination": "/proc", "type": "proc"}],
        linux={
            "maskedPaths": ["/proc/keys"],
            "readonlyPaths": ["/proc/sys"],
            "sysctl": {"net.core.somaxconn": "9"},
        },
        root={"path": "r", "readonly": True},
    )
    lines = made.describe()
    order = [
        lines.index(x)
        for x in (
            "new pid namespace",
            "proc at /proc",
            "sysctl net.core.somaxconn = 9",
            "read-only /proc/sys",
            "mask /proc/keys",
            "read-only /",
        )
    ]
    assert order == sorted(order)


@pytest.mark.parametrize(
    ("changes", "error", "where"),
    [
        ({"linux": {"namespaces": [{"type": "pid"}]}}, InvalidArgument, "namespaces"),
        (
            {"linux": {"timeOffsets": {"boottime": {"secs": 1}}, "namespaces": [{"type": "mount"}]}},
            InvalidArgument,
            "timeOffsets",
        ),
        (
            {"linux": {"netDevices": {"a": {}}, "namespaces": [{"type": "mount"}]}},
            InvalidArgument,
            "netDevices",
        ),
        (
            {"linux": {"intelRdt": {"closID": "a"}, "namespaces": [{"type": "mount"}]}},
            Unimplemented,
            "intelRdt",
        ),
        (
            {"linux": {"namespaces": [{"type": "mount"}, {"type": "pid", "path": "rel"}]}},
            InvalidArgument,
            "rel",
        ),
        ({"hostname": "h", "linux": {"namespaces": [{"type": "mount"}]}}, InvalidArgument, "hostname"),
        ({"linux": {"namespaces": [{"type": "mount"}, {"type": "user"}]}}, InvalidArgument, "uidMappings"),
        ({"linux": {"sysctl": {"kernel.panic": "1"}}}, InvalidArgument, "kernel.panic"),
        ({"linux": {"sysctl": {"net.x": "1"}, "namespaces": [{"type": "mount"}]}}, InvalidArgument, "net.x"),
        ({"mounts": [{"destination": "/a/../b", "type": "tmpfs"}]}, InvalidArgument, "destination"),
        ({"mounts": [{"destination": "/a"}]}, InvalidArgument, "type"),
        ({"mounts": [{"destination": "/a", "options": ["bind"]}]}, InvalidArgument, "source"),
        (
            {"mounts": [{"destination": "/a", "type": "tmpfs", "uidMappings": [{}]}]},
            InvalidArgument,
            "uidMappings",
        ),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], error: type[Exception], where: str) -> None:
    with pytest.raises(error, match=where.replace(".", r"\.")):
        plan(**changes)


def test_no_cgroups_at_all_is_said() -> None:
    with pytest.raises(Unimplemented):
        plan(None, mounts=[{"destination": "/sys/fs/cgroup", "type": "cgroup"}])


@pytest.mark.parametrize(
    ("key", "namespace"),
    [
        ("net.ipv4.ip_forward", "network"),
        ("kernel.shmmax", "ipc"),
        ("fs.mqueue.msg_max", "ipc"),
        ("kernel.hostname", "uts"),
        ("vm.swappiness", ""),
    ],
)
def test_which_namespace_a_sysctl_belongs_to(key: str, namespace: str) -> None:
    assert sysctl_namespace(key) == namespace
    assert sysctl_namespace(key.replace(".", "/")) == namespace


def test_options_are_sorted_by_what_they_ask_of_the_kernel() -> None:
    o = parse_options(["rbind", "ro", "nosuid", "rslave", "noatime", "rnoexec", "size=1m", "ridmap"])
    assert o.bind
    assert o.recursive
    assert o.set_flags == m.ATTR_RDONLY | m.ATTR_NOSUID | m.ATTR_NOATIME
    assert o.clear_flags & m.ATTR_ATIME_MASK == m.ATTR_ATIME_MASK
    assert (o.propagation, o.recursive_propagation) == (m.MS_SLAVE, True)
    assert o.recursive_set == m.ATTR_NOEXEC
    assert o.data == (("size", "1m"),)
    assert o.idmap_recursive


def test_later_options_win() -> None:
    assert parse_options(["ro", "rw"]).set_flags == 0
    assert parse_options(["rw", "ro"]).read_only
    assert parse_options(["noatime", "strictatime"]).set_flags == m.ATTR_STRICTATIME
    assert parse_options(["defaults", "private"]).propagation == m.MS_PRIVATE
