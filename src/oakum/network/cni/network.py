# SPDX-License-Identifier: Apache-2.0
"""`CniNetwork`: sandboxes attached by the plugins of a node.

ADD is called once for an attachment and DEL until it has succeeded: what DEL still owes is on disk and is repeated in
the background, by `gc`, and whenever the sandbox is torn down again. Host side: the calling thread's namespace.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Final, Unpack

from oakum.errors import DataLoss, FailedPrecondition, NotFound, OakumError
from oakum.linux import rtnetlink
from oakum.linux.netlink import NetlinkSocket
from oakum.linux.netns import inside, open_netns
from oakum.network.attachment import (
    INTERFACE,
    Attachment,
    AttachmentOptions,
    InterfaceCounters,
    PortRequest,
)
from oakum.network.cni import chain
from oakum.network.cni.config import NetworkList
from oakum.network.cni.directory import ConfigDirectory
from oakum.network.cni.execution import TimedOut, find_plugin, run_program
from oakum.network.cni.firsts import MAKERS, Firsts
from oakum.network.cni.records import Record, Records
from oakum.network.cni.requests import Target, arguments, check_target, environment, runtime_config
from oakum.network.cni.results import Call, summary, timed_out, without_addresses
from oakum.network.ports import check_free, plan_bindings
from oakum.network.protocol import DEFAULT_NETWORK, Network, NetworkInfo, Wishes
from oakum.network.retry import Retrier
from oakum.network.settings import CniSettings

# How long STATUS and what plugins say of their versions is believed: the kubelet asks every few seconds.
_STATUS_AGE_S: Final = 5.0


class CniNetwork(Network):
    """The CNI attachments of one ROOT. Safe from many threads and processes at once."""

    def __init__(self, directory: str, settings: CniSettings = CniSettings()) -> None:  # noqa: B008 - immutable
        """Keep records below `directory`; nothing is opened yet."""
        self._settings = settings
        self._records = Records(directory, orphan_s=settings.timeout_s)
        self._configs = ConfigDirectory(settings.config_directory)
        self._retrier = Retrier(self._retry, name="cni-retry")
        self._guard = threading.Lock()
        self._problem: tuple[float, NetworkList, str] | None = None
        self._versions: dict[tuple[str, int, int], tuple[str, ...]] = {}
        self._firsts = Firsts()

    def close(self) -> None:
        """Stop repeating what failed; attachments stay."""
        self._retrier.close()

    # Sandboxes

    def has_network(self, name: str) -> bool:
        """Whether a readable configuration has this name. Raises OakumError."""
        return any(network.name == name for network in self._configs.networks().networks)

    def begin(self, sandbox_id: str, netns_path: str, **wishes: Unpack[Wishes]) -> Callable[[], Attachment]:
        """Nothing yet: plugins do nothing without the namespace. What is returned raises as `_add`."""
        return partial(self._add, sandbox_id, netns_path, **wishes)

    def _add(
        self,
        sandbox_id: str,
        netns_path: str,
        *,
        network: str = DEFAULT_NETWORK,
        port_mappings: Sequence[PortRequest] = (),
        hostname: str = "",
        options: AttachmentOptions = AttachmentOptions(),  # noqa: B008 - immutable
    ) -> Attachment:
        """ADD. One that is attached already is only checked.

        Raises:
            AlreadyExists: a process of the host has one of the ports.
            OakumError: a plugin failed, with what it said; what the others did is undone, now or by and by.
        """
        target = Target(
            sandbox_id,
            netns_path,
            INTERFACE,
            arguments(sandbox_id, options),
            runtime_config(port_mappings, options, hostname=hostname),
        )
        check_target(target)
        chosen = self._find(network)
        with self._records.lock(sandbox_id) as lock_fd:
            known = self._records.read(sandbox_id)
            if known is not None:
                if self._is_as_wanted(known, chosen, target, lock_fd):
                    return _describe(known)
                self._delete(known, lock_fd)
            _check_ports(chosen, port_mappings)
            record = Record(sandbox_id, chosen, target, "adding", self._settings.plugin_directories, hostname)
            # Durable: an address that a plugin keeps on disk must not outlive our knowledge of it.
            self._records.write(record, durable=True)
            try:
                result = chain.add(chosen, target, self._runner(record.plugin_directories, lock_fd))
                record = record._replace(phase="added", result=result)
                attached = _describe(record)
                if not attached.addresses:
                    raise without_addresses(Call("ADD", "", chosen.name), target.interface)
                self._records.write(record)
            except BaseException as error:  # Ctrl-C as well: who asked for nothing keeps nothing
                self._undo(record, error, lock_fd)
                raise
            return attached

    def teardown(self, sandbox_id: str) -> None:
        """Detach a sandbox: DEL. Succeeds for what is gone.

        Raises:
            OakumError: a plugin failed. It is repeated in the background until it succeeds, and by calling again.
        """
        if self._records.read(sandbox_id) is None:
            return
        with self._records.lock(sandbox_id) as lock_fd:
            record = self._records.read(sandbox_id)
            if record is None:
                return
            try:
                self._delete(record, lock_fd)
            except OakumError as error:
                self._records.write(record._replace(phase="deleting", error=str(error)))
                self._retrier.wake()
                raise

    def abandon(self, sandbox_id: str) -> None:
        """As `teardown`; a plugin that fails, or has failed already, is repeated in the background and not told of."""
        record = self._records.read(sandbox_id)
        if record is not None and record.phase == "deleting":
            self._retrier.wake()
            return
        try:
            self.teardown(sandbox_id)
        except OakumError:
            if self._records.read(sandbox_id) is None:
                raise  # nothing is kept that could be repeated

    def needs_namespace(self, sandbox_id: str) -> bool:
        """Plugins look at the namespace that they are to leave."""
        return self._records.read(sandbox_id) is not None

    def check(self, sandbox_id: str) -> None:
        """Ask the plugins whether an attachment is as it was made: CHECK, where its configuration allows it.

        Raises:
            OakumError: it is not, with what the plugin says.
            NotFound: it is not attached.
        """
        with self._records.lock(sandbox_id) as lock_fd:
            record = self._records.read(sandbox_id)
            if record is None or record.phase != "added" or record.result is None:
                raise NotFound("check attachment", sandbox_id[:12], "not attached")
            chain.check(
                record.network, record.target, self._runner(record.plugin_directories, lock_fd), record.result
            )

    def attachment(self, sandbox_id: str) -> Attachment | None:
        """A sandbox's attachment, also one that is only half made or unmade. Raises SystemFailure."""
        record = self._records.read(sandbox_id)
        return _describe(record) if record is not None else None

    def attachments(self) -> list[Attachment]:
        """All attachments. Raises SystemFailure."""
        return [_describe(record) for record in self._all()]

    def owed(self) -> dict[str, str]:
        """Sandboxes whose DEL has not succeeded yet, with the last error. Raises SystemFailure."""
        return {record.sandbox_id: record.error for record in self._all() if record.phase == "deleting"}

    def usage(self, sandbox_id: str) -> InterfaceCounters | None:
        """The traffic of a sandbox as seen from inside; None when it is not attached. Raises SystemFailure."""
        record = self._records.read(sandbox_id)
        return _counters(record) if record is not None and record.phase == "added" else None

    def usages(self) -> dict[str, InterfaceCounters]:
        """The traffic of all attached sandboxes. Raises SystemFailure."""
        found = {r.sandbox_id: _counters(r) for r in self._all() if r.phase == "added"}
        return {sandbox_id: counters for sandbox_id, counters in found.items() if counters is not None}

    # Networks

    def list_networks(self) -> list[NetworkInfo]:
        """The networks of the configuration directory; the first is the default one. Raises SystemFailure."""
        loaded = self._configs.networks()
        users: dict[str, list[str]] = {}
        for record in self._all():
            users.setdefault(record.network.name, []).append(record.sandbox_id)
        found = [
            NetworkInfo(
                network.name, "cni", attached=tuple(users.get(network.name, ())), source=network.source
            )
            for network in loaded.networks
        ]
        return found + [
            NetworkInfo("", "cni", source=error.subject, problem=str(error)) for error in loaded.problems
        ]

    def gc(self, live_ids: Collection[str]) -> list[str]:
        """DEL for sandboxes that are not in `live_ids`, whatever DEL is owed, and GC for every network.

        Raises:
            OakumError: the first failure, after everything else was tried; notes name the others.
        """
        freed: list[str] = []
        failed: list[OakumError] = []
        for record in self._all():
            if record.sandbox_id in live_ids and record.phase != "deleting":
                continue
            try:
                self.teardown(record.sandbox_id)
                freed.append(record.sandbox_id)
            except OakumError as error:
                failed.append(error)
        with self._records.collecting():
            self._records.sweep()
            for network, directories, alive in self._collectable():
                failed += chain.collect(network, alive, self._runner(directories))
        if failed:
            for other in failed[1:]:
                failed[0].add_note(str(other))
            raise failed[0]
        return freed

    def problem(self) -> str:
        """Why no sandbox could be attached now: no configuration, a wrong one, no plugin, or what STATUS says."""
        try:
            network = self._configs.default()
        except OakumError as error:
            return str(error)
        with self._guard:
            now = time.monotonic()
            if self._problem is not None:
                asked, about, said = self._problem
                if about == network and now - asked < _STATUS_AGE_S:
                    return said
            said = self._ask(network)
            self._problem = (time.monotonic(), network, said)
            return said

    def warnings(self) -> list[str]:
        """Networks and records that cannot be read, and attachments that plugins have not let go. Raises SystemFailure."""
        found = [str(problem) for problem in self._configs.networks().problems] + self._damaged()
        return found + [f"sandbox {key[:12]} is not detached yet: {why}" for key, why in self.owed().items()]

    # Steps

    def _find(self, name: str) -> NetworkList:
        network = self._configs.default() if name == DEFAULT_NETWORK else self._configs.named(name)
        if len(network.versions) == 1:
            return network
        # Several versions: the newest that every plugin speaks, too.
        common = set(network.versions)
        for plugin in network.plugins:
            spoken = self._versions_of(plugin.type, network)
            common &= set(spoken or network.versions)
        versions = tuple(version for version in network.versions if version in common)
        if not versions:
            raise FailedPrecondition(
                "choose CNI version",
                f"network {network.name}",
                f"its plugins share none of {', '.join(network.versions)}",
            )
        return network._replace(versions=versions)

    def _is_as_wanted(self, known: Record, network: NetworkList, target: Target, lock_fd: int) -> bool:
        if known.phase != "added" or known.result is None:
            return False
        if known.target != target or known.network.name != network.name:
            return False
        try:
            chain.check(known.network, target, self._runner(known.plugin_directories, lock_fd), known.result)
        except OakumError:
            return False  # "permanently misconfigured": it is made anew
        return True

    def _delete(self, record: Record, lock_fd: int) -> None:
        """DEL, and forget the attachment. Within its lock."""
        target = record.target
        if not _is_namespace(target.netns_path):
            target = target._replace(netns_path="")
        chain.delete(record.network, target, self._runner(record.plugin_directories, lock_fd), record.result)
        self._records.remove(record.sandbox_id)

    def _undo(self, record: Record, error: BaseException, lock_fd: int) -> None:
        try:
            self._delete(record, lock_fd)
        except OakumError as second:
            self._records.write(record._replace(phase="deleting", error=str(second)))
            self._retrier.wake()
            if isinstance(error, OakumError):
                error.cause += f"; undoing it failed, too, and is repeated: {second.brief}"

    def _retry(self) -> bool:
        """One round of what DEL is owed; whether something still is."""
        try:
            owes = [self._retry_one(sandbox_id) for sandbox_id in self._records.ids()]
        except OakumError:
            return True  # the thread's edge: a full disk, say; the next round may fare better
        return any(owes)

    def _retry_one(self, sandbox_id: str) -> bool:
        with self._records.try_lock(sandbox_id) as lock_fd:
            try:
                record = self._records.read(sandbox_id) if lock_fd is not None else None
            except DataLoss:
                return False  # said by whoever asks for it; repeating does not mend it
            if record is None or lock_fd is None or record.phase != "deleting":
                return False
            try:
                self._delete(record, lock_fd)
            except OakumError as error:
                self._records.write(record._replace(error=str(error)))
                return True
            return False

    def _all(self) -> list[Record]:
        """All that can be read: one damaged record keeps nobody else from being served."""
        found: list[Record] = []
        for sandbox_id in self._records.ids():
            try:
                record = self._records.read(sandbox_id)
            except DataLoss:
                continue  # `warnings` tells
            if record is not None:
                found.append(record)
        return found

    def _damaged(self) -> list[str]:
        found: list[str] = []
        for sandbox_id in self._records.ids():
            try:
                self._records.read(sandbox_id)
            except DataLoss as error:
                found.append(str(error))
        return found

    def _collectable(self) -> list[tuple[NetworkList, tuple[str, ...], list[tuple[str, str]]]]:
        """Every network that is configured or has attachments, with its attachments; as configured now, if it is."""
        networks = {each.name: each for each in reversed(self._configs.networks().networks)}
        directories = dict.fromkeys(networks, self._settings.plugin_directories)
        alive: dict[str, list[tuple[str, str]]] = {name: [] for name in networks}
        for record in self._all():
            name = record.network.name
            networks.setdefault(name, record.network)
            directories.setdefault(name, record.plugin_directories)
            alive.setdefault(name, []).append((record.sandbox_id, record.target.interface))
        return [(networks[name], directories[name], alive[name]) for name in sorted(networks)]

    def _ask(self, network: NetworkList) -> str:
        try:
            for plugin in network.plugins:
                if plugin.ipam_type:
                    find_plugin(plugin.ipam_type, self._settings.plugin_directories)
                spoken = self._versions_of(plugin.type, network)
                if spoken and not set(spoken) & set(network.versions):
                    wanted = ", ".join(network.versions)
                    return f"plugin {plugin.type} does not speak CNI {wanted}, as {network.source} wants"
            chosen = self._find(DEFAULT_NETWORK)
            chain.status(chosen, self._runner(self._settings.plugin_directories))
        except OakumError as error:
            return str(error)
        return ""

    def _versions_of(self, kind: str, network: NetworkList) -> tuple[str, ...]:
        """What a plugin says that it speaks, asked once for each program; () where it says nothing that can be read.

        Raises NotFound when there is no such program.
        """
        directories = self._settings.plugin_directories
        path = find_plugin(kind, directories)
        found = os.stat(path)
        key = (path, found.st_mtime_ns, found.st_ino)
        if key not in self._versions:
            try:
                self._versions[key] = chain.versions(kind, network, self._runner(directories))
            except OakumError:
                # Some plugins that work know no VERSION: what they make of ADD will tell.
                self._versions[key] = ()
        return self._versions[key]

    def _runner(self, directories: Sequence[str], *lock_fds: int) -> chain.Run:
        """Starts plugins out of `directories`, ours first if those are not there any more."""
        search = tuple(dict.fromkeys((*self._settings.plugin_directories, *directories)))

        def run(call: Call, standard_input: bytes, target: Target | None) -> chain.Answer:
            path = find_plugin(call.plugin, search)
            is_question = call.command in ("STATUS", "VERSION")
            timeout_s = self._settings.question_timeout_s if is_question else self._settings.timeout_s
            told = environment(call.command, search, target, os.environ)
            start = partial(
                run_program, path, standard_input, told, timeout_s=timeout_s, inherited_fds=lock_fds
            )
            try:
                if call.command == "ADD" and call.plugin in MAKERS and target is not None:
                    # without ports, portmap makes nothing
                    return self._firsts.run((call.plugin, "portMappings" in target.runtime_config), start)
                return start()
            except TimedOut:
                raise timed_out(call, timeout_s) from None

        return run


