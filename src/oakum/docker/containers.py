# SPDX-License-Identifier: Apache-2.0
"""The life of a pod's container in Docker, and what we add to it.

    create: image ─► accounts ─► our own mounts ─► Docker's create      start: log reader ─► Docker's start ─► our own limits
    remove: kill ─► the rest of its log ─► Docker's remove ─► our files

What Docker has no field for is done here: limits of huge pages and `unified` go into the cgroup right after the
start; until then the process has been running for some milliseconds without them.
"""

from __future__ import annotations

import logging
import math
import os
import posixpath
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec

from oakum.backend.config import ContainerConfig, Resources, SandboxConfig
from oakum.backend.status import SandboxStatus
from oakum.docker import bodies, pods
from oakum.docker.bodies import Bind, Powers
from oakum.docker.client import DockerClient
from oakum.docker.labels import Labels, read_labels
from oakum.docker.layout import Layout
from oakum.docker.mounts import Mounts
from oakum.docker.objects import Objects
from oakum.docker.removal import remove_from_docker
from oakum.docker.users import Users
from oakum.engine import cdi, host, oom, podfiles
from oakum.engine.locks import Locks
from oakum.engine.spec import process
from oakum.engine.spec.mounts import clean
from oakum.engine.spec.resources import check, linux_resources, merge, said_by
from oakum.engine.storage import remove_directory, storing
from oakum.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OakumError,
    SystemFailure,
    Unimplemented,
)
from oakum.oci.cgroups import Cgroup
from oakum.oci.cgroups import Layout as CgroupLayout
from oakum.oci.spec import parse_resources

log = logging.getLogger(__name__)

_JOIN_S: Final = 120.0
_CALL_S: Final = 60.0
_DRAIN_S: Final = 10.0


class Logs(Protocol):
    """Who writes the logs."""

    def follow(self, container_id: str, log_path: str) -> None:
        """Write a container's log from now on."""
        ...

    def drained(self, container_id: str, timeout_s: float) -> None:
        """Return when all that Docker has is in the file."""
        ...

    def forget(self, container_id: str) -> None:
        """Let go of a container's log."""
        ...


class ImageFacts(Protocol):
    """What a container takes from its image."""

    def need(self, image: str) -> Mapping[str, Any]:
        """What Docker says about an image. Raises ImageNotFound."""
        ...


