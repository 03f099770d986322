# SPDX-License-Identifier: Apache-2.0
"""The networks of a sandbox while it lives, and the names of containers in each other's hosts files.

What a sandbox's networks are to be is in its row; that they have to be brought there is owed to it in network.db from
before the row changes until it is done. Likewise every change of who is in a network owes the hosts files of its
members in the same transaction. So whoever was killed, the next call does the rest (`recover`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from oakum.backend.config import NetworkRequest
from oakum.engine import nameservers, podfiles
from oakum.engine.attachments import ADDRESS, MAC, NONE, attachment_options
from oakum.engine.context import Context
from oakum.engine.locks import Locks
from oakum.engine.states import shim_lives
from oakum.engine.storage import storing
from oakum.engine.store.records import SandboxRecord
from oakum.errors import AlreadyExists, FailedPrecondition, NotFound, OakumError
from oakum.network.due import NAMES, NETWORKS

if TYPE_CHECKING:
    from oakum.network.attachment import Attachment, AttachmentOptions
    from oakum.network.builtin import BuiltinNetwork

DEFAULT: Final = "default"
_LOCK: Final = "names.lock"
_HOSTS_LIMIT_BYTES: Final = 1 << 20


def wanted(record: SandboxRecord) -> tuple[NetworkRequest, ...]:
    """The networks that a sandbox is to be in, the first one first."""
    if record.networks is not None:
        return record.networks
    config = record.config
    first = NetworkRequest(
        network=config.network,
        addresses=tuple(filter(None, config.annotations.get(ADDRESS, "").split(","))),
        mac=config.annotations.get(MAC, ""),
        aliases=config.network_aliases,
    )
    return (first, *config.networks)


def _options(record: SandboxRecord, request: NetworkRequest, names: tuple[str, ...]) -> AttachmentOptions:
    options = attachment_options(record.config, record.cgroup_path)
    return options._replace(
        addresses=request.addresses,
        mac=request.mac,
        names=names,
        aliases=request.aliases if names else (),
        relay=True,
    )


def _names(context: Context, record: SandboxRecord, hostname: str) -> tuple[str, ...]:
    """What a container is found by in its networks: host name, name, short id. Pods are found by what a cluster has."""
    config = record.config
    if config.owner != "container":
        return ()
    ids = tuple(container.id[:12] for container in context.store.containers_of(record.id)[:1])
    # The host's own name is none for a container.
    return (config.metadata.name if config.namespaces.uts == "node" else hostname, config.metadata.name, *ids)


# a sandbox that starts


def begin(context: Context, record: SandboxRecord, hostname: str) -> Callable[[], Attachment | None]:
    """Take a starting sandbox into its networks: what needs no namespace now, the rest by the returned call.

    That one's result is its place in the first network. Raises OakumError.
    """
    requests = wanted(record)
    if not requests:
        return lambda: None
    complete = _begin_first(context, record, requests[0], hostname)

    def rest() -> Attachment:
        first = complete()
        for request in requests[1:]:
            further = _join(context, record, request, hostname)
            first = first._replace(warnings=(*first.warnings, *further.warnings))
        return first

    return rest


def relay(context: Context, record: SandboxRecord) -> None:
    """Have the pod's shim carry what comes to its ports on ::1, from where the kernel forwards nothing.

    Raises:
        AlreadyExists: a process of the host has such a port.
        SystemFailure: the kernel refuses.
    """
    if not any(mapping.host_ip for mapping in record.config.port_mappings):
        return
    if not os.path.exists(context.layout.network_database):
        return
    wanted = context.network.builtin.relayed(record.id)
    if not wanted:
        return
    from oakum.network.ports import listen  # hardly a pod has such a port
    from oakum.shim.client import Route, ShimClient

    with ExitStack() as open_sockets, ShimClient.connect(context.layout.pod(record.id)) as client:
        listening = [open_sockets.enter_context(listen(binding)) for binding, _ in wanted]
        routes = [
            Route(binding.protocol, tuple((address, binding.container_port) for address in addresses))
            for binding, addresses in wanted
        ]
        client.relay(routes, tuple(sock.fileno() for sock in listening))


def _netns(context: Context, record: SandboxRecord) -> str:
    return f"{context.layout.pod(record.id)}/ns/net"


def _begin_first(
    context: Context, record: SandboxRecord, request: NetworkRequest, hostname: str
) -> Callable[[], Attachment]:
    """A place in the one network that a sandbox is in, which brings its ports; in two halves."""
    try:
        return context.network.begin(
            record.id,
            _netns(context, record),
            network=request.network,
            port_mappings=record.config.port_mappings,
            hostname=hostname,
            options=_options(record, request, _names(context, record, hostname)),
        )
    except AlreadyExists as error:
        raise _by_name(context, record, error) from error


def _join(context: Context, record: SandboxRecord, request: NetworkRequest, hostname: str) -> Attachment:
    """A place in a further network."""
    try:
        return context.network.connect(
            record.id,
            _netns(context, record),
            network=request.network,
            hostname=hostname,
            options=_options(record, request, _names(context, record, hostname)),
        )
    except AlreadyExists as error:
        raise _by_name(context, record, error) from error


def _by_name(context: Context, record: SandboxRecord, error: AlreadyExists) -> AlreadyExists:
    from oakum.engine import holders  # only conflicts need it

    return holders.by_name(context, error, record.namespace)


def name_lines(context: Context, record: SandboxRecord, attachment: Attachment | None) -> list[str] | None:
    """The lines with names for a sandbox's first hosts file; None where it has none."""
    if attachment is None or not attachment.names:
        return None
    return context.network.builtin.name_lines(record.id, _taken(record))


