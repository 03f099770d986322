# SPDX-License-Identifier: Apache-2.0
"""Moving network devices of the host into a container, with their names, global addresses and state "up".

Loaded only for specs that have some. Spec: config-linux.md "Network Devices".
"""

from __future__ import annotations

from oakum.errors import NotFound
from oakum.linux.netlink import NetlinkSocket
from oakum.linux.netns import inside, open_netns
from oakum.linux.rtnetlink import LinkAddress, add_address, get_link, list_addresses, move_link, set_up

_GLOBAL_SCOPE = 0


def move_devices(path: str, devices: dict[str, str]) -> None:
    """Move each device (name here → name there) into the network namespace at `path`. Raises NotFound, SystemFailure."""
    with open_netns(path) as namespace:
        moved: list[tuple[str, list[LinkAddress]]] = []
        with NetlinkSocket() as here:
            for name, new_name in devices.items():
                link = get_link(here, name)
                if link is None:
                    raise NotFound("move network device", f"$.linux.netDevices.{name}", "no such device")
                addresses = [a for a in list_addresses(here, index=link.ifindex) if a.scope == _GLOBAL_SCOPE]
                request = move_link(
                    link.ifindex, new_name, namespace.fileno(), subject=f"{name} as {new_name}"
                )
                here.execute([request])
                moved.append((new_name, addresses))
        with inside(namespace.fileno(), NetlinkSocket, subject=path) as there:
            for name, addresses in moved:
                link = get_link(there, name)
                if link is None:
                    raise NotFound("move network device", name, "it did not arrive")
                requests = [add_address(link.ifindex, a.interface, subject=name) for a in addresses]
                there.execute([*requests, set_up(name)])