class Containers:
    """The containers of one installation."""

    def __init__(
        self,
        client: DockerClient,
        objects: Objects,
        layout: Layout,
        *,
        images: ImageFacts,
        users: Users,
        mounts: Mounts,
        logs: Logs,
        log_config: Callable[[], Mapping[str, Any]],
        cgroups: CgroupLayout,
        score: Callable[[int], int],
        powers: Callable[[], Powers],
    ) -> None:
        self._client = client
        self._objects = objects
        self._layout = layout
        self._images = images
        self._users = users
        self._mounts = mounts
        self._logs = logs
        self._log_config = log_config
        self._cgroups = cgroups
        self._score = score
        self._powers = powers
        self._locks = Locks(layout.locks)

    # making

    def create(self, sandbox_id: str, config: ContainerConfig) -> str:
        """Prepare a container in a ready sandbox; its id. Raises as `RuntimeBackend.create_container`."""
        sandbox = self._objects.ready_sandbox(sandbox_id)
        bodies.check_container(sandbox.config, config)
        check(config.resources)
        injected, devices = _with_cdi(config)
        injected = msgspec.structs.replace(
            injected, mounts=tuple(host.check_mount_sources(injected.mounts, make_missing=True))
        )
        log_path = log_file(sandbox.config, config)
        name = self._name(sandbox.id, config)
        with self._locks.holding(name[-20:], timeout_s=_JOIN_S) as lock:
            asked_ns = time.time_ns()
            image = self._images.need(config.image)
            key = f"{name[-20:]}-{os.urandom(4).hex()}"
            try:
                made, binds = self._mounts.prepare(injected, key)
                stored = msgspec.structs.replace(config, mounts=made.mounts[: len(config.mounts)])
                labels = Labels(
                    kind="container",
                    installation=self._objects.installation,
                    created_at_ns=asked_ns,
                    config=msgspec.json.encode(stored),
                    sandbox_id=sandbox.id,
                    handler=sandbox.runtime_handler,
                    cgroup_parent=sandbox.cgroup_path,
                    mounts_key=key if self._mounts.has(key) else "",
                    log_path=log_path,
                )
                body = self._body(sandbox, made, labels, image=image, binds=binds, devices=devices)
                if log_path:
                    with storing("make log directory", log_path):
                        os.makedirs(os.path.dirname(log_path), mode=0o755, exist_ok=True)
                made_id = self._create(name, body, config, waited=lock.waited)
            except BaseException:  # nothing may stay mounted for a container that there is not
                self._mounts.release(key)
                raise
            lock.release(gone=True)
            return made_id

    def _name(self, sandbox_id: str, config: ContainerConfig) -> str:
        key = msgspec.json.encode((sandbox_id, config.metadata.name, config.metadata.attempt)).decode()
        return bodies.object_name("ctr", config.metadata.name, key)

    def _body(
        self,
        sandbox: SandboxStatus,
        config: ContainerConfig,
        labels: Labels,
        *,
        image: Mapping[str, Any],
        binds: list[Bind],
        devices: list[dict[str, str]],
    ) -> dict[str, Any]:
        said: Mapping[str, Any] = image["Config"] or {}
        command_line = process.argv(
            config.command, config.args, said.get("Entrypoint") or (), said.get("Cmd") or ()
        )
        process.environment(said.get("Env") or (), config.envs, hostname="", tty=config.tty)
        user, groups = self._users.chosen(config, image["Id"], str(said.get("User") or ""))
        hostname = _read(f"{self._layout.pod(sandbox.id)}/hostname").strip()
        host_config: dict[str, Any] = {"LogConfig": self._log_config()}
        if config.resources.oom_score_adj is not None:
            host_config["OomScoreAdj"] = self._score(config.resources.oom_score_adj)
        body = bodies.container_body(
            config,
            bodies.Around(
                sandbox_id=sandbox.id,
                sandbox=sandbox.config,
                hostname=hostname,
                labels=labels,
                image_id=image["Id"],
                command_line=command_line,
                binds=[*binds, *self._pod_files(sandbox.id, config)],
                user=user,
                groups=groups,
                powers=self._powers(),
                host_config=host_config,
            ),
        )
        body["HostConfig"]["Devices"] += devices
        return body

    def _pod_files(self, sandbox_id: str, config: ContainerConfig) -> list[Bind]:
        taken = {clean(mount.container_path) for mount in config.mounts}
        return [
            Bind(f"{self._layout.pod(sandbox_id)}/{name}", place, readonly=config.readonly_rootfs)
            for place, name in podfiles.FILES.items()
            if place not in taken
        ]

    def _create(self, name: str, body: dict[str, Any], config: ContainerConfig, *, waited: bool) -> str:
        for last in (False, True):
            try:
                made = self._client.post("/containers/create", body, query={"name": name}, deadline_s=_CALL_S)
                return str(made["Id"])
            except AlreadyExists:
                joined = self._conflict(name, config, waited=waited)
                if joined:
                    return joined
                if last:
                    raise
        raise AssertionError  # the loop returns or raises

    def _conflict(self, name: str, config: ContainerConfig, *, waited: bool) -> str:
        """Who has the name: the id if the same call made it just now; "" once the name is free. Raises AlreadyExists."""
        try:
            found: dict[str, Any] = self._client.get(f"/containers/{name}/json")
        except NotFound:
            return ""
        labels = read_labels(found["Config"].get("Labels"), self._objects.installation)
        if labels is None:
            raise AlreadyExists(
                "create container", name, "a container that is none of ours has this name", hint="rename it"
            )
        if found["State"]["Status"] in ("dead", "removing"):
            self.remove_one(found["Id"])
            return ""
        if waited and found["State"]["Status"] == "created":
            return str(found["Id"])
        raise AlreadyExists(
            "create container",
            repr(config.metadata.name),
            f"container {found['Id'][:12]} has this name and attempt",
            hint="remove it, or raise the attempt",
        )

    # starting

    def start(self, container_id: str) -> None:
        """Start a created container. Raises as `RuntimeBackend.start_container`."""
        asked_ns = time.time_ns()
        found_id = self._objects.container(container_id).id
        with self._locks.holding(found_id) as lock:
            labels, found = self._objects.inspected("container", found_id)
            status = self._objects.container_status(labels, found)
            if lock.waited and status.started_at_ns >= asked_ns:
                return  # a retry: the first try has done it
            if status.state != "created":
                raise FailedPrecondition(
                    "start container",
                    status.id[:12],
                    f"it is {status.state}",
                    hint="a pod's container is started once",
                )
            if self._objects.sandbox(status.sandbox_id).state != "ready":
                raise FailedPrecondition("start container", status.id[:12], "its sandbox is not ready")
            if labels.log_path:
                self._logs.follow(status.id, labels.log_path)
            self._client.post(f"/containers/{status.id}/start", deadline_s=_CALL_S)
            self._mounts.release(labels.mounts_key)
            own = bodies.own_limits(status.resources)
            if own != Resources():
                self._set_own(status.id, status.cgroup_path, own)

    def _set_own(self, container_id: str, cgroup_path: str, own: Resources) -> None:
        """Set the limits that Docker knows nothing of; without them the container must not go on. Raises OakumError."""
        try:
            if own.unified and self._cgroups.mode != "v2":
                raise Unimplemented("limit container", "unified", "this host is not pure cgroup v2")
            warnings = Cgroup(self._cgroups, cgroup_path).apply(parse_resources(linux_resources(own)))
        except OakumError:
            self._kill(container_id)
            raise
        # A kubelet says a limit for every size of page that the node has, and a kernel may lack the controller.
        for warning in warnings:
            log.warning("limit", extra={"fields": {"container": container_id[:12], "warning": warning}})

    # ending

    def stop(self, container_id: str, *, timeout_s: float) -> None:
        """Stop signal, grace, kill; succeeds for what is not running. Takes no lock: it may wait for long."""
        found = self._objects.lookup("container", container_id)
        if found is None:
            return
        _, row = found
        if row["State"]["Status"] == "paused":
            self._client.post(f"/containers/{row['Id']}/unpause")
        grace_s = max(0, math.ceil(timeout_s))
        try:
            self._client.post(
                f"/containers/{row['Id']}/stop", query={"t": grace_s}, deadline_s=grace_s + _CALL_S
            )
        except NotFound:
            return

    def remove(self, container_id: str) -> None:
        """Remove a container; succeeds for what is gone."""
        found = self._objects.lookup("container", container_id)
        if found is None:
            return
        with self._locks.holding(found[1]["Id"]) as lock:
            self.remove_one(found[1]["Id"])
            lock.release(gone=True)

    def remove_one(self, container_id: str) -> None:
        """Remove a container by its whole id, with the rest of its log written. Idempotent. Raises OakumError."""
        found = self._objects.lookup("container", container_id)
        if found is not None:
            labels, row = found
            if row["State"]["Running"]:
                self._kill(container_id)
            if labels.log_path and row["State"]["Status"] != "created":
                self._drain(container_id, labels.log_path)
            remove_from_docker(self._client, container_id)
            self._mounts.release(labels.mounts_key)
        self._logs.forget(container_id)
        remove_directory(self._layout.containers, container_id)

    def _drain(self, container_id: str, log_path: str) -> None:
        try:
            self._logs.follow(
                container_id, log_path
            )  # after a restart of ours nobody may have come to it yet
            self._logs.drained(container_id, _DRAIN_S)
        except (DeadlineExceeded, InvalidArgument, SystemFailure):
            # A log that cannot be written (a full disk) must not keep the container: `forget` writes what it can.
            return

    def _kill(self, container_id: str) -> None:
        try:
            self._client.post(f"/containers/{container_id}/stop", query={"t": 0}, deadline_s=_CALL_S)
        except NotFound:
            return

    # changing

    def update_resources(self, container_id: str, change: Resources) -> None:
        """Change limits, Docker's and ours."""
        check(change)
        found_id = self._objects.container(container_id).id
        with self._locks.holding(found_id):
            status = self._objects.container(found_id)
            if status.state == "exited":
                raise FailedPrecondition("update container", status.id[:12], f"it is {status.state}")
            merged = merge(status.resources, change)
            check(merged)
            said = said_by(change, merged)
            body = bodies.limits(said)
            if body:
                self._client.post(f"/containers/{status.id}/update", body)
            own = bodies.own_limits(said)
            if own != Resources() and status.state != "created":
                Cgroup(self._cgroups, status.cgroup_path).apply(parse_resources(linux_resources(own)))
            if change.oom_score_adj is not None and status.state != "created":
                oom.set_score(self._cgroups, status.cgroup_path, self._score(change.oom_score_adj))
            directory = self._layout.container(status.id)
            pods.write_changes(directory, merge(pods.read_changes(directory), change))


def log_file(sandbox: SandboxConfig, config: ContainerConfig) -> str:
    """Where the log goes, below the pod's log directory; "" for nowhere. Raises InvalidArgument."""
    directory, name = sandbox.log_directory, config.log_path
    if not directory or not name:
        return ""
    path = posixpath.normpath(posixpath.join(directory, name))
    if not directory.startswith("/") or not path.startswith(posixpath.normpath(directory) + "/"):
        raise InvalidArgument(
            "create container", repr(name), "the log path leads out of the pod's log directory"
        )
    return path


def _with_cdi(config: ContainerConfig) -> tuple[ContainerConfig, list[dict[str, str]]]:
    """The configuration with what CDI adds to it, and its device nodes as Docker takes them."""
    edits = cdi.edits_of(cdi.requested(config))
    devices = [
        {
            "PathOnHost": node.host_path or node.path,
            "PathInContainer": node.path,
            "CgroupPermissions": node.permissions or "rwm",
        }
        for edit in edits
        for node in edit.device_nodes
    ]
    # the caller's own mounts stay in front: their places in the list are what is stored
    return cdi.injected(config, edits), devices


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except FileNotFoundError:
        return ""
