# SPDX-License-Identifier: Apache-2.0
"""Every member that the runtime-spec has, missing, of every wrong type and out of its range: refused by its path."""

from __future__ import annotations

import copy
from typing import Any, Final

from oakum.errors import InvalidArgument
from oakum.oci.spec import parse
from tests.support.runtime_spec import Mistake, document, fields, mistakes

# arrays that need an item
_NEVER_EMPTY: Final = ("process.args[]", "linux.seccomp.syscalls[].names[]")


def test_a_document_with_every_member_is_accepted() -> None:
    assert parse(document()) == document()


def test_an_optional_member_may_be_missing_or_null() -> None:
    for field in fields():
        if field.required or field.table_path in _NEVER_EMPTY:
            continue
        for null in (False, True):
            whole = document()
            where: Any = whole
            for step in field.steps[:-1]:
                where = where[step]
            if null and field.table_path[-1] not in "]}":
                where[field.steps[-1]] = None
            else:
                del where[field.steps[-1]]
            parse(whole)


def test_every_mistake_is_refused_by_the_path_of_the_member() -> None:
    wrong = [text for mistake in mistakes() if (text := _misjudged(mistake))]
    assert wrong == []


def _misjudged(mistake: Mistake) -> str:
    said = f"{mistake.field.name} {mistake.what}"
    try:
        parse(copy.deepcopy(mistake.document))
    except InvalidArgument as refusal:
        return "" if refusal.subject == mistake.field.name else f"{said}: named {refusal.subject}"
    return f"{said}: accepted"
