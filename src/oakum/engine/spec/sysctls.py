# SPDX-License-Identifier: Apache-2.0
"""Which sysctls a pod may set: those of its own namespaces, never the host's. Pure.

Source: sysctl(8); Documentation/admin-guide/sysctl: kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.* belong to
the IPC namespace, net.* to the network namespace.
"""

from __future__ import annotations

import re
from typing import Final

from oakum.backend.config import SandboxConfig
from oakum.errors import InvalidArgument

_NAME: Final = re.compile(r"[a-z0-9_]+(?:[./][a-zA-Z0-9_:@-]+)+")
_IPC_PREFIXES: Final = ("kernel.shm", "kernel.msg", "fs.mqueue.")
_IPC_NAMES: Final = ("kernel.sem",)
_LAST_GROUP: Final = 2**31 - 1
_UTS_NAMES: Final = ("kernel.domainname",)


def pod_sysctls(config: SandboxConfig) -> dict[str, str]:
    """What is written inside the pod's namespaces, by dotted name, what was asked for and two comforts.

    With a network of its own, any user may use low ports and ping: both reach the pod alone.

    Raises:
        InvalidArgument: a name is none, or belongs to the host.
    """
    modes = config.namespaces
    found: dict[str, str] = {}
    if modes.network != "node":
        found["net.ipv4.ip_unprivileged_port_start"] = "0"
        # Both ends have to be groups of the pod's own users, where it has some.
        last = max((m.container_id + m.length - 1 for m in modes.gid_mappings), default=_LAST_GROUP)
        found["net.ipv4.ping_group_range"] = f"0 {min(last, _LAST_GROUP)}"
    for text, value in config.sysctls.items():
        name = dotted(text)
        if "\n" in value or "\0" in value:
            raise InvalidArgument("set sysctl", name, "its value holds a line break or NUL")
        if name.startswith("net."):
            owner, mode = "network", modes.network
        elif name.startswith(_IPC_PREFIXES) or name in _IPC_NAMES:
            owner, mode = "ipc", modes.ipc
        elif name in _UTS_NAMES:
            owner, mode = "uts", modes.uts
        else:
            raise InvalidArgument("set sysctl", name, "it belongs to the whole host, not to a pod")
        if mode == "node":
            raise InvalidArgument("set sysctl", name, f"the pod shares the host's {owner} namespace")
        found[name] = value
    return found


def dotted(text: str) -> str:
    """The dotted name; with slashes between, dots belong to a part (an interface's name).

    Raises:
        InvalidArgument: it is not the name of a sysctl.
    """
    if not _NAME.fullmatch(text) or ".." in text:
        raise InvalidArgument("set sysctl", repr(text), "not the name of a sysctl")
    first_slash, first_dot = text.find("/"), text.find(".")
    if first_slash != -1 and (first_dot == -1 or first_slash < first_dot):
        return text.replace(".", "\0").replace("/", ".").replace("\0", "/")
    return text
