# SPDX-License-Identifier: Apache-2.0
"""A CRI client on the generated stubs, and an in-memory backend that the front door can be tested against."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

import grpc
import msgspec

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri._proto import cri_pb2_grpc as rpc
from oakum.backend.config import AuthConfig, ContainerConfig, Resources, SandboxConfig
from oakum.backend.protocols import PullProgress
from oakum.backend.status import (
    Condition,
    ContainerEvent,
    ContainerFilter,
    ContainerStats,
    ContainerStatus,
    CpuUsage,
    ExecResult,
    FilesystemUsage,
    HandlerFeatures,
    Image,
    Metric,
    MetricDescriptor,
    RuntimeStatus,
    SandboxFilter,
    SandboxMetrics,
    SandboxStats,
    SandboxStatus,
)
from oakum.errors import (
    AlreadyExists,
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    ImageNotFound,
    NotFound,
    OakumError,
)
from oakum.model.ids import new_id


class CriClient:
    """Both services of one CRI socket, and short ways to say the usual requests."""

    def __init__(self, socket: str) -> None:
        target = socket if socket.startswith("unix:") else f"unix://{socket}"
        self.channel = grpc.insecure_channel(
            target,
            options=[
                ("grpc.default_authority", "localhost"),
                ("grpc.max_receive_message_length", 16 * 1024 * 1024),
            ],
        )
        self.runtime = rpc.RuntimeServiceStub(self.channel)
        self.images = rpc.ImageServiceStub(self.channel)

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> CriClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def pull(self, image: str, **auth: str) -> str:
        request = pb.PullImageRequest(image=pb.ImageSpec(image=image))
        if auth:
            request.auth.CopyFrom(pb.AuthConfig(**auth))
        return self.images.PullImage(request, timeout=120).image_ref

    def run_pod(self, config: pb.PodSandboxConfig, handler: str = "") -> str:
        request = pb.RunPodSandboxRequest(config=config, runtime_handler=handler)
        return self.runtime.RunPodSandbox(request, timeout=60).pod_sandbox_id

    def create(self, pod: str, config: pb.ContainerConfig, sandbox: pb.PodSandboxConfig | None = None) -> str:
        request = pb.CreateContainerRequest(pod_sandbox_id=pod, config=config, sandbox_config=sandbox)
        return self.runtime.CreateContainer(request, timeout=60).container_id

    def start(self, container: str) -> None:
        self.runtime.StartContainer(pb.StartContainerRequest(container_id=container), timeout=60)

    def stop(self, container: str, timeout: int = 0) -> None:
        self.runtime.StopContainer(
            pb.StopContainerRequest(container_id=container, timeout=timeout), timeout=90
        )

    def remove(self, container: str) -> None:
        self.runtime.RemoveContainer(pb.RemoveContainerRequest(container_id=container), timeout=60)

    def stop_pod(self, pod: str) -> None:
        self.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=pod), timeout=90)

    def remove_pod(self, pod: str) -> None:
        self.runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=pod), timeout=90)

    def status(self, container: str, *, verbose: bool = False) -> pb.ContainerStatusResponse:
        request = pb.ContainerStatusRequest(container_id=container, verbose=verbose)
        return self.runtime.ContainerStatus(request, timeout=30)

    def pod_status(self, pod: str, *, verbose: bool = False) -> pb.PodSandboxStatusResponse:
        request = pb.PodSandboxStatusRequest(pod_sandbox_id=pod, verbose=verbose)
        return self.runtime.PodSandboxStatus(request, timeout=30)

    def exec(
        self, container: str, *cmd: str, timeout: int = 0, rpc_timeout: float = 60
    ) -> pb.ExecSyncResponse:
        request = pb.ExecSyncRequest(container_id=container, cmd=cmd, timeout=timeout)
        return self.runtime.ExecSync(request, timeout=rpc_timeout)

    def pods(self, **wanted: Any) -> list[pb.PodSandbox]:
        request = pb.ListPodSandboxRequest(filter=pb.PodSandboxFilter(**wanted))
        return list(self.runtime.ListPodSandbox(request, timeout=30).items)

    def containers(self, **wanted: Any) -> list[pb.Container]:
        request = pb.ListContainersRequest(filter=pb.ContainerFilter(**wanted))
        return list(self.runtime.ListContainers(request, timeout=30).containers)


def failure(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    """The status code and message with which `call` fails; an AssertionError when it does not."""
    try:
        result = call()
    except grpc.RpcError as error:
        call_error = cast("grpc.Call", error)
        return call_error.code(), call_error.details() or ""
    raise AssertionError(f"no failure but {result!r}")


def pod_config(name: str, log_directory: str = "", **fields: Any) -> pb.PodSandboxConfig:
    """A pod's configuration as a kubelet writes it; `fields` are further ones of the message."""
    return pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="default"),
        log_directory=log_directory,
        **fields,
    )


