# SPDX-License-Identifier: Apache-2.0
"""Loading a seccomp filter that was compiled elsewhere. Source: seccomp(2)."""

from __future__ import annotations

import errno

from oakum.linux.foreign import addressof, buffer
from oakum.linux.libc import Struct, bind_call, byref, c_uint, c_void_p, error, u16
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

NEW_LISTENER: Final = 8
_SET_MODE_FILTER: Final = 1
_INSTRUCTION_BYTES: Final = 8
_MAX_INSTRUCTIONS: Final = 4096  # BPF_MAXINSNS


class _Program(Struct):
    _fields_ = [("length", u16), ("filter", c_void_p)]


_seccomp = bind_call("seccomp", c_uint, c_uint, c_void_p)


def load(program: bytes, *, flags: int = 0) -> int:
    """Install the classic BPF `program` for this thread and all it executes.

    The result is the descriptor of its notifications with NEW_LISTENER, else 0.
    Needs no_new_privs or CAP_SYS_ADMIN. Raises OSError.
    """
    count, rest = divmod(len(program), _INSTRUCTION_BYTES)
    if rest or not 0 < count <= _MAX_INSTRUCTIONS:
        raise error("seccomp", errno.EINVAL, f"program of {len(program)} bytes")
    code = buffer(program)
    header = _Program(count, addressof(code))
    return _seccomp(_SET_MODE_FILTER, flags, byref(header), target=f"program of {count} instructions")
