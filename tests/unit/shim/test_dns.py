# SPDX-License-Identifier: Apache-2.0
"""DNS messages and hosts files: what is answered, and that no message and no file makes anything else happen."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oakum.shim import dns
from tests.support.dns_messages import (
    AAAA,
    ANY,
    FORMAT_ERROR,
    NO_ERROR,
    NO_SUCH_NAME,
    NOT_IMPLEMENTED,
    PTR,
    TXT,
    A,
    Reply,
    answer_to,
    query,
    read_reply,
    wire_name,
)

HOSTS = b"""\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost
10.9.0.2\thost Db store # oakum network back
fd00::2\thost Db store # oakum network back
10.9.0.3\tstore www.example.\t# oakum network back
fe80::1%eth0 linked
10.9.0.256 no 1.2.3.4 yes
10.9.0.4
"""
TABLE = dns.read_hosts(HOSTS)


def asked(message: bytes) -> dns.Question:
    question = dns.read_question(message)
    assert isinstance(question, dns.Question)
    return question


def told(message: bytes, limit_bytes: int = 512) -> Reply | None:
    answer = dns.answer(asked(message), TABLE, limit_bytes)
    return None if answer is None else read_reply(answer)


@pytest.mark.parametrize(
    ("name", "kind", "addresses"),
    [
        ("db", A, {"10.9.0.2"}),
        ("DB", AAAA, {"fd00::2"}),
        ("db", ANY, {"10.9.0.2", "fd00::2"}),
        ("store", A, {"10.9.0.2", "10.9.0.3"}),
        ("www.example", A, {"10.9.0.3"}),
        ("www.example", AAAA, set()),
        ("db", TXT, set()),
        ("localhost", AAAA, {"::1"}),
    ],
)
def test_a_known_name_is_answered_with_its_addresses_or_with_none(
    name: str, kind: int, addresses: set[str]
) -> None:
    found = told(query(name, kind, number=0xBEEF))
    assert found is not None
    assert (found.number, found.code, found.addresses) == (0xBEEF, NO_ERROR, addresses)
    assert found.question == query(name, kind)[12:], "as it was asked, in its own letters"
    assert found.flags & 0x0580 == 0x0580, "ours, and asked and answered as for any name"
    assert {ttl for _, ttl, _ in found.answers} <= {0}


def test_what_is_not_in_the_file_is_for_others() -> None:
    for message in (
        query("nobody"),
        query("db.example"),
        query("no"),
        query("linked"),
        query(""),
        query("db", of=3),
        query("9.0.9.10.in-addr.arpa", PTR),
    ):
        assert told(message) is None


@pytest.mark.parametrize(
    ("address", "name"),
    [("10.9.0.2", "host"), ("fd00::2", "host"), ("10.9.0.3", "store"), ("::1", "localhost")],
)
def test_addresses_have_the_first_name_of_their_line(address: str, name: str) -> None:
    found = told(query(ipaddress.ip_address(address).reverse_pointer, PTR))
    assert found is not None
    assert found.answers == [(PTR, 0, wire_name(name))]


def test_a_name_with_a_dot_in_a_label_is_not_the_name_with_a_dot() -> None:
    message = struct.pack("!6H", 1, 0, 1, 0, 0, 0) + b"\x0bwww.example\0" + struct.pack("!2H", A, 1)
    assert told(message) is None


def test_what_does_not_fit_is_said_and_fits_by_tcp_or_with_edns() -> None:
    many = dns.read_hosts(b"".join(b"10.8.%d.%d many\n" % divmod(number, 250) for number in range(100)))
    short = read_reply(dns.answer(asked(query("many")), many, 512) or b"")
    assert short.is_truncated
    assert 25 < len(short.answers) < 100
    assert len(dns.answer(asked(query("many")), many, 512) or b"") <= 512
    question = asked(query("many", edns=4000))
    assert (question.limit_bytes, asked(query("many", edns=9)).limit_bytes) == (4000, 512)
    full = read_reply(dns.answer(question, many, question.limit_bytes) or b"")
    assert len(full.addresses) == 100
    assert not full.is_truncated
    assert len(read_reply(dns.answer(asked(query("many")), many, 65535) or b"").addresses) == 100


def test_edns_is_answered_with_edns_and_an_unknown_version_refused() -> None:
    plain, edns, later = (
        told(query("db", **more)) for more in ({}, {"edns": 1232}, {"edns": 1232, "version": 1})
    )
    assert plain is not None
    assert edns is not None
    assert later is not None
    assert plain.extra == []
    assert edns.extra == [(41, 1232, 0x8000)]
    assert edns.addresses == {"10.9.0.2"}
    assert (later.extra, later.answers) == ([(41, 1232, 0x01008000)], [])


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (query("db")[:-1], FORMAT_ERROR),
        (query("db")[:12], FORMAT_ERROR),
        (query("db")[:4] + b"\0\2" + query("db")[6:], FORMAT_ERROR),
        (query("db")[:12] + b"\xc0\x0c\0\1\0\1", FORMAT_ERROR),
        (query("db")[:12] + b"\x40" + b"a" * 64 + b"\0\0\1\0\1", FORMAT_ERROR),
        (query("db")[:12] + b"\x3f" + (b"a" * 63 + b"\x3f") * 4 + b"\0\0\1\0\1", FORMAT_ERROR),
        (query("db", edns=512)[:-1], FORMAT_ERROR),
        (query("db")[:10] + b"\xff\xff" + query("db")[12:], FORMAT_ERROR),
        (b"\0\7\x29\0" + query("db")[4:], NOT_IMPLEMENTED),
    ],
)
def test_what_is_no_question_is_refused_with_its_number(message: bytes, code: int) -> None:
    assert dns.read_question(message) == code
    found = read_reply(dns.refusal(message, code))
    assert (found.number, found.code, found.answers) == (7, code, [])


def test_answers_and_scraps_are_not_answered() -> None:
    for message in (b"", b"\0" * 11, answer_to(query("db"), ["10.0.0.1"])):
        assert dns.read_question(message) is None


def test_only_an_answer_to_the_question_is_one() -> None:
    message = query("Example.org", AAAA, number=500)
    question = asked(message)
    assert dns.answer_code(question, 500, answer_to(message, ["::1"])) == NO_ERROR
    assert dns.answer_code(question, 500, answer_to(query("example.ORG", AAAA), [], code=3, number=500)) == 3
    assert dns.answer_code(question, 500, struct.pack("!6H", 500, 0x8001, 0, 0, 0, 0)) == FORMAT_ERROR
    for other in (
        message,
        answer_to(message, [], number=501),
        answer_to(query("example.com", AAAA), [], number=500),
        answer_to(query("example.org", A), [], number=500),
        struct.pack("!6H", 500, 0x8000, 0, 0, 0, 0),
        answer_to(message, [])[:11],
    ):
        assert dns.answer_code(question, 500, other) is None


def test_single_labels() -> None:
    assert [asked(query(name)).is_single_label for name in ("db", "a.b", "", "a.b.c")] == [
        True,
        False,
        False,
        False,
    ]


def test_a_file_that_a_container_filled_is_known_in_part() -> None:
    text = b"".join(b"10.1.1.1 n%d n%d\n" % (number, number) for number in range(dns.NAMES_MAX + 5))
    table = dns.read_hosts(text)
    assert len(table.addresses) == dns.NAMES_MAX
    assert table.names == {dns.reverse_name(b"\x0a\1\1\1"): b"\2n0\0"}


@given(st.binary(max_size=300) | st.binary(max_size=60).map(lambda tail: query("db", edns=512)[:12] + tail))
def test_any_message_is_answered_refused_or_passed_over(message: bytes) -> None:
    question = dns.read_question(message)
    if question is None:
        return
    if isinstance(question, int):
        answer = dns.refusal(message, question)
    else:
        answer = dns.answer(question, TABLE, 512) or dns.reply(question, NO_SUCH_NAME)
    found = read_reply(answer)
    assert found.number == int.from_bytes(message[:2], "big")
    assert len(answer) <= max(512, len(message) + 11)
    assert dns.answer_code(asked(query("db")), 7, message) in (None, *range(16))


@given(st.data())
def test_a_damaged_query_is_never_more_than_one(data: st.DataObject) -> None:
    message = bytearray(query("store.example", edns=1232))
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(2, len(message) - 1))] = data.draw(st.integers(0, 255))
    question = dns.read_question(bytes(message))
    if isinstance(question, dns.Question):
        assert len(question.name) <= 255
        assert question.section == bytes(message[12 : 12 + len(question.section)])
        read_reply(dns.reply(question, NO_ERROR, [(A, b"\1\2\3\4")], 512))


@given(
    st.binary(max_size=400)
    | st.lists(st.sampled_from([b"10.0.0.1", b"::1", b" ", b"a", b"b.c", b"#", b"\n"])).map(b"".join)
)
def test_any_file_is_read(text: bytes) -> None:
    table = dns.read_hosts(text)
    assert all(
        len(name) <= 255 and len(each) in (4, 16) for name, known in table.addresses.items() for each in known
    )
    assert set(table.names.values()) <= set(table.addresses)


_LABEL = st.text("abcXYZ019-_", min_size=1, max_size=20)


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.lists(_LABEL, min_size=1, max_size=3).map(".".join),
            st.ip_addresses(),
        ),
        max_size=8,
    )
)
def test_what_a_file_says_is_what_is_answered(lines: list[tuple[str, ipaddress.IPv4Address]]) -> None:
    table = dns.read_hosts("".join(f"{address}\t{name}\n" for name, address in lines).encode())
    for name, address in lines:
        kind = A if address.version == 4 else AAAA
        answer = dns.answer(asked(query(name.swapcase(), kind)), table, 512)
        expected = {
            str(other)
            for its, other in lines
            if its.lower() == name.lower() and other.version == address.version
        }
        assert read_reply(answer or b"").addresses == expected
        reverse = dns.answer(asked(query(address.reverse_pointer, PTR)), table, 512)
        first = next(its for its, other in lines if other == address)
        assert read_reply(reverse or b"").answers == [(PTR, 0, wire_name(first.lower()))]
