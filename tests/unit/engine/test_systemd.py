# SPDX-License-Identifier: Apache-2.0
"""What systemd is told of limits and names; that it does as told is seen in tests/kernel/systemd_cases.py."""

from __future__ import annotations

from typing import Any

import pytest

from oakum.engine.systemd import unit_of, unit_properties

_NO_LIMIT = (1 << 64) - 1


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/system.slice/oakum-a.scope", ("oakum-a.scope", "system.slice")),
        ("/a.slice/a-b.slice/x.scope", ("x.scope", "a-b.slice")),
        ("/a.slice/a-b.slice", ("a-b.slice", "a.slice")),
        ("/x.scope", ("x.scope", "-.slice")),
        ("/oakum/k8s.io/abc", ("", "")),
        ("/oakum/x.scope", ("", "")),
    ],
)
def test_the_unit_of_a_group(path: str, unit: tuple[str, str]) -> None:
    assert unit_of(path) == unit


def properties(resources: Any, *, pure_v2: bool = True) -> dict[str, Any]:
    return {name: value[1] for name, value in unit_properties(resources, pure_v2=pure_v2)}


def test_limits_of_cgroup_v2() -> None:
    said = {
        "memory": {"limit": 100, "reservation": 50, "swap": 150},
        "cpu": {"shares": 1024, "quota": 33333, "period": 100000, "cpus": "0,9", "mems": "0"},
        "pids": {"limit": 5},
        "blockIO": {"weight": 10},
    }
    assert properties(said) == {
        "MemoryMax": 100,
        "MemoryLow": 50,
        "MemorySwapMax": 50,
        "CPUWeight": 100,
        "IOWeight": 1,
        "TasksMax": 5,
        "CPUQuotaPerSecUSec": 340_000,  # in hundredths of a CPU, rounded up
        "CPUQuotaPeriodUSec": 100_000,
        "AllowedCPUs": b"\x01\x02",
        "AllowedMemoryNodes": b"\x01",
    }


def test_no_limit_is_infinity_and_nothing_said_is_nothing() -> None:
    assert properties({"memory": {"limit": -1}, "pids": {"limit": -1}, "cpu": {"quota": -1}}) == {
        "MemoryMax": _NO_LIMIT,
        "TasksMax": _NO_LIMIT,
        "CPUQuotaPerSecUSec": _NO_LIMIT,
    }
    assert properties({"memory": {"limit": 0}, "cpu": {"shares": 0}}) == {}


def test_limits_of_cgroup_v1() -> None:
    said = {"memory": {"limit": 100}, "cpu": {"shares": 512, "cpus": "0"}, "blockIO": {"weight": 300}}
    assert properties(said, pure_v2=False) == {"MemoryLimit": 100, "CPUShares": 512, "BlockIOWeight": 300}
