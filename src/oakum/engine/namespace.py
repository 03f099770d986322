# SPDX-License-Identifier: Apache-2.0
"""What lies in one namespace, and all that can be done with it: the backend that CRI and the command line drive.

Owns the wiring of its parts and nothing else: every method says what it does and hands on to the module that does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from oakum.backend.config import (
    BUILT_IN,
    AuthConfig,
    ContainerConfig,
    NetworkRequest,
    Resources,
    SandboxConfig,
)
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
from oakum.engine.checkpointer import Checkpointer
from oakum.engine.containers import Containers
from oakum.engine.context import Context
from oakum.engine.images import Images
from oakum.engine.logs import LogLine
from oakum.engine.sandboxes import Sandboxes
from oakum.engine.store.database import WouldWait
from oakum.engine.store.records import ContainerRecord, SandboxRecord
from oakum.errors import NotFound, OakumError
from oakum.model.exits import ExitRecord

if TYPE_CHECKING:
    import socket

    from oakum.engine.events import Watcher
    from oakum.engine.execs import Execs
    from oakum.engine.files import ContainerFiles
    from oakum.engine.lookup import NamespaceLookup
    from oakum.engine.metrics import Metrics
    from oakum.engine.named_volumes import NamedVolumes
    from oakum.engine.stats import Statistics
    from oakum.engine.written import WrittenLayers
    from oakum.images.config import ImageConfig
    from oakum.shim.client import Exec
    from oakum.snapshots.protocol import Usage

T = TypeVar("T")


class Namespace(Checkpointer):
    """Sandboxes, containers and image names of one namespace; content is shared with the others.

    Fulfils `RuntimeBackend` and `ImageBackend`, and has what the command line needs beyond them. Where a
    method takes a container it takes its id, the beginning of its id, or (owner "container") its name.
    """

    def __init__(self, context: Context, name: str) -> None:
        self.name = name
        self._context = context
        self._images = Images(context, name)
        self._sandboxes = Sandboxes(context, name)
        self._containers = Containers(context, name, self._sandboxes, self._images)

    @cached_property
    def _execs(self) -> Execs:
        from oakum.engine.execs import Execs  # as the statistics: most calls of a command line need neither

        return Execs(self._context, self._containers)

    @cached_property
    def _statistics(self) -> Statistics:
        from oakum.engine.stats import Statistics  # see above

        return Statistics(self._lookup, self._context.network, self._context.cgroups, self._written)

    @cached_property
    def _lookup(self) -> NamespaceLookup:
        from oakum.engine.lookup import NamespaceLookup  # see above

        return NamespaceLookup(self._sandboxes, self._containers)

    @cached_property
    def _written(self) -> WrittenLayers:
        from oakum.engine.written import WrittenLayers  # see above

        return WrittenLayers(self._written_to, lambda: self._context.layout.root)

    def _written_to(self, container_id: str) -> Usage | None:
        try:
            return self._context.snapshotter.usage(container_id)
        except NotFound:
            return None  # it is being removed

    @cached_property
    def _watcher(self) -> Watcher:
        from oakum.engine.events import Watcher  # only servers watch

        return Watcher(self._context, self.name)

    @cached_property
    def files(self) -> ContainerFiles:
        """Files into and out of containers."""
        from oakum.engine.files import ContainerFiles  # only `oakum cp` asks for them

        return ContainerFiles(self._context, self._containers)

    @cached_property
    def volumes(self) -> NamedVolumes:
        """The named volumes: list, create and remove them."""
        from oakum.engine.named_volumes import NamedVolumes  # only `oakum volume` asks for them

        return NamedVolumes(self._context, self.name)

    @cached_property
    def _metrics(self) -> Metrics:
        from oakum.engine.metrics import Metrics  # only servers are asked for them

        return Metrics(
            self._lookup,
            self._context.network,
            self._context.cgroups,
            written=self._written,
            root=lambda: self._context.layout.root,
        )

    # Prompt

    def at_once(self, look: Callable[[], T]) -> T | None:
        """What `look` gives where the database and the disk's cache can say it right now; else None."""
        try:
            with self._context.store.at_once():
                return look()
        except WouldWait:
            return None

    # RuntimeBackend: health

    def runtime_status(self, *, verbose: bool) -> RuntimeStatus:
        """Health and features; never raises for an unhealthy part, it reports it."""
        # Only asked now and then, and it looks at parts that nothing else needs.
        from oakum.engine.info import runtime_status

        return runtime_status(self._context, verbose=verbose)

    def handlers(self) -> Sequence[str]:
        """The runtime handlers that pods may ask for by name."""
        return (BUILT_IN, *self._context.handlers.usable())

    def cgroup_driver(self) -> str:
        """Name the driver: "systemd" or "cgroupfs", which too maps the names of slices onto directories."""
        from oakum.engine import scopes  # asked once, by a kubelet that starts

        return scopes.driver(self._context)

    # RuntimeBackend: sandboxes

    def run_sandbox(self, config: SandboxConfig, *, runtime_handler: str = "") -> str:
        """Create and start a sandbox; its id. A retry of a call whose first try still runs joins it.

        Raises:
            AlreadyExists: a sandbox with this name, namespace, uid and attempt is there.
            InvalidArgument: no such runtime handler, a bad name, sysctl or port.
        """
        return self._sandboxes.run(config, runtime_handler=runtime_handler)

    def stop_sandbox(self, sandbox_id: str) -> None:
        """Stop the sandbox's containers and network; succeeds for what is stopped or gone."""
        self._sandboxes.stop(sandbox_id)

    def remove_sandbox(self, sandbox_id: str) -> None:
        """Stop and remove the sandbox with its containers; succeeds for what is gone."""
        self._sandboxes.remove(sandbox_id, remove_container=self._containers.remove_one)

    def sandbox_status(self, sandbox_id: str) -> SandboxStatus:
        """One sandbox by id or the beginning of it. Raises NotFound."""
        return self._sandboxes.status(sandbox_id)

    def list_sandboxes(self, wanted: SandboxFilter = SandboxFilter()) -> Sequence[SandboxStatus]:  # noqa: B008 - frozen
        """The sandboxes that match, newest first."""
        return self._sandboxes.list(wanted)

    def find_sandbox(self, name_or_id: str) -> SandboxStatus:
        """One sandbox by id, beginning of its id, or name where only one has it. Raises NotFound."""
        return self._sandboxes.find(name_or_id)

    def update_sandbox_resources(
        self, sandbox_id: str, *, overhead: Resources | None, resources: Resources | None
    ) -> None:
        """Take note of a ready sandbox's new limits, and set them where its cgroup is ours; None stays as it is.

        Raises:
            NotFound, FailedPrecondition: there is none, or it is not ready.
            InvalidArgument: a limit cannot be meant.
        """
        self._sandboxes.update_resources(sandbox_id, overhead=overhead, resources=resources)

    def connect_network(self, container_id: str, request: NetworkRequest) -> None:
        """Connect a container of the command line to a further network, now and whenever it starts.

        Raises:
            NotFound: no such container or network.
            AlreadyExists: it is in the network, or its address is taken.
            FailedPrecondition: it is a pod's, or has the host's network or none.
        """
        self._sandboxes.connect(self._containers.need(container_id).sandbox_id, request)

    def disconnect_network(self, container_id: str, network: str, *, force: bool = False) -> None:
        """Disconnect a container from a network. Raises as `connect_network`; with `force` not if it is not in it."""
        self._sandboxes.disconnect(self._containers.need(container_id).sandbox_id, network, force=force)

    # RuntimeBackend: containers

    def create_container(self, sandbox_id: str, config: ContainerConfig) -> str:
        """Prepare a container in a ready sandbox; its id.

        Raises:
            NotFound: no such sandbox, or a mount's source is missing.
            ImageNotFound: the image has not been pulled.
            AlreadyExists: the name is taken in this sandbox (or, for `oakum run`, in this namespace).
            FailedPrecondition: the sandbox is not ready.
        """
        return self._containers.create(sandbox_id, config)

    def create_standalone(
        self, sandbox: SandboxConfig, config: ContainerConfig, *, runtime_handler: str = ""
    ) -> str:
        """A sandbox of its own and a container in it, as `oakum run` wants it; the container's id.

        `sandbox.owner` must be "container". Nothing is left when it fails. Raises as `run_sandbox` and
        `create_container`.
        """
        return self._containers.create_standalone(sandbox, config, runtime_handler=runtime_handler)

    def start_container(self, container_id: str) -> None:
        """Start a created container.

        Raises:
            FailedPrecondition: it is not in state created.
            CommandNotRunnable: its command is missing or not executable; the container is then exited with
                reason "StartError".
            SystemFailure: a step of its setup failed; exited likewise.
        """
        self._containers.start(container_id)

    def rename_container(self, container_id: str, name: str) -> None:
        """Give a container of the command line another name; see `engine.renames` for what it raises."""
        from oakum.engine.renames import rename  # of all calls only `oakum rename` needs it

        rename(self._context, self._containers, container_id, name)

    def rearm_container(self, container_id: str) -> None:
        """Bring a container of the command line that has ended back to where it can be started; see `engine.again`.

        Raises:
            FailedPrecondition: it runs, or is one of a pod's.
        """
        from oakum.engine.again import rearm  # of all calls only `oakum start` needs it

        rearm(self._context, self._sandboxes, self._containers, container_id)

    def restart_container(self, container_id: str) -> None:
        """Start a container that has ended if its restart policy wants that now."""
        from oakum.engine.restarts import restart  # only `engine.restarter` needs it

        restart(self._context, self._containers, container_id)

    def change_restart_policy(self, container_id: str, policy: str) -> None:
        """Have another restart policy from now on ("no", "on-failure:5", "always", "unless-stopped").

        Raises:
            InvalidArgument: there is no such policy.
            FailedPrecondition: the container is one of a pod's.
        """
        from oakum.engine.restarts import change_policy  # as above

        change_policy(self._context, self._containers, container_id, policy)

    def start_attached(
        self,
        container_id: str,
        *,
        stdin: bool,
        backpressure: bool = True,
        rows: int = 0,
        columns: int = 0,
    ) -> socket.socket:
        """Start a created container with an attached stream of shim frames that misses no output.

        With `rows` and `columns` its terminal has that size before its first instruction.
        Raises as `start_container`.
        """
        return self._containers.start_attached(
            container_id, stdin=stdin, backpressure=backpressure, rows=rows, columns=columns
        )

    def stop_container(self, container_id: str, *, timeout_s: float) -> None:
        """Stop signal, then after `timeout_s` kill; succeeds for what is stopped or gone."""
        self._containers.stop(container_id, timeout_s=timeout_s)

    def remove_container(self, container_id: str) -> None:
        """Remove a container, killed first if it runs; succeeds for what is gone.

        A sandbox that was made for it alone (`create_standalone`) goes with it.
        """
        self._containers.remove(container_id)

    def container_status(self, container_id: str) -> ContainerStatus:
        """One container by id or the beginning of it. Raises NotFound."""
        return self._containers.status(container_id)

    def find_container(self, name_or_id: str) -> ContainerStatus:
        """One container by id, beginning of its id, or name.

        Raises:
            NotFound: there is none.
            FailedPrecondition: several match.
        """
        return self._containers.find(name_or_id)

    def list_containers(self, wanted: ContainerFilter = ContainerFilter()) -> Sequence[ContainerStatus]:  # noqa: B008 - frozen
        """The containers that match, newest first."""
        return self._containers.list(wanted)

    def update_container_resources(self, container_id: str, resources: Resources) -> None:
        """Change limits of a created or running container; 0 and empty fields stay as they are."""
        self._containers.update_resources(container_id, resources)

    def reopen_container_log(self, container_id: str) -> None:
        """Close the log and open its path anew, for rotation. Raises FailedPrecondition unless it runs."""
        self._containers.reopen_log(container_id)

    def wait(self, container_id: str, *, timeout_s: float | None = None) -> ExitRecord:
        """Block until the container has ended.

        Raises:
            DeadlineExceeded: it has not within `timeout_s`.
        """
        return self._containers.wait(container_id, timeout_s=timeout_s)

    def kill(self, container_id: str, signal_number: int) -> None:
        """Send a signal to the container's first process. Raises FailedPrecondition unless it runs."""
        self._containers.kill(container_id, signal_number)

    def pause(self, container_id: str) -> None:
        """Freeze a running container."""
        self._containers.pause(container_id)

    def resume(self, container_id: str) -> None:
        """Let a paused container go on."""
        self._containers.resume(container_id)

    def attach(
        self,
        container_id: str,
        *,
        stdin: bool,
        stdout: bool = True,
        stderr: bool = True,
        backpressure: bool = False,
    ) -> socket.socket:
        """A stream of shim frames to and from a running container (see `oakum.shim.client`)."""
        return self._containers.attach(
            container_id, stdin=stdin, stdout=stdout, stderr=stderr, backpressure=backpressure
        )

    def resize(self, container_id: str, rows: int, columns: int) -> None:
        """Set the size of the container's terminal."""
        self._containers.resize(container_id, rows, columns)

    def close_stdin(self, container_id: str) -> None:
        """Close the container's standard input."""
        self._containers.close_stdin(container_id)

    def logs(
        self, container_id: str, *, follow: bool = False, tail: int | None = None, since_ns: int = 0
    ) -> Iterator[LogLine]:
        """The lines of the container's log, oldest first.

        With `follow` it goes on over rotations until the container has ended and all is read. `tail` begins
        with the last so many lines, `since_ns` leaves out what is older.
        """
        return self._containers.logs(container_id, follow=follow, tail=tail, since_ns=since_ns)

    def inspect_container(self, name_or_id: str) -> dict[str, Any]:
        """All there is to say about a container, as plain JSON values: status, configuration, spec, snapshot."""
        return self._containers.inspect(name_or_id)

    def inspect_sandbox(self, name_or_id: str) -> dict[str, Any]:
        """All there is to say about a sandbox, as plain JSON values."""
        return self._sandboxes.inspect(name_or_id)

    # exec

    def exec_sync(
        self,
        container_id: str,
        argv: Sequence[str],
        *,
        timeout_s: float,
        cancelled: Callable[[], bool] | None = None,
    ) -> ExecResult:
        """Run a command in a running container; at `timeout_s` (0: none) its whole tree is killed.

        So it is once `cancelled`, which is asked now and then, says so.

        Raises:
            Cancelled, DeadlineExceeded: it had to be killed.
            FailedPrecondition: the container does not run.
            CommandNotRunnable: the command is missing or not executable.
        """
        return self._execs.run(container_id, argv, timeout_s=timeout_s, cancelled=cancelled)

    def exec_start(
        self,
        container_id: str,
        argv: Sequence[str],
        *,
        tty: bool = False,
        env: Sequence[tuple[str, str]] = (),
        cwd: str = "",
        user: str = "",
        privileged: bool = False,
        stdio: tuple[int, int, int] | None = None,
        rows: int = 0,
        columns: int = 0,
    ) -> Exec:
        """Start a command in a running container on `stdio` (borrowed) or, with `tty`, on a new terminal.

        The terminal's master end is the result's `console_fd`; the caller pumps it.
        Raises as `exec_sync`, but for the deadline.
        """
        return self._execs.start(
            container_id,
            argv,
            tty=tty,
            env=env,
            cwd=cwd,
            user=user,
            privileged=privileged,
            stdio=stdio,
            rows=rows,
            columns=columns,
        )

    # events

    def watch_events(self, tell: Callable[[ContainerEvent | OakumError], None]) -> Callable[[], None]:
        """Have `tell` called for all that happens from now on, whoever does it; the result ends that.

        It is called from another thread, in order, and must not block. An error is the last that it is told.
        Raises SystemFailure.
        """
        return self._watcher.watch(tell)

    # statistics

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

    # for `engine.recovery`: the endings of calls whose process was killed

    def undo_sandbox(self, record: SandboxRecord) -> None:
        """Remove every trace of a sandbox without containers. Its lock is held."""
        self._sandboxes.undo(record)

    def finish_sandbox_stop(self, record: SandboxRecord) -> None:
        """Do the rest of a stop. Its lock is held."""
        self._sandboxes.finish_stop(record)

    def finish_sandbox_removal(self, record: SandboxRecord) -> None:
        """Do the rest of a removal. Its lock is held."""
        self._sandboxes.finish_removal(record, self._containers.remove_one)

    def settle_networks(self, record: SandboxRecord) -> str:
        """Bring a sandbox's networks to what its row says; what was done. Its lock is held."""
        return self._sandboxes.settle_networks(record)

    def finish_container_start(self, record: ContainerRecord) -> str:
        """Find out how far a start has come; the state it came to. Its lock is held."""
        return self._containers.state(self._containers.finish_start(record))

    def finish_container_removal(self, record: ContainerRecord) -> None:
        """Do the rest of a removal. Its lock is held."""
        self._containers.finish_removal(record)

    # images

    def list_images(self, wanted: str = "") -> Sequence[Image]:
        """All images, or the one that reference or id `wanted` names."""
        return self._images.list(wanted)

    def image_status(self, image: str) -> Image | None:
        """The image that a reference, digest or id (or its beginning) names; None when there is none."""
        return self._images.status(image)

    def pull_image(
        self,
        image: str,
        *,
        auth: AuthConfig | None = None,
        progress: PullProgress | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> str:
        """Bring an image from its registry; its id. The same pull asked for twice at once is done once."""
        return self._images.pull(image, auth=auth, progress=progress, cancelled=cancelled)

    def push_image(
        self, image: str, *, auth: AuthConfig | None = None, progress: PullProgress | None = None
    ) -> str:
        """Send an image to the registry that its name says; the manifest's digest there."""
        return self._images.push(image, auth=auth, progress=progress)

    def remove_image(self, image: str) -> None:
        """Forget every name of the image and free what nothing else uses; succeeds for what is gone."""
        self._images.remove(image)

    def untag_image(self, name: str) -> Sequence[str]:
        """Forget one name, and the image with its last one; what was removed: names, then the id if it went.

        An id (or its beginning) is refused when the image has several tags. Raises ImageNotFound.
        """
        return self._images.untag(name)

    def tag_image(self, source: str, target: str) -> None:
        """Give an image a further name; the name is taken from any other image. Raises ImageNotFound."""
        self._images.tag(source, target)

    def import_images(self, path: str, *, progress: PullProgress | None = None) -> Sequence[Image]:
        """Read images from an OCI layout or docker archive; `path` "-" is standard input."""
        return self._images.import_archive(path, progress=progress)

    def export_images(
        self, names: Sequence[str], path: str | BinaryIO, *, archive_format: str = "oci"
    ) -> None:
        """Write images as an archive, "oci" or "docker"; `path` is a file's or an open file, "-" standard output."""
        self._images.export_archive(names, path, archive_format=archive_format)

    def image_config(self, image: str) -> ImageConfig:
        """The configuration of an image: entrypoint, environment, history. Raises ImageNotFound."""
        return self._images.config(image)

    def image_document(self, image: str) -> dict[str, Any]:
        """The configuration of an image as its author wrote it. Raises ImageNotFound."""
        return self._images.document(image)

    def image_layer_sizes(self, image: str) -> Sequence[int]:
        """What each layer of an image takes unpacked, in bytes, the lowest first. Raises ImageNotFound."""
        return self._images.layer_sizes(image)

    def inspect_image(self, image: str) -> dict[str, Any]:
        """All there is to say about an image, as plain JSON values. Raises ImageNotFound."""
        return self._images.inspect(image)

    def image_filesystems(self) -> Sequence[FilesystemUsage]:
        """Where images lie and how much they use."""
        return self._images.filesystems()
