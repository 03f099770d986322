# SPDX-License-Identifier: Apache-2.0
"""DNS messages as far as a small server needs them, and the names of a hosts file. Pure functions.

Owns: reading one question, answering it from a hosts file, and telling whether a message answers a question. Messages
come from containers and from servers: every one is hostile, and of what is no question nothing but the header is used.
Names are kept as in messages, in lower case (the lengths of labels are below "A"), which is how they are compared.
Source: RFC 1035 4 (messages), RFC 3596 (AAAA, ip6.arpa), RFC 6891 6 (EDNS).
"""

from __future__ import annotations

import _socket
import _struct as struct

from oakum.model.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

A: Final = 1
PTR: Final = 12
AAAA: Final = 28
ANY: Final = 255
NO_ERROR, FORMAT_ERROR, SERVER_FAILURE, NO_SUCH_NAME, NOT_IMPLEMENTED, REFUSED = range(6)
STREAM_LIMIT_BYTES: Final = 0xFFFF
QUERY_LIMIT_BYTES: Final = 4096
# How many names of one file are known, counted for each address: a container may write into its own.
NAMES_MAX: Final = 16384

_OPT: Final = 41
_IN: Final = 1
_BAD_VERSION: Final = 1  # extended response code 16, upper bits
_RESPONSE: Final = 0x8000
_OPERATION: Final = 0x7800
_AUTHORITATIVE: Final = 0x0400
_TRUNCATED: Final = 0x0200
_WANTED: Final = 0x0100
_AVAILABLE: Final = 0x0080
_CODE: Final = 0x000F
_DNSSEC_OK: Final = 0x8000
_HEADER: Final = struct.Struct("!6H")
_KIND: Final = struct.Struct("!2H")
_RECORD: Final = struct.Struct("!2HIH")
_PLAIN_LIMIT_BYTES: Final = 512
_OUR_LIMIT_BYTES: Final = 1232
_LABEL_BYTES: Final = 63
_NAME_BYTES: Final = 255
_POINTER_TO_NAME: Final = b"\xc0\x0c"
_HEXADECIMAL: Final = b"0123456789abcdef"
# Names change at any moment: nobody is to keep them.
_TTL_S: Final = 0


class Question(NamedTuple):
    """What a message asks; `section` is the question's own bytes, `limit_bytes` what the asker takes by UDP."""

    id: int
    flags: int
    name: bytes
    kind: int
    of: int
    section: bytes
    limit_bytes: int
    edns: int | None
    dnssec: bool

    @property
    def is_single_label(self) -> bool:
        """Whether the name has no dot, so that no server but ours could know it as a host's."""
        return 1 < len(self.name) == self.name[0] + 2


class Table(NamedTuple):
    """The names and addresses (4 or 16 bytes) of a hosts file."""

    addresses: dict[bytes, list[bytes]]
    names: dict[bytes, bytes]


# -- hosts files ----------------------------------------------------------------------------------------------------


def read_hosts(text: bytes) -> Table:
    """The table of a hosts file; what is no line of one is passed over. Source: hosts(5)."""
    table = Table({}, {})
    seen: set[bytes] = set()
    for line in text.split(b"\n"):
        words = line.partition(b"#")[0].split()
        address = _address(words[0]) if len(words) > 1 else b""
        if not address:
            continue
        for word in words[1:]:
            name = encode_name(word)
            if not name or name + address in seen:
                continue
            if len(seen) >= NAMES_MAX:
                return table
            seen.add(name + address)
            table.addresses.setdefault(name, []).append(address)
            table.names.setdefault(reverse_name(address), name)
    return table


def _address(word: bytes) -> bytes:
    try:
        return _socket.inet_pton(_socket.AF_INET6 if b":" in word else _socket.AF_INET, word.decode("ascii"))
    except (OSError, ValueError):
        return b""


def encode_name(text: bytes) -> bytes:
    """A name with dots as in messages, in lower case; b"" where it cannot be one."""
    encoded = bytearray()
    for label in text.removesuffix(b".").lower().split(b"."):
        if not 0 < len(label) <= _LABEL_BYTES:
            return b""
        encoded.append(len(label))
        encoded += label
    encoded.append(0)
    return bytes(encoded) if len(encoded) <= _NAME_BYTES else b""


def reverse_name(address: bytes) -> bytes:
    """The name whose PTR record says what an address is called."""
    if len(address) == 4:
        return encode_name(b".".join(b"%d" % octet for octet in reversed(address)) + b".in-addr.arpa")
    digits = b"".join(
        b"\1%c\1%c" % (_HEXADECIMAL[octet & 15], _HEXADECIMAL[octet >> 4]) for octet in reversed(address)
    )
    return digits + b"\3ip6\4arpa\0"


# -- questions ------------------------------------------------------------------------------------------------------


