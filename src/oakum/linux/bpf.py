# SPDX-License-Identifier: Apache-2.0
"""Loading a device-control BPF program and attaching it to a cgroup v2 directory. Source: bpf(2), linux/bpf.h."""

from __future__ import annotations

import os

from oakum.errors import SystemFailure
from oakum.linux.fd import Fd
from oakum.linux.foreign import addressof, buffer
from oakum.linux.libc import Struct, bind_call, byref, c_int, c_uint, c_void_p, sizeof, u32, u64
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_GET_FD_BY_ID, _PROG_QUERY = 5, 8, 9, 13, 16
_TYPE_CGROUP_DEVICE: Final = 15
_ATTACH_CGROUP_DEVICE: Final = 6
_ALLOW_MULTI: Final = 2
_MAX_ATTACHED: Final = 64

_bpf = bind_call("bpf", c_int, c_void_p, c_uint)


class _Load(Struct):
    _fields_ = [
        ("prog_type", u32),
        ("insn_cnt", u32),
        ("insns", u64),
        ("license", u64),
        ("log_level", u32),
        ("log_size", u32),
        ("log_buf", u64),
        ("kern_version", u32),
        ("prog_flags", u32),
    ]


class _Attach(Struct):
    _fields_ = [("target_fd", u32), ("attach_bpf_fd", u32), ("attach_type", u32), ("attach_flags", u32)]


class _Query(Struct):
    _fields_ = [
        ("target_fd", u32),
        ("attach_type", u32),
        ("query_flags", u32),
        ("attach_flags", u32),
        ("prog_ids", u64),
        ("prog_cnt", u32),
    ]


class _GetById(Struct):
    _fields_ = [("prog_id", u32), ("next_id", u32), ("open_flags", u32)]


def attach_device_program(directory: str, program: bytes) -> None:
    """Attach `program` to the cgroup and then detach the ones attached before, so that no moment is without rules.

    Raises:
        SystemFailure: the kernel refused.
    """
    try:
        with Fd(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as cgroup:
            old = _attached(cgroup.fileno())
            with _load(program) as loaded:
                _attach(cgroup.fileno(), loaded.fileno(), _PROG_ATTACH, _ALLOW_MULTI)
            for number in old:
                with _by_id(number) as fd:
                    _attach(cgroup.fileno(), fd.fileno(), _PROG_DETACH, 0)
    except OSError as failure:
        raise SystemFailure.from_os_error(
            failure,
            "bpf",
            f"device rules of {directory}",
            hint="the host needs CONFIG_CGROUP_BPF and CAP_BPF or CAP_SYS_ADMIN",
        ) from failure


def _load(program: bytes) -> Fd:
    code = buffer(program)
    license_text = buffer(b"Apache-2.0\0")
    attr = _Load(
        prog_type=_TYPE_CGROUP_DEVICE,
        insn_cnt=len(program) // 8,
        insns=addressof(code),
        license=addressof(license_text),
    )
    return Fd(_bpf(_PROG_LOAD, byref(attr), sizeof(attr), target="BPF_PROG_LOAD"))


def _attach(cgroup_fd: int, program_fd: int, command: int, flags: int) -> None:
    attr = _Attach(cgroup_fd, program_fd, _ATTACH_CGROUP_DEVICE, flags)
    _bpf(
        command,
        byref(attr),
        sizeof(attr),
        target="BPF_PROG_ATTACH" if command == _PROG_ATTACH else "BPF_PROG_DETACH",
    )


def _attached(cgroup_fd: int) -> list[int]:
    ids = (u32 * _MAX_ATTACHED)()
    attr = _Query(
        target_fd=cgroup_fd,
        attach_type=_ATTACH_CGROUP_DEVICE,
        prog_ids=addressof(ids),
        prog_cnt=_MAX_ATTACHED,
    )
    _bpf(_PROG_QUERY, byref(attr), sizeof(attr), target="BPF_PROG_QUERY")
    return list(ids[: attr.prog_cnt])


def _by_id(number: int) -> Fd:
    attr = _GetById(prog_id=number)
    return Fd(_bpf(_PROG_GET_FD_BY_ID, byref(attr), sizeof(attr), target=f"BPF program {number}"))
