# SPDX-License-Identifier: Apache-2.0
"""Device rules on cgroup v2: assembled into a small BPF program (pure) and attached to the group.

The rules keep their v1 meaning: a later one overrides an earlier one, for the accesses it names. So the program goes
through them backwards with the set of accesses still undecided: an allowing rule takes its accesses out, a denying
one that meets any of them refuses; what is left at the end is refused.
Source: linux/bpf.h (struct bpf_cgroup_dev_ctx), kernel docs bpf/instruction-set.
"""

from __future__ import annotations

import sys

from oakum.model.light import TYPE_CHECKING
from oakum.oci.cgroups.values import device_rule
from oakum.oci.spec import DeviceRule

if TYPE_CHECKING:
    from typing import Final

_ACCESS: Final = {"m": 1, "r": 2, "w": 4}
_TYPE: Final = {"b": 1, "c": 2}
# opcodes
_LOAD_32: Final = 0x61
_AND_IMM: Final = 0x57
_SHIFT_RIGHT_IMM: Final = 0x77
_MOVE_REG: Final = 0xBF
_MOVE_IMM: Final = 0xB7
_JUMP_NE_IMM: Final = 0x55
_JUMP_EQ_IMM: Final = 0x15
_JUMP_NE_IMM_32: Final = 0x56
_EXIT: Final = 0x95
# registers: r1 context, r2 type, r3 undecided accesses, r4 major, r5 minor, r6 scratch
_CTX, _KIND, _LEFT, _MAJOR, _MINOR, _SCRATCH, _RESULT = 1, 2, 3, 4, 5, 6, 0


def assemble(rules: list[DeviceRule]) -> bytes:
    """The program for `rules`. Raises InvalidArgument for a bad access."""
    code = [
        _instruction(_LOAD_32, _KIND, _CTX, 0),
        _instruction(_MOVE_REG, _LEFT, _KIND),
        _instruction(_SHIFT_RIGHT_IMM, _LEFT, immediate=16),
        _instruction(_AND_IMM, _KIND, immediate=0xFFFF),
        _instruction(_LOAD_32, _MAJOR, _CTX, 4),
        _instruction(_LOAD_32, _MINOR, _CTX, 8),
    ]
    for rule in reversed(rules):
        code += _rule(rule)
    code += _return(0)
    return b"".join(code)


def _rule(rule: DeviceRule) -> list[bytes]:
    kind, access, major, minor = device_rule(rule)
    bits = sum(_ACCESS[letter] for letter in set(access))
    if kind == "a":
        bits, major, minor = 7, -1, -1
    if rule.get("allow"):
        action = [
            _instruction(_AND_IMM, _LEFT, immediate=~bits & 7),
            _instruction(_JUMP_NE_IMM, _LEFT, offset=2),
            *_return(1),
        ]
    else:
        action = [
            _instruction(_MOVE_REG, _SCRATCH, _LEFT),
            _instruction(_AND_IMM, _SCRATCH, immediate=bits),
            _instruction(_JUMP_EQ_IMM, _SCRATCH, offset=2),
            *_return(0),
        ]
    tests: list[tuple[int, int]] = []
    if kind != "a":
        tests.append((_KIND, _TYPE[kind]))
    if major >= 0:
        tests.append((_MAJOR, major))
    if minor >= 0:
        tests.append((_MINOR, minor))
    guards = [
        _instruction(_JUMP_NE_IMM_32, register, offset=len(tests) - index - 1 + len(action), immediate=value)
        for index, (register, value) in enumerate(tests)
    ]
    return guards + action


def _return(value: int) -> list[bytes]:
    return [_instruction(_MOVE_IMM, _RESULT, immediate=value), _instruction(_EXIT)]


def _instruction(opcode: int, target: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    where = offset.to_bytes(2, sys.byteorder, signed=True)
    return bytes((opcode, target | source << 4)) + where + (immediate & 0xFFFFFFFF).to_bytes(4, sys.byteorder)


def attach_device_rules(directory: str, rules: list[DeviceRule]) -> None:
    """Let only `rules` hold for the v2 group at `directory`, in place of those attached before.

    Raises:
        SystemFailure: the kernel refused the program.
    """
    # The binding costs memory in every shim, and hosts with cgroup v1 never need it.
    from oakum.linux.bpf import attach_device_program

    attach_device_program(directory, assemble(rules))
