# SPDX-License-Identifier: Apache-2.0
"""Subnets that disturb nobody, and addresses that are handed out once."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.errors import InvalidArgument, ResourceExhausted
from oakum.network import pool
from oakum.network.pool import FIRST_OFFSET, offset_of, parse_subnets

network = ipaddress.ip_network


def test_the_first_free_subnet_is_taken() -> None:
    assert pool.choose_subnet([]) == network("10.173.0.0/16")
    taken = [network("0.0.0.0/0"), network("10.173.4.0/24"), network("10.174.0.0/15"), network("fd00::/8")]
    assert pool.choose_subnet(taken) == network("10.176.0.0/16")
    assert pool.choose_subnet([network("10.0.0.0/8")]) == network("172.20.0.0/16")
    everything = [network("10.0.0.0/8"), network("172.16.0.0/12"), network("192.168.0.0/16")]
    with pytest.raises(ResourceExhausted, match="routes to all private networks"):
        pool.choose_subnet(everything)


@given(st.sets(st.sampled_from(list(pool.candidates())), max_size=46))
def test_a_chosen_subnet_overlaps_nothing(taken: set[ipaddress.IPv4Network]) -> None:
    chosen = pool.choose_subnet(taken)
    assert chosen.is_private
    assert not any(chosen.overlaps(other) for other in taken)


def test_ipv6_subnets_are_local_and_differ() -> None:
    one, two = pool.unique_local_subnet("/a/network.db"), pool.unique_local_subnet("/b/network.db")
    assert one == pool.unique_local_subnet("/a/network.db")
    assert one != two
    assert one.subnet_of(ipaddress.IPv6Network("fd00::/8"))
    assert one.prefixlen == 64


@given(st.integers(4, 64), st.integers(0, 70), st.sets(st.integers(0, 70)))
def test_an_offset_is_new_inside_and_as_late_as_possible(size: int, last: int, used: set[int]) -> None:
    usable = set(range(pool.FIRST_OFFSET, size - 1)) - used
    if not usable:
        with pytest.raises(ResourceExhausted, match="addresses of the network are in use"):
            pool.next_offset(size, last, used)
        return
    offset = pool.next_offset(size, last, used)
    assert offset in usable
    assert offset == min((o for o in usable if o > last), default=min(usable))


def test_a_large_subnet_is_not_walked_through() -> None:
    assert pool.next_offset(1 << 40, 5, {6, 7}) == 8


def test_macs_and_names_tell_their_owner() -> None:
    assert pool.mac_of(ipaddress.IPv4Address("10.173.0.2")) == "0a:58:0a:ad:00:02"
    names = {pool.host_interface_of(table, str(number)) for table in ("a", "b") for number in range(100)}
    assert len(names) == 200
    assert {len(name) for name in names} == {15}


def test_subnets_are_one_of_each_family() -> None:
    assert parse_subnets([]) == (None, None)
    four, six = parse_subnets(["fd00:9::/64", "10.9.0.0/24"])
    assert (str(four), str(six)) == ("10.9.0.0/24", "fd00:9::/64")


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["10.9.0.1/24"], "has host bits set"),
        (["ten"], "does not appear"),
        (["10.9.0.0/31"], "too small"),
        (["0.0.0.0/0"], "not a subnet for sandboxes"),
        (["127.0.0.0/8"], "not a subnet for sandboxes"),
        (["fe80::/64"], "not a subnet for sandboxes"),
        (["10.9.0.0/24", "10.8.0.0/24"], "a second subnet of IPv4"),
    ],
)
def test_what_is_no_subnet_is_said(texts: list[str], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        parse_subnets(texts)


@given(st.integers(0, 255), st.booleans())
def test_every_chosen_address_is_a_sandboxs_or_refused(offset: int, with_six: bool) -> None:
    four, six = ipaddress.IPv4Network("10.9.0.0/24"), ipaddress.IPv6Network("fd00:9::/64")
    texts = [str(four[offset]), *([f"{six[offset]}/64"] if with_six else [])]
    if FIRST_OFFSET <= offset < 255:
        assert offset_of(texts, four, six) == offset
    else:
        with pytest.raises(InvalidArgument):
            offset_of(texts, four, six)
    assert offset_of([], four, six) is None
    with pytest.raises(InvalidArgument, match="same place"):
        offset_of(["10.9.0.5", "fd00:9::6"], four, six)
    with pytest.raises(InvalidArgument, match="without IPv6"):
        offset_of(["fd00:9::6"], four, None)