def is_shared(record: SandboxRecord) -> bool:
    """Whether a sandbox is found by others, and finds them: in any network but the default one."""
    return record.config.owner == "container" and any(
        request.network not in (DEFAULT, NONE) for request in wanted(record)
    )


@contextmanager
def naming(context: Context, record: SandboxRecord, hostname: str) -> Generator[None]:
    """Have a container that is made in the block be found by its id, too; whoever is killed in it owes that."""
    if not (
        is_shared(record)
        and os.path.exists(context.layout.network_database)
        and context.network.builtin.attachments_of(record.id)
    ):
        yield
        return
    with context.locks.holding(record.id), renaming(context, record, hostname):
        yield


@contextmanager
def renaming(context: Context, record: SandboxRecord, hostname: str) -> Generator[None]:
    """Have a container be found by the names it has after the block. Its sandbox's lock is ours."""
    if not (
        os.path.exists(context.layout.network_database) and context.network.builtin.attachments_of(record.id)
    ):
        yield
        return
    builtin = context.network.builtin
    builtin.owe(record.id, NETWORKS)
    try:
        yield
    except OakumError:
        _paid(builtin, record.id)  # it is called as before
        raise
    builtin.rename(record.id, _names(context, record, hostname))
    write_names(context, own=record.id)
    _paid(builtin, record.id)


# connecting and disconnecting


def connect(context: Context, record: SandboxRecord, request: NetworkRequest, hostname: str) -> None:
    """Connect a container to a network, now and whenever it starts. Its sandbox's lock is ours.

    Raises:
        AlreadyExists: it is in this network, or somebody has its address.
        FailedPrecondition: it has the host's network or none, is a pod's, or the network is CNI's.
        NotFound: no such network.
    """
    _check(record, "connect to network", request.network)
    before = wanted(record)
    if any(each.network == request.network for each in before):
        raise AlreadyExists(
            "connect to network",
            repr(request.network),
            f"container {record.config.metadata.name} is in it",
            hint="disconnect it first to change its address or names",
        )
    builtin = context.network.builtin
    if request.network != DEFAULT and not builtin.has_network(request.network):
        raise NotFound(
            "connect to network",
            repr(request.network),
            "no such network made by oakum",
            hint="oakum network ls",
        )
    changed = msgspec.structs.replace(record, networks=(*before, request))
    if not _lives(record):
        context.store.update_sandbox(changed)
        return
    builtin.owe(record.id, NETWORKS)
    context.store.update_sandbox(changed)
    try:
        if builtin.attachments_of(record.id):
            _join(context, changed, request, hostname)
        else:
            _begin_first(context, changed, request, hostname)()
    except BaseException:  # Ctrl-C as well: what was not done is not wanted
        context.store.update_sandbox(record)
        _paid(builtin, record.id)
        raise
    builtin.rename(record.id, _names(context, changed, hostname))
    _finish(context, changed)


def disconnect(context: Context, record: SandboxRecord, network: str, *, force: bool) -> None:
    """Disconnect a container from a network, now and whenever it starts. Its sandbox's lock is ours.

    Raises:
        FailedPrecondition: it has the host's network or none, or is a pod's.
        NotFound: it is not in this network, unless with `force`.
    """
    _check(record, "disconnect from network", network)
    before = wanted(record)
    after = tuple(each for each in before if each.network != network)
    builtin = context.network.builtin
    attached = network in {each.network for each in builtin.attachments_of(record.id)}
    if len(after) == len(before) and not attached:
        if force:
            return
        raise NotFound(
            "disconnect from network", repr(network), f"container {record.config.metadata.name} is not in it"
        )
    if not attached and _lives(record):
        raise FailedPrecondition(
            "disconnect from network", repr(network), "CNI plugins made it, who attach a pod once"
        )
    changed = msgspec.structs.replace(record, networks=after)
    if not attached:
        context.store.update_sandbox(changed)
        return
    builtin.owe(record.id, NETWORKS)
    context.store.update_sandbox(changed)
    builtin.disconnect(record.id, network)
    _finish(context, changed)


def settle(context: Context, record: SandboxRecord, hostname: str) -> str:
    """Bring a sandbox's networks to what its row says; what was done. Its lock is ours. Idempotent."""
    builtin = context.network.builtin
    if _lives(record):
        names = [request.network for request in wanted(record)]
        for attached in builtin.attachments_of(record.id):
            if attached.network not in names:
                builtin.disconnect(record.id, attached.network)
        for request in wanted(record):
            if any(place.network != request.network for place in builtin.attachments_of(record.id)):
                _join(context, record, request, hostname)
            else:
                _begin_first(context, record, request, hostname)()
        builtin.rename(record.id, _names(context, record, hostname))
        _finish(context, record)
    else:
        _paid(builtin, record.id)
    return f"sandbox {record.id[:12]}: half connected, finished"


