# SPDX-License-Identifier: Apache-2.0
"""The history of an image is its author's word: it is shown as far as it goes, and its sizes add up."""

from __future__ import annotations

from oakum.cli.history import steps_of
from oakum.images.config import HistoryEntry


def test_sizes_belong_to_the_steps_that_made_layers_and_the_newest_is_the_image() -> None:
    history = [
        HistoryEntry(created_by="ADD rootfs"),
        HistoryEntry(created_by="ENV A=1", empty_layer=True),
        HistoryEntry(created_by="RUN make", comment="c"),
    ]
    steps = steps_of(history, [100, 7], "sha256:1")
    assert [(s["created_by"], s["size_bytes"]) for s in steps] == [
        ("RUN make", 7),
        ("ENV A=1", 0),
        ("ADD rootfs", 100),
    ]
    assert [s["id"] for s in steps] == ["sha256:1", "", ""]


def test_a_history_that_is_too_short_or_too_long_hides_no_layer() -> None:
    assert [s["size_bytes"] for s in steps_of([], [3, 4], "i")] == [4, 3]
    assert [s["size_bytes"] for s in steps_of([HistoryEntry()] * 3, [5], "i")] == [0, 0, 5]
    assert steps_of([], [], "i") == []
