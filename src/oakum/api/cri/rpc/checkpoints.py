# SPDX-License-Identifier: Apache-2.0
"""CheckpointContainer where CRIU can; CheckpointPod and RestorePod are refused, each with the reason."""

# ruff: noqa: N802 - the methods are named as the RPCs are

from __future__ import annotations

from typing import NoReturn

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.convert.checks import LONGEST_S, absolute_path, present, within
from oakum.api.cri.rpc.base import Context, RuntimeRpcs
from oakum.backend.protocols import Checkpointing
from oakum.errors import Unimplemented

_PODS = (
    "no format of a whole pod's checkpoint is agreed on, the pod's namespaces outlive its processes here, and CRIU"
    " believes whoever wrote the images that it restores"
)


class CheckpointRpcs(RuntimeRpcs):
    """What CRIU would be needed for. A kubelet takes UNIMPLEMENTED as "this runtime cannot"."""

    async def CheckpointContainer(
        self, request: pb.CheckpointContainerRequest, _context: Context
    ) -> pb.CheckpointContainerResponse:
        """An archive of a container, which runs on, where CRIU can. Spec: CRI v1 CheckpointContainer."""
        container_id = present("container_id", request.container_id)
        location = absolute_path("location", request.location)
        timeout_s = min(within("timeout", request.timeout, 0), LONGEST_S)
        status = await self.calls.quick(self.runtime.container_status, container_id)
        if not isinstance(self.runtime, Checkpointing):
            raise Unimplemented(
                "checkpoint container", status.id[:12], "this backend has no way to call CRIU"
            )
        await self.calls.patient(self.runtime.checkpoint_container, status.id, location, timeout_s=timeout_s)
        return pb.CheckpointContainerResponse()

    async def CheckpointPod(self, request: pb.CheckpointPodRequest, _context: Context) -> NoReturn:
        """Refused for a pod that is there. Spec: CRI v1 CheckpointPod."""
        pod_id = present("pod_sandbox_id", request.pod_sandbox_id)
        status = await self.calls.quick(self.runtime.sandbox_status, pod_id)
        raise Unimplemented("checkpoint pod", status.id[:12], _PODS)

    async def RestorePod(self, request: pb.RestorePodRequest, _context: Context) -> NoReturn:
        """Refused: there are no checkpoints. Spec: CRI v1 RestorePod."""
        raise Unimplemented("restore pod", present("checkpoint_path", request.checkpoint_path), _PODS)
