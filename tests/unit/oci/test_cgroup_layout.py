# SPDX-License-Identifier: Apache-2.0
"""What mountinfo says of cgroups, and which paths may name a group."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.errors import InvalidArgument, Unimplemented
from oakum.oci.cgroups.layout import Hierarchy, assemble, normalise_path, parse_mountinfo, systemd_path

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime - cgroup2 cgroup2 rw,nsdelegate
"""


def test_a_hybrid_host() -> None:
    trees = list(parse_mountinfo(HYBRID))
    assert trees == [
        Hierarchy("/sys/fs/cgroup/cpu,cpuacct", 1, ("cpu", "cpuacct")),
        Hierarchy("/sys/fs/cgroup/systemd", 1, (), "systemd"),
        Hierarchy("/sys/fs/cgroup/uni fied", 2, ()),
    ]
    layout = assemble(trees)
    assert layout.mode == "hybrid"
    assert layout.unified == trees[2]
    assert layout.of("cpuacct") == trees[0]
    assert layout.of("memory") is None


def test_pure_hosts() -> None:
    assert assemble([Hierarchy("/c", 2, ("cpu",))]).mode == "v2"
    assert assemble([Hierarchy("/c", 1, ("cpu",)), Hierarchy("/s", 1, (), "systemd")]).mode == "v1"
    with pytest.raises(Unimplemented):
        assemble([])


@given(st.text())
def test_mountinfo_never_crashes(text: str) -> None:
    for tree in parse_mountinfo(text):
        assert tree.version in (1, 2)


@pytest.mark.parametrize(
    ("given_path", "clean"),
    [
        ("/a/b", "/a/b"),
        ("a//./b/", "/a/b"),
        ("system.slice:oakum:c1", "/system.slice/oakum-c1.scope"),
        (
            "kubepods-burstable-pod1.slice:cri:c1",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-c1.scope",
        ),
        (":oakum:c1", "/system.slice/oakum-c1.scope"),
        ("-.slice:oakum:c1", "/oakum-c1.scope"),
        ("a.slice::b.slice", "/a.slice/b.slice"),
    ],
)
def test_paths_are_cleaned_and_systemds_form_is_mapped(given_path: str, clean: str) -> None:
    assert normalise_path(given_path) == clean


@pytest.mark.parametrize("path", ["", "/", ".", "/a/../b", "..", "/a\nb", "/" + "x" * 256])
def test_paths_that_are_refused(path: str) -> None:
    with pytest.raises(InvalidArgument):
        normalise_path(path)


@pytest.mark.parametrize("name", ["a", "-a.slice", "a--b.slice", "a-.slice"])
def test_slices_that_systemd_would_refuse(name: str) -> None:
    with pytest.raises(InvalidArgument):
        systemd_path(name, "p", "n")


@given(st.text(max_size=60))
def test_a_clean_path_stays_below_the_root(text: str) -> None:
    try:
        clean = normalise_path(text)
    except InvalidArgument:
        return
    assert clean.startswith("/")
    assert ".." not in clean.split("/")
    assert normalise_path(clean) == clean