def describe(context: Context, record: SandboxRecord) -> list[dict[str, Any]]:
    """A sandbox's places in networks as plain JSON values, the oldest first."""
    found = context.network.attachments_of(record.id) if record.has_network else []
    return [
        {
            "network": place.network,
            "interface": place.interface,
            "addresses": [
                f"{address}/{length}"
                for address, length in zip(place.addresses, place.prefix_lengths, strict=True)
            ],
            "gateways": list(place.gateways),
            "mac": place.mac,
            "mtu": place.mtu,
            "host_interface": place.host_interface,
            "names": list(place.names),
            "aliases": list(place.aliases),
        }
        for place in found
    ]


def _finish(context: Context, record: SandboxRecord) -> None:
    """Write down what a sandbox's first address is now, and have all know it whom this concerns."""
    builtin = context.network.builtin
    relay(context, record)
    write_names(context, own=record.id)
    nameservers.begin(context, record, anew=is_shared(record))
    if is_shared(record):
        nameservers.change_resolv_conf(context, record)
    places = builtin.attachments_of(record.id)
    context.store.update_sandbox(
        msgspec.structs.replace(
            record,
            addresses=places[0].addresses if places else (),
            interface=places[0].interface if places else "",
            host_interface=places[0].host_interface if places else "",
        )
    )
    _paid(builtin, record.id)


def _paid(builtin: BuiltinNetwork, sandbox_id: str) -> None:
    builtin.settle([due for due in builtin.due(NETWORKS) if due.sandbox_id == sandbox_id])


def _lives(record: SandboxRecord) -> bool:
    return record.phase == "ready" and shim_lives(record)


def _check(record: SandboxRecord, operation: str, network: str) -> None:
    config = record.config
    if config.owner != "container":
        raise FailedPrecondition(operation, repr(network), "a pod keeps the network that it was started with")
    kind = "no" if config.network == NONE else "the host's"
    if config.namespaces.network == "node" or config.network == NONE:
        raise FailedPrecondition(
            operation,
            repr(network),
            f"container {config.metadata.name} has {kind} network",
            hint="run it anew with --network",
        )


# names


def write_names(context: Context, *, own: str = "") -> list[str]:
    """Write the hosts files that are due, and `own`'s in any case; what went wrong with others, one line each.

    Those stay due: they are tried again by whoever comes next. Raises OakumError: `own`'s cannot be written.
    """
    if not os.path.exists(context.layout.network_database):
        return []
    builtin = context.network.builtin
    if not own and not builtin.due(NAMES):
        return []
    failed: list[str] = []
    with Locks(context.layout.root).holding(_LOCK):
        # What is due is read first: who changes something later makes it due once more.
        due = {each.sandbox_id: each for each in builtin.due(NAMES)}
        for sandbox_id in dict.fromkeys((*filter(None, (own,)), *due)):
            try:
                _write_hosts(context, sandbox_id)
            except OakumError as error:
                if sandbox_id == own:
                    raise
                due.pop(sandbox_id)
                failed.append(f"sandbox {sandbox_id[:12]}: names not written: {error}")
        builtin.settle(tuple(due.values()))
    return failed


def _taken(record: SandboxRecord) -> list[str]:
    """The names that a container's user has given addresses."""
    return [name for name, _ in record.config.extra_hosts]


def _write_hosts(context: Context, sandbox_id: str) -> None:
    from oakum.network.names import merge  # as in `podfiles`

    record = context.store.sandbox(sandbox_id)
    path = f"{context.layout.sandbox(sandbox_id)}/hosts"
    if record is None or record.config.owner != "container":
        return
    lines = context.network.builtin.name_lines(sandbox_id, _taken(record)) or []
    with storing("write names", path):
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # not made yet, or gone: who makes it writes them
        with open(fd, "r+b", buffering=0) as file:
            old = file.read(_HOSTS_LIMIT_BYTES + 1) or b""
            if len(old) > _HOSTS_LIMIT_BYTES:
                raise FailedPrecondition("write names", path, "the container has made the file too large")
            text = merge(old.decode(errors="surrogateescape"), lines)
            podfiles.rewrite(fd, old, text.encode(errors="surrogateescape"))


# the endings of calls whose process was killed


def recover(context: Context, finish: Callable[[str], str]) -> list[str]:
    """Do what killed processes owe; what was done, one line each. `finish` settles the networks of one sandbox."""
    if not context.network_owes():
        return []
    done = [finish(due.sandbox_id) for due in context.network.builtin.due(NETWORKS)]
    return [line for line in done if line] + write_names(context)


def forget(context: Context, sandbox_id: str) -> None:
    """Nothing is owed to a sandbox that is no more."""
    _paid(context.network.builtin, sandbox_id)
