# SPDX-License-Identifier: Apache-2.0
"""JSON texts to values and back, by the C parts of `json` alone. Pure.

`import json` takes a millisecond and a half, most of it for regular expressions that only its slow paths use; a command of the
runtime has some twenty milliseconds in all. UTF-8 only, as every peer of ours writes it.
"""

from __future__ import annotations

import _json

from oakum.model.light import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from typing import Any, Final, NoReturn

_BLANKS: Final = " \t\n\r"


class _Settings:
    """What the scanner asks for: plain values, numbers of JSON only."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int

    parse_constant = float  # NaN and the infinities: whoever wanted a number says where it is


def _refuse(value: object) -> NoReturn:
    raise TypeError(f"{type(value).__name__} has no form in JSON")


_scan: Final = _json.make_scanner(cast("Any", _Settings))
# Its arguments, by place: known containers, what to do with the unknown, texts, no indentation, separators, order as it is,
# keys of other kinds and numbers that are not JSON are errors.
_encoder: Final = _json.make_encoder(
    None, _refuse, _json.encode_basestring_ascii, None, ":", ",", False, False, False  # noqa: FBT003 - by place only
)  # fmt: skip


def loads(data: bytes | str) -> Any:
    """The value of a whole JSON text.

    Raises:
        ValueError: it is not JSON, or not UTF-8.
        RecursionError: it is too deep.
    """
    text = data if isinstance(data, str) else data.decode()
    start = _after_blanks(text, 0)
    try:
        value, end = _scan(text, start)
    except StopIteration as stop:
        raise ValueError(f"no value at character {stop.value}") from None
    except SystemError:
        # It says what is wrong in words of `json`, and says nothing while nobody has imported that.
        import json

        return json.loads(text)
    if _after_blanks(text, end) != len(text):
        raise ValueError(f"more than one value: something follows at character {end}")
    return value


def dumps(value: Any) -> str:
    """`value` as one line without blanks. Raises TypeError, ValueError for what JSON cannot hold."""
    return "".join(_encoder(value, 0))


def quote(text: str) -> str:
    """A text in quotation marks, readable: only what must be is escaped."""
    return _json.encode_basestring(text)


def pretty(value: Any, indent: int, *, level: int = 0) -> str:
    """`value` with a line for each member, as people and Go programs write it."""
    if not value or not isinstance(value, (dict, list, tuple)):
        return dumps(value)
    pad = "\n" + " " * indent * (level + 1)
    end = "\n" + " " * indent * level
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        rows = [f"{dumps(k)}: {pretty(v, indent, level=level + 1)}" for k, v in members.items()]
        return f"{{{pad}{f',{pad}'.join(rows)}{end}}}"
    rows = [pretty(v, indent, level=level + 1) for v in cast("list[Any]", value)]
    return f"[{pad}{f',{pad}'.join(rows)}{end}]"


def _after_blanks(text: str, index: int) -> int:
    size = len(text)
    while index < size and text[index] in _BLANKS:
        index += 1
    return index
