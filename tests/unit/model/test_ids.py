# SPDX-License-Identifier: Apache-2.0
"""Identifiers are made, checked, and found again by their beginning."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.errors import FailedPrecondition, InvalidArgument, NotFound
from oakum.model import ids


def test_fresh_ids_are_whole_and_differ() -> None:
    made = {ids.new_id() for _ in range(50)}
    assert len(made) == 50
    assert all(ids.is_id(i) for i in made)
    assert not ids.is_id("ab")
    assert not ids.is_id("A" * 64)
    assert not ids.is_id("a" * 64 + "\n")


@pytest.mark.parametrize("name", ["web", "Web-1", "a.b_c", "0", "x" * 128])
def test_names_that_users_choose(name: str) -> None:
    assert ids.check_name("container", name) == name


@pytest.mark.parametrize("name", ["", "-a", ".a", "a/b", "a b", "ü", "x" * 129, "a\n", "a\0"])
def test_names_that_would_hurt_a_path_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="name container") as caught:
        ids.check_name("container", name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", ["default", "k8s.io", "a", "a-b_c.d", "x" * 63])
def test_namespaces(name: str) -> None:
    assert ids.check_namespace(name) == name


@pytest.mark.parametrize("name", ["", "A", "a-", "-a", "a/b", "..", "x" * 64, "a\n"])
def test_namespaces_that_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="name namespace"):
        ids.check_namespace(name)


def test_a_beginning_names_one_object_or_is_refused() -> None:
    known = ["abc1", "abd2", "xyz3"]
    assert ids.resolve_prefix("container", "x", known) == "xyz3"
    assert ids.resolve_prefix("container", "abd", known) == "abd2"
    with pytest.raises(FailedPrecondition, match="2 ids begin so"):
        ids.resolve_prefix("container", "ab", known)
    with pytest.raises(NotFound, match="no such container"):
        ids.resolve_prefix("container", "q", known)
    with pytest.raises(InvalidArgument, match="empty id"):
        ids.resolve_prefix("container", "", known)


def test_a_whole_name_wins_over_longer_ones() -> None:
    assert ids.resolve_prefix("pod", "ab", ["abc", "ab"]) == "ab"


@given(st.lists(st.text("abc", min_size=1, max_size=4), unique=True), st.text("abc", min_size=1, max_size=4))
def test_what_is_found_begins_with_what_was_asked(known: list[str], text: str) -> None:
    try:
        found = ids.resolve_prefix("pod", text, known)
    except (NotFound, FailedPrecondition):
        assert text not in known
        assert sum(k.startswith(text) for k in known) != 1
    else:
        assert found in known
        assert found.startswith(text)
