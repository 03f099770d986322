# SPDX-License-Identifier: Apache-2.0
"""The public face of the dockershim: `DockerBackend` over one Docker Engine, one root and one state directory.

Owns the wiring of its parts and nothing else. Fulfils `RuntimeBackend`, `ImageBackend` and the streaming server's
`StreamSource`. It holds no state that matters: Docker, its labels and our small files are the truth.
"""

from __future__ import annotations

import os
import socket
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from oakum.backend.config import AuthConfig, ContainerConfig, Resources, SandboxConfig
from oakum.backend.protocols import PullProgress
from oakum.backend.status import (
    ContainerEvent,
    ContainerFilter,
    ContainerStats,
    ContainerStatus,
    ExecResult,
    FilesystemUsage,
    Image,
    MetricDescriptor,
    RuntimeStatus,
    SandboxFilter,
    SandboxMetrics,
    SandboxStats,
    SandboxStatus,
)
from oakum.docker import pause
from oakum.docker.client import DockerClient
from oakum.docker.containers import Containers
from oakum.docker.execs import Execs
from oakum.docker.facts import Facts
from oakum.docker.images import Images
from oakum.docker.labels import Labels
from oakum.docker.layout import Layout
from oakum.docker.logs import LogKeeper
from oakum.docker.mounts import Mounts
from oakum.docker.objects import Objects
from oakum.docker.recovery import recover
from oakum.docker.sandboxes import Sandboxes
from oakum.docker.users import Users
from oakum.engine import host
from oakum.engine.locks import SharedLock
from oakum.errors import Aborted, FailedPrecondition, InvalidArgument, OakumError, Unavailable
from oakum.network.choice import ChosenNetwork
from oakum.network.settings import NetworkSettings
from oakum.oci.cgroups import detect_layout
from oakum.streaming.source import RunningExec

if TYPE_CHECKING:
    from oakum.docker.events import Watcher
    from oakum.engine.metrics import Metrics
    from oakum.engine.stats import Statistics
    from oakum.engine.written import WrittenLayers

DEFAULT_HOST: Final = "unix:///var/run/docker.sock"
_RETRY_S: Final = 2.0


