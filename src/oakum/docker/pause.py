# SPDX-License-Identifier: Apache-2.0
"""The image of the sandbox's own process, built here: a static program of some hundred bytes that does nothing.

    ignore SIGCHLD            so that the kernel reaps what a shared process namespace leaves to its first process
    block SIGTERM and SIGINT  the kernel drops what the first process has no handler for, but not what it blocks
    wait for one of both, then exit

No registry is asked and no binary is kept: the machine code is put together below. Source: elf(5), syscall(2).
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
from typing import Final

from oakum.errors import Unimplemented

NAME: Final = "oakum.invalid/pause"
"""A domain that no registry can ever have (RFC 2606)."""
_BASE: Final = 0x400000
_HEADERS: Final = 64 + 56
_SIGCHLD: Final = 17
_TERM_AND_INT: Final = 1 << 14 | 1 << 1
_SIG_IGN: Final = 1
# struct sigaction with SIG_IGN and nothing else, then a signal set: what both programs point to
_DATA: Final = struct.pack("<QQQQ", _SIG_IGN, 0, 0, 0) + struct.pack("<Q", _TERM_AND_INT)
_ELF_MACHINES: Final = {"x86_64": (62, "amd64"), "aarch64": (183, "arm64")}


def program(machine: str) -> bytes:
    """The executable for a machine as uname(2) calls it. Raises Unimplemented."""
    if machine not in _ELF_MACHINES:
        raise Unimplemented(
            "make pause image",
            machine,
            "there is no pause program for this processor",
            hint="name an image with --pause-image",
        )
    action = _BASE + _HEADERS
    mask = action + 32
    entry = action + len(_DATA)
    code = _x86_64(action, mask) if machine == "x86_64" else _aarch64(action, mask)
    size = _HEADERS + len(_DATA) + len(code)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        2,
        _ELF_MACHINES[machine][0],
        1,
        entry,
        64,
        0,
        0,
        64,
        56,
        1,
        0,
        0,
        0,
    )
    readable_and_executable = 5
    segment = struct.pack("<IIQQQQQQ", 1, readable_and_executable, 0, _BASE, _BASE, size, size, 0x10000)
    return header + segment + _DATA + code


def _x86_64(action: int, mask: int) -> bytes:
    address = struct.Struct("<I").pack
    size = b"\x41\xba\x08\x00\x00\x00"  # mov r10d, 8: a signal set's size
    call = b"\x0f\x05"
    ignore = b"\xb8\x0d\0\0\0\xbf" + address(_SIGCHLD) + b"\xbe" + address(action) + b"\x31\xd2" + size + call
    block = b"\xb8\x0e\0\0\0\x31\xff\xbe" + address(mask) + b"\x31\xd2" + size + call
    wait = b"\xb8\x80\0\0\0\xbf" + address(mask) + b"\x31\xf6\x31\xd2" + size + call + b"\x85\xc0"
    again = b"\x78" + struct.pack("<b", -len(wait) - 2)
    return ignore + block + wait + again + b"\xb8\x3c\0\0\0\x31\xff" + call


def _aarch64(action: int, mask: int) -> bytes:
    def put(register: int, value: int) -> list[int]:
        low, high = value & 0xFFFF, value >> 16
        return [0xD2800000 | low << 5 | register, 0xF2A00000 | high << 5 | register]

    call = [0xD4000001]
    ignore = [*put(8, 134), *put(0, _SIGCHLD), *put(1, action), *put(2, 0), *put(3, 8), *call]
    block = [*put(8, 135), *put(0, 0), *put(1, mask), *put(2, 0), *put(3, 8), *call]
    wait = [*put(8, 137), *put(0, mask), *put(1, 0), *put(2, 0), *put(3, 8), *call]
    again = [0xB7F80000 | ((-len(wait) & 0x3FFF) << 5)]  # tbnz x0, #63: an error, such as EINTR
    leave = [*put(8, 93), *put(0, 0), *call]
    words = [*ignore, *block, *wait, *again, *leave]
    return struct.pack(f"<{len(words)}I", *words)


def archive(machine: str) -> tuple[str, bytes]:
    """The image's name, with its content in its tag, and the archive that `docker load` takes. Raises Unimplemented."""
    binary = program(machine)
    layer = _tar({"pause": (binary, 0o755)})
    config = json.dumps(
        {
            "architecture": _ELF_MACHINES[machine][1],
            "os": "linux",
            "config": {"Entrypoint": ["/pause"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    name = f"{NAME}:{hashlib.sha256(config).hexdigest()[:12]}"
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    files = {
        "config.json": (config, 0o644),
        "layer.tar": (layer, 0o644),
        "manifest.json": (manifest, 0o644),
    }
    return name, _tar(files)


def _tar(files: dict[str, tuple[bytes, int]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, (data, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()