def read_question(message: bytes) -> Question | int | None:
    """What is asked; a response code where the asker is to hear that; None for what deserves no answer."""
    if len(message) < _HEADER.size:
        return None
    number, flags, questions, answers, authorities, additional = _HEADER.unpack_from(message)
    if flags & _RESPONSE:
        return None
    if flags & _OPERATION:
        return NOT_IMPLEMENTED
    end = _skip_name(message, _HEADER.size, pointers=False)
    if questions != 1 or not end or end + _KIND.size > len(message):
        return FORMAT_ERROR
    name = message[_HEADER.size : end].lower()
    kind, of = _KIND.unpack_from(message, end)
    end += _KIND.size
    section = message[_HEADER.size : end]
    question = Question(number, flags, name, kind, of, section, _PLAIN_LIMIT_BYTES, None, dnssec=False)
    if answers or authorities:  # unusual, and for those who know what it means
        return question
    return _with_edns(question, message, end, additional)


def _with_edns(question: Question, message: bytes, position: int, records: int) -> Question | int:
    for _ in range(records):
        after_name = _skip_name(message, position, pointers=True)
        if not after_name or after_name + _RECORD.size > len(message):
            return FORMAT_ERROR
        kind, size, extra, length = _RECORD.unpack_from(message, after_name)
        end = after_name + _RECORD.size + length
        if end > len(message):
            return FORMAT_ERROR
        if kind == _OPT:
            if question.edns is not None or after_name != position + 1:
                return FORMAT_ERROR
            question = question._replace(
                limit_bytes=max(_PLAIN_LIMIT_BYTES, min(size, QUERY_LIMIT_BYTES)),
                edns=extra >> 16 & 0xFF,
                dnssec=bool(extra & _DNSSEC_OK),
            )
        position = end
    return question


def _skip_name(message: bytes, position: int, *, pointers: bool) -> int:
    """Where the name at `position` ends; 0 where none is. A pointer, where allowed, ends it and is not followed."""
    start = position
    while position < len(message):
        length = message[position]
        if length & 0xC0:
            return position + 2 if pointers and length >= 0xC0 else 0
        position += length + 1
        if position - start > _NAME_BYTES:
            return 0
        if length == 0:
            return position
    return 0


# -- answers --------------------------------------------------------------------------------------------------------


def answer(question: Question, table: Table, limit_bytes: int) -> bytes | None:
    """The answer in at most `limit_bytes`; None where the table knows nothing of the name."""
    if question.of != _IN:
        return None
    if question.edns:
        return reply(question, NO_ERROR)
    if question.kind == PTR:
        name = table.names.get(question.name)
        if name is not None:
            return reply(question, NO_ERROR, [(PTR, name)], limit_bytes)
    found = table.addresses.get(question.name)
    if found is None:
        return None
    records = [
        (kind, address)
        for kind, size in ((A, 4), (AAAA, 16))
        if question.kind in (kind, ANY)
        for address in found
        if len(address) == size
    ]
    return reply(question, NO_ERROR, records, limit_bytes)


def reply(
    question: Question,
    code: int,
    records: Sequence[tuple[int, bytes]] = (),
    limit_bytes: int = STREAM_LIMIT_BYTES,
) -> bytes:
    """A message with as many of the `records` (type, data) as there is room for, which says when that is not all."""
    extra = b""
    if question.edns is not None:
        bits = (_BAD_VERSION << 24 if question.edns else 0) | (_DNSSEC_OK if question.dnssec else 0)
        extra = b"\0" + _RECORD.pack(_OPT, _OUR_LIMIT_BYTES, bits, 0)
    room = limit_bytes - _HEADER.size - len(question.section) - len(extra)
    told: list[bytes] = []
    for kind, data in records:
        record = _POINTER_TO_NAME + _RECORD.pack(kind, _IN, _TTL_S, len(data)) + data
        room -= len(record)
        if room < 0:
            break
        told.append(record)
    flags = _RESPONSE | _AVAILABLE | (question.flags & _WANTED) | code
    if code == NO_ERROR:
        flags |= _AUTHORITATIVE
    if len(told) < len(records):
        flags |= _TRUNCATED
    header = _HEADER.pack(question.id, flags, 1, len(told), 0, 1 if extra else 0)
    return b"".join((header, question.section, *told, extra))


def refusal(message: bytes, code: int) -> bytes:
    """What who sent a `message` that is no question hears."""
    number, flags, *_ = _HEADER.unpack_from(message)
    flags = _RESPONSE | _AVAILABLE | (flags & (_OPERATION | _WANTED)) | code
    return _HEADER.pack(number, flags, 0, 0, 0, 0)


# -- other servers --------------------------------------------------------------------------------------------------


def numbered(message: bytes, number: int) -> bytes:
    """A message under another number."""
    return number.to_bytes(2, "big") + message[2:]


def answer_code(question: Question, number: int, message: bytes) -> int | None:
    """The response code of a message that answers the question, asked under `number`; None where it does not."""
    if len(message) < _HEADER.size:
        return None
    its_number, flags, questions, *_ = _HEADER.unpack_from(message)
    code = flags & _CODE
    if its_number != number or not flags & _RESPONSE:
        return None
    if questions == 0 and code != NO_ERROR:  # a server that understood nothing repeats nothing
        return code
    section = message[_HEADER.size : _HEADER.size + len(question.section)]
    return code if questions == 1 and section.lower() == question.section.lower() else None
