# SPDX-License-Identifier: Apache-2.0
"""Reaching into another network namespace: the socket stays there, the thread comes back."""

from __future__ import annotations

import errno
import ipaddress
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from oakum.errors import SystemFailure
from oakum.linux import rtnetlink
from oakum.linux.netlink import NetlinkSocket
from oakum.linux.netns import inside, open_netns, own_netns
from tests.support.netlab import Place


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.close()


def here() -> str:
    return os.readlink("/proc/thread-self/ns/net")


def test_the_socket_stays_and_the_thread_comes_back(place: Place) -> None:
    before = here()
    with inside(place.fd, NetlinkSocket) as inner:
        assert here() == before
        assert [link.name for link in rtnetlink.list_links(inner)] == ["lo"]
        inner.execute([rtnetlink.create_bridge("only-there", mac="02:00:00:00:00:01", mtu=1500)])
    with NetlinkSocket() as route:
        assert rtnetlink.get_link(route, "only-there") is None
    assert "only-there" in {link["ifname"] for link in place.ip("link")}


def test_the_thread_comes_back_from_a_failure_too(place: Place) -> None:
    before = here()

    def fail() -> None:
        assert here() != before
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inside(place.fd, fail)
    assert here() == before


def test_other_threads_are_not_moved(place: Place) -> None:
    before, seen = here(), list[str]()

    def look() -> None:
        thread = threading.Thread(target=lambda: seen.append(os.readlink(f"/proc/{os.getpid()}/ns/net")))
        thread.start()
        thread.join()

    worker = threading.Thread(target=lambda: inside(place.fd, look))
    worker.start()
    worker.join()
    assert seen == [before], "the process as a whole stays"


def test_what_is_no_network_namespace_is_refused(tmp_path: Path) -> None:
    before = here()
    with (
        open_netns("/proc/self/ns/uts") as wrong,
        pytest.raises(SystemFailure, match="enter network namespace x"),
    ):
        inside(wrong.fileno(), here, subject="x")
    with pytest.raises(SystemFailure, match=r"open network namespace .*gone: No such file"):
        open_netns(str(tmp_path / "gone"))
    with own_netns() as own:
        assert os.readlink(f"/proc/self/fd/{own.fileno()}") == before


def test_the_kernels_own_words_reach_the_error(place: Place) -> None:
    with inside(place.fd, NetlinkSocket) as inner, pytest.raises(SystemFailure) as raised:
        inner.execute([rtnetlink.add_default_route(1, ipaddress.ip_address("10.0.0.1"), subject="here")])
    assert str(raised.value).startswith("add default route via 10.0.0.1 in here: ")
    assert raised.value.cause.count(":") == 1, f"the number and the words: {raised.value.cause}"


def test_every_request_has_its_verdict_wherever_one_fails(place: Place) -> None:
    good = rtnetlink.set_up("lo")
    bad = rtnetlink.set_up("gone")._replace(tolerated=frozenset({errno.ENODEV}))
    with inside(place.fd, NetlinkSocket) as inner:
        for requests in ([good], [bad], [bad, good], [good, bad], [good, bad, good], [bad, bad, good, bad]):
            wanted = [errno.ENODEV if request is bad else 0 for request in requests]
            assert [verdict.errno for verdict in inner.execute(requests)] == wanted
        link = rtnetlink.get_link(inner, "lo")
        assert link is not None, "and nothing of it is left for who asks next"
        assert inner.index_of("lo") == link.ifindex
        with pytest.raises(SystemFailure, match="gone"):
            inner.execute([good, rtnetlink.set_up("gone"), good])
        assert rtnetlink.get_link(inner, "lo") == link
