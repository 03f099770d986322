# SPDX-License-Identifier: Apache-2.0
"""Seccomp profiles: what is let through, what a profile file may say, and the cache of programs."""

from __future__ import annotations

import errno
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.engine import host
from oakum.engine.seccomp.compiler import compile_profile, compiled, compiled_default
from oakum.engine.seccomp.default import default_profile
from oakum.engine.seccomp.document import document
from oakum.engine.seccomp.profile import MACHINE_ARCH, Profile, Rule, parse
from oakum.engine.spec import capabilities
from oakum.errors import InvalidArgument

ALLOW, KILL_PROCESS, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
X86_64, I386 = 0xC000003E, 0x40000003


def run(program: bytes, number: int, *args: int, arch: int = X86_64) -> int:
    """What the kernel would decide: an interpreter of classic BPF over struct seccomp_data (seccomp(2))."""
    data = struct.pack("=IIQ6Q", number, arch, 0, *(args + (0,) * 6)[:6])
    code = [struct.unpack("=HBBI", program[i : i + 8]) for i in range(0, len(program), 8)]
    accumulator = pc = 0
    while True:
        op, jump_true, jump_false, k = code[pc]
        pc += 1
        if op == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, k)
        elif op == 0x54:
            accumulator &= k
        elif op == 0x06:
            return k
        elif op == 0x05:
            pc += k
        else:
            taken = {
                0x15: accumulator == k,
                0x25: accumulator > k,
                0x35: accumulator >= k,
                0x45: bool(accumulator & k),
            }[op]
            pc += jump_true if taken else jump_false


CALLS = {
    "read": 0,
    "clone": 56,
    "mount": 165,
    "socket": 41,
    "personality": 135,
    "clone3": 435,
    "bpf": 321,
    "keyctl": 250,
    "unshare": 272,
    "ptrace": 101,
}
x86_only = pytest.mark.skipif(host.machine() != "x86_64", reason="numbers of x86_64")


@pytest.fixture(scope="module")
def ordinary() -> bytes:
    return compile_profile(default_profile(machine=host.machine(), capabilities=capabilities.DEFAULT))


@x86_only
@pytest.mark.parametrize(
    ("call", "args", "wanted"),
    [
        ("read", (), ALLOW),
        ("ptrace", (), ALLOW),
        ("mount", (), ERRNO | errno.EPERM),
        ("unshare", (), ERRNO | errno.EPERM),
        ("bpf", (), ERRNO | errno.EPERM),
        ("keyctl", (), ERRNO | errno.EPERM),
        ("clone3", (), ERRNO | errno.ENOSYS),
        ("clone", (0x1200011,), ALLOW),  # what fork() uses
        ("clone", (0x10000000,), ERRNO | errno.EPERM),  # CLONE_NEWUSER
        ("clone", (0x20000 | 17,), ERRNO | errno.EPERM),  # CLONE_NEWNS
        ("socket", (2,), ALLOW),
        ("socket", (40,), ERRNO | errno.EPERM),  # AF_VSOCK
        ("personality", (0,), ALLOW),
        ("personality", (0xFFFFFFFF,), ALLOW),
        ("personality", (0x0040000,), ERRNO | errno.EPERM),  # ADDR_NO_RANDOMIZE
    ],
)
def test_what_an_ordinary_container_may_call(
    ordinary: bytes, call: str, args: tuple[int, ...], wanted: int
) -> None:
    assert run(ordinary, CALLS[call], *args) == wanted


@x86_only
def test_the_32_bit_table_is_filtered_too(ordinary: bytes) -> None:
    assert run(ordinary, 3, arch=I386) == ALLOW  # read
    assert run(ordinary, 21, arch=I386) == ERRNO | errno.EPERM  # mount
    assert run(ordinary, 0, arch=0x12345678) in (0, KILL_PROCESS)


@x86_only
def test_capabilities_open_their_calls() -> None:
    admin = compile_profile(
        default_profile(machine="x86_64", capabilities=[*capabilities.DEFAULT, "CAP_SYS_ADMIN"])
    )
    for call in ("mount", "unshare", "clone3", "bpf"):
        assert run(admin, CALLS[call]) == ALLOW
    assert run(admin, CALLS["clone"], 0x10000000) == ALLOW
    assert run(admin, CALLS["keyctl"]) == ERRNO | errno.EPERM


def test_every_machine_has_a_profile() -> None:
    for machine in MACHINE_ARCH:
        profile = default_profile(machine=machine, capabilities=())
        names = [name for rule in profile.rules for name in rule.names]
        assert "read" in names
        assert "mount" not in names
        assert "openat2" in names


def read(data: Any, caps: tuple[str, ...] = (), kernel: tuple[int, int] = (6, 1)) -> Profile:
    return parse(
        json.dumps(data).encode(), subject="p.json", machine="x86_64", capabilities=caps, kernel=kernel
    )


