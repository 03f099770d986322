# SPDX-License-Identifier: Apache-2.0
"""Identifiers: made here, checked here, and found again by their beginning."""

from __future__ import annotations

import os
import re

from oakum.errors import FailedPrecondition, InvalidArgument, NotFound
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_ID = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
_NAMESPACE = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")


def new_id() -> str:
    """A fresh identifier of 64 hexadecimal digits, as every container tool writes them."""
    return os.urandom(32).hex()


def is_id(text: str) -> bool:
    """Whether `text` is a whole identifier."""
    return _ID.fullmatch(text) is not None


def check_name(kind: str, text: str) -> str:
    """`text` if it may name a `kind` (container, network).

    Raises:
        InvalidArgument: it may not.
    """
    if not _NAME.fullmatch(text):
        raise InvalidArgument(
            f"name {kind}",
            repr(text),
            "not a valid name",
            hint="use letters, digits, '_', '.' and '-', at most 128",
        )
    return text


def check_namespace(text: str) -> str:
    """`text` if it may be a namespace's name.

    Raises:
        InvalidArgument: it may not.
    """
    if not _NAMESPACE.fullmatch(text):
        raise InvalidArgument(
            "name namespace",
            repr(text),
            "not a valid namespace",
            hint="use a-z, 0-9, '.', '_' and '-', at most 63",
        )
    return text


def resolve_prefix(kind: str, text: str, known: Iterable[str]) -> str:
    """The one identifier of `known` that begins with `text`.

    Raises:
        NotFound: none does.
        FailedPrecondition: several do.
    """
    if not text:
        raise InvalidArgument(f"find {kind}", "''", "empty id")
    hits = [i for i in known if i.startswith(text)]
    if text in hits:
        return text
    if not hits:
        raise NotFound(f"find {kind}", repr(text), "no such " + kind)
    if len(hits) > 1:
        raise FailedPrecondition(
            f"find {kind}", repr(text), f"{len(hits)} ids begin so", hint="give more of the id"
        )
    return hits[0]
