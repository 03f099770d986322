# SPDX-License-Identifier: Apache-2.0
"""What the engine needs of a network, whoever makes it: the built-in bridge or a node's CNI plugins."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, Protocol, TypedDict, Unpack

from oakum.network.attachment import Attachment, AttachmentOptions, InterfaceCounters, PortRequest

DEFAULT_NETWORK = "default"


class NetworkInfo(NamedTuple):
    """A network for people: who makes it, and what it is like as far as that is known."""

    name: str
    driver: str
    subnets: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    bridge: str = ""
    mtu: int = 0
    internal: bool = False
    attached: tuple[str, ...] = ()
    source: str = ""
    problem: str = ""


class Wishes(TypedDict, total=False):
    """What a sandbox may want of a network, or has by default: the default network, and nothing else."""

    network: str
    port_mappings: Sequence[PortRequest]
    hostname: str
    options: AttachmentOptions


class Network(Protocol):
    """Networks of one ROOT. Safe from many threads and processes; every call tolerates to be repeated."""

    def setup(self, sandbox_id: str, netns_path: str, **wishes: Unpack[Wishes]) -> Attachment:
        """Attach the network namespace at `netns_path`. Raises OakumError; then nothing is left attached."""
        return self.begin(sandbox_id, netns_path, **wishes)()

    def begin(self, sandbox_id: str, netns_path: str, **wishes: Unpack[Wishes]) -> Callable[[], Attachment]:
        """As `setup`, in two halves: the first is done before the namespace is there, the second by what is returned.

        Where the second is not called, `teardown` undoes the first. Raises OakumError.
        """
        ...

    def teardown(self, sandbox_id: str) -> None:
        """Detach a sandbox; succeeds for what is gone. Raises OakumError; then it is to be repeated."""
        ...

    def abandon(self, sandbox_id: str) -> None:
        """As `teardown`, for who cannot wait or repeat: what fails is repeated in the background. Raises OakumError."""
        ...

    def needs_namespace(self, sandbox_id: str) -> bool:
        """Whether `teardown` wants to run while the sandbox's namespace is still there."""
        ...

    def attachment(self, sandbox_id: str) -> Attachment | None:
        """A sandbox's attachment; None when it has none. Raises OakumError."""
        ...

    def attachments(self) -> list[Attachment]:
        """All attachments. Raises OakumError."""
        ...

    def usage(self, sandbox_id: str) -> InterfaceCounters | None:
        """The traffic of a sandbox as seen from inside; None when it is not attached. Raises OakumError."""
        ...

    def usages(self) -> dict[str, InterfaceCounters]:
        """The traffic of all attached sandboxes. Raises OakumError."""
        ...

    def list_networks(self) -> list[NetworkInfo]:
        """All networks, with what is wrong with them. Raises OakumError."""
        ...

    def gc(self, live_ids: Collection[str]) -> list[str]:
        """Free everything of sandboxes that are not in `live_ids`; the ids that were freed. Raises OakumError."""
        ...

    def problem(self) -> str:
        """Why no sandbox could be attached to the default network now; "" when one could."""
        ...

    def warnings(self) -> list[str]:
        """What stands in the way of traffic, for people. Raises OakumError."""
        ...

    def close(self) -> None:
        """Close what is open; networks and attachments stay."""
        ...
