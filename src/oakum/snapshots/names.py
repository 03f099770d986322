# SPDX-License-Identifier: Apache-2.0
"""Which texts may become names of directories: chain ids and keys come from outside and are checked here."""

from __future__ import annotations

import re

from oakum.errors import InvalidArgument

_CHAIN = re.compile(r"sha256:([0-9a-f]{64})", re.ASCII)
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}", re.ASCII)


def layer_name(chain_id: str) -> str:
    """The directory name of a layer: the hexadecimal part of its chain id.

    Raises:
        InvalidArgument: not a chain id.
    """
    match = _CHAIN.fullmatch(chain_id)
    if match is None:
        raise InvalidArgument(
            "find layer", repr(chain_id[:100]), "not a chain id", hint="sha256: and 64 hexadecimal digits"
        )
    return match[1]


def chain_id_of(name: str) -> str:
    """The chain id of a layer's directory name; empty for names that are none."""
    chain_id = f"sha256:{name}"
    return chain_id if _CHAIN.fullmatch(chain_id) else ""


def check_key(kind: str, text: str) -> str:
    """`text` if it may name a container or view.

    Raises:
        InvalidArgument: it may not.
    """
    if not _KEY.fullmatch(text):
        raise InvalidArgument(
            f"name {kind}",
            repr(text[:100]),
            "not a valid id",
            hint="use letters, digits, '_', '.' and '-', at most 200",
        )
    return text