class DockerBackend:
    """Pods, containers and images in Docker. Thread-safe, blocking."""

    def __init__(
        self,
        docker_host: str,
        *,
        root: str,
        state: str,
        network: NetworkSettings,
        pause_image: str = "",
    ) -> None:
        """`pause_image` is what sandboxes run; without it, or where it cannot be pulled, one that is built here.

        Nothing is asked of Docker yet. Raises InvalidArgument.
        """
        self.client = DockerClient(docker_host)
        self._layout = Layout(root, state)
        self._wanted_pause = pause_image
        self._pause_name = ""
        self._guard = threading.Lock()
        self._over = threading.Event()
        self._making = SharedLock(self._layout.making)
        """Shared by whoever makes something; recovery takes what is half done for a dead process's."""
        for directory, mode in ((self._layout.root, 0o711), (self._layout.state, 0o711)):
            os.makedirs(directory, mode=mode, exist_ok=True)
        self.network = ChosenNetwork(
            self._layout.network_database,
            self._layout.cni,
            name_suffix=f"{zlib.crc32(os.fsencode(self._layout.root)):08x}",
            settings=network,
        )
        self.facts = Facts(self.client)
        self._objects = Objects(self.client, self._layout, self._layout.root)
        self.images = Images(self.client, pinned=self._pause)
        cgroups = detect_layout()
        self._cgroups = cgroups
        self._mounts = Mounts(self._layout, self.images.layers)
        self._logs = LogKeeper(self.client, self._layout.containers)
        self._sandboxes = Sandboxes(
            self.client,
            self._objects,
            self._layout,
            network=self.network,
            cgroups=cgroups,
            pause=self._pause_there,
            score=self.facts.score,
        )
        self._containers = Containers(
            self.client,
            self._objects,
            self._layout,
            images=self.images,
            users=Users(self.client, self._probe_labels),
            mounts=self._mounts,
            logs=self._logs,
            log_config=self._logs.log_config,
            cgroups=cgroups,
            score=self.facts.score,
            powers=lambda: self.facts.powers,
        )
        self._execs = Execs(self.client, self._objects)

    @cached_property
    def _statistics(self) -> Statistics:
        from oakum.engine.stats import Statistics  # a command of `oakum migrate` needs none of these

        return Statistics(self._objects, self.network, self._cgroups, self._written)

    @cached_property
    def _metrics(self) -> Metrics:
        from oakum.docker.beginnings import Beginnings  # see above
        from oakum.engine.metrics import Metrics

        return Metrics(
            Beginnings(self._objects),
            self.network,
            self._cgroups,
            written=self._written,
            root=self.client.root_directory,
        )

    @cached_property
    def _written(self) -> WrittenLayers:
        from oakum.docker.layers import DockerLayers  # see above
        from oakum.engine.written import WrittenLayers

        return WrittenLayers(DockerLayers(self.client).measure, self.client.root_directory)

    @cached_property
    def _watcher(self) -> Watcher:
        from oakum.docker.events import Watcher  # see above

        return Watcher(self.client, self._objects, self._objects.installation)

    def _probe_labels(self) -> dict[str, str]:
        return Labels(kind="probe", installation=self._objects.installation, created_at_ns=0).write()

    # the image of sandboxes

    def _pause(self) -> str:
        """The name of the image that sandboxes run."""
        return self._pause_name or self._wanted_pause or pause.archive(host.machine())[0]

    def _pause_there(self, *, missing: bool) -> str:
        with self._guard:
            if missing or not self._pause_name:
                self._pause_name = self._fetch_pause()
            return self._pause_name

    def _fetch_pause(self) -> str:
        """See to it that Docker has the image of sandboxes; its name. Raises OakumError."""
        if self._wanted_pause:
            if self.images.status(self._wanted_pause) is not None:
                return self._wanted_pause
            try:
                self.images.pull(self._wanted_pause)
            except Unavailable:
                pass  # no registry: the one that needs none does the same
            else:
                return self._wanted_pause
        name, archive = pause.archive(host.machine())
        if self.images.status(name) is None:
            self.images.load(archive)
        return name

    # life

    def recover(self) -> list[str]:
        """Finish or undo what a killed server left, and follow the logs; what was done. Raises OakumError."""
        self.client.ping()
        with self._making.exclusive() as alone:
            if not alone:  # Docker was there again for them, too
                raise Aborted("recover", "pods in Docker", "calls that make some are under way")
            done = recover(self._objects, self._layout, self._sandboxes, self._mounts, self.network)
        logged = [(c.id, c.log_path) for c in self._objects.containers() if c.log_path]
        self._logs.recover(logged)
        self._pause_there(missing=False)
        return done

    def start(self, tell: Callable[[str], None]) -> None:
        """Begin to copy logs; recover now, or as soon as Docker answers. `tell` is told what was done and what failed."""
        self._logs.start()
        if not self._recovered(tell):
            threading.Thread(
                target=self._recover_later, args=(tell,), name="docker-recovery", daemon=True
            ).start()

    def _recovered(self, tell: Callable[[str], None]) -> bool:
        try:
            for line in self.recover():
                tell(line)
        except OakumError as error:
            tell(f"Docker: {error}")
            return False
        return True

    def _recover_later(self, tell: Callable[[str], None]) -> None:
        while not self._over.wait(_RETRY_S):
            if self._recovered(tell):
                return

    def close(self) -> None:
        """Let go of everything; pods go on."""
        self._over.set()
        self._logs.close()
        self.network.close()
        self.client.close()

    # RuntimeBackend: health

    def handlers(self) -> list[str]:
        """The runtime handlers that pods may ask for. Raises OakumError."""
        return self.facts.handlers()

    def runtime_status(self, *, verbose: bool) -> RuntimeStatus:
        """Health and features; never raises for an unhealthy part, it reports it."""
        return self.facts.status(self.network, verbose=verbose)

    def cgroup_driver(self) -> str:
        """Name the driver that Docker is configured with."""
        return "systemd" if self._objects.systemd else "cgroupfs"

    # RuntimeBackend: sandboxes

    def run_sandbox(self, config: SandboxConfig, *, runtime_handler: str = "") -> str:
        """Create and start a sandbox; its id. A retry of a call whose first try still runs joins it."""
        if runtime_handler and runtime_handler not in self.handlers():
            raise InvalidArgument(
                "run sandbox",
                f"runtime_handler {runtime_handler[:64]!r}",
                "there is none of this name",
                hint="register it with dockerd, or leave it empty",
            )
        with self._making.shared():
            sandbox_id = self._sandboxes.run(config, runtime_handler)
        self._watcher.sandbox_ready(sandbox_id)
        return sandbox_id

    def stop_sandbox(self, sandbox_id: str) -> None:
        """Stop the sandbox's containers and network; succeeds for what is stopped or gone."""
        self._sandboxes.stop(sandbox_id)

    def remove_sandbox(self, sandbox_id: str) -> None:
        """Stop and remove the sandbox with its containers; succeeds for what is gone."""
        self._sandboxes.remove(sandbox_id, remove_container=self._containers.remove)

    def sandbox_status(self, sandbox_id: str) -> SandboxStatus:
        """One sandbox. Raises NotFound."""
        return self._objects.sandbox(sandbox_id)

    def list_sandboxes(self, wanted: SandboxFilter = SandboxFilter()) -> Sequence[SandboxStatus]:  # noqa: B008 - frozen
        """The sandboxes that match, newest first."""
        return self._objects.sandboxes(wanted)

    def update_sandbox_resources(
        self, sandbox_id: str, *, overhead: Resources | None, resources: Resources | None
    ) -> None:
        """Take note of a ready sandbox's new limits, and set them where its cgroup is ours; None stays as it is."""
        self._sandboxes.update_resources(sandbox_id, overhead=overhead, resources=resources)

    # RuntimeBackend: containers

    def create_container(self, sandbox_id: str, config: ContainerConfig) -> str:
        """Prepare a container in a ready sandbox; its id. Raises NotFound, ImageNotFound, FailedPrecondition."""
        with self._making.shared():
            return self._containers.create(sandbox_id, config)

    def start_container(self, container_id: str) -> None:
        """Start a created container. Raises FailedPrecondition, CommandNotRunnable and other SystemFailures."""
        self._containers.start(container_id)

    def stop_container(self, container_id: str, *, timeout_s: float) -> None:
        """Stop signal, then after `timeout_s` kill; succeeds for what is stopped or gone."""
        self._containers.stop(container_id, timeout_s=timeout_s)

    def remove_container(self, container_id: str) -> None:
        """Remove a container, killed first if it runs; succeeds for what is gone."""
        self._containers.remove(container_id)

    def container_status(self, container_id: str) -> ContainerStatus:
        """One container. Raises NotFound."""
        return self._objects.container(container_id)

    def list_containers(self, wanted: ContainerFilter = ContainerFilter()) -> Sequence[ContainerStatus]:  # noqa: B008 - frozen
        """The containers that match, newest first."""
        return self._objects.containers(wanted)

    def update_container_resources(self, container_id: str, resources: Resources) -> None:
        """Change limits of a created or running container; 0 and empty fields stay as they are."""
        self._containers.update_resources(container_id, resources)

    def reopen_container_log(self, container_id: str) -> None:
        """Close the log and open its path anew, for rotation. Raises FailedPrecondition unless it runs."""
        status = self._objects.container(container_id)
        if status.state not in ("running", "paused"):
            raise FailedPrecondition("reopen log", status.id[:12], f"the container is {status.state}")
        if status.log_path:
            self._logs.reopen(status.id)

    def exec_sync(
        self,
        container_id: str,
        argv: Sequence[str],
        *,
        timeout_s: float,
        cancelled: Callable[[], bool] | None = None,
    ) -> ExecResult:
        """Run a command in a running container; at `timeout_s` (0: none) its whole tree is killed."""
        return self._execs.run(container_id, argv, timeout_s=timeout_s, cancelled=cancelled)

    def watch_events(self, tell: Callable[[ContainerEvent | OakumError], None]) -> Callable[[], None]:
        """Have `tell` called for all that happens from now on, whoever does it; the result ends that."""
        return self._watcher.watch(tell)

    def container_stats(self, container_id: str) -> ContainerStats:
        """Statistics of one container. Raises NotFound."""
        return self._statistics.container(container_id)

    def list_container_stats(self, wanted: ContainerFilter = ContainerFilter()) -> Sequence[ContainerStats]:  # noqa: B008 - frozen
        """Statistics of the running containers that match, in one pass."""
        return self._statistics.containers(wanted)

    def sandbox_stats(self, sandbox_id: str) -> SandboxStats:
        """Statistics of one sandbox. Raises NotFound."""
        return self._statistics.sandbox(sandbox_id)

    def list_sandbox_stats(self, wanted: SandboxFilter = SandboxFilter()) -> Sequence[SandboxStats]:  # noqa: B008 - frozen
        """Statistics of the ready sandboxes that match, in one pass."""
        return self._statistics.sandboxes(wanted)

    def metric_descriptors(self) -> Sequence[MetricDescriptor]:
        """The families that `list_sandbox_metrics` has values of."""
        return self._metrics.descriptors()

    def list_sandbox_metrics(self) -> Sequence[SandboxMetrics]:
        """Metrics of all ready sandboxes and what runs in them, in one pass."""
        return self._metrics.sandboxes()

    # StreamSource

    def exec_start(
        self,
        container_id: str,
        argv: Sequence[str],
        *,
        tty: bool = False,
        stdio: tuple[int, int, int] | None = None,
        rows: int = 0,
        columns: int = 0,
    ) -> RunningExec:
        """Start a command on `stdio` (borrowed) or on a new terminal. Raises OakumError."""
        return self._execs.start(container_id, argv, tty=tty, stdio=stdio, rows=rows, columns=columns)

    def attach(
        self,
        container_id: str,
        *,
        stdin: bool,
        stdout: bool = True,
        stderr: bool = True,
        backpressure: bool = False,
    ) -> socket.socket:
        """A stream of the shim's frames to and from a running container. Raises OakumError."""
        from oakum.docker.attach import attach  # only streams need it

        status = self._objects.container(container_id)
        return attach(
            self.client, status, stdin=stdin, stdout=stdout, stderr=stderr, backpressure=backpressure
        )

    # ImageBackend

    def list_images(self, wanted: str = "") -> Sequence[Image]:
        """All images, or the one that reference or id `wanted` names."""
        return self.images.list(wanted)

    def image_status(self, image: str) -> Image | None:
        """The image that a reference, digest or id names; None when there is none."""
        return self.images.status(image)

    def image_document(self, image: str) -> Mapping[str, Any]:
        """The configuration of an image as its author wrote it. Raises ImageNotFound."""
        return self.images.document(image)

    def pull_image(
        self,
        image: str,
        *,
        auth: AuthConfig | None = None,
        progress: PullProgress | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> str:
        """Bring an image from its registry; its id. `cancelled` is asked now and then."""
        return self.images.pull(image, auth=auth, progress=progress, cancelled=cancelled)

    def remove_image(self, image: str) -> None:
        """Forget every name of the image and free what nothing else uses; succeeds for what is gone."""
        self.images.remove(image)

    def image_filesystems(self) -> Sequence[FilesystemUsage]:
        """Where images lie and how much they use."""
        return self.images.filesystems()
