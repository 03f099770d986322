# SPDX-License-Identifier: Apache-2.0
"""The netlink codec: what is written is read back, what is cut is refused, and errors carry the kernel's words."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.errors import SystemFailure
from oakum.linux import netlink
from oakum.linux.netlink import Message, NetlinkSocket, Request, Verdict

attributes = st.dictionaries(st.integers(1, 0x3FFF), st.binary(max_size=300), max_size=8)
messages = st.builds(
    Message,
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 0xFFFFFFFF),
    st.binary(max_size=200),
)


@given(attributes)
def test_attributes_come_back_as_they_were(wanted: dict[int, bytes]) -> None:
    data = b"".join(netlink.attribute(kind, value) for kind, value in wanted.items())
    assert len(data) % 4 == 0
    assert netlink.parse_attributes(data) == wanted
    assert netlink.parse_attributes(netlink.parse_attributes(netlink.nested(7, data))[7]) == wanted


@given(st.lists(messages, max_size=5))
def test_messages_come_back_as_they_were(wanted: list[Message]) -> None:
    assert netlink.decode_messages(b"".join(netlink.encode_message(m) for m in wanted)) == wanted


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for parse in (
        netlink.parse_attributes,
        netlink.decode_messages,
        lambda payload: netlink.parse_verdict(Message(2, 0x200, 1, 0, payload)),
    ):
        try:
            parse(data)
        except ValueError:
            pass  # the one way to say no


def test_known_bytes() -> None:
    assert netlink.text(3, "lo") == bytes.fromhex("0700 0300 6c6f 0000")
    assert netlink.u32(4, 1500) == struct.pack("=HHI", 8, 4, 1500)
    assert netlink.u8(4, 1) == struct.pack("=HHB3x", 5, 4, 1)
    assert netlink.nested(18, netlink.u8(1, 2)) == struct.pack("=HH", 12, 18 | 0x8000) + netlink.u8(1, 2)
    assert netlink.parse_text(b"eth0\0rest") == "eth0"


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="embedded NUL"):
        netlink.text(3, "a\0b")
    with pytest.raises(ValueError, match="65540 bytes"):
        netlink.attribute(3, bytes(0x10000))


def verdict_message(number: int, words: str, *, capped: bool) -> Message:
    echoed = netlink.encode_message(Message(16, 5, 1, 0, b"12345678"))
    if capped:
        echoed = echoed[:16]
    flags = 0x200 | (0x100 if capped else 0)
    payload = struct.pack("=i", -number) + echoed + netlink.text(1, words)
    return Message(2, flags, 1, 0, payload)


@pytest.mark.parametrize("capped", [True, False])
def test_the_kernels_words_are_found(capped: bool) -> None:
    verdict = netlink.parse_verdict(verdict_message(errno.EINVAL, "Invalid prefix", capped=capped))
    assert verdict == Verdict(errno.EINVAL, "Invalid prefix")
    error = netlink.failure("add address", "10.0.0.1/99 to eth0", verdict)
    assert str(error) == "add address 10.0.0.1/99 to eth0: Invalid argument (EINVAL): Invalid prefix"
    assert error.errno == errno.EINVAL


def test_a_real_socket_says_what_failed_on_what() -> None:
    payload = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + netlink.text(3, "no-such-link")
    ask = Request(18, 0, payload, "look up link", "no-such-link")
    with NetlinkSocket() as route:
        with pytest.raises(SystemFailure, match="look up link no-such-link: No such device") as raised:
            route.ask(ask)
        assert raised.value.errno == errno.ENODEV
        assert route.ask(ask._replace(tolerated=frozenset({errno.ENODEV}))) is None
        assert route.execute([]) == []
        # What failed before does not disturb what comes after.
        lo = route.ask(ask._replace(payload=payload[:16] + netlink.text(3, "lo")))
        assert lo is not None
        assert lo.kind == 16
        assert route.index_of("lo") == struct.unpack_from("=BxHi", lo.payload)[2]
        for absent in ("no-such-link", "lo:1", "lo\0", "lo" + "x" * 14, ""):
            assert route.index_of(absent) is None
    with pytest.raises(SystemFailure, match="open netlink socket 99"):
        NetlinkSocket(99)
