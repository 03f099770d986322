# SPDX-License-Identifier: Apache-2.0
"""What a root file system is made of travels to the shim as JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.model.rootfs import RootfsSource

SOURCES = st.builds(RootfsSource, st.lists(st.text(), max_size=4).map(tuple), st.text(), st.text())


@given(SOURCES)
def test_a_source_survives_the_socket(source: RootfsSource) -> None:
    assert RootfsSource.from_dict(json.loads(json.dumps(source.to_dict()))) == source


def test_a_damaged_source_is_refused() -> None:
    with pytest.raises(KeyError):
        RootfsSource.from_dict({"lower": [], "upper": "/x"})