def test_a_profile_as_the_kubelet_ships_them() -> None:
    profile = read(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "archMap": [
                {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
                {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
            ],
            "syscalls": [
                {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": None},
                {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["arm_only"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
                {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
                {
                    "name": "chdir",
                    "action": "SCMP_ACT_ERRNO",
                    "errnoRet": 1,
                    "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}],
                },
            ],
        }
    )
    assert profile.default_errno == 38
    assert profile.arches == ("SCMP_ARCH_X86",)
    assert [rule.names[0] for rule in profile.rules] == ["read", "bpf", "ptrace", "chdir"]
    assert len(compile_profile(profile)) % 8 == 0


def test_capabilities_choose_the_rules() -> None:
    rule = {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}}
    data = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]}
    assert len(read(data, ("CAP_SYS_ADMIN",)).rules) == 1
    assert read(data).rules == ()


@pytest.mark.parametrize(
    "data",
    [
        [],
        {},
        {"defaultAction": "SCMP_ACT_NONE"},
        {"defaultAction": "SCMP_ACT_NOTIFY"},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {}},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_KILL"}]},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [1], "action": "SCMP_ACT_KILL"}]},
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["a"], "action": "SCMP_ACT_ERRNO", "errnoRet": -1}],
        },
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {
                    "names": ["a"],
                    "action": "SCMP_ACT_KILL",
                    "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}],
                }
            ],
        },
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {"names": ["a"], "action": "SCMP_ACT_KILL", "args": [{"index": 0, "value": 0, "op": "EQ"}]}
            ],
        },
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["a"], "action": "SCMP_ACT_KILL", "includes": {"minKernel": "x"}}],
        },
    ],
)
def test_what_is_no_profile_is_refused_by_name(data: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"p\.json"):
        read(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["names", "action", "args", "includes", "caps", "op", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(
        st.sampled_from(["defaultAction", "syscalls", "archMap", "architectures", "defaultErrnoRet"]),
        json_values,
    )
)
def test_no_file_breaks_the_reader(data: Any) -> None:
    try:
        profile = read({"defaultAction": "SCMP_ACT_ALLOW", **data})
    except InvalidArgument:
        return
    assert profile.default_action.startswith("SCMP_ACT_")


def test_a_program_is_compiled_once_and_a_damaged_cache_is_not_believed(tmp_path: Path) -> None:
    profile = Profile("SCMP_ACT_ALLOW", 1, (), (Rule(("mount",), "SCMP_ACT_ERRNO", 1),))
    first = compiled(profile, str(tmp_path / "c"), host.machine())
    (kept,) = (tmp_path / "c").iterdir()
    kept.write_bytes(b"\x06\0\0\0\0\0\0\0")
    assert compiled(profile, str(tmp_path / "c"), host.machine()) == kept.read_bytes()  # it is used
    kept.write_bytes(b"torn")
    assert compiled(profile, str(tmp_path / "c"), host.machine()) == first
    assert kept.read_bytes() == first


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="SCMP_ARCH_NONE"):
        compile_profile(Profile("SCMP_ACT_ALLOW", 1, ("SCMP_ARCH_NONE",), ()))


def test_the_default_program_depends_on_the_capabilities(tmp_path: Path) -> None:
    usual = compiled_default(capabilities.DEFAULT, str(tmp_path), host.machine())
    more = compiled_default([*capabilities.DEFAULT, "CAP_SYS_ADMIN"], str(tmp_path), host.machine())
    assert usual != more
    assert usual == compile_profile(
        default_profile(machine=host.machine(), capabilities=capabilities.DEFAULT)
    )
    assert compiled_default(capabilities.DEFAULT, str(tmp_path), host.machine()) == usual
    assert len(list(tmp_path.iterdir())) == 2


def test_a_profile_in_the_runtime_spec_s_words_is_the_same_profile() -> None:
    for profile in (
        default_profile(machine="x86_64", capabilities=("CAP_SYS_ADMIN",)),
        Profile("SCMP_ACT_ERRNO", 38, (), (Rule(("read",)), Rule(("write",), "SCMP_ACT_ERRNO", 13))),
        Profile("SCMP_ACT_KILL_PROCESS", 1, ("SCMP_ARCH_X86",), (Rule(("read",)),)),
    ):
        text = json.dumps(document(profile, "x86_64")).encode()
        again = parse(text, subject="", machine="x86_64", capabilities=(), kernel=(6, 1))
        assert compile_profile(again) == compile_profile(profile)


def test_rules_that_say_what_the_default_says_are_left_out() -> None:
    same = Rule(("a",), "SCMP_ACT_ERRNO", 38)
    kept = Rule(("b",), "SCMP_ACT_ERRNO", 1)
    found = document(Profile("SCMP_ACT_ERRNO", 38, (), (same, kept)), "x86_64")
    assert found["syscalls"] == [{"names": ["b"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]
    assert (found["defaultErrnoRet"], found["architectures"]) == (38, ["SCMP_ARCH_X86_64"])
