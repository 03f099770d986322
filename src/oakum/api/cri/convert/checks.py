# SPDX-License-Identifier: Apache-2.0
"""Checks of what a client sent, one refusal each; every refusal names the field. Nothing is converted here."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from oakum.errors import InvalidArgument

T = TypeVar("T")

MAX_ID = 2**32 - 2
"""The largest user or group id: the next one means "no id" to the kernel. Source: chown(2)."""
LONGEST_S = 1_000_000
"""Longer waits are cut to this, eleven days: the kernel's timers in milliseconds end at 24."""
_MAX_PATH_BYTES = 4095
_MAX_NAME_BYTES = 255
"""Source: limits.h(0p), PATH_MAX without its end, NAME_MAX."""
_TEXT = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)


def refusal(field: str, cause: str, hint: str = "") -> InvalidArgument:
    """The error for a `field` (as in "config.mounts[2].host_path") that cannot be accepted."""
    return InvalidArgument("check request field", field, cause, hint=hint)


def refuse_nul(message: Message, path: str = "") -> None:
    """Refuse a message with a NUL byte in any of its strings: protobuf allows it, the kernel cuts there.

    Raises:
        InvalidArgument: there is one.
    """
    for field, value in cast("list[tuple[FieldDescriptor, Any]]", message.ListFields()):
        where = f"{path}.{field.name}" if path else field.name
        inner = field.message_type
        if inner is None:
            if field.type in _TEXT:
                _refuse_nul_in(where, value if field.is_repeated else (value,))
        elif inner.GetOptions().map_entry:
            pairs = cast("Mapping[Any, Any]", value)
            _refuse_nul_in(where, (part for pair in pairs.items() for part in pair))
        elif field.is_repeated:
            for index, item in enumerate(value):
                refuse_nul(item, f"{where}[{index}]")
        else:
            refuse_nul(value, where)


def _refuse_nul_in(where: str, values: Iterable[Any]) -> None:
    for value in values:
        if (isinstance(value, str) and "\0" in value) or (isinstance(value, bytes) and b"\0" in value):
            raise refusal(where, "holds a NUL byte")


def known(field: str, table: Mapping[int, T], number: int) -> T:
    """The meaning of an enum's `number`; proto3 lets clients send numbers nobody defined."""
    if number not in table:
        raise refusal(field, f"unknown value {number}")
    return table[number]


def present(field: str, text: str) -> str:
    """`text`, which must not be empty."""
    if not text:
        raise refusal(field, "missing")
    return text


def within(field: str, value: int, lowest: int, highest: int | None = None) -> int:
    """`value`, which must not be below `lowest` or above `highest`."""
    if value < lowest or (highest is not None and value > highest):
        limits = f"at least {lowest}" if highest is None else f"from {lowest} to {highest}"
        raise refusal(field, f"{value} is out of range", hint=f"it must be {limits}")
    return value


def absolute_path(field: str, path: str) -> str:
    """`path`, which must begin with a slash and be one that the kernel takes."""
    if not path.startswith("/"):
        raise refusal(field, f"{path[:64]!r} is not an absolute path" if path else "missing")
    return _fitting(field, path)


def _fitting(field: str, path: str) -> str:
    if len(path.encode()) > _MAX_PATH_BYTES:
        raise refusal(field, f"a path of more than {_MAX_PATH_BYTES} bytes")
    if any(len(part.encode()) > _MAX_NAME_BYTES for part in path.split("/")):
        raise refusal(field, f"a path with a name of more than {_MAX_NAME_BYTES} bytes")
    return path


def path_below(field: str, path: str) -> str:
    """`path`, which must be relative (or empty) and stay below the directory it is relative to."""
    if path.startswith("/"):
        raise refusal(field, f"{path[:64]!r} is not a relative path")
    return no_parent(field, _fitting(field, path))


def no_parent(field: str, path: str) -> str:
    """`path`, which must not climb by ".."."""
    if ".." in path.split("/"):
        raise refusal(field, f"{path!r} leaves its directory by '..'")
    return path


def cpu_list(field: str, text: str) -> str:
    """`text`, which must be empty or a list of processors or memory nodes as cpuset(7) has it: "0-3,8"."""
    for part in text.split(",") if text else ():
        first, dash, last = part.partition("-")
        if not (_is_small(first) and (not dash or (_is_small(last) and int(first) <= int(last)))):
            raise refusal(field, f"{text[:64]!r} is not a list", hint="write it as 0-3,8")
    return text


def _is_small(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5


def page_size(field: str, text: str) -> str:
    """`text`, which must be a size of huge pages as the kernel's files have it: "2MB"."""
    number, unit = text[:-2], text[-2:]
    if not (_is_small(number) and unit in ("KB", "MB", "GB")):
        raise refusal(
            field, f"{text[:64]!r} is not a page size" if text else "missing", hint="write it as 2MB"
        )
    return text


def one_line(field: str, texts: Sequence[str]) -> tuple[str, ...]:
    """`texts` that go into a file of lines (resolv.conf): none may break its line."""
    for text in texts:
        if any(ord(c) < 0x20 or ord(c) == 0x7F for c in text):
            raise refusal(field, f"{text!r} holds a control character")
    return tuple(texts)


def ip_address(field: str, text: str) -> str:
    """`text`, which must be empty or an IP address."""
    if text:
        try:
            ipaddress.ip_address(text)
        except ValueError:
            raise refusal(field, f"{text!r} is not an IP address") from None
    return text


def ids(field: str, values: Sequence[int]) -> tuple[int, ...]:
    """Group ids in the kernel's range."""
    return tuple(within(f"{field}[{i}]", value, 0, MAX_ID) for i, value in enumerate(values))
