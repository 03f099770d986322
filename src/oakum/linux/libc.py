# SPDX-License-Identifier: Apache-2.0
"""The C library, bound once and typed: the only way from Python to a system call that `os` lacks.

`bind` closes the traps of `ctypes`: a NUL inside a path (silently cut by C) and a `str` without a declared type
(a wide string in C) are refused, -1 becomes an OSError that carries the target as `filename` and the name of the
call (see `call_name`). Which calls exist and what they mean is said by the modules that bind them, not here.
"""

from __future__ import annotations

import os
import sys

from oakum.linux.foreign import (
    Structure,
    byref,
    c_function,
    c_int,
    c_long,
    c_size_t,
    c_uint,
    c_ulong,
    c_void_p,
    get_errno,
    i32,
    python_function,
    sizeof,
    u8,
    u16,
    u32,
    u64,
)
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

__all__ = (
    "CText",
    "Struct",
    "bind",
    "bind_call",
    "bind_pointer",
    "byref",
    "c_int",
    "c_long",
    "c_size_t",
    "c_uint",
    "c_ulong",
    "c_void_p",
    "call_name",
    "error",
    "i32",
    "sizeof",
    "system_call_number",
    "u8",
    "u16",
    "u32",
    "u64",
)

# Numbers from 424 on are the same on every architecture; older ones are listed for those we know.
# Source: syscalls(2), arch/*/entry/syscalls tables.
_NUMBERS: Final[dict[str, dict[str, int]]] = {
    "x86_64": {
        "rt_sigaction": 13,
        "pivot_root": 155,
        "capset": 126,
        "keyctl": 250,
        "ioprio_set": 251,
        "sched_setattr": 314,
        "set_mempolicy": 238,
        "seccomp": 317,
        "bpf": 321,
    },
    "aarch64": {
        "rt_sigaction": 134,
        "pivot_root": 41,
        "capset": 91,
        "keyctl": 219,
        "ioprio_set": 30,
        "sched_setattr": 274,
        "set_mempolicy": 237,
        "seccomp": 277,
        "bpf": 280,
    },
}
_COMMON_NUMBERS: Final[dict[str, int]] = {
    "pidfd_send_signal": 424,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "pidfd_open": 434,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "mount_setattr": 442,
}

# As os.fsencode does it: what it takes from paths to be general is time for each of a container's hundreds of calls.
_ENCODING: Final = sys.getfilesystemencoding()
_ERRORS: Final = sys.getfilesystemencodeerrors()
_NO_ADDRESS: Final = c_size_t(-1).value  # MAP_FAILED


class CText:
    """Argument type of a path or string: encodes `str`, refuses an embedded NUL, lets None through as NULL."""

    @classmethod
    def from_param(cls, value: str | bytes | None) -> bytes | None:
        """What is passed to C for `value`: the bytes themselves, which it holds until the call is over."""
        if value is None:
            return None
        data = value.encode(_ENCODING, _ERRORS) if isinstance(value, str) else value
        if b"\0" in data:
            raise ValueError(f"embedded NUL in {value!r}")
        return data


def system_call_number(name: str) -> int:
    """The number of a system call on this architecture. Raises LookupError where it is not known."""
    if name in _COMMON_NUMBERS:
        return _COMMON_NUMBERS[name]
    return _NUMBERS[os.uname().machine][name]


def _checked(function: Callable[..., int], name: str) -> Callable[..., int]:
    def call(*args: Any, target: str | bytes = "") -> int:
        result = function(*args)
        if result == -1:
            raise error(name, get_errno(), target)
        return result

    call.__name__ = name
    return call


def error(call: str, number: int, target: str | bytes = "") -> OSError:
    """The OSError (of the fitting subclass) for a failed `call` on `target`."""
    failure = OSError(number, os.strerror(number), os.fsdecode(target) if target else None)
    failure.add_note(f"{call}(2)")
    return failure


def call_name(failure: OSError) -> str:
    """Which system call raised `failure`, or "" when it did not come from here."""
    for note in getattr(failure, "__notes__", ()):
        if note.endswith("(2)"):
            return str(note).removesuffix("(2)")
    return ""


def bind(name: str, *types: Any) -> Callable[..., int]:
    """A function of the C library; the result takes `target=` for its error."""
    function = c_function(name)
    function.argtypes = types
    function.restype = c_int
    return _checked(function, name)


def bind_pointer(name: str, *types: Any) -> Callable[..., int]:
    """A function of the C library whose result is an address; the result takes `target=` for its error."""
    function = c_function(name)
    function.argtypes = types
    function.restype = c_size_t

    def address(*args: Any) -> int:
        found = int(function(*args))
        return -1 if found == _NO_ADDRESS else found

    return _checked(address, name)


def bind_call(name: str, *types: Any, keep_gil: bool = False) -> Callable[..., int]:
    """A system call that the C library may lack; the result takes `target=` for its error."""
    # With the GIL: for calls whose child must go on in Python (clone).
    function = (python_function if keep_gil else c_function)("syscall")
    function.argtypes = (c_long, *types)
    function.restype = c_long
    number = system_call_number(name)

    def call(*args: Any, target: str | bytes = "") -> int:
        result = function(number, *args)
        if result == -1:
            raise error(name, get_errno(), target)
        return int(result)

    call.__name__ = name
    return call


class Struct(Structure):
    """Base of kernel structures, so that other modules import one module."""
