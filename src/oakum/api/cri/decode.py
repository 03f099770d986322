# SPDX-License-Identifier: Apache-2.0
"""Bytes to a request, and for bytes that are none, which field is wrong: protobuf itself only says that something is.

Spec: protobuf encoding (tags, wire types, varints). A field of another wire type than declared is no error there: it
counts as unknown, and the field as absent.
"""

from __future__ import annotations

from typing import TypeVar, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from oakum.api.cri.convert.checks import refusal

M = TypeVar("M", bound=Message)

_VARINT, _EIGHT_BYTES, _COUNTED, _FOUR_BYTES = 0, 1, 2, 5


def decode(kind: type[M], data: bytes) -> M:
    """The request that `data` is. Raises InvalidArgument naming the first field that is not one."""
    try:
        return kind.FromString(data)
    except DecodeError:
        where, cause = _broken(cast("Descriptor", kind.DESCRIPTOR), data) or (
            kind.DESCRIPTOR.name,
            "not a protobuf message",
        )
        raise refusal(where, cause) from None


class _Cut(Exception):
    """The bytes end in the middle of something, or a tag is none."""


def _broken(message: Descriptor, data: bytes, path: str = "") -> tuple[str, str] | None:
    """Field and cause of the first thing in `data` that is not as `message` has it."""
    where, at = path or message.name, 0
    try:
        while at < len(data):
            where = path or message.name
            tag, at = _varint(data, at)
            field = message.fields_by_number.get(tag >> 3)
            if field is not None:
                where = f"{path}.{field.name}" if path else field.name
            end, begin = _skip(data, at, tag)
            if (
                field is not None
                and tag & 7 == _COUNTED
                and (found := _inside(field, data[begin:end], where))
            ):
                return found
            at = end
    except _Cut:
        return where, "the request breaks off or is damaged here"
    return None


def _inside(field: FieldDescriptor, data: bytes, where: str) -> tuple[str, str] | None:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return _broken(cast("Descriptor", field.message_type), data, where)
    if field.type == FieldDescriptor.TYPE_STRING:
        try:
            data.decode()
        except UnicodeDecodeError:
            return where, "not UTF-8"
    return None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise _Cut


def _skip(data: bytes, at: int, tag: int) -> tuple[int, int]:
    """Where the value behind a tag ends and where its bytes begin."""
    wire, begin = tag & 7, at
    if tag >> 3 == 0:
        raise _Cut
    if wire == _VARINT:
        _, end = _varint(data, at)
    elif wire == _COUNTED:
        size, begin = _varint(data, at)
        end = begin + size
    elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
        end = at + (8 if wire == _EIGHT_BYTES else 4)
    else:  # groups, which proto3 does not have, and numbers that mean nothing
        raise _Cut
    if end > len(data):
        raise _Cut
    return end, begin
