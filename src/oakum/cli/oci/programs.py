# SPDX-License-Identifier: Apache-2.0
"""Compiled system call filters, kept in the state directory by what they were made of: compiling takes longer than a container.

    ROOT/.seccomp/HASH    checksum of the rest, flags to load it with (4 bytes), program

HASH is over everything that the compiler is given. A file that is not whole is made anew. Who may write here is root of
the runtime, and could as well change the containers' own directories.
"""

from __future__ import annotations

import os
from _blake2 import blake2b  # as in hashlib, which loads all of OpenSSL

from oakum import __version__
from oakum.linux.durable import read_file, write_file_fast
from oakum.model.jsontext import dumps
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Final

    from oakum.oci.spec import Spec

_DIRECTORY: Final = ".seccomp"
_HASH_BYTES: Final = 32
_FLAGS_BYTES: Final = 4
_INSTRUCTION_BYTES: Final = 8
_MOST_FILES: Final = 64


def compiled(root: str, seccomp: dict[str, Any], spec: Spec) -> tuple[bytes, int]:
    """The program for linux.seccomp and its load flags, kept or made. Raises InvalidArgument, Unimplemented."""
    capabilities = ((spec.get("process") or {}).get("capabilities") or {}).get("bounding") or []
    system = os.uname()
    made_of = dumps([__version__, system.machine, system.release, sorted(capabilities), seccomp])
    directory = os.path.join(os.path.abspath(root), _DIRECTORY)
    path = f"{directory}/{_checksum(made_of.encode()).hex()}"
    if (kept := _load(path)) is not None:
        return kept
    # only who has to compile pays for what does it
    from oakum.cli.oci.filters import compile_filter

    program, flags = compile_filter(seccomp, spec)
    _keep(directory, path, flags.to_bytes(_FLAGS_BYTES, "big") + program)
    return program, flags


def _checksum(data: bytes) -> bytes:
    return blake2b(data, digest_size=_HASH_BYTES).digest()


def _load(path: str) -> tuple[bytes, int] | None:
    try:
        data = read_file(path)
    except OSError:
        return None  # not yet, or not for us: it can be made
    said, rest = data[:_HASH_BYTES], data[_HASH_BYTES:]
    flags, program = rest[:_FLAGS_BYTES], rest[_FLAGS_BYTES:]
    if said != _checksum(rest) or not program or len(program) % _INSTRUCTION_BYTES:
        return None
    return program, int.from_bytes(flags, "big")


def _keep(directory: str, path: str, data: bytes) -> None:
    try:
        os.makedirs(os.path.dirname(directory), mode=0o711, exist_ok=True)
        os.makedirs(directory, mode=0o700, exist_ok=True)
        names = os.listdir(directory)
        if len(names) >= _MOST_FILES:
            for name in names:
                os.unlink(f"{directory}/{name}")
        write_file_fast(path, _checksum(data) + data)
    except OSError:
        return  # the container has its filter; the next one has it made again
