# SPDX-License-Identifier: Apache-2.0
"""The binding helper closes the traps of ctypes."""

from __future__ import annotations

import errno

import pytest

from oakum.linux import libc


def test_a_failed_call_names_itself_and_its_target() -> None:
    chdir = libc.bind("chdir", libc.CText)
    with pytest.raises(FileNotFoundError) as caught:
        chdir("/oak/not/there", target="/oak/not/there")
    assert caught.value.errno == errno.ENOENT
    assert caught.value.filename == "/oak/not/there"
    assert libc.call_name(caught.value) == "chdir"


def test_an_embedded_nul_is_refused_not_cut() -> None:
    chdir = libc.bind("chdir", libc.CText)
    with pytest.raises((ValueError, TypeError, Exception), match="NUL"):
        chdir("/tmp\0/oak")


def test_a_bare_number_is_no_text() -> None:
    chdir = libc.bind("chdir", libc.CText)
    with pytest.raises(Exception, match="int"):
        chdir(5)


def test_several_bindings_of_one_function_keep_their_own_types() -> None:
    one = libc.bind_call("pidfd_open", libc.c_int, libc.c_uint)
    other = libc.bind_call("close_range", libc.c_uint, libc.c_uint, libc.c_uint)
    with pytest.raises(OSError, match="Invalid argument"):
        one(-1, 0)
    assert other(0x7FFFFFF0, 0x7FFFFFF1, 0) == 0


def test_an_unknown_call_is_a_lookup_error() -> None:
    with pytest.raises(LookupError):
        libc.system_call_number("oak")


def test_an_error_from_elsewhere_has_no_call_name() -> None:
    assert libc.call_name(OSError(1, "x")) == ""
