# SPDX-License-Identifier: Apache-2.0
"""A container's own name server, which knows what its hosts file knows: for programs that ask name servers only.

Owns when there is one: for containers that find others by name (`networks.is_shared`), from their start or from when
they are connected to such a network, as long as their pod lives. What it does is `shim.nameserver`.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from oakum.engine import podfiles
from oakum.engine.context import Context
from oakum.engine.storage import storing
from oakum.engine.store.records import SandboxRecord
from oakum.linux.fd import Fd


def begin(context: Context, record: SandboxRecord, *, anew: bool = True) -> None:
    """Have a server in a sandbox whose hosts file is there, with what it is to ask others now. Idempotent.

    Not `anew`, only one that is there already is told.

    Raises:
        SystemFailure: the kernel refuses.
    """
    # Only containers in networks of their own pay for these.
    from oakum.linux.netns import open_netns, own_netns
    from oakum.network import files, nameserver
    from oakum.shim.client import ShimClient

    directory, path = context.layout.sandbox(record.id), f"{context.layout.pod(record.id)}/ns/net"
    # What only the host reaches would be a way out of networks that have none.
    upstreams = files.upstreams(record.config.dns, from_host=context.network.builtin.has_way_out(record.id))
    with ExitStack() as opened, ShimClient.connect(context.layout.pod(record.id)) as client:
        netns = opened.enter_context(open_netns(path))
        host = opened.enter_context(own_netns())
        with storing("open names", directory):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            hosts = opened.enter_context(Fd(os.open(f"{directory}/hosts", flags)))
        socks = [opened.enter_context(sock) for sock in nameserver.listen(netns.fileno(), subject=path)]
        fds = [each.fileno() for each in (*socks, hosts, netns, host)]
        ports = client.serve_names(upstreams, [sock.getsockname()[1] for sock in socks], fds, anew=anew)
        if ports:
            nameserver.redirect(netns.fileno(), *ports, subject=path)


def write_resolv_conf(context: Context, record: SandboxRecord) -> None:
    """Have a sandbox that starts ask its own server. Raises as `podfiles.write`."""
    from oakum.network.nameserver import ADDRESS  # as above

    podfiles.write_resolv_conf(context.layout.sandbox(record.id), record.config, server=ADDRESS)


def change_resolv_conf(context: Context, record: SandboxRecord) -> None:
    """Have a running container ask its own server, unless it or somebody else has changed its file. Idempotent.

    Raises:
        SystemFailure: it cannot be written.
    """
    from oakum.network import files, nameserver  # as above

    path = f"{context.layout.sandbox(record.id)}/resolv.conf"
    dns = record.config.dns
    before = files.resolv_conf(dns, host_network=False).encode()
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    with storing("write name server", path), open(os.open(path, flags), "r+b", buffering=0) as file:
        if file.read(len(before) + 1) == before:
            text = files.resolv_conf(dns, host_network=False, server=nameserver.ADDRESS)
            podfiles.rewrite(file.fileno(), before, text.encode())
