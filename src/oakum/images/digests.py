# SPDX-License-Identifier: Apache-2.0
"""Digests as text: checked before they become file names or parts of addresses. Owns no content."""

from __future__ import annotations

import hashlib
import re
from typing import Final, Protocol

from oakum.errors import InvalidArgument

# Source: image-spec descriptor.md, "Registered Algorithms"
_HEX_LENGTH: Final = {"sha256": 64, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+")


class Hasher(Protocol):
    """What hashlib makes; its own type is private."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take more bytes."""
        ...

    def hexdigest(self) -> str:
        """The hash of all bytes so far."""
        ...


def check_digest(text: str) -> str:
    """`text` if it is a digest in its one canonical form.

    Raises:
        InvalidArgument: it is not, or its algorithm is not one of sha256 and sha512.
    """
    algorithm, _, encoded = text.partition(":")
    if len(encoded) != _HEX_LENGTH.get(algorithm) or not _HEX.fullmatch(encoded):
        raise InvalidArgument(
            "read digest", repr(text[:160]), "not a digest", hint="use sha256: and 64 hexadecimal digits"
        )
    return text


def is_digest(text: str) -> bool:
    """Whether `text` is a digest in its one canonical form."""
    algorithm, _, encoded = text.partition(":")
    return len(encoded) == _HEX_LENGTH.get(algorithm) and _HEX.fullmatch(encoded) is not None


def digest_of(data: bytes) -> str:
    """The sha256 digest of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def hasher_for(digest: str) -> Hasher:
    """A fresh hash object of the digest's algorithm."""
    return hashlib.new(check_digest(digest).partition(":")[0])


def chain_ids(diff_ids: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """The identity of each layer together with all below it, lowest first.

    Spec: image-spec config.md, "Layer ChainID".
    """
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(digest_of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return tuple(chain)
