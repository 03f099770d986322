# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of containers and pods, and pods made of them, where CRIU can; else the host's reason."""

# ruff: noqa: N802 - the methods are named as the RPCs are

from __future__ import annotations

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.convert.checks import LONGEST_S, absolute_path, present, within
from oakum.api.cri.convert.containers import read_container_config
from oakum.api.cri.convert.sandboxes import read_sandbox_config
from oakum.api.cri.rpc.base import Context, RuntimeRpcs
from oakum.backend.protocols import Checkpointing
from oakum.errors import InvalidArgument, Unimplemented

# "leaveRunning" as tools for pod checkpoints name it: the only way we have.
_OPTIONS = {"leaveRunning": "true"}


class CheckpointRpcs(RuntimeRpcs):
    """What CRIU is needed for. A kubelet takes UNIMPLEMENTED as "this runtime cannot"."""

    async def CheckpointContainer(
        self, request: pb.CheckpointContainerRequest, _context: Context
    ) -> pb.CheckpointContainerResponse:
        """An archive of a container, which runs on, where CRIU can. Spec: CRI v1 CheckpointContainer."""
        container_id = present("container_id", request.container_id)
        location = absolute_path("location", request.location)
        timeout_s = min(within("timeout", request.timeout, 0), LONGEST_S)
        status = await self.calls.quick(self.runtime.container_status, container_id)
        runtime = self._able("checkpoint container", status.id)
        await self.calls.patient(runtime.checkpoint_container, status.id, location, timeout_s=timeout_s)
        return pb.CheckpointContainerResponse()

    async def CheckpointPod(
        self, request: pb.CheckpointPodRequest, _context: Context
    ) -> pb.CheckpointPodResponse:
        """A directory with a pod's containers at one moment; they run on. Spec: CRI v1 CheckpointPod."""
        pod_id = present("pod_sandbox_id", request.pod_sandbox_id)
        directory = absolute_path("output_path", request.output_path)
        container_ids = [
            present(f"container_ids[{position}]", container_id)
            for position, container_id in enumerate(request.container_ids)
        ]
        for name, value in request.options.items():
            if _OPTIONS.get(name) != value:
                raise InvalidArgument(
                    "checkpoint pod", f"options[{name[:64]!r}]", "known is only leaveRunning, as true"
                )
        status = await self.calls.quick(self.runtime.sandbox_status, pod_id)
        runtime = self._able("checkpoint pod", status.id)
        await self.calls.patient(
            runtime.checkpoint_sandbox, status.id, directory, container_ids=container_ids
        )
        return pb.CheckpointPodResponse()

    def _able(self, operation: str, object_id: str) -> Checkpointing:
        if not isinstance(self.runtime, Checkpointing):
            raise Unimplemented(operation, object_id[:12], "this backend has no way to call CRIU")
        return self.runtime

    async def RestorePod(self, request: pb.RestorePodRequest, _context: Context) -> pb.RestorePodResponse:
        """A new pod whose containers go on where CheckpointPod found them; they run. Spec: CRI v1 RestorePod."""
        path = absolute_path("checkpoint_path", request.checkpoint_path)
        for name in request.options:
            raise InvalidArgument("restore pod", f"options[{name[:64]!r}]", "no option is known")
        config = read_sandbox_config(request.config) if request.HasField("config") else None
        containers = [
            read_container_config(message, f"container_configs[{position}]")
            for position, message in enumerate(request.container_configs)
        ]
        runtime = self._able("restore pod", path)
        restored = await self.calls.patient(
            runtime.restore_sandbox,
            path,
            config,
            runtime_handler=request.runtime_handler,
            container_configs=containers,
        )
        return pb.RestorePodResponse(
            pod_sandbox_id=restored.sandbox_id,
            restored_containers=[
                pb.RestoredContainer(name=name, container_id=key) for name, key in restored.containers
            ],
        )
