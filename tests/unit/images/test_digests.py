# SPDX-License-Identifier: Apache-2.0
"""Digests are one spelling each, and chain ids are what the specification computes."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.errors import InvalidArgument
from oakum.images.digests import chain_ids, check_digest, digest_of, hasher_for, is_digest


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha256:AB", "sha1:" + "a" * 40, "sha256:" + "a" * 63, "../etc:x"]
)
def test_what_is_no_digest(text: str) -> None:
    assert not is_digest(text)
    with pytest.raises(InvalidArgument):
        check_digest(text)


@given(st.text(max_size=100))
def test_what_passes_may_be_a_file_name(text: str) -> None:
    if is_digest(text):
        assert text.replace(":", "").isalnum()
        assert text.islower()


def test_both_algorithms_hash() -> None:
    for algorithm in ("sha256", "sha512"):
        expected = hashlib.new(algorithm, b"data").hexdigest()
        hasher = hasher_for(f"{algorithm}:{expected}")
        hasher.update(b"data")
        assert hasher.hexdigest() == expected
        assert is_digest(f"{algorithm}:{expected}")


def test_chain_ids_name_a_layer_with_all_below_it() -> None:
    first, second, third = (digest_of(name) for name in (b"1", b"2", b"3"))
    chain = chain_ids([first, second, third])
    assert chain[0] == first
    assert chain[1] == digest_of(f"{first} {second}".encode())
    assert chain[2] == digest_of(f"{chain[1]} {third}".encode())
    assert chain_ids([]) == ()
