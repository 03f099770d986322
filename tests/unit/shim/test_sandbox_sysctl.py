# SPDX-License-Identifier: Apache-2.0
"""Which sysctls a sandbox may set: those its own namespaces keep, under either spelling, and never the host's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.errors import InvalidArgument
from oakum.shim.sandbox import sysctl_path

ALL = ("network", "ipc", "uts")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.100/forwarding", "net/ipv4/conf/eth0.100/forwarding"),
        ("net.ipv4.conf.eth0/100.forwarding", "net/ipv4/conf/eth0.100/forwarding"),
        ("kernel.shmmax", "kernel/shmmax"),
        ("kernel.sem", "kernel/sem"),
        ("fs.mqueue.msg_max", "fs/mqueue/msg_max"),
        ("kernel.domainname", "kernel/domainname"),
    ],
)
def test_both_spellings(name: str, path: str) -> None:
    assert sysctl_path(name, ALL) == path


@pytest.mark.parametrize(
    "name", ["kernel.panic", "vm.swappiness", "kernel.core_pattern", "fs.file-max", "net", "", "kernel"]
)
def test_what_would_change_the_host_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        sysctl_path(name, ALL)


def test_the_namespace_must_be_the_sandboxes_own() -> None:
    with pytest.raises(InvalidArgument, match="no network namespace of its own"):
        sysctl_path("net.ipv4.ip_forward", ("ipc",))


@given(st.text(alphabet="net.ipv4/_0kerlshm-", max_size=40))
def test_no_name_leads_out_of_its_directory(name: str) -> None:
    try:
        path = sysctl_path(name, ALL)
    except InvalidArgument:
        return
    assert path.split("/")[0] in ("net", "kernel", "fs")
    assert ".." not in path.split("/")
    assert not path.startswith("/")
