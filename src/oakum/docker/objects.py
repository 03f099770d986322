# SPDX-License-Identifier: Apache-2.0
"""Our containers and sandboxes as Docker and /proc tell of them. Reads only.

Docker is the truth; labels never change, so what they say is decoded once.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, Final

import msgspec

from oakum.backend.config import ContainerConfig, SandboxConfig
from oakum.backend.status import (
    ContainerFilter,
    ContainerState,
    ContainerStatus,
    ContainerUser,
    SandboxFilter,
    SandboxStatus,
)
from oakum.docker import pods
from oakum.docker.client import DockerClient
from oakum.docker.labels import Kind, Labels, chosen, read_labels
from oakum.docker.layout import Layout
from oakum.engine.spec.resources import merge
from oakum.errors import FailedPrecondition, InvalidArgument, NotFound
from oakum.linux.pids import stat_fields
from oakum.model.signals import parse_signal, signal_name
from oakum.oci.cgroups.layout import systemd_path

_ID_BEGINNING: Final = re.compile(r"[0-9a-f]{1,64}", re.ASCII)
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII)
_STATES: Final[dict[str, ContainerState]] = {
    "created": "created",
    "running": "running",
    "restarting": "running",
    "paused": "paused",
}
_NEVER_RAN: Final = "StartError"


class Objects:
    """Fulfils `Lookup`. Thread-safe."""

    def __init__(self, client: DockerClient, layout: Layout, installation: str) -> None:
        self._client = client
        self._layout = layout
        self.installation = installation
        self._guard = threading.Lock()
        self._configs: dict[str, SandboxConfig | ContainerConfig] = {}
        self._users: dict[str, ContainerUser] = {}
        self.making: set[str] = set()
        """Sandboxes that a call is making right now: nobody is told of them yet."""

    @cached_property
    def systemd(self) -> bool:
        """Whether Docker leaves cgroups to systemd. Raises OakumError."""
        return self._client.get("/info").get("CgroupDriver") == "systemd"

    # one

    def inspected(self, kind: Kind, text: str) -> tuple[Labels, dict[str, Any]]:
        """What Docker says about one of ours by id or the beginning of one. Raises NotFound, InvalidArgument."""
        if not text:
            raise InvalidArgument(f"find {kind}", "''", "empty id")
        if _ID_BEGINNING.fullmatch(text):
            try:
                found: dict[str, Any] = self._client.get(f"/containers/{text}/json")
            except NotFound:
                found = {}
            # Docker takes names, too, and they may look like the beginning of an id.
            labels = (
                read_labels(found["Config"].get("Labels"), self.installation)
                if str(found.get("Id", "")).startswith(text)
                else None
            )
            if labels is not None and labels.kind == kind:
                return labels, found
        raise NotFound(f"find {kind}", repr(text[:64]), f"no such {kind}")

    def lookup(self, kind: Kind, text: str) -> tuple[Labels, dict[str, Any]] | None:
        """As `inspected`; None when there is none."""
        try:
            return self.inspected(kind, text)
        except NotFound:
            return None

    def container(self, container_id: str) -> ContainerStatus:
        """One container. Raises NotFound."""
        return self.container_status(*self.inspected("container", container_id))

    def sandbox(self, sandbox_id: str) -> SandboxStatus:
        """One sandbox. Raises NotFound."""
        labels, found = self.inspected("sandbox", sandbox_id)
        state = found["State"]
        pid = int(state["Pid"]) if state["Running"] else 0
        return self._sandbox_status(found["Id"], labels, running=bool(state["Running"]), pid=pid)

    def ready_sandbox(self, sandbox_id: str) -> SandboxStatus:
        """As `sandbox`. Raises FailedPrecondition unless it is ready."""
        status = self.sandbox(sandbox_id)
        if status.state != "ready":
            raise FailedPrecondition(
                "use sandbox", status.id[:12], "it is not ready", hint="it was stopped or lost"
            )
        return status

    # many

    def listed(
        self, kind: Kind, wanted: Mapping[str, list[str]] | None = None
    ) -> list[tuple[Labels, dict[str, Any]]]:
        """All of ours of one kind as Docker lists them, newest first."""
        filters = {**chosen(kind, self.installation)}
        for name, values in (wanted or {}).items():
            filters[name] = [*filters.get(name, []), *values]
        query = {"all": 1, "filters": msgspec.json.encode(filters).decode()}
        rows: list[dict[str, Any]] = self._client.get("/containers/json", query=query)
        found = [(labels, row) for row in rows if (labels := read_labels(row["Labels"], self.installation))]
        found.sort(key=lambda entry: entry[0].created_at_ns, reverse=True)
        return found

    def containers(self, wanted: ContainerFilter = ContainerFilter()) -> Sequence[ContainerStatus]:  # noqa: B008 - frozen
        """The containers that match, newest first; those of one sandbox, and one by its id, with all there is to say."""
        found: list[ContainerStatus] = []
        rows = self.listed("container")
        for labels, row in rows:
            if not row["Id"].startswith(wanted.id) or not labels.sandbox_id.startswith(wanted.sandbox_id):
                continue
            status = self._listed_status(labels, row, exact=bool(wanted.id or wanted.sandbox_id))
            if status is None or (wanted.state is not None and status.state != wanted.state):
                continue
            if all(status.config.labels.get(name) == value for name, value in wanted.labels.items()):
                found.append(status)
        if wanted == ContainerFilter():
            self._forget_others({row["Id"] for _, row in rows}, ContainerConfig)
        return found

    def sandboxes(self, wanted: SandboxFilter = SandboxFilter()) -> Sequence[SandboxStatus]:  # noqa: B008 - frozen
        """The sandboxes that match, newest first."""
        found: list[SandboxStatus] = []
        rows = self.listed("sandbox")
        for labels, row in rows:
            if not row["Id"].startswith(wanted.id):
                continue
            status = self._sandbox_status(row["Id"], labels, running=row["State"] == "running", pid=0)
            if row["Id"] in self.making or row["State"] == "created":
                continue
            if wanted.state in (None, status.state) and all(
                status.config.labels.get(name) == value for name, value in wanted.labels.items()
            ):
                found.append(status)
        if wanted == SandboxFilter():
            self._forget_others({row["Id"] for _, row in rows}, SandboxConfig)
        return found

    def _listed_status(self, labels: Labels, row: dict[str, Any], *, exact: bool) -> ContainerStatus | None:
        # Docker says "created" of what failed to start, too: only the long answer tells them apart.
        if exact or row["State"] == "created":
            found = self.lookup("container", row["Id"])
            return self.container_status(*found) if found is not None else None
        config = self._container_config(row["Id"], labels)
        return ContainerStatus(
            id=row["Id"],
            sandbox_id=labels.sandbox_id,
            config=config,
            state=_STATES.get(row["State"], "exited"),
            created_at_ns=labels.created_at_ns,
            image_ref=config.user_specified_image or config.image,
            image_id=row["ImageID"],
            log_path=labels.log_path,
            resources=config.resources,
            cgroup_path=self.cgroup_path(labels, row["Id"]),
        )

    # from Docker's words to ours

    def container_status(self, labels: Labels, found: dict[str, Any]) -> ContainerStatus:
        """A container from what `inspected` gave."""
        container_id: str = found["Id"]
        config = self._container_config(container_id, labels)
        state: dict[str, Any] = found["State"]
        kind = _STATES.get(state["Status"], "exited")
        failed = kind == "created" and bool(state["ExitCode"] or state["Error"])
        if failed:
            kind = "exited"
        running = kind in ("running", "paused")
        pid = int(state["Pid"]) if running else 0
        created_at_ns = labels.created_at_ns
        started_at_ns = nanoseconds(state["StartedAt"])
        # Docker notes the start when it hears of it: a process that ends at once has ended before.
        ended_at_ns = max(nanoseconds(state["FinishedAt"]) or created_at_ns, started_at_ns)
        return ContainerStatus(
            id=container_id,
            sandbox_id=labels.sandbox_id,
            config=config,
            state=kind,
            created_at_ns=created_at_ns,
            started_at_ns=started_at_ns,
            finished_at_ns=ended_at_ns if kind == "exited" else 0,
            exit_code=int(state["ExitCode"]) if kind == "exited" else 0,
            reason=(_NEVER_RAN if failed else _reason(state)) if kind == "exited" else "",
            message=str(state["Error"]) if kind == "exited" else "",
            image_ref=config.user_specified_image or config.image,
            image_id=found["Image"],
            log_path=labels.log_path,
            resources=merge(config.resources, pods.read_changes(self._layout.container(container_id))),
            user=self._user(container_id, pid),
            stop_signal=_stop_signal(found["Config"].get("StopSignal", "")),
            pid=pid,
            argv=(found["Path"], *found["Args"]),
            cgroup_path=self.cgroup_path(labels, container_id),
            bundle_path=_bundle(pid, container_id),
        )

    def cgroup_path(self, labels: Labels, container_id: str) -> str:
        """Where Docker puts a container's cgroup."""
        parent = labels.cgroup_parent
        if self.systemd:
            return systemd_path(parent or "system.slice", "docker", container_id)
        return f"{parent.rstrip('/') or '/docker'}/{container_id}"

    def _sandbox_status(self, sandbox_id: str, labels: Labels, *, running: bool, pid: int) -> SandboxStatus:
        config = self._sandbox_config(sandbox_id, labels)
        record = pods.read(self._layout.pod(sandbox_id))
        ready = running and record is not None and record.ready
        if record is not None:
            config = msgspec.structs.replace(
                config,
                resources=record.resources or config.resources,
                overhead=record.overhead or config.overhead,
            )
        own_network = config.namespaces.network != "node"
        return SandboxStatus(
            id=sandbox_id,
            config=config,
            state="ready" if ready else "not_ready",
            created_at_ns=labels.created_at_ns,
            runtime_handler=labels.handler,
            addresses=record.addresses if ready and record is not None else (),
            netns_path=self._layout.netns(sandbox_id) if own_network and ready else "",
            shim_pid=pid,
            cgroup_path=labels.cgroup_parent,
        )

    def _container_config(self, object_id: str, labels: Labels) -> ContainerConfig:
        known = self._configs.get(object_id)
        if not isinstance(known, ContainerConfig):
            known = self._configs[object_id] = labels.container_config()
        return known

    def _sandbox_config(self, object_id: str, labels: Labels) -> SandboxConfig:
        known = self._configs.get(object_id)
        if not isinstance(known, SandboxConfig):
            known = self._configs[object_id] = labels.sandbox_config()
        return known

    def _forget_others(self, ids: set[str], kind: type[SandboxConfig | ContainerConfig]) -> None:
        with self._guard:
            for gone in [i for i, c in list(self._configs.items()) if isinstance(c, kind) and i not in ids]:
                self._configs.pop(gone, None)
                self._users.pop(gone, None)

    def _user(self, container_id: str, pid: int) -> ContainerUser | None:
        if pid and container_id not in self._users:
            seen = _user_of(pid)
            if seen is not None:
                self._users[container_id] = seen
        return self._users.get(container_id)


