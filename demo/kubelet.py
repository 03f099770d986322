# SPDX-License-Identifier: Apache-2.0
"""A kubelet in miniature: reads a Pod manifest and does with CRI calls what a kubelet would do.

Knows the part of the manifest that the demo uses, and refuses the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import yaml
from workshop import DemoFailed

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri._proto import cri_pb2_grpc as rpc

_KNOWN_CONTAINER = {"name", "image", "command", "args", "env", "ports", "resources", "workingDir"}
_UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "": 1}


class Pod(NamedTuple):
    """A pod that was started: ids by name, and how long each step took, in milliseconds."""

    id: str
    containers: dict[str, str]
    steps: list[tuple[str, float]]


def read_manifest(path: Path, values: dict[str, str]) -> dict[str, Any]:
    """The Pod in the YAML file at `path`, with ${NAME} filled in."""
    text = path.read_text()
    for name, value in values.items():
        text = text.replace("${" + name + "}", value)
    pod = yaml.safe_load(text)
    if pod.get("kind") != "Pod":
        raise DemoFailed(f"{path}: not a Pod")
    for container in pod["spec"]["containers"]:
        unknown = set(container) - _KNOWN_CONTAINER
        if unknown:
            raise DemoFailed(f"{path}: this little kubelet does not know {sorted(unknown)}")
    return pod


def memory_bytes(text: str) -> int:
    """Bytes of a Kubernetes quantity such as 32Mi."""
    number = text.rstrip("KMGi")
    return int(number) * _UNITS[text[len(number) :]]


def cpu_quota_us(text: str, period_us: int = 100_000) -> int:
    """Processor time per period of a Kubernetes quantity such as 500m."""
    cores = float(text[:-1]) / 1000 if text.endswith("m") else float(text)
    return int(cores * period_us)


class Kubelet:
    """The client side of one CRI socket."""

    def __init__(self, socket_path: Path, log_directory: Path) -> None:
        self._channel = grpc.insecure_channel(
            f"unix://{socket_path}",
            options=[
                ("grpc.default_authority", "localhost"),
                # a server that comes back is found at once
                ("grpc.initial_reconnect_backoff_ms", 20),
                ("grpc.min_reconnect_backoff_ms", 20),
                ("grpc.max_reconnect_backoff_ms", 100),
            ],
        )
        self._logs = log_directory
        self.runtime = rpc.RuntimeServiceStub(self._channel)
        self.images = rpc.ImageServiceStub(self._channel)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def version(self) -> pb.VersionResponse | None:
        """What answers, or None."""
        try:
            return self.runtime.Version(pb.VersionRequest(version="v1"), timeout=2)
        except grpc.RpcError:
            return None

    def pull(self, image: str, tick: Callable[[], None]) -> str:
        """Pull an image, calling `tick` while it goes on; its reference."""
        call = self.images.PullImage.future(pb.PullImageRequest(image=pb.ImageSpec(image=image)), timeout=120)
        while not call.done():
            tick()
            time.sleep(0.02)
        return call.result().image_ref

    def sandbox_config(self, pod: dict[str, Any]) -> pb.PodSandboxConfig:
        """The sandbox that the manifest asks for."""
        meta, spec = pod["metadata"], pod["spec"]
        return pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(
                name=meta["name"], namespace=meta["namespace"], uid=str(meta["uid"]), attempt=0
            ),
            hostname=spec.get("hostname", meta["name"]),
            log_directory=str(self._logs),
            labels=meta.get("labels", {}),
            linux=pb.LinuxPodSandboxConfig(
                security_context=pb.LinuxSandboxSecurityContext(namespace_options=_namespaces())
            ),
        )

    def container_config(self, container: dict[str, Any]) -> pb.ContainerConfig:
        """One container that the manifest asks for."""
        limits = container.get("resources", {}).get("limits", {})
        resources = pb.LinuxContainerResources(
            memory_limit_in_bytes=memory_bytes(limits["memory"]) if "memory" in limits else 0,
            cpu_quota=cpu_quota_us(limits["cpu"]) if "cpu" in limits else 0,
            cpu_period=100_000 if "cpu" in limits else 0,
        )
        return pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name=container["name"], attempt=0),
            image=pb.ImageSpec(image=container["image"]),
            command=container.get("command", []),
            args=container.get("args", []),
            working_dir=container.get("workingDir", ""),
            envs=[
                pb.KeyValue(key=e["name"], value=str(e["value"]).encode()) for e in container.get("env", [])
            ],
            log_path=f"{container['name']}/0.log",
            linux=pb.LinuxContainerConfig(
                resources=resources,
                security_context=pb.LinuxContainerSecurityContext(namespace_options=_namespaces()),
            ),
        )

    def run(self, pod: dict[str, Any]) -> Pod:
        """Make the sandbox and start its containers, in the manifest's order."""
        steps: list[tuple[str, float]] = []

        def timed(name: str, call: Callable[..., Any], request: Any) -> Any:
            began = time.perf_counter()
            answer = call(request, timeout=60)
            steps.append((name, (time.perf_counter() - began) * 1000))
            return answer

        config = self.sandbox_config(pod)
        sandbox_id = timed(
            "RunPodSandbox", self.runtime.RunPodSandbox, pb.RunPodSandboxRequest(config=config)
        ).pod_sandbox_id
        found: dict[str, str] = {}
        for container in pod["spec"]["containers"]:
            name = container["name"]
            (self._logs / name).mkdir(parents=True, exist_ok=True)
            request = pb.CreateContainerRequest(
                pod_sandbox_id=sandbox_id, config=self.container_config(container), sandbox_config=config
            )
            found[name] = timed(f"CreateContainer {name}", self.runtime.CreateContainer, request).container_id
            start = pb.StartContainerRequest(container_id=found[name])
            timed(f"StartContainer {name}", self.runtime.StartContainer, start)
        return Pod(sandbox_id, found, steps)

    def address(self, sandbox_id: str) -> str:
        """The pod's address."""
        request = pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)
        return self.runtime.PodSandboxStatus(request, timeout=10).status.network.ip

    def container(self, container_id: str) -> Any:
        """A container's status."""
        request = pb.ContainerStatusRequest(container_id=container_id)
        return self.runtime.ContainerStatus(request, timeout=10).status

    def execute(self, container_id: str, *argv: str) -> tuple[int, str]:
        """Run a command in a container; its exit code and output."""
        answer = self.runtime.ExecSync(
            pb.ExecSyncRequest(container_id=container_id, cmd=argv, timeout=10), timeout=20
        )
        return answer.exit_code, (answer.stdout + answer.stderr).decode(errors="replace")

    def statistics(self, sandbox_id: str) -> Any:
        """A pod's statistics."""
        return self.runtime.PodSandboxStats(
            pb.PodSandboxStatsRequest(pod_sandbox_id=sandbox_id), timeout=10
        ).stats

    def remove(self, sandbox_id: str) -> None:
        """Stop and remove a pod."""
        self.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id), timeout=60)
        self.runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id), timeout=60)

    def remove_image(self, image: str) -> None:
        """Remove an image."""
        self.images.RemoveImage(pb.RemoveImageRequest(image=pb.ImageSpec(image=image)), timeout=60)

    def pods(self) -> list[Any]:
        """All pods."""
        return list(self.runtime.ListPodSandbox(pb.ListPodSandboxRequest(), timeout=10).items)

    def image_names(self) -> list[str]:
        """All images' names."""
        answer = self.images.ListImages(pb.ListImagesRequest(), timeout=10)
        return [name for image in answer.images for name in image.repo_tags]


def _namespaces() -> pb.NamespaceOption:
    return pb.NamespaceOption(network=pb.POD, pid=pb.CONTAINER, ipc=pb.POD)
