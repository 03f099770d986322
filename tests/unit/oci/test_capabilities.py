# SPDX-License-Identifier: Apache-2.0
"""Capability names become masks; what cannot be had is left out and said."""

from __future__ import annotations

from oakum.oci.capabilities import NAMES, masks

_ALL = (1 << 64) - 1


def test_numbers_are_the_kernels() -> None:
    assert len(NAMES) == 41
    assert [NAMES.index(name) for name in ("CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_SYSLOG", "CAP_BPF")] == [
        0,
        21,
        34,
        39,
    ]


def test_the_five_sets_are_kept_apart() -> None:
    sets, warnings = masks(
        {"bounding": list(NAMES), "effective": ["cap_chown"], "ambient": ["CAP_KILL"]}, _ALL
    )
    assert sets == ((1 << 41) - 1, 1, 0, 0, 1 << 5)
    assert warnings == []


def test_unknown_and_withheld_ones_are_left_out_and_said_once() -> None:
    wanted = ["CAP_CHOWN", "CAP_SYS_RESOURCE", "CAP_FROM_THE_FUTURE"]
    sets, warnings = masks({"bounding": wanted, "permitted": wanted}, _ALL & ~(1 << 24))
    assert sets.bounding == sets.permitted == 1
    assert warnings == [
        "capability CAP_FROM_THE_FUTURE is not granted: unknown",
        "capability CAP_SYS_RESOURCE is not granted: this host lacks it",
    ]
