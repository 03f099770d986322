# SPDX-License-Identifier: Apache-2.0
"""Messages between our own processes as JSON: an encoder and a decoder made once.

`json.dumps` and `json.loads` make an encoder and guess an encoding every time, in functions that every shim would have
its own copy of. Pure.
"""

from __future__ import annotations

import json
from typing import Any, Final

_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
_decode: Final = json.JSONDecoder().raw_decode


def encode(message: dict[str, Any]) -> bytes:
    """A message as bytes."""
    return _encode(message).encode()


def decode(data: bytes) -> dict[str, Any]:
    """The message in `data`, as `encode` wrote it. Raises ValueError when it is not one JSON object."""
    text = data.decode()
    message, end = _decode(text)
    if not isinstance(message, dict) or end != len(text):
        raise ValueError("not a JSON object")
    return message  # pyright: ignore[reportUnknownVariableType] - JSON has no other keys than strings