def _check_ports(network: NetworkList, ports: Sequence[PortRequest]) -> None:
    """Plugins publish without looking: who listens on the host already would not be heard any more."""
    if any("portMappings" in plugin.capabilities for plugin in network.plugins):
        check_free(plan_bindings(ports, with_ipv6=any(":" in each.host_ip for each in ports)))


def _is_namespace(path: str) -> bool:
    """Whether a network namespace is still pinned at `path`: what is left of a pin is an empty file."""
    try:
        return os.stat(path).st_dev == os.stat("/proc/self/ns/net").st_dev
    except OSError:
        return False


def _describe(record: Record) -> Attachment:
    """What a record says of its sandbox; without addresses where ADD has not succeeded."""
    target, call = record.target, Call("ADD", "", record.network.name)
    if record.result is None:
        return Attachment(
            record.sandbox_id, record.network.name, target.netns_path, "", (), (), (), "", 0,
            interface=target.interface, hostname=record.hostname,
        )  # fmt: skip
    found = summary(record.result, call)
    interface, addresses = found.of(target.interface)
    return Attachment(
        record.sandbox_id,
        record.network.name,
        target.netns_path,
        found.host_interface(target.interface),
        tuple(str(each.interface.ip) for each in addresses),
        tuple(each.interface.network.prefixlen for each in addresses),
        tuple(each.gateway for each in addresses),
        interface.mac if interface is not None else "",
        interface.mtu if interface is not None else 0,
        interface=target.interface,
        hostname=record.hostname,
        dns_servers=found.servers,
        dns_searches=found.searches,
        dns_options=found.options,
    )


def _counters(record: Record) -> InterfaceCounters | None:
    """What the interface counts inside; None when namespace or interface are gone."""
    path, name = record.target.netns_path, record.target.interface
    if not _is_namespace(path):
        return None
    with open_netns(path) as netns, inside(netns.fileno(), NetlinkSocket, subject=path) as route:
        link = rtnetlink.get_link(route, name, stats=True)
    if link is None:
        return None
    stats = link.stats
    return InterfaceCounters(
        name,
        rx_bytes=stats.rx_bytes,
        rx_errors=stats.rx_errors,
        tx_bytes=stats.tx_bytes,
        tx_errors=stats.tx_errors,
        rx_packets=stats.rx_packets,
        tx_packets=stats.tx_packets,
        rx_dropped=stats.rx_dropped,
        tx_dropped=stats.tx_dropped,
    )
