# SPDX-License-Identifier: Apache-2.0
"""Which network a sandbox gets: the node's CNI plugins where somebody has configured them, else the built-in bridge.

Chosen for each new sandbox; one that is attached stays with whoever attached it, also when the choice changes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Unpack

from oakum.errors import FailedPrecondition, OakumError
from oakum.network.attachment import Attachment, AttachmentOptions, InterfaceCounters
from oakum.network.due import NAMES, NETWORKS, anything_due
from oakum.network.protocol import DEFAULT_NETWORK, Network, NetworkInfo, Wishes
from oakum.network.settings import NetworkSettings, has_configuration

if TYPE_CHECKING:
    from oakum.network.builtin import BuiltinNetwork
    from oakum.network.cni.network import CniNetwork


class ChosenNetwork(Network):
    """Both kinds of network of one ROOT, as one. Thread-safe; what is not used is not loaded."""

    def __init__(
        self, database: str, cni_directory: str, *, name_suffix: str = "", settings: NetworkSettings
    ) -> None:
        """`database` and `cni_directory` are where the built-in network and the CNI host keep what they know."""
        self._database = database
        self._cni_directory = cni_directory
        self._suffix = name_suffix
        self._settings = settings
        self._guard = threading.Lock()
        self._opened_builtin: BuiltinNetwork | None = None
        self._opened_cni: CniNetwork | None = None

    @property
    def builtin(self) -> BuiltinNetwork:
        """The built-in network: what makes, changes and removes named networks."""
        with self._guard:
            if self._opened_builtin is None:
                from oakum.network.builtin import BuiltinNetwork  # a node with CNI does not load it

                self._opened_builtin = BuiltinNetwork(self._database, name_suffix=self._suffix)
            return self._opened_builtin

    @property
    def cni(self) -> CniNetwork:
        """The CNI host."""
        with self._guard:
            if self._opened_cni is None:
                from oakum.network.cni.network import CniNetwork  # a node without CNI does not load it

                self._opened_cni = CniNetwork(self._cni_directory, self._settings.cni)
            return self._opened_cni

    def close(self) -> None:
        """Close what is open; networks and attachments stay."""
        with self._guard:
            opened = (self._opened_builtin, self._opened_cni)
            self._opened_builtin = self._opened_cni = None
        for each in opened:
            if each is not None:
                each.close()

    def uses_cni(self) -> bool:
        """Whether the default network is a CNI one now. Raises SystemFailure."""
        if self._settings.mode != "auto":
            return self._settings.mode == "cni"
        return has_configuration(self._settings.cni.config_directory)

    def _choose(self, network: str) -> Network:
        """Who attaches to the network of this name. A name that both know is the built-in's."""
        if network == DEFAULT_NETWORK:
            return self.cni if self.uses_cni() else self.builtin
        if self._settings.mode == "cni" or (
            self.uses_cni() and not self.builtin.has_network(network) and self.cni.has_network(network)
        ):
            return self.cni
        return self.builtin

    def begin(self, sandbox_id: str, netns_path: str, **wishes: Unpack[Wishes]) -> Callable[[], Attachment]:
        """As `setup`, in two halves: the first needs no namespace, the second is the returned call. Raises OakumError."""
        chosen = self._choose(wishes.get("network", DEFAULT_NETWORK))
        return chosen.begin(sandbox_id, netns_path, **wishes)

    def connect(
        self,
        sandbox_id: str,
        netns_path: str,
        *,
        network: str,
        hostname: str = "",
        options: AttachmentOptions = AttachmentOptions(),  # noqa: B008 - immutable
    ) -> Attachment:
        """Attach a sandbox to a further network. May be repeated.

        Raises:
            FailedPrecondition: this network, or one it is in, is made by CNI plugins, which attach a sandbox once.
            OakumError: as `setup`.
        """
        has_cni = self._opened_cni is not None or os.path.exists(self._cni_directory)
        in_cni = has_cni and self.cni.attachment(sandbox_id) is not None
        if in_cni or self._choose(network) is not self.builtin:
            raise FailedPrecondition(
                "connect to network",
                repr(network),
                "networks of CNI plugins are chosen when a sandbox starts",
                hint="connect containers to networks made with oakum network create",
            )
        return self.builtin.connect(
            sandbox_id, netns_path, network=network, hostname=hostname, options=options
        )

    def teardown(self, sandbox_id: str) -> None:
        """Detach a sandbox from whoever attached it; succeeds for what is gone. Raises OakumError."""
        for each in self._in_use():
            each.teardown(sandbox_id)

    def abandon(self, sandbox_id: str) -> None:
        """As `teardown`, for who cannot wait or repeat: what fails is repeated in the background. Raises OakumError."""
        for each in self._in_use():
            each.abandon(sandbox_id)

    def needs_namespace(self, sandbox_id: str) -> bool:
        """Whether `teardown` wants to run while the sandbox's namespace is still there."""
        return any(each.needs_namespace(sandbox_id) for each in self._in_use())

    def attachment(self, sandbox_id: str) -> Attachment | None:
        """A sandbox's attachment; None when it has none. Raises OakumError."""
        for each in self._in_use():
            found = each.attachment(sandbox_id)
            if found is not None:
                return found
        return None

    def attachments_of(self, sandbox_id: str) -> list[Attachment]:
        """A sandbox's attachments, the oldest first. Raises OakumError."""
        found = self.attachment(sandbox_id)
        if found is None:
            return []
        in_builtin = self.builtin.attachments_of(sandbox_id) if os.path.exists(self._database) else []
        return in_builtin or [found]

    def attachments(self) -> list[Attachment]:
        """All attachments. Raises OakumError."""
        return [attachment for each in self._in_use() for attachment in each.attachments()]

    def usage(self, sandbox_id: str) -> InterfaceCounters | None:
        """The traffic of a sandbox as seen from inside; None when it is not attached. Raises OakumError."""
        for each in self._in_use():
            found = each.usage(sandbox_id)
            if found is not None:
                return found
        return None

    def usages(self) -> dict[str, InterfaceCounters]:
        """The traffic of all attached sandboxes. Raises OakumError."""
        found: dict[str, InterfaceCounters] = {}
        for each in self._in_use():
            found |= each.usages()
        return found

    def owes(self) -> bool:
        """Whether anything is owed to a sandbox's networks or names. Raises SystemFailure."""
        with self._guard:
            opened = self._opened_builtin
        if opened is None:
            return anything_due(self._database)
        # Not by a second connection: SQLite would keep its descriptor for as long as the first one is open.
        return any(opened.due(what) for what in (NAMES, NETWORKS))

    def list_networks(self) -> list[NetworkInfo]:
        """All networks; the one that new sandboxes get by default is the first. Raises OakumError."""
        configured = self.cni.list_networks() if self._settings.mode != "builtin" else []
        made = self.builtin.list_networks() if self._settings.mode != "cni" else []
        return [*configured, *made] if self.uses_cni() else [*made, *configured]

    def create_network(
        self, name: str, *, subnets: Sequence[str] = (), mtu: int = 0, internal: bool = False
    ) -> NetworkInfo:
        """Make a built-in network. Raises OakumError."""
        if self._settings.mode == "cni":
            raise FailedPrecondition(
                "create network",
                repr(name),
                "this node's networks are made by CNI plugins only",
                hint=f"put a configuration into {self._settings.cni.config_directory}",
            )
        return self.builtin.create_network(name, subnets=subnets, mtu=mtu, internal=internal)

    def remove_network(self, name: str = DEFAULT_NETWORK) -> None:
        """Remove a built-in network; succeeds for what is gone. Raises OakumError."""
        self.builtin.remove_network(name)

    def gc(self, live_ids: Collection[str]) -> list[str]:
        """Free everything of sandboxes that are not in `live_ids`; the ids that were freed.

        Raises:
            OakumError: the first failure, after both kinds were tried.
        """
        freed: list[str] = []
        failure: OakumError | None = None
        for each in self._in_use():
            try:
                freed += each.gc(live_ids)
            except OakumError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return freed

    def problem(self) -> str:
        """Why no sandbox could be attached to the default network now; "" when one could."""
        try:
            return self._choose(DEFAULT_NETWORK).problem()
        except OakumError as error:
            return str(error)

    def warnings(self) -> list[str]:
        """What stands in the way of traffic, for people. Raises OakumError."""
        return [warning for each in self._in_use() for warning in each.warnings()]

    def _in_use(self) -> list[Network]:
        """Those that know any sandbox or are asked to by the settings; neither is loaded for nothing."""
        found: list[Network] = []
        if self._opened_builtin is not None or os.path.exists(self._database):
            found.append(self.builtin)
        if self._opened_cni is not None or os.path.exists(self._cni_directory):
            found.append(self.cni)
        return found
