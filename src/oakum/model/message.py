# SPDX-License-Identifier: Apache-2.0
"""Messages between our own processes: one JSON object each. Pure."""

from __future__ import annotations

from oakum.model.jsontext import dumps, loads
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


def encode(message: dict[str, Any]) -> bytes:
    """A message as bytes."""
    return dumps(message).encode()


def decode(data: bytes) -> dict[str, Any]:
    """The message in `data`, as `encode` wrote it. Raises ValueError when it is not one JSON object."""
    message = loads(data)
    if not isinstance(message, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - as for any other wrong text
    return message  # pyright: ignore[reportUnknownVariableType] - JSON has no other keys than strings
