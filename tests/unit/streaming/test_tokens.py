# SPDX-License-Identifier: Apache-2.0
"""Tokens: once, soon, and not without bound."""

from __future__ import annotations

import pytest

from oakum.errors import ResourceExhausted
from oakum.streaming.requests import ForwardRequest
from oakum.streaming.tokens import Tokens

ONE, TWO = ForwardRequest("one"), ForwardRequest("two")


def test_a_token_opens_once() -> None:
    tokens = Tokens()
    first, second = tokens.give(ONE, 0.0), tokens.give(TWO, 0.0)
    assert len(first) >= 32
    assert first != second
    assert tokens.redeem(second, 1.0) == TWO
    assert tokens.redeem(second, 1.0) is None
    assert tokens.redeem(first, 1.0) == ONE
    assert tokens.redeem("", 1.0) is None
    assert tokens.redeem("guess", 1.0) is None


def test_a_token_runs_out() -> None:
    tokens = Tokens(ttl_s=60)
    early, late = tokens.give(ONE, 0.0), tokens.give(TWO, 30.0)
    assert tokens.redeem(early, 60.0) is None
    assert tokens.redeem(late, 89.9) == TWO


def test_there_are_only_so_many_until_some_are_used_or_run_out() -> None:
    tokens = Tokens(ttl_s=60, limit=3)
    given = [tokens.give(ONE, float(at)) for at in range(3)]
    with pytest.raises(ResourceExhausted, match="3 streams"):
        tokens.give(TWO, 5.0)
    assert tokens.redeem(given[1], 5.0) == ONE
    tokens.give(TWO, 5.0)
    with pytest.raises(ResourceExhausted):
        tokens.give(TWO, 59.0)
    tokens.give(TWO, 60.0)
