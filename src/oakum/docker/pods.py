# SPDX-License-Identifier: Apache-2.0
"""What we write down for a sandbox or container because Docker cannot: small files, each whole or absent.

Owns the files' form. A sandbox whose file is missing was never finished.
"""

from __future__ import annotations

import os

import msgspec

from oakum.backend.config import Resources, Struct
from oakum.engine.storage import storing
from oakum.linux.durable import write_file, write_file_fast


class Pod(Struct, frozen=True, kw_only=True):
    """What became of a sandbox; its limits as last changed."""

    ready: bool = False
    addresses: tuple[str, ...] = ()
    resources: Resources | None = None
    overhead: Resources | None = None
    warnings: tuple[str, ...] = ()


_decode_pod = msgspec.json.Decoder(Pod).decode
_decode_resources = msgspec.json.Decoder(Resources).decode


def read(directory: str) -> Pod | None:
    """What was written of a sandbox; None when nothing was. A damaged file counts as none."""
    try:
        with open(f"{directory}/pod.json", "rb") as file:
            return _decode_pod(file.read())
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None


def write(directory: str, pod: Pod) -> None:
    """Write it down. Raises ResourceExhausted, SystemFailure."""
    with storing("write pod", directory):
        os.makedirs(directory, mode=0o755, exist_ok=True)
        write_file(f"{directory}/pod.json", msgspec.json.encode(pod))


def read_cgroup(directory: str) -> str:
    """The cgroup that was made for a sandbox; "" when none was."""
    try:
        with open(f"{directory}/cgroup", encoding="utf-8") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return ""


def write_cgroup(directory: str, name: str) -> None:
    """Write down, before it is there, which cgroup a sandbox has of us: its labels may be lost with its container."""
    with storing("write pod", directory):
        os.makedirs(directory, mode=0o755, exist_ok=True)
        write_file_fast(f"{directory}/cgroup", name.encode())


def read_changes(directory: str) -> Resources:
    """The limits of a container that were changed since it was made."""
    try:
        with open(f"{directory}/changed.json", "rb") as file:
            return _decode_resources(file.read())
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return Resources()


def write_changes(directory: str, changed: Resources) -> None:
    """Write down which limits were changed. Raises ResourceExhausted, SystemFailure."""
    with storing("write limits", directory):
        os.makedirs(directory, mode=0o700, exist_ok=True)
        write_file(f"{directory}/changed.json", msgspec.json.encode(changed))
