# SPDX-License-Identifier: Apache-2.0
"""A sandbox's files for name resolution, which its containers see at the paths of FILES. Pure, but for the writing.

Every backend has them, each in a directory of its own. What is in them is `network.files`' and `network.names`'.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Final

from oakum.backend.config import SandboxConfig
from oakum.engine.storage import storing
from oakum.linux.durable import write_file_fast

# Container path → the file's name in the sandbox's directory.
FILES: Final = {"/etc/hosts": "hosts", "/etc/resolv.conf": "resolv.conf", "/etc/hostname": "hostname"}


def write(
    directory: str,
    config: SandboxConfig,
    hostname: str,
    addresses: Sequence[str],
    name_lines: Sequence[str] | None = None,
) -> None:
    """Make a sandbox's directory with hosts, resolv.conf and hostname.

    With `name_lines` its names and those of its neighbours are in these, else its name is written at `addresses`.

    Raises:
        InvalidArgument: a name or address cannot stand in such a file.
        ResourceExhausted, SystemFailure: they cannot be written.
    """
    write_without_addresses(directory, config, hostname)
    write_hosts(directory, config, hostname, addresses, name_lines)


def write_without_addresses(directory: str, config: SandboxConfig, hostname: str) -> None:
    """Make a sandbox's directory with resolv.conf and hostname. Raises as `write`."""
    from oakum.network import files  # only sandboxes that are made need it

    with storing("make sandbox directory", directory):
        os.makedirs(directory, mode=0o755, exist_ok=True)
    write_resolv_conf(directory, config)
    _write(directory, {"hostname": files.hostname_file(hostname)})


def write_resolv_conf(directory: str, config: SandboxConfig, *, server: str = "") -> None:
    """Write resolv.conf into a directory that is there; a `server` of the sandbox's own is all it names. As `write`."""
    from oakum.network import files  # see above

    text = files.resolv_conf(config.dns, host_network=config.namespaces.network == "node", server=server)
    _write(directory, {"resolv.conf": text})


def write_hosts(
    directory: str,
    config: SandboxConfig,
    hostname: str,
    addresses: Sequence[str],
    name_lines: Sequence[str] | None = None,
) -> None:
    """Write hosts into a directory that is there. As `write`, and raises as it does."""
    from oakum.network import files  # see above
    from oakum.network.names import merge

    host_network = config.namespaces.network == "node"
    named = name_lines is not None and config.namespaces.uts != "node"
    own = () if named else addresses
    hosts = files.hosts(hostname, own, config.extra_hosts, host_network=host_network)
    _write(directory, {"hosts": merge(hosts, name_lines) if name_lines else hosts})


def _write(directory: str, contents: Mapping[str, str]) -> None:
    with storing("write pod files", directory):
        for name, text in contents.items():
            # Containers of any user read them through their bind mounts.
            write_file_fast(f"{directory}/{name}", text.encode(), 0o644)


def rewrite(fd: int, old: bytes, new: bytes) -> None:
    """Change a file in place, since containers have this very inode mounted; readers see whole lines at any moment.

    Raises OSError.
    """
    if new == old:
        return
    data = new.ljust(len(old), b"\n")
    written = 0
    while written < len(data):
        written += os.pwrite(fd, data[written:], written)
    os.ftruncate(fd, len(new))