def container_config(name: str, image: str, *command: str, **fields: Any) -> pb.ContainerConfig:
    """A container's configuration with its own process namespace; its log is NAME.log."""
    own = pb.LinuxContainerSecurityContext(namespace_options=pb.NamespaceOption(pid=pb.CONTAINER))
    config = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name=name),
        image=pb.ImageSpec(image=image),
        command=command,
        log_path=f"{name}.log",
        linux=pb.LinuxContainerConfig(security_context=own),
    )
    config.MergeFrom(pb.ContainerConfig(**fields))
    return config


class MemoryBackend:
    """Sandboxes, containers and images that live in dicts; fulfils RuntimeBackend and ImageBackend.

    `exec_sync` understands a few commands of its own: "sleep N", "echo TEXT", "flood N" (N bytes), "crash".
    """

    def __init__(self) -> None:
        self.sandboxes: dict[str, SandboxStatus] = {}
        self.containers: dict[str, ContainerStatus] = {}
        self.stored: dict[str, Image] = {}
        self.updates: list[Resources] = []
        self.reopened: list[str] = []
        self.stopped: list[tuple[str, float]] = []
        self.auths: list[AuthConfig | None] = []
        self.pull_began = threading.Event()
        self.pull_cancelled = threading.Event()
        self.exec_timeouts: list[float] = []
        self.tells: list[Callable[[ContainerEvent | OakumError], None]] = []
        self._now = 0

    def runtime_status(self, *, verbose: bool) -> RuntimeStatus:
        return RuntimeStatus(
            conditions=(
                Condition(type="RuntimeReady", status=True),
                Condition(type="NetworkReady", status=False, reason="NoBridge", message="no bridge yet"),
            ),
            handlers=(HandlerFeatures(name="", recursive_read_only_mounts=True, user_namespaces=True),),
            supplemental_groups_policy=True,
            info={"root": "/somewhere", "limits": '{"pids":5}'} if verbose else {},
        )

    def cgroup_driver(self) -> str:
        return "cgroupfs"

    def run_sandbox(self, config: SandboxConfig, *, runtime_handler: str = "") -> str:
        for other in self.sandboxes.values():
            if other.config.metadata == config.metadata:
                raise AlreadyExists("run sandbox", config.metadata.name, "the name is taken")
        sandbox_id = new_id()
        self.sandboxes[sandbox_id] = SandboxStatus(
            id=sandbox_id,
            config=config,
            state="ready",
            created_at_ns=len(self.sandboxes) + 1,
            runtime_handler=runtime_handler,
            addresses=("10.1.2.3", "fd00::3"),
            netns_path="/run/x/ns/net",
            shim_pid=42,
        )
        return sandbox_id

    def stop_sandbox(self, sandbox_id: str) -> None:
        if sandbox_id in self.sandboxes:
            status = self.sandboxes[sandbox_id]
            self.sandboxes[sandbox_id] = msgspec.structs.replace(status, state="not_ready", addresses=())

    def remove_sandbox(self, sandbox_id: str) -> None:
        self.sandboxes.pop(sandbox_id, None)

    def sandbox_status(self, sandbox_id: str) -> SandboxStatus:
        if sandbox_id not in self.sandboxes:
            raise NotFound("find sandbox", sandbox_id, "no such sandbox")
        return self.sandboxes[sandbox_id]

    def list_sandboxes(self, wanted: SandboxFilter = SandboxFilter()) -> Sequence[SandboxStatus]:  # noqa: B008
        return [
            s
            for s in self.sandboxes.values()
            if s.id.startswith(wanted.id)
            and wanted.state in (None, s.state)
            and wanted.labels.items() <= s.config.labels.items()
        ]

    def update_sandbox_resources(
        self, sandbox_id: str, *, overhead: Resources | None, resources: Resources | None
    ) -> None:
        status = self.sandbox_status(sandbox_id)
        config = msgspec.structs.replace(status.config, overhead=overhead, resources=resources)
        self.sandboxes[sandbox_id] = msgspec.structs.replace(status, config=config)

    def create_container(self, sandbox_id: str, config: ContainerConfig) -> str:
        self.sandbox_status(sandbox_id)
        if config.image not in self.stored:
            raise ImageNotFound("create container", config.image, "not in the store", hint="pull it first")
        container_id = new_id()
        self.containers[container_id] = ContainerStatus(
            id=container_id,
            sandbox_id=sandbox_id,
            config=config,
            state="created",
            created_at_ns=len(self.containers) + 1,
            image_ref=self.stored[config.image].id,
            image_id=self.stored[config.image].id,
            resources=config.resources,
            stop_signal=config.stop_signal or "SIGTERM",
        )
        return container_id

    def start_container(self, container_id: str) -> None:
        status = self.container_status(container_id)
        if status.state != "created":
            raise FailedPrecondition("start container", container_id, f"it is {status.state}")
        self.set_state(container_id, "running")

    def set_state(self, container_id: str, state: Any) -> None:
        self.containers[container_id] = msgspec.structs.replace(self.containers[container_id], state=state)

    def stop_container(self, container_id: str, *, timeout_s: float) -> None:
        self.stopped.append((container_id, timeout_s))
        if container_id in self.containers:
            self.set_state(container_id, "exited")

    def remove_container(self, container_id: str) -> None:
        self.containers.pop(container_id, None)

    def container_status(self, container_id: str) -> ContainerStatus:
        if container_id not in self.containers:
            raise NotFound("find container", container_id, "no such container")
        return self.containers[container_id]

    def list_containers(self, wanted: ContainerFilter = ContainerFilter()) -> Sequence[ContainerStatus]:  # noqa: B008
        return [
            c
            for c in self.containers.values()
            if c.id.startswith(wanted.id)
            and c.sandbox_id.startswith(wanted.sandbox_id)
            and wanted.state in (None, c.state)
            and wanted.labels.items() <= c.config.labels.items()
        ]

    def update_container_resources(self, container_id: str, resources: Resources) -> None:
        self.container_status(container_id)
        self.updates.append(resources)

    def reopen_container_log(self, container_id: str) -> None:
        if self.container_status(container_id).state != "running":
            raise FailedPrecondition("reopen log", container_id, "it does not run")
        self.reopened.append(container_id)

    def exec_sync(
        self,
        container_id: str,
        argv: Sequence[str],
        *,
        timeout_s: float,
        cancelled: Callable[[], bool] | None = None,
    ) -> ExecResult:
        self.exec_timeouts.append(timeout_s)
        self.container_status(container_id)
        command, *rest = argv
        if command == "sleep":
            seconds = float(rest[0])
            if timeout_s and seconds > timeout_s:
                threading.Event().wait(timeout_s)
                raise DeadlineExceeded("exec", "sleep", f"not done within {timeout_s:g} s")
            threading.Event().wait(seconds)
        if command == "flood":
            return ExecResult(exit_code=0, stdout=b"o" * int(rest[0]), stderr=b"e" * int(rest[0]))
        if command == "crash":
            raise RuntimeError("secret=hunter2")
        return ExecResult(exit_code=3, stdout=" ".join(rest).encode(), stderr=b"")

    def watch_events(self, tell: Callable[[ContainerEvent | OakumError], None]) -> Callable[[], None]:
        self.tells.append(tell)
        return lambda: self.tells.remove(tell)

    def happened(self, kind: Any, container_id: str) -> None:
        """Tell whoever watches that something happened to a container."""
        self._now += 1
        status = self.container_status(container_id)
        event = ContainerEvent(
            kind=kind,
            id=container_id,
            timestamp_ns=self._now,
            sandbox=self.sandboxes[status.sandbox_id],
            containers=tuple(self.list_containers(ContainerFilter(sandbox_id=status.sandbox_id))),
        )
        for tell in self.tells:
            tell(event)

    def container_stats(self, container_id: str) -> ContainerStats:
        status = self.container_status(container_id)
        cpu = CpuUsage(timestamp_ns=5, usage_core_ns=7)
        return ContainerStats(id=container_id, config=status.config, cpu=cpu)

    def list_container_stats(self, wanted: ContainerFilter = ContainerFilter()) -> Sequence[ContainerStats]:  # noqa: B008
        return [self.container_stats(c.id) for c in self.list_containers(wanted)]

    def sandbox_stats(self, sandbox_id: str) -> SandboxStats:
        status = self.sandbox_status(sandbox_id)
        inner = self.list_container_stats(ContainerFilter(sandbox_id=sandbox_id))
        return SandboxStats(id=sandbox_id, config=status.config, timestamp_ns=9, containers=tuple(inner))

    def list_sandbox_stats(self, wanted: SandboxFilter = SandboxFilter()) -> Sequence[SandboxStats]:  # noqa: B008
        return [self.sandbox_stats(s.id) for s in self.list_sandboxes(wanted)]

    def metric_descriptors(self) -> Sequence[MetricDescriptor]:
        return [MetricDescriptor(name="container_processes", help="Processes.", label_keys=("id", "pod"))]

    def list_sandbox_metrics(self) -> Sequence[SandboxMetrics]:
        def metric(key: str, value: int) -> Metric:
            return Metric(
                name="container_processes", timestamp_ns=7, counter=False, labels=(key, "p"), value=value
            )

        return [
            SandboxMetrics(
                id=s.id,
                metrics=(metric(s.id, 3),),
                containers=tuple(
                    (c.id, (metric(c.id, 2),)) for c in self.list_containers(ContainerFilter(sandbox_id=s.id))
                ),
            )
            for s in self.sandboxes.values()
        ]

    def list_images(self, wanted: str = "") -> Sequence[Image]:
        return [i for name, i in self.stored.items() if wanted in ("", name, i.id)]

    def image_status(self, image: str) -> Image | None:
        return next(iter(self.list_images(image)), None)

    def image_document(self, image: str) -> dict[str, Any]:
        return {"architecture": "amd64", "os": "linux", "config": {"User": "7", "Cmd": ["sh"]}}

    def pull_image(
        self,
        image: str,
        *,
        auth: AuthConfig | None = None,
        progress: PullProgress | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> str:
        self.auths.append(auth)
        if image == "endless":
            self.pull_began.set()
            while not (cancelled and cancelled()):
                threading.Event().wait(0.01)
            self.pull_cancelled.set()
            raise Cancelled("pull image", image, "the caller gave up")
        self.stored[image] = Image(id="sha256:" + "1" * 64, repo_tags=(image,), size_bytes=5, uid=7)
        return self.stored[image].id

    def remove_image(self, image: str) -> None:
        self.stored.pop(image, None)

    def image_filesystems(self) -> Sequence[FilesystemUsage]:
        return [FilesystemUsage(timestamp_ns=1, mountpoint="/images", used_bytes=10, inodes_used=2)]
