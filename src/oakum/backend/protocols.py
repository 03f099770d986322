# SPDX-License-Identifier: Apache-2.0
"""The Protocols that the native engine and the dockershim both fulfil, one method an operation.

All methods block and may be called from many threads at once; a front door that is asynchronous calls them in
a thread pool. Ids may be given by their beginning. Every method raises from `oakum.errors` only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from oakum.backend.config import AuthConfig, ContainerConfig, Resources, SandboxConfig
from oakum.backend.status import (
    ContainerEvent,
    ContainerFilter,
    ContainerStats,
    ContainerStatus,
    ExecResult,
    FilesystemUsage,
    Image,
    MetricDescriptor,
    RestoredSandbox,
    RuntimeStatus,
    SandboxFilter,
    SandboxMetrics,
    SandboxStats,
    SandboxStatus,
)
from oakum.errors import OakumError

T = TypeVar("T")


class RuntimeBackend(Protocol):
    """Sandboxes and containers."""

    def runtime_status(self, *, verbose: bool) -> RuntimeStatus:
        """Health and features; never raises for an unhealthy part, it reports it."""
        ...

    def cgroup_driver(self) -> str:
        """Name the driver: "cgroupfs" or "systemd"."""
        ...

    def run_sandbox(self, config: SandboxConfig, *, runtime_handler: str = "") -> str:
        """Create and start a sandbox; its id. A retry of a call whose first try still runs joins it."""
        ...

    def stop_sandbox(self, sandbox_id: str) -> None:
        """Stop the sandbox's containers and network; succeeds for what is stopped or gone."""
        ...

    def remove_sandbox(self, sandbox_id: str) -> None:
        """Stop and remove the sandbox with its containers; succeeds for what is gone."""
        ...

    def sandbox_status(self, sandbox_id: str) -> SandboxStatus:
        """One sandbox. Raises NotFound."""
        ...

    def list_sandboxes(self, wanted: SandboxFilter = ...) -> Sequence[SandboxStatus]:
        """The sandboxes that match, newest first."""
        ...

    def update_sandbox_resources(
        self, sandbox_id: str, *, overhead: Resources | None, resources: Resources | None
    ) -> None:
        """Take note of a ready sandbox's new limits, and set them where its cgroup is ours; None stays as it is."""
        ...

    def create_container(self, sandbox_id: str, config: ContainerConfig) -> str:
        """Prepare a container in a ready sandbox; its id. Raises NotFound, ImageNotFound, FailedPrecondition."""
        ...

    def start_container(self, container_id: str) -> None:
        """Start a created container. Raises FailedPrecondition, CommandNotRunnable and other SystemFailures."""
        ...

    def stop_container(self, container_id: str, *, timeout_s: float) -> None:
        """Stop signal, then after `timeout_s` kill; succeeds for what is stopped or gone."""
        ...

    def remove_container(self, container_id: str) -> None:
        """Remove a container, killed first if it runs; succeeds for what is gone."""
        ...

    def container_status(self, container_id: str) -> ContainerStatus:
        """One container. Raises NotFound."""
        ...

    def list_containers(self, wanted: ContainerFilter = ...) -> Sequence[ContainerStatus]:
        """The containers that match, newest first."""
        ...

    def update_container_resources(self, container_id: str, resources: Resources) -> None:
        """Change limits of a created or running container; 0 and empty fields stay as they are."""
        ...

    def reopen_container_log(self, container_id: str) -> None:
        """Close the log and open its path anew, for rotation. Raises FailedPrecondition unless it runs."""
        ...

    def exec_sync(
        self,
        container_id: str,
        argv: Sequence[str],
        *,
        timeout_s: float,
        cancelled: Callable[[], bool] | None = None,
    ) -> ExecResult:
        """Run a command in a running container; at `timeout_s` (0: none) its whole tree is killed.

        So it is once `cancelled`, which is asked now and then, says so. Raises Cancelled, DeadlineExceeded, FailedPrecondition, CommandNotRunnable.
        """
        ...

    def watch_events(self, tell: Callable[[ContainerEvent | OakumError], None]) -> Callable[[], None]:
        """Have `tell` called for all that happens from now on, whoever does it; the result ends that.

        It is called from another thread, in order, and must not block. An error is the last that it is told:
        events after it would be missing.
        """
        ...

    def container_stats(self, container_id: str) -> ContainerStats:
        """Statistics of one container. Raises NotFound."""
        ...

    def list_container_stats(self, wanted: ContainerFilter = ...) -> Sequence[ContainerStats]:
        """Statistics of the running containers that match, in one pass."""
        ...

    def sandbox_stats(self, sandbox_id: str) -> SandboxStats:
        """Statistics of one sandbox. Raises NotFound."""
        ...

    def list_sandbox_stats(self, wanted: SandboxFilter = ...) -> Sequence[SandboxStats]:
        """Statistics of the ready sandboxes that match, in one pass."""
        ...

    def metric_descriptors(self) -> Sequence[MetricDescriptor]:
        """The families that `list_sandbox_metrics` has values of."""
        ...

    def list_sandbox_metrics(self) -> Sequence[SandboxMetrics]:
        """Metrics of all ready sandboxes and what runs in them, in one pass."""
        ...


