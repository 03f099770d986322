# SPDX-License-Identifier: Apache-2.0
"""Checks of decoded JSON, to be put together into the shape of a document: each says what is wrong, and where.

Knows nothing of any document; the runtime-spec's is in `shape`. Every one raises InvalidArgument.
"""

from __future__ import annotations

from oakum.errors import InvalidArgument
from oakum.model.light import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    # a decoded value and the path to it ("$.process.user.uid")
    Check = Callable[[Any, str], None]


U32: Final = 0xFFFFFFFF
I64: Final = 0x7FFFFFFFFFFFFFFF
U64: Final = 0xFFFFFFFFFFFFFFFF


def fail(path: str, why: str, hint: str = "") -> InvalidArgument:
    """The error for the member at `path`."""
    return InvalidArgument("read OCI spec", path, why, hint=hint)


def text(*, absolute: bool = False, empty: bool = True, limit: int = 1 << 20) -> Check:
    """Text without NUL that UTF-8 can hold, of at most `limit` bytes."""

    def check(value: Any, path: str) -> None:
        if not isinstance(value, str):
            raise fail(path, f"{kind(value)} where text belongs")
        if "\0" in value:
            raise fail(path, "text with a NUL byte")
        try:
            size = len(value.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError:
            raise fail(path, "text with a lone surrogate") from None
        if size > limit:
            raise fail(path, f"text longer than {limit} bytes")
        if not empty and not value:
            raise fail(path, "empty text")
        if absolute and not value.startswith("/"):
            raise fail(path, f"{value!r} is not an absolute path")

    return check


KEY: Final = text(empty=False, limit=4096)


def choice(*allowed: str) -> Check:
    """One of the words `allowed`."""

    def check(value: Any, path: str) -> None:
        if not isinstance(value, str) or value not in allowed:
            raise fail(path, f"{value!r} is none of {', '.join(a for a in allowed if a)}")

    return check


def whole(lowest: int = 0, highest: int = I64) -> Check:
    """A whole number from `lowest` to `highest`."""

    def check(value: Any, path: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise fail(path, f"{kind(value)} where a whole number belongs")
        if not lowest <= value <= highest:
            raise fail(path, f"{value} is not within {lowest} and {highest}")

    return check


def flag(value: Any, path: str) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise fail(path, f"{kind(value)} where true or false belongs")


def array(item: Check, *, limit: int = 65536, nonempty: bool = False) -> Check:
    """An array of `item`s."""

    def check(value: Any, path: str) -> None:
        if not isinstance(value, list):
            raise fail(path, f"{kind(value)} where an array belongs")
        items = cast("list[Any]", value)
        if len(items) > limit:
            raise fail(path, f"more than {limit} items")
        if nonempty and not items:
            raise fail(path, "empty array")
        for index, member in enumerate(items):
            item(member, f"{path}[{index}]")

    return check


def mapping(item: Check, key: Check = KEY) -> Check:
    """An object whose values are `item`s; with `key`, its names are checked too."""

    def check(value: Any, path: str) -> None:
        for name, member in members(value, path).items():
            key(name, f"{path} key")
            item(member, f"{path}.{name}")

    return check


def obj(fields: dict[str, Check], *, required: tuple[str, ...] = ()) -> Check:
    """An object with these members; those that nobody knows are left alone, as the specification demands."""

    def check(value: Any, path: str) -> None:
        found = members(value, path)
        for name in required:
            if name not in found:
                raise fail(f"{path}.{name}", "missing")
        for name, member in found.items():
            inner = fields.get(name)
            # JSON null stands for an absent member; encoders of some languages write it.
            if inner is not None and member is not None:
                inner(member, f"{path}.{name}")
            elif member is None and name in required:
                raise fail(f"{path}.{name}", "null")

    return check


def members(value: Any, path: str) -> dict[Any, Any]:
    """`value` as an object. Raises InvalidArgument."""
    if not isinstance(value, dict):
        raise fail(path, f"{kind(value)} where an object belongs")
    return cast("dict[Any, Any]", value)


def kind(value: object) -> str:
    """What `value` is, for people."""
    names = {
        "NoneType": "null",
        "bool": "a truth value",
        "int": "a number",
        "float": "a fraction",
        "str": "text",
    }
    return names.get(type(value).__name__, "an array" if isinstance(value, list) else "an object")
