# SPDX-License-Identifier: Apache-2.0
"""Choosing the snapshotter: overlay where the directory's file system can carry one, else copy, and why."""

from __future__ import annotations

import os
import stat
from typing import Final

from oakum.errors import SystemFailure
from oakum.linux.libc import call_name
from oakum.linux.mount import kernel_message, overlay
from oakum.snapshots.copying import CopySnapshotter
from oakum.snapshots.overlay import OverlaySnapshotter
from oakum.snapshots.protocol import Snapshotter
from oakum.snapshots.tree import open_directory, remove_tree

_RECORD: Final = "kind"


def open_snapshotter(directory: str) -> Snapshotter:
    """The snapshotter for the store in `directory`, which is made when absent.

    What was found the first time is kept in `directory`/kind, a symbolic link; without it the host is asked anew.
    Raises SystemFailure.
    """
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        kind, _, reason = _choose(directory).partition(":")
    except OSError as error:
        raise SystemFailure.from_os_error(error, "open snapshots", directory) from error
    if kind == OverlaySnapshotter.kind:
        return OverlaySnapshotter(directory)
    return CopySnapshotter(directory, reason=reason)


def _choose(directory: str) -> str:
    record = f"{directory}/{_RECORD}"
    try:
        return os.readlink(record)
    except FileNotFoundError:
        pass
    reason = why_no_overlay(directory)
    chosen = f"{CopySnapshotter.kind}:{reason}" if reason else OverlaySnapshotter.kind
    if os.geteuid() == 0:  # what another user may not do says nothing about the host
        try:
            os.symlink(chosen, record)
        except FileExistsError:
            return os.readlink(record)
    return chosen


def why_no_overlay(directory: str) -> str:
    """Why an overlay cannot stand on `directory`, in the kernel's words; empty when it can. Raises OSError."""
    name = f".probe-{os.urandom(6).hex()}"
    probe = f"{directory}/{name}"
    os.mkdir(probe, 0o700)
    try:
        for part in ("low", "lower", "upper", "work"):
            os.mkdir(f"{probe}/{part}")
        try:
            os.mknod(f"{probe}/low/gone", stat.S_IFCHR, 0)
            os.setxattr(f"{probe}/low", "trusted.overlay.opaque", b"y")
            overlay([f"{probe}/low", f"{probe}/lower"], f"{probe}/upper", f"{probe}/work").close()
        except OSError as error:
            said = kernel_message(error) or error.strerror or str(error)
            return f"{call_name(error) or 'overlay'}: {said}"
        return ""
    finally:
        with open_directory(directory, follow=True) as fd:
            remove_tree(fd, name)
