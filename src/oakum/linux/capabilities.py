# SPDX-License-Identifier: Apache-2.0
"""Capability sets of this thread: read, limit, set. Names and policy are `oci.capabilities`'. Source: capabilities(7)."""

from __future__ import annotations

import errno

from oakum.linux.durable import read_file
from oakum.linux.libc import Struct, bind, bind_call, byref, c_int, c_ulong, c_void_p, i32, u32
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

_VERSION_3: Final = 0x20080522
_PR_SET_KEEPCAPS: Final = 8
_PR_CAPBSET_DROP: Final = 24
_PR_CAP_AMBIENT: Final = 47
_AMBIENT_RAISE: Final = 2
_AMBIENT_CLEAR_ALL: Final = 4
_MOST: Final = 64


class _Header(Struct):
    _fields_ = [("version", u32), ("pid", i32)]


class _Data(Struct):
    _fields_ = [("effective", u32), ("permitted", u32), ("inheritable", u32)]


_capset = bind_call("capset", c_void_p, c_void_p)
_prctl = bind("prctl", c_int, c_ulong, c_ulong, c_ulong, c_ulong)


def set_sets(*, effective: int, permitted: int, inheritable: int) -> None:
    """Set three of the sets.

    Source: capset(2). Raises OSError.
    """
    header = _Header(_VERSION_3, 0)
    data = (_Data * 2)()
    for index, shift in ((0, 0), (1, 32)):
        data[index].effective = effective >> shift & 0xFFFFFFFF
        data[index].permitted = permitted >> shift & 0xFFFFFFFF
        data[index].inheritable = inheritable >> shift & 0xFFFFFFFF
    _capset(byref(header), byref(data), target=f"capabilities {permitted:#x}")


def limit_bounding(keep: int) -> None:
    """Drop from the bounding set all that is not in `keep`. Raises OSError (EPERM without CAP_SETPCAP).

    Source: prctl(2) PR_CAPBSET_DROP.
    """
    _for_each(
        ~keep, lambda number: _prctl(_PR_CAPBSET_DROP, number, 0, 0, 0, target=f"PR_CAPBSET_DROP {number}")
    )


def givable() -> int:
    """What this process has and can give to what it executes, as a bit mask: permitted, and in the bounding set.

    In one call, where asking for each capability takes some 40. Source: proc_pid_status(5). Raises OSError.
    """
    text = read_file("/proc/self/status")
    masks = [int(text.partition(name)[2].split(None, 1)[0], 16) for name in (b"\nCapPrm:", b"\nCapBnd:")]
    return masks[0] & masks[1]


def set_ambient(mask: int) -> None:
    """Make the ambient set exactly `mask`. Raises OSError (EPERM unless permitted and inheritable)."""
    _prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0, target="PR_CAP_AMBIENT")
    _for_each(
        mask,
        lambda number: _prctl(
            _PR_CAP_AMBIENT, _AMBIENT_RAISE, number, 0, 0, target=f"PR_CAP_AMBIENT_RAISE {number}"
        ),
    )


def _for_each(mask: int, call: Callable[[int], object]) -> None:
    """`call` each capability of `mask` that this kernel knows.

    The kernel itself says which: /proc could be the container's here, and say what its image wants.
    """
    for number in range(_MOST):
        if mask >> number & 1:
            try:
                call(number)
            except OSError as failure:
                if failure.errno == errno.EINVAL:
                    return
                raise


def keep_over_setuid(*, value: bool) -> None:
    """Whether the permitted set survives leaving uid 0.

    Source: prctl(2) PR_SET_KEEPCAPS.
    """
    _prctl(_PR_SET_KEEPCAPS, int(value), 0, 0, 0, target="PR_SET_KEEPCAPS")
