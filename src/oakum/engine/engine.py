# SPDX-License-Identifier: Apache-2.0
"""The public face of the engine: `Engine` over one root and state directory; what lies in it is `namespace.Namespace`.

It holds no state that matters: any process may be killed at any instant and another one, with another `Engine` on the
same directories, carries on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from oakum.engine.context import Context
from oakum.engine.namespace import Namespace
from oakum.engine.namespaces import Namespaces

if TYPE_CHECKING:
    from oakum.engine.space import SpaceUse
    from oakum.network.choice import ChosenNetwork
    from oakum.network.settings import NetworkSettings

DEFAULT_ROOT = "/var/lib/oakum"
DEFAULT_STATE = "/run/oakum"
DEFAULT_NAMESPACE = "default"


class Engine:
    """The container engine over `root` (durable) and `state` (gone after a reboot); thread-safe, blocking.

    Making one is cheap and touches nothing; directories and the database come with the first use.
    """

    def __init__(
        self,
        root: str = DEFAULT_ROOT,
        state: str = DEFAULT_STATE,
        *,
        network: NetworkSettings | None = None,
        cgroup_driver: str = "auto",
        runtimes: Mapping[str, str] | None = None,
    ) -> None:
        """`network` says who makes networks; without it the environment does (OAKUM_NETWORK).

        `cgroup_driver` "systemd" makes scopes of the containers in slices, "cgroupfs" does not, "auto" does where systemd is
        this machine's init. `runtimes` are further runtime handlers, name to path of a program with runc's command line; without
        it the environment names them (OAKUM_RUNTIMES).
        """
        self._context = Context(root, state, network, cgroup_driver, runtimes)
        self._namespaces = Namespaces(self._context)

    @property
    def root(self) -> str:
        """The durable directory."""
        return self._context.layout.root

    @property
    def state(self) -> str:
        """The directory that is gone after a reboot."""
        return self._context.layout.state

    def namespace(self, name: str = DEFAULT_NAMESPACE) -> Namespace:
        """The namespace called `name`; it comes into being with its first object. Raises InvalidArgument."""
        return self._namespaces.open(name, Namespace)

    def namespaces(self) -> Sequence[str]:
        """The names of all namespaces, "default" and "k8s.io" always among them."""
        return self._namespaces.list()

    def create_namespace(self, name: str) -> None:
        """Make an empty namespace. Raises AlreadyExists."""
        self._namespaces.create(name)

    def remove_namespace(self, name: str) -> None:
        """Remove a namespace. Raises NotFound, and FailedPrecondition while it holds anything."""
        self._namespaces.remove(name)

    @property
    def networks(self) -> ChosenNetwork:
        """The networks: list, create and remove them."""
        return self._context.network

    def networks_in_use(self) -> frozenset[str]:
        """The networks that any sandbox is in, or will be when it starts again."""
        from oakum.engine.networks import wanted  # few calls ask

        records = self._context.store.sandboxes()
        return frozenset(request.network for record in records for request in wanted(record))

    def info(self) -> Mapping[str, Any]:
        """What this engine is and runs on, as plain JSON values."""
        # Only asked by people; reads a good part of /proc and /sys.
        from oakum.engine.info import engine_info

        return engine_info(self._context)

    def handler_problems(self) -> Sequence[str]:
        """Why runtime handlers that were configured cannot be used, one line each."""
        return self._context.handlers.problems()

    def recover(self) -> Sequence[str]:
        """Finish or roll back what killed processes left half done; what was done, one line each.

        Idempotent. Cheap (one query) when there is nothing to do: every command line call begins with it.
        """
        # Kept out of the import of every other call.
        from oakum.engine.recovery import recover

        return recover(self._context, self.namespace)

    def recover_fully(self) -> Sequence[str]:
        """As `recover`, and compares every directory, mount, address and cgroup with the database.

        For the start of a server and after a reboot.
        """
        from oakum.engine.recovery import recover_fully  # as in `recover`

        return recover_fully(self._context, self.namespace)

    def owed_restarts(self) -> Sequence[tuple[str, str]]:
        """Namespace and id of the containers whose restart policy wants them started when a server starts."""
        from oakum.engine.restarts import owed  # as in `recover`

        return owed(self._context)

    def gc(self) -> Sequence[str]:
        """Remove content and layers that no image name and no container needs; what was removed.

        Does nothing while a pull or import is in flight: the last of them does it at its end.
        """
        from oakum.engine.garbage import collect  # only image calls need it

        return collect(self._context)

    def space(self) -> Sequence[SpaceUse]:
        """What images, containers and volumes of all namespaces take on the disk."""
        from oakum.engine.space import measure  # reads the size of every file

        return measure(self._context)

    def close(self) -> None:
        """Close the database. The containers go on."""
        self._context.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
