# SPDX-License-Identifier: Apache-2.0
"""What this Docker Engine and this host can do, asked once and told in Status. Changes nothing.

Docker's host is this host: pods' namespaces, control groups and logs are reached here.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final

import msgspec

from oakum.backend.status import Condition, HandlerFeatures, RuntimeStatus
from oakum.docker.bodies import Powers
from oakum.docker.client import DockerClient
from oakum.engine import host
from oakum.engine.spec import capabilities
from oakum.errors import OakumError
from oakum.network.choice import ChosenNetwork

_OWN_SCORE: Final = "/proc/self/oom_score_adj"
_ASK_S: Final = 5.0
DOCKER: Final = "docker"
# Younger than the list in Docker 20.10.
_LATER_NAMES: Final = frozenset({"CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE"})


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

    @cached_property
    def powers(self) -> Powers:
        """The capabilities that Docker can give: those that its host leaves it, by names that it knows. Raises OakumError."""
        with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
            there = capabilities.ALL[: int(file.read()) + 1]
        bounding = _bounding_set(self._client.peer_pid())
        given = tuple(name for number, name in enumerate(there) if bounding >> number & 1)
        unknown = _LATER_NAMES if self._client.api_version < (1, 42) else frozenset[str]()
        return Powers(tuple(name for name in given if name not in unknown), given == there)

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
            "privileged": "whole"
            if not info or self.powers.all_of_them
            else "in parts: this host withholds capabilities; /sys stays read-only",
            **{key: info[key] for key in keys if key in info},
        }


def _bounding_set(pid: int) -> int:
    """What a process, and all that it starts, can have at most. Source: proc_pid_status(5) CapBnd."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        return next((int(line.split()[1], 16) for line in file if line.startswith("CapBnd:")), -1)


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
