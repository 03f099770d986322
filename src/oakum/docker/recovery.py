# SPDX-License-Identifier: Apache-2.0
"""What a killed server left half done, and what went while nobody looked: finished, or undone. Idempotent.

Touches what carries our labels and what lies in our directories, nothing else.
"""

from __future__ import annotations

import os

from oakum.docker import pods
from oakum.docker.layout import Layout
from oakum.docker.mounts import Mounts
from oakum.docker.objects import Objects
from oakum.docker.sandboxes import Sandboxes
from oakum.engine.storage import remove_directory
from oakum.errors import OakumError
from oakum.network.choice import ChosenNetwork


class _Everybody(frozenset[str]):
    """Contains every id: the network is to restore its rules, not to judge who lives."""

    def __contains__(self, _item: object) -> bool:
        return True


def recover(
    objects: Objects, layout: Layout, sandboxes: Sandboxes, mounts: Mounts, network: ChosenNetwork
) -> list[str]:
    """Tidy up; what was done, one line each. Raises OakumError when Docker does not answer."""
    done: list[str] = []
    containers = objects.listed("container")
    owners = {labels.sandbox_id for labels, _ in containers}
    known: set[str] = set()
    for labels, row in objects.listed("sandbox"):
        sandbox_id = str(row["Id"])
        if pods.read(layout.pod(sandbox_id)) is None and sandbox_id not in owners:
            sandboxes.undo(sandbox_id, labels)
            done.append(f"sandbox {sandbox_id[:12]}: its making was cut short, undone")
        else:
            known.add(sandbox_id)
    for _, row in objects.listed("probe"):
        sandboxes.delete_container(str(row["Id"]))
    attached = {attachment.sandbox_id for attachment in network.attachments()}
    for sandbox_id in (attached | set(_names(layout.pods)) | _pinned(layout)) - known:
        sandboxes.forget_lost(sandbox_id)
        done.append(f"sandbox {sandbox_id[:12]}: gone from Docker, forgotten")
    waiting = {labels.mounts_key for labels, row in containers if row["State"] == "created"}
    for key in set(mounts.keys()) - waiting:
        mounts.release(key)
        done.append(f"mounts {key}: no container waits for them, unmounted")
    here = {str(row["Id"]) for _, row in containers}
    for container_id in set(_names(layout.containers)) - here:
        remove_directory(layout.containers, container_id)
    try:
        network.gc(_Everybody())
    except OakumError as error:
        # A plugin that fails keeps nobody from being served; what it owes is repeated.
        done.append(f"networks: not tidied up: {error}")
    return done


def _pinned(layout: Layout) -> set[str]:
    return {name.removesuffix(".net") for name in _names(layout.pins)}


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