@runtime_checkable
class Checkpointing(Protocol):
    """What a runtime backend may do besides: write running containers to disk, and make pods of that again."""

    def checkpoint_container(self, container_id: str, location: str, *, timeout_s: int) -> None:
        """Write an archive of a running container, which goes on. Raises Unimplemented with the host's reason."""
        ...

    def checkpoint_sandbox(self, sandbox_id: str, directory: str, *, container_ids: Sequence[str]) -> None:
        """Write archives of a pod's running containers, all of one moment, into a new directory; the pod goes on.

        Empty `container_ids` are all that run. Raises Unimplemented with the host's reason.
        """
        ...

    def restore_sandbox(
        self,
        path: str,
        config: SandboxConfig | None,
        *,
        runtime_handler: str,
        container_configs: Sequence[ContainerConfig],
    ) -> RestoredSandbox:
        """Make a new pod whose containers go on from the directory `path`; all of it, or nothing is left.

        What is not configured is as it was. Raises Unimplemented with the host's reason.
        """
        ...


@runtime_checkable
class Prompt(Protocol):
    """What a runtime backend may do besides: answer short questions without waiting for anybody."""

    def at_once(self, look: Callable[[], T]) -> T | None:
        """What `look` gives, which asks this backend only for sandboxes and containers, and changes nothing.

        None when that would have to wait for another thread or process, or would take longer than a thread of its own.
        """
        ...


class PullProgress(Protocol):
    """Told how a pull goes; called from any thread, must not block."""

    def __call__(self, digest: str, stage: str, done_bytes: int, total_bytes: int) -> None:
        """`stage` is "waiting", "downloading", "unpacking", "exists" or "done" for the blob `digest`."""
        ...


class ImageBackend(Protocol):
    """Images of one namespace."""

    def list_images(self, wanted: str = "") -> Sequence[Image]:
        """All images, or the one that reference or id `wanted` names."""
        ...

    def image_status(self, image: str) -> Image | None:
        """The image that a reference, digest or id names; None when there is none."""
        ...

    def image_document(self, image: str) -> Mapping[str, Any]:
        """The configuration of an image as its author wrote it. Raises ImageNotFound."""
        ...

    def pull_image(
        self,
        image: str,
        *,
        auth: AuthConfig | None = None,
        progress: PullProgress | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> str:
        """Bring an image from its registry; its id. `cancelled` is asked now and then."""
        ...

    def remove_image(self, image: str) -> None:
        """Forget every name of the image and free what nothing else uses; succeeds for what is gone."""
        ...

    def image_filesystems(self) -> Sequence[FilesystemUsage]:
        """Where images lie and how much they use."""
        ...
