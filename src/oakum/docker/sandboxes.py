# SPDX-License-Identifier: Apache-2.0
"""Sandboxes: a pause container of Docker without a network, its namespace connected by us; and all of it backwards.

    create ─► start ─► pin its network namespace ─► connect ─► hosts, resolv.conf ─► pod.json says ready

A pause container without pod.json is one whose making was cut short: `recovery` undoes it. Every step backwards
tolerates that the step forwards never happened.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

import msgspec

from oakum.backend.config import Resources, SandboxConfig
from oakum.backend.status import ContainerFilter, ContainerStatus
from oakum.docker import bodies, pods
from oakum.docker.client import DockerClient
from oakum.docker.labels import Labels, read_labels
from oakum.docker.layout import Layout
from oakum.docker.objects import Objects
from oakum.docker.removal import remove_from_docker
from oakum.engine import podfiles
from oakum.engine.attachments import NONE, attachment_options, with_dns_of
from oakum.engine.locks import Locks
from oakum.engine.spec.resources import check, linux_resources, merge, said_by
from oakum.engine.storage import remove_directory, storing
from oakum.errors import AlreadyExists, ImageNotFound, NotFound, OakumError, SystemFailure
from oakum.linux.mount import bind_file, unmount
from oakum.model.ids import is_id
from oakum.network.attachment import Attachment
from oakum.network.choice import ChosenNetwork
from oakum.oci.cgroups import Cgroup
from oakum.oci.cgroups import Layout as CgroupLayout
from oakum.oci.spec import parse_resources

_JOIN_S: Final = 120.0
_KILL_S: Final = 30.0
_AT_ONCE: Final = 8
_PROBE: Final = "probe"
OWN_CGROUPS: Final = "/oakum-docker"
"""Where pods go that name no cgroup."""


class PauseImage(Protocol):
    """Who knows what sandboxes run."""

    def __call__(self, *, missing: bool) -> str:
        """The image's name; with `missing` Docker has it when this returns."""
        ...


