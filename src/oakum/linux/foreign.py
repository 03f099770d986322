# SPDX-License-Identifier: Apache-2.0
"""What we need of `ctypes`, from the C module below it: a third of the time and memory of the whole.

A type checker sees the real names. Nothing is bound here: `libc` does that.
"""

from __future__ import annotations

__all__ = (
    "Array",
    "Structure",
    "addressof",
    "buffer",
    "byref",
    "c_char",
    "c_char_p",
    "c_function",
    "c_int",
    "c_long",
    "c_size_t",
    "c_uint",
    "c_ulong",
    "c_void_p",
    "get_errno",
    "i32",
    "python_function",
    "sizeof",
    "u8",
    "u16",
    "u32",
    "u64",
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctypes import (
        Array,
        Structure,
        addressof,
        byref,
        c_char,
        c_char_p,
        c_int,
        c_long,
        c_size_t,
        c_uint,
        c_ulong,
        c_void_p,
        get_errno,
        sizeof,
    )
    from ctypes import c_int32 as i32
    from ctypes import c_uint8 as u8
    from ctypes import c_uint16 as u16
    from ctypes import c_uint32 as u32
    from ctypes import c_uint64 as u64
    from typing import Any

    def c_function(name: str) -> Any:
        """A function of the C library, beside which other threads of Python may run."""

    def python_function(name: str) -> Any:
        """A function of the C library or the interpreter that keeps its lock, and may fail with a Python exception."""

else:
    import _ctypes
    from _ctypes import Array, Structure, addressof, byref, get_errno, sizeof
    from _ctypes import _SimpleCData as _Simple

    def _simple(name: str, code: str) -> type:
        return type(_Simple)(name, (_Simple,), {"_type_": code})

    # The letters of `struct`, which the C module knows its types by; "z" is text that ends with NUL, "P" an address.
    c_char = _simple("c_char", "c")
    c_char_p = _simple("c_char_p", "z")
    c_void_p = _simple("c_void_p", "P")
    c_int = i32 = _simple("c_int", "i")
    c_uint = u32 = _simple("c_uint", "I")
    c_long = _simple("c_long", "l")
    c_ulong = c_size_t = _simple("c_ulong", "L")
    u8 = _simple("u8", "B")
    u16 = _simple("u16", "H")
    u64 = _simple("u64", "Q")

    class _Program:
        """What is loaded into this process already: the C library, and the interpreter."""

        _handle = _ctypes.dlopen(None, 0)

    _C_LIBRARY = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO

    class _Releasing(_ctypes.CFuncPtr):
        _flags_ = _C_LIBRARY
        _restype_ = c_int

    class _Keeping(_ctypes.CFuncPtr):
        _flags_ = _C_LIBRARY | _ctypes.FUNCFLAG_PYTHONAPI
        _restype_ = c_int

    def c_function(name: str) -> _Releasing:  # noqa: D103 - above
        return _Releasing((name, _Program))

    def python_function(name: str) -> _Keeping:  # noqa: D103 - above
        return _Keeping((name, _Program))


def buffer(data: bytes) -> Array[c_char]:
    """A copy of `data` that has an address."""
    return (c_char * len(data)).from_buffer_copy(data)
