# SPDX-License-Identifier: Apache-2.0
"""Exit records go to disk and come back whole, or not at all."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.model.exits import ExitRecord

RECORDS = st.builds(
    ExitRecord,
    st.integers(0, 255),
    st.integers(0, 64),
    st.booleans(),
    st.integers(0),
    st.integers(0),
    st.text(),
    st.text(),
)


@given(RECORDS)
def test_a_record_survives_the_disk(record: ExitRecord) -> None:
    assert ExitRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


@pytest.mark.parametrize("name", ExitRecord._fields)
def test_a_record_with_a_missing_field_is_damaged(name: str) -> None:
    data = ExitRecord(1, 0, False, 1, 2, "Error", "").to_dict()
    del data[name]
    with pytest.raises(KeyError):
        ExitRecord.from_dict(data)


def test_a_record_of_a_later_version_still_reads() -> None:
    record = ExitRecord(137, 9, True, 1, 2, "OOMKilled")
    assert ExitRecord.from_dict({**record.to_dict(), "cores": 3}) == record