def nanoseconds(text: str) -> int:
    """Docker's RFC 3339 times in nanoseconds since the epoch; 0 for its year 1."""
    match = _TIME.fullmatch(text)
    if match is None or text.startswith("0001-"):
        return 0
    seconds, fraction, zone = match.groups()
    whole = int(datetime.fromisoformat(seconds + ("+00:00" if zone == "Z" else zone)).timestamp())
    return whole * 10**9 + int((fraction or "0").ljust(9, "0"))


def _reason(state: Mapping[str, Any]) -> str:
    if state["OOMKilled"]:
        return "OOMKilled"
    return "Completed" if state["ExitCode"] == 0 else "Error"


def _stop_signal(text: str) -> str:
    try:
        return signal_name(parse_signal(text or "SIGTERM"))
    except InvalidArgument:
        return "SIGTERM"  # an image's word is only a wish


def _user_of(pid: int) -> ContainerUser | None:
    """Whom a process runs as; None when it is gone. Source: proc_pid_status(5)."""
    fields: dict[str, list[int]] = {}
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                name, _, values = line.partition(":")
                if name in ("Uid", "Gid", "Groups"):
                    fields[name] = [int(value) for value in values.split()]
    except (FileNotFoundError, ProcessLookupError):
        return None
    if len(fields) < 3:
        return None
    return ContainerUser(
        uid=fields["Uid"][0], gid=fields["Gid"][0], supplemental_groups=tuple(fields["Groups"])
    )


def _bundle(pid: int, container_id: str) -> str:
    """The directory with the container's config.json: its supervisor, containerd's shim, works in there."""
    if not pid:
        return ""
    try:
        parent = int(stat_fields(pid)[1])
        directory = os.readlink(f"/proc/{parent}/cwd")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""
    return directory if os.path.basename(directory) == container_id else ""