class Sandboxes:
    """The sandboxes of one installation."""

    def __init__(
        self,
        client: DockerClient,
        objects: Objects,
        layout: Layout,
        *,
        network: ChosenNetwork,
        cgroups: CgroupLayout,
        pause: PauseImage,
        score: Callable[[int], int],
    ) -> None:
        """`score` is the oom_score_adj that this host allows in the place of a wanted one."""
        self._client = client
        self._objects = objects
        self._layout = layout
        self._network = network
        self._cgroups = cgroups
        self._pause = pause
        self._score = score
        self._locks = Locks(layout.locks)
        self._guard = threading.Lock()

    # making

    def run(self, config: SandboxConfig, handler: str) -> str:
        """Create and start a sandbox; its id. Raises AlreadyExists, InvalidArgument and others."""
        bodies.check_sandbox(config, systemd=self._objects.systemd)
        attachment_options(config, config.cgroup_parent)
        for limits in (config.resources, config.overhead):
            if limits is not None:
                check(limits)
        name = bodies.object_name("pod", config.metadata.name, self._key(config))
        with self._locks.holding(name[-20:], timeout_s=_JOIN_S) as lock:
            labels = Labels(
                kind="sandbox",
                installation=self._objects.installation,
                created_at_ns=time.time_ns(),
                config=msgspec.json.encode(config),
                handler=handler,
                cgroup_parent=config.cgroup_parent
                or ("" if self._objects.systemd else f"{OWN_CGROUPS}/{name[-20:]}"),
            )
            try:
                sandbox_id = self._create(name, config, labels)
            except AlreadyExists:
                joined = self._conflict(name, config, waited=lock.waited)
                if joined:
                    return joined
                sandbox_id = self._create(name, config, labels)
            made = self._make(sandbox_id, config, labels)
            lock.release(gone=True)
            return made

    def _key(self, config: SandboxConfig) -> str:
        # As JSON, so that no choice of names can look like another one.
        metadata = config.metadata
        key = (self._objects.installation, metadata.namespace, metadata.name, metadata.uid, metadata.attempt)
        return msgspec.json.encode(key).decode()

    def _create(self, name: str, config: SandboxConfig, labels: Labels) -> str:
        def body(image: str) -> dict[str, Any]:
            return bodies.sandbox_body(
                config,
                image=image,
                hostname=config.hostname or name[-20:-8],
                labels=labels,
                host_config={
                    "LogConfig": {"Type": "none"},
                    "OomScoreAdj": self._score(bodies.PAUSE_SCORE),
                },
            )

        query = {"name": name}
        try:
            made = self._client.post("/containers/create", body(self._pause(missing=False)), query=query)
        except ImageNotFound:
            made = self._client.post("/containers/create", body(self._pause(missing=True)), query=query)
        return str(made["Id"])

    def _conflict(self, name: str, config: SandboxConfig, *, waited: bool) -> str:
        """Who has the name: the id of the sandbox if the same call made it just now; "" once the name is free.

        Raises:
            AlreadyExists: the sandbox is there.
        """
        try:
            found: dict[str, Any] = self._client.get(f"/containers/{name}/json")
        except NotFound:
            return ""
        labels = read_labels(found["Config"].get("Labels"), self._objects.installation)
        if labels is None:
            raise AlreadyExists(
                "run sandbox", name, "a container that is none of ours has this name", hint="rename it"
            )
        record = pods.read(self._layout.pod(found["Id"]))
        dead = found["State"]["Status"] in ("dead", "removing")
        if record is None or dead:
            self.undo(found["Id"], labels)
            return ""
        if waited and record.ready and found["State"]["Running"]:
            return str(found["Id"])
        raise AlreadyExists(
            "run sandbox",
            repr(config.metadata.name),
            f"sandbox {found['Id'][:12]} has this name, namespace, uid and attempt",
            hint="remove it, or raise the attempt",
        )

    def _make(self, sandbox_id: str, config: SandboxConfig, labels: Labels) -> str:
        self._objects.making.add(sandbox_id)
        try:
            self._build(sandbox_id, config, labels)
        except BaseException:  # whatever ends this call, nothing may stay behind; it goes on upwards
            self._undo_quietly(sandbox_id, labels)
            raise
        finally:
            self._objects.making.discard(sandbox_id)
        return sandbox_id

    def _undo_quietly(self, sandbox_id: str, labels: Labels) -> None:
        try:
            self.undo(sandbox_id, labels)
        except OakumError:
            # The caller hears of the first failure; what is left has no pod.json, and recovery undoes it.
            return

    def _build(self, sandbox_id: str, config: SandboxConfig, labels: Labels) -> None:
        if labels.cgroup_parent.startswith(f"{OWN_CGROUPS}/"):
            pods.write_cgroup(self._layout.pod(sandbox_id), labels.cgroup_parent)
        self._open_unified(labels)
        self._client.post(f"/containers/{sandbox_id}/start")
        hostname = config.hostname or (
            os.uname().nodename if config.namespaces.uts == "node" else self._hostname(config)
        )
        attachment: Attachment | None = None
        if config.namespaces.network != "node":
            found: Mapping[str, Any] = self._client.get(f"/containers/{sandbox_id}/json")
            self._pin(sandbox_id, int(found["State"]["Pid"]))
            if config.network != NONE:
                attachment = self._network.setup(
                    sandbox_id,
                    self._layout.netns(sandbox_id),
                    network=config.network,
                    port_mappings=config.port_mappings,
                    hostname=hostname,
                    options=attachment_options(config, labels.cgroup_parent),
                )
        addresses = attachment.addresses if attachment else ()
        podfiles.write(self._layout.pod(sandbox_id), with_dns_of(config, attachment), hostname, addresses)
        if config.resources is not None:
            self._limit(labels, config.resources)
        pods.write(
            self._layout.pod(sandbox_id),
            pods.Pod(ready=True, addresses=addresses, warnings=attachment.warnings if attachment else ()),
        )

    def _hostname(self, config: SandboxConfig) -> str:
        return bodies.object_name("pod", "", self._key(config))[-20:-8]

    def _pin(self, sandbox_id: str, pid: int) -> None:
        path = self._layout.netns(sandbox_id)
        with storing("pin network namespace", path):
            os.makedirs(self._layout.pins, mode=0o711, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            bind_file(f"/proc/{pid}/ns/net", path)

    def _open_unified(self, labels: Labels) -> None:
        """On a hybrid of both versions, let the pod's part of the v2 tree have its controllers: runc sees to v1 alone."""
        if self._cgroups.mode != "v2" and labels.cgroup_parent.startswith(f"{OWN_CGROUPS}/"):
            child = Cgroup(self._cgroups, f"{labels.cgroup_parent}/{_PROBE}")
            child.create_unified()
            child.remove()

    def _limit(self, labels: Labels, limits: Resources) -> None:
        """Set a pod's limits where nobody else owns its cgroup."""
        if labels.cgroup_parent.startswith(f"{OWN_CGROUPS}/"):
            Cgroup(self._cgroups, labels.cgroup_parent).apply(parse_resources(linux_resources(limits)))

    # unmaking

    def undo(self, sandbox_id: str, labels: Labels) -> None:
        """Remove every trace of a sandbox without containers. Idempotent. Raises OakumError."""
        self._disconnect(sandbox_id)
        self.delete_container(sandbox_id)
        self._forget(sandbox_id, labels.cgroup_parent)

    def _disconnect(self, sandbox_id: str) -> None:
        """End the pause process and detach its network. The pin keeps the namespace for who has to tidy up in it."""
        self.kill(sandbox_id)
        self._network.teardown(sandbox_id)
        self.unpin(sandbox_id)

    def forget_lost(self, sandbox_id: str) -> None:
        """Detach and forget a sandbox whose container Docker has no more. Raises OakumError."""
        self._network.teardown(sandbox_id)
        self.unpin(sandbox_id)
        self._forget(sandbox_id, pods.read_cgroup(self._layout.pod(sandbox_id)))

    def _forget_if_lost(self, sandbox_id: str) -> None:
        """Tidy up after a sandbox that somebody removed from Docker behind our back."""
        if is_id(sandbox_id) and os.path.isdir(self._layout.pod(sandbox_id)):
            with self._locks.holding(sandbox_id) as lock:
                self.forget_lost(sandbox_id)
                lock.release(gone=True)

    def _forget(self, sandbox_id: str, cgroup: str) -> None:
        if cgroup.startswith(f"{OWN_CGROUPS}/"):
            group = Cgroup(self._cgroups, cgroup)
            if group.exists():
                group.remove()
        remove_directory(self._layout.pods, sandbox_id)

    def unpin(self, sandbox_id: str) -> None:
        """Let go of a network namespace; succeeds for what is gone. Raises SystemFailure."""
        path = self._layout.netns(sandbox_id)
        try:
            while True:
                try:
                    unmount(path, detach=True)
                except OSError as error:
                    if error.errno != errno.EINVAL:  # no mount there (any more)
                        raise
                    break
            os.unlink(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise SystemFailure.from_os_error(error, "unpin network namespace", path) from error

    def kill(self, container_id: str) -> None:
        """Kill a container of Docker and wait for its end; succeeds for what does not run. Raises OakumError."""
        try:
            self._client.post(f"/containers/{container_id}/stop", query={"t": 0}, deadline_s=_KILL_S)
        except NotFound:
            return

    def delete_container(self, container_id: str) -> None:
        """Remove a container of Docker; succeeds for what is gone. Raises OakumError."""
        remove_from_docker(self._client, container_id)

    def stop(self, sandbox_id: str) -> None:
        """Stop containers and network; succeeds for what is gone."""
        found = self._objects.lookup("sandbox", sandbox_id)
        if found is None:
            self._forget_if_lost(sandbox_id)
            return
        _, row = found
        with self._locks.holding(row["Id"]):
            self._stop(row["Id"])

    def _stop(self, sandbox_id: str) -> None:
        record = pods.read(self._layout.pod(sandbox_id))
        pods.write(
            self._layout.pod(sandbox_id),
            msgspec.structs.replace(record or pods.Pod(), ready=False, addresses=()),
        )
        running = [c.id for c in self._of(sandbox_id) if c.state in ("running", "paused")]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self.kill, running))
        self._disconnect(sandbox_id)

    def _of(self, sandbox_id: str) -> list[ContainerStatus]:
        return list(self._objects.containers(ContainerFilter(sandbox_id=sandbox_id)))

    def remove(self, sandbox_id: str, *, remove_container: Callable[[str], None]) -> None:
        """Remove a sandbox and its containers; succeeds for what is gone."""
        found = self._objects.lookup("sandbox", sandbox_id)
        if found is None:
            self._forget_if_lost(sandbox_id)
            return
        labels, row = found
        with self._locks.holding(row["Id"]) as lock:
            self._stop(row["Id"])
            for container in self._of(row["Id"]):
                remove_container(container.id)
            self.delete_container(row["Id"])
            self._forget(row["Id"], labels.cgroup_parent)
            lock.release(gone=True)

    # changing

    def update_resources(
        self, sandbox_id: str, *, overhead: Resources | None, resources: Resources | None
    ) -> None:
        """Note new limits; set them where the cgroup is ours."""
        for change in (overhead, resources):
            if change is not None:
                check(change)
        status = self._objects.ready_sandbox(sandbox_id)
        with self._locks.holding(status.id):
            labels, _ = self._objects.inspected("sandbox", status.id)
            record = pods.read(self._layout.pod(status.id)) or pods.Pod()
            config = status.config
            changed = {
                name: merge(before or Resources(), change)
                for name, before, change in (
                    ("overhead", config.overhead, overhead),
                    ("resources", config.resources, resources),
                )
                if change is not None
            }
            if resources is not None:
                self._limit(labels, said_by(resources, changed["resources"]))
            pods.write(self._layout.pod(status.id), msgspec.structs.replace(record, **changed))
