# SPDX-License-Identifier: Apache-2.0
"""Conversions of limits between the spec and the two versions of cgroups."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.errors import InvalidArgument
from oakum.oci.cgroups import devices
from oakum.oci.cgroups.values import Write, io_weight_of_blkio, plan_v1, plan_v2, swap_of, weight_of_shares
from oakum.oci.spec import LinuxResources


@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (0, 1), (1024, 100), (262144, 10000), (10**9, 10000)])
def test_cpu_shares_at_the_fixed_points(shares: int, weight: int) -> None:
    assert weight_of_shares(shares) == weight


@given(st.integers(0, 1 << 20), st.integers(0, 1 << 20))
def test_more_shares_never_weigh_less(a: int, b: int) -> None:
    low, high = sorted((a, b))
    assert 1 <= weight_of_shares(low) <= weight_of_shares(high) <= 10000


@given(st.integers(0, 2000), st.integers(0, 2000))
def test_io_weights_keep_their_order(a: int, b: int) -> None:
    low, high = sorted((a, b))
    assert 1 <= io_weight_of_blkio(low) <= io_weight_of_blkio(high) <= 10000
    assert (io_weight_of_blkio(10), io_weight_of_blkio(1000)) == (1, 10000)


@given(st.integers(1, 1 << 60), st.integers(0, 1 << 60))
def test_swap_on_v2_is_what_the_spec_has_beyond_memory(limit: int, extra: int) -> None:
    assert swap_of({"limit": limit, "swap": limit + extra}) == extra


def test_single_devices_interfaces_and_adapters() -> None:
    resources: LinuxResources = {
        "blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 1000, "leafWeight": 10}]},
        "network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 5}]},
        "rdma": {"mlx5_1": {"hcaHandles": 3}, "mlx4_0": {"hcaHandles": 0, "hcaObjects": 9}},
    }
    both = [
        Write("rdma", "rdma.max", "mlx5_1 hca_handle=3"),
        Write("rdma", "rdma.max", "mlx4_0 hca_handle=0 hca_object=9"),
        Write("net_cls", "net_cls.classid", "1048577"),
        Write("net_prio", "net_prio.ifpriomap", "eth0 5"),
    ]
    assert sorted(plan_v2(resources)) == sorted([*both, Write("io", "io.weight", "8:0 10000")])
    assert sorted(plan_v1(resources)) == sorted(
        [
            *both,
            Write("blkio", "blkio.weight_device", "8:0 1000"),
            Write("blkio", "blkio.leaf_weight_device", "8:0 10"),
        ]
    )


def test_swap_that_cannot_be() -> None:
    assert swap_of({"limit": 5}) is None
    assert swap_of({"limit": 5, "swap": -1}) == -1
    with pytest.raises(InvalidArgument, match="below the memory limit"):
        swap_of({"limit": 5, "swap": 4})
    with pytest.raises(InvalidArgument, match="needs a memory limit"):
        swap_of({"swap": 4})


def test_the_same_resources_on_both_versions() -> None:
    resources = {
        "memory": {"limit": 100, "swap": 150, "reservation": 50},
        "cpu": {"shares": 1024, "quota": 5000, "period": 10000, "cpus": "0-1"},
        "pids": {"limit": -1},
        "blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 7}]},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 9}],
    }
    v2 = {(w.file, w.value) for w in plan_v2(resources)}  # pyright: ignore[reportArgumentType]
    assert v2 == {
        ("memory.max", "100"),
        ("memory.swap.max", "50"),
        ("memory.low", "50"),
        ("cpu.weight", "100"),
        ("cpu.max", "5000 10000"),
        ("cpuset.cpus", "0-1"),
        ("pids.max", "max"),
        ("io.max", "8:0 rbps=7"),
        ("hugetlb.2MB.max", "9"),
    }
    v1 = {(w.file, w.value) for w in plan_v1(resources)}  # pyright: ignore[reportArgumentType]
    assert v1 == {
        ("memory.limit_in_bytes", "100"),
        ("memory.memsw.limit_in_bytes", "150"),
        ("memory.soft_limit_in_bytes", "50"),
        ("cpu.shares", "1024"),
        ("cpu.cfs_quota_us", "5000"),
        ("cpu.cfs_period_us", "10000"),
        ("cpuset.cpus", "0-1"),
        ("pids.max", "max"),
        ("blkio.throttle.read_bps_device", "8:0 7"),
        ("hugetlb.2MB.limit_in_bytes", "9"),
    }


def test_an_unlimited_quota_and_unset_values() -> None:
    assert plan_v2({"cpu": {"quota": -1}}) == [Write("cpu", "cpu.max", "max 100000")]
    assert plan_v2({"cpu": {"period": 50000}}) == [Write("cpu", "cpu.max", "max 50000")]
    assert plan_v2({}) == plan_v1({}) == []
    assert plan_v1({"cpu": {"shares": 0}, "memory": {"limit": 0}, "pids": {"limit": 0}}) == []


@pytest.mark.parametrize("key", ["../memory.max", "memory", "a/b.c"])
def test_unified_keys_are_file_names(key: str) -> None:
    with pytest.raises(InvalidArgument):
        plan_v2({"unified": {key: "1"}})


# ---- device rules: the program is run here, instruction by instruction

_RULES = st.lists(
    st.fixed_dictionaries(
        {
            "allow": st.booleans(),
            "type": st.sampled_from(["a", "b", "c"]),
            "major": st.sampled_from([-1, 1, 5]),
            "minor": st.sampled_from([-1, 3, 0x80000001]),
            "access": st.sampled_from(["rwm", "r", "w", "m", "rw"]),
        }
    ),
    max_size=8,
)
_BITS = {"m": 1, "r": 2, "w": 4}


def _run(program: bytes, kind: int, access: int, major: int, minor: int) -> int:
    context = struct.pack("=III", access << 16 | kind, major, minor)
    registers = [0] * 11
    position = 0
    for _ in range(10000):
        opcode, where, offset, immediate = struct.unpack_from("=BBhi", program, position * 8)
        target, source = where & 15, where >> 4
        position += 1
        if opcode == 0x95:
            return registers[0]
        if opcode == 0x61:
            (registers[target],) = struct.unpack_from("=I", context, offset)
        elif opcode == 0xBF:
            registers[target] = registers[source]
        elif opcode == 0xB7:
            registers[target] = immediate
        elif opcode == 0x57:
            registers[target] &= immediate
        elif opcode == 0x77:
            registers[target] >>= immediate
        elif opcode == 0x55:
            position += offset if registers[target] != immediate else 0
        elif opcode == 0x15:
            position += offset if registers[target] == immediate else 0
        elif opcode == 0x56:
            position += offset if registers[target] & 0xFFFFFFFF != immediate & 0xFFFFFFFF else 0
        else:
            raise AssertionError(f"opcode {opcode:#x}")
    raise AssertionError("no end")


def _allowed(rules: list[dict[str, object]], kind: str, letter: str, major: int, minor: int) -> bool:
    verdict = False
    for rule in rules:
        every = rule["type"] == "a"
        if every or (
            rule["type"] == kind
            and rule["major"] in (-1, major)
            and rule["minor"] in (-1, minor)
            and letter in str(rule["access"])
        ):
            verdict = bool(rule["allow"])
    return verdict


@given(
    _RULES,
    st.sampled_from(["b", "c"]),
    st.sets(st.sampled_from("rwm"), min_size=1),
    st.sampled_from([1, 2, 5]),
    st.sampled_from([3, 4, 0x80000001]),
)
def test_the_device_program_decides_as_the_rules_read_in_order(
    rules: list[dict[str, object]], kind: str, letters: set[str], major: int, minor: int
) -> None:
    program = devices.assemble(rules)  # pyright: ignore[reportArgumentType]
    access = sum(_BITS[letter] for letter in letters)
    got = _run(program, {"b": 1, "c": 2}[kind], access, major, minor)
    assert got == all(_allowed(rules, kind, letter, major, minor) for letter in letters)


def test_a_bad_access_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        devices.assemble([{"allow": True, "type": "c", "access": "rx"}])
