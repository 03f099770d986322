# SPDX-License-Identifier: Apache-2.0
"""What this Docker Engine and this host can do, asked once and told in Status. Changes nothing.

Docker's host is this host: pods' namespaces, control groups and logs are reached here.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final

import msgspec

from oakum.backend.status import Condition, HandlerFeatures, RuntimeStatus
from oakum.docker.client import DockerClient
from oakum.engine import host
from oakum.errors import OakumError
from oakum.network.choice import ChosenNetwork

_OWN_SCORE: Final = "/proc/self/oom_score_adj"
_ASK_S: Final = 5.0
DOCKER: Final = "docker"


class Facts:
    """What can be asked of one Docker Engine."""

    def __init__(self, client: DockerClient) -> None:
        self._client = client

    def info(self) -> dict[str, Any]:
        """Docker's own account of itself. Raises OakumError."""
        return self._client.get("/info", deadline_s=_ASK_S)

    @cached_property
    def lowest_score(self) -> int:
        """The lowest oom_score_adj that a container can be given here."""
        return lowest_score()

    def score(self, wanted: int) -> int:
        """An oom_score_adj that this host allows, as near to the wanted one as can be."""
        return max(wanted, self.lowest_score)

    def handlers(self) -> list[str]:
        """The names that a pod may ask for: Docker's default runtime, and each that it knows by name. Raises OakumError."""
        return [DOCKER, *sorted(set(self.info().get("Runtimes") or ()) - {DOCKER})]

    def status(self, network: ChosenNetwork, *, verbose: bool) -> RuntimeStatus:
        """Health and features; what is unhealthy is told, not raised."""
        info: dict[str, Any] = {}
        try:
            info = self.info()
        except OakumError as error:
            runtime = Condition(type="RuntimeReady", status=False, reason=error.code, message=str(error))
        else:
            runtime = Condition(type="RuntimeReady", status=True)
        try:
            problem = network.problem()
        except OakumError as error:
            problem = str(error)
        reason = "NetworkPluginNotReady" if problem else ""
        features = HandlerFeatures(name="", recursive_read_only_mounts=host.kernel_version() >= (5, 12))
        names = ["", DOCKER, *sorted(set(info.get("Runtimes") or ()) - {DOCKER})]
        return RuntimeStatus(
            conditions=(
                runtime,
                Condition(type="NetworkReady", status=not problem, reason=reason, message=problem),
            ),
            handlers=tuple(msgspec.structs.replace(features, name=name) for name in names),
            supplemental_groups_policy=True,
            mount_options=True,
            info={"docker": msgspec.json.encode(self._account(info)).decode()} if verbose else {},
        )

    def _account(self, info: dict[str, Any]) -> dict[str, Any]:
        keys = ("ServerVersion", "Driver", "CgroupDriver", "CgroupVersion", "DockerRootDir", "Warnings")
        return {
            "host": self._client.host,
            "lowest_oom_score_adj": self.lowest_score,
            "user_namespaces": "none: Docker has them for all containers or for none",
            "ambient_capabilities": "none: Docker cannot give them",
            **{key: info[key] for key in keys if key in info},
        }


def lowest_score() -> int:
    """What this host lets us lower an oom_score_adj to: where CAP_SYS_RESOURCE is withheld, no lower than our own.

    Tried once on our own process, for one moment one step lower. Source: proc_pid_oom_score_adj(5).
    """
    with open(_OWN_SCORE, encoding="ascii") as file:
        own = int(file.read())
    try:
        for value in (max(own - 1, -1000), own):
            with open(_OWN_SCORE, "w", encoding="ascii") as file:
                file.write(str(value))
    except PermissionError:
        return own
    return -1000
