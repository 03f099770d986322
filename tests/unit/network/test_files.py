# SPDX-License-Identifier: Apache-2.0
"""hosts, resolv.conf and hostname as a sandbox reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.errors import InvalidArgument
from oakum.network import files
from oakum.network.files import Resolver

HOST = Resolver(("127.0.0.53", "::1", "fe80::1%eth0", "192.0.2.53", "fd00::53"), ("example.org",), ("edns0",))


def test_what_only_the_host_reaches_is_left_out() -> None:
    text = files.render_resolv_conf(Resolver(), HOST, host_network=False)
    assert text == "nameserver 192.0.2.53\nnameserver fd00::53\nsearch example.org\noptions edns0\n"
    text = files.render_resolv_conf(Resolver(), HOST, host_network=True)
    assert files.parse_resolv_conf(text) == HOST


def test_no_server_is_said() -> None:
    text = files.render_resolv_conf(Resolver(), Resolver(("127.0.0.1",)), host_network=False)
    assert text == "# no name server of the host can be reached from here\n"


def test_what_is_asked_for_wins() -> None:
    wanted = Resolver(("10.96.0.10",), ("ns.svc.cluster.local", "svc.cluster.local"), ("ndots:5",))
    text = files.render_resolv_conf(wanted, HOST, host_network=False)
    assert text == "nameserver 10.96.0.10\nsearch ns.svc.cluster.local svc.cluster.local\noptions ndots:5\n"
    # The host's domains belong to the host's servers.
    assert (
        files.render_resolv_conf(Resolver(("10.0.0.1",)), HOST, host_network=False) == "nameserver 10.0.0.1\n"
    )
    text = files.render_resolv_conf(Resolver(searches=("own.example",)), HOST, host_network=False)
    assert text == "nameserver 192.0.2.53\nnameserver fd00::53\nsearch own.example\noptions edns0\n"


def test_a_server_of_ones_own_is_the_only_one_and_asks_the_others() -> None:
    own = "127.0.0.11"

    def text(wanted: Resolver) -> str:
        return files.render_resolv_conf(wanted, HOST, host_network=False, server=own)

    assert text(Resolver()) == f"nameserver {own}\nsearch example.org\noptions edns0 ndots:0\n"
    asked = Resolver(("10.0.0.1", "::2"), ("a.example",), ("ndots:3",))
    assert text(asked) == f"nameserver {own}\nsearch a.example\noptions ndots:3\n"
    with pytest.raises(InvalidArgument, match="write name files"):
        text(Resolver(("dns.example",)))
    for from_host in (False, True):
        assert files.choose_upstreams(asked, HOST, from_host=from_host) == [
            ("10.0.0.1", False),
            ("::2", False),
        ]
        found = files.choose_upstreams(Resolver(), HOST, from_host=from_host)
        assert found == [("192.0.2.53", False), ("fd00::53", False)]
    with pytest.raises(InvalidArgument, match="write name files"):
        files.choose_upstreams(Resolver(("dns.example",)), HOST, from_host=True)


def test_servers_on_the_hosts_loopback_are_asked_from_the_host_or_not_at_all() -> None:
    host = Resolver(("127.0.0.53", "::1", "fe80::1%eth0", "0.0.0.0", "junk"))
    assert files.choose_upstreams(Resolver(), host, from_host=False) == []
    assert files.choose_upstreams(Resolver(), host, from_host=True) == [("127.0.0.53", True), ("::1", True)]


@pytest.mark.parametrize(
    "wanted",
    [
        Resolver(("dns.example",)),
        Resolver(("10.0.0.1\nnameserver 10.0.0.2",)),
        Resolver(("fe80::1%a b",)),
        Resolver(("10.0.0.1",), ("a b",)),
        Resolver(("10.0.0.1",), (), ("ndots:5\nnameserver 6.6.6.6",)),
        Resolver(("10.0.0.1",), ("",)),
    ],
)
def test_nobody_writes_lines_of_their_own(wanted: Resolver) -> None:
    with pytest.raises(InvalidArgument, match="write name files"):
        files.render_resolv_conf(wanted, HOST, host_network=False)


@given(st.text())
def test_any_host_file_is_read(text: str) -> None:
    found = files.parse_resolv_conf(text)
    rendered = files.render_resolv_conf(Resolver(), found, host_network=True)
    assert files.parse_resolv_conf(rendered).servers == found.servers


def test_a_resolv_conf_is_read_as_the_resolver_does() -> None:
    text = (
        "# comment\n; other\nnameserver 10.0.0.1 # trailing\n nameserver 10.0.0.2\ndomain old.example\n"
        "search a.example b.example\noptions ndots:2\noptions rotate edns0\nnameserver\nunknown x\n"
    )
    assert files.parse_resolv_conf(text) == Resolver(
        ("10.0.0.1", "10.0.0.2"), ("a.example", "b.example"), ("ndots:2", "rotate", "edns0")
    )


def test_hosts_knows_the_sandbox_and_its_friends() -> None:
    text = files.render_hosts("web", ["10.173.0.2", "fd00::2"], [("db", "10.0.0.5")])
    lines = [line.split() for line in text.splitlines()]
    assert ["127.0.0.1", "localhost"] in lines
    assert lines[-3:] == [["10.173.0.2", "web"], ["fd00::2", "web"], ["10.0.0.5", "db"]]
    assert files.render_hosts("web", [], base="192.0.2.1 here\n") == "192.0.2.1 here\n"
    assert files.hosts("web", ["10.1.1.1"], host_network=False).endswith("10.1.1.1\tweb\n")
    assert "localhost" in files.hosts("web", (), host_network=True)


@pytest.mark.parametrize(
    ("name", "address"), [("a b", "10.0.0.1"), ("a\n6.6.6.6 b", "10.0.0.1"), ("a", "b"), ("", "::1")]
)
def test_hosts_takes_one_name_and_one_address(name: str, address: str) -> None:
    with pytest.raises(InvalidArgument):
        files.render_hosts("web", [], [(name, address)])


def test_hostname() -> None:
    assert files.hostname_file("web-1") == "web-1\n"
    assert files.hostname_file("") == ""
    with pytest.raises(InvalidArgument):
        files.hostname_file("a\nb")


def test_this_hosts_own_file_is_taken() -> None:
    text = files.resolv_conf(Resolver(), host_network=True)
    with open("/etc/resolv.conf", encoding="utf-8") as file:
        assert files.parse_resolv_conf(text).servers == files.parse_resolv_conf(file.read()).servers
