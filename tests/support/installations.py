# SPDX-License-Identifier: Apache-2.0
"""What an installation (a ROOT and a STATE) keeps on the machine by design, taken away when its test ends.

A zygote outlives its users, and so do the bridge and the firewall rules of the built-in network, of each backend.
"""

from __future__ import annotations

import os

from oakum.engine.context import network_suffix
from oakum.errors import FailedPrecondition
from oakum.network.builtin import BuiltinNetwork
from tests.support.zygotes import end_zygote


def end_installation(root: str, state: str) -> None:
    """End the zygote and remove every network that no sandbox is attached to."""
    end_zygote(state)
    if os.geteuid() != 0:
        return
    for owner in (root, f"{root}/docker"):
        database = f"{owner}/network.db"
        if os.path.exists(database):
            _remove_networks(database, network_suffix(owner))


def _remove_networks(database: str, suffix: str) -> None:
    network = BuiltinNetwork(database, name_suffix=suffix)
    try:
        for row in network.networks():
            try:
                network.remove_network(row.name)
            except FailedPrecondition:
                continue  # a sandbox is left on it: what is left is the leak check's to tell
    finally:
        network.close()
