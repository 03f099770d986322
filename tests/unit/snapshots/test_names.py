# SPDX-License-Identifier: Apache-2.0
"""Only what cannot leave its directory becomes a name."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from oakum.errors import InvalidArgument
from oakum.snapshots.names import chain_id_of, check_key, layer_name


@given(st.text(), st.binary(min_size=32, max_size=32))
def test_whatever_is_taken_stays_where_it_belongs(text: str, digest: bytes) -> None:
    for check in (layer_name, lambda key: check_key("container", key)):
        try:
            name = check(text)
        except InvalidArgument:
            continue
        assert os.path.normpath(f"/store/{name}") == f"/store/{name}"
        assert "/" not in name
        assert name.isascii()
        assert name not in (".", "..")
    chain = f"sha256:{digest.hex()}"
    assert chain_id_of(layer_name(chain)) == chain


def test_names_that_are_no_layers_are_told() -> None:
    assert chain_id_of("lost+found") == ""
    assert check_key("view", "a.B_c-9") == "a.B_c-9"
