# SPDX-License-Identifier: Apache-2.0
"""Run, Stop, Remove; status, lists and limits of pod sandboxes."""

# ruff: noqa: N802 - the methods are named as the RPCs are

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.calls import Calls
from oakum.api.cri.chunks import chunks
from oakum.api.cri.convert.checks import present
from oakum.api.cri.convert.containers import write_container_status
from oakum.api.cri.convert.resources import read_resources
from oakum.api.cri.convert.runtime import sandbox_info
from oakum.api.cri.convert.sandboxes import (
    read_sandbox_config,
    read_sandbox_filter,
    write_sandbox,
    write_sandbox_status,
)
from oakum.api.cri.listings import Listing
from oakum.api.cri.rpc.base import Context, RuntimeRpcs
from oakum.backend.protocols import RuntimeBackend
from oakum.backend.status import ContainerFilter, ContainerStatus, SandboxFilter, SandboxStatus


class SandboxRpcs(RuntimeRpcs):
    """The life of a pod sandbox."""

    def __init__(self, runtime: RuntimeBackend, calls: Calls) -> None:
        super().__init__(runtime, calls)
        self._sandbox_listing = Listing(pb.ListPodSandboxResponse.ITEMS_FIELD_NUMBER, write_sandbox)

    async def RunPodSandbox(
        self, request: pb.RunPodSandboxRequest, _context: Context
    ) -> pb.RunPodSandboxResponse:
        """Create and start a sandbox; a retry joins a first try that still runs. Spec: CRI v1 RunPodSandbox."""
        config = read_sandbox_config(request.config)
        sandbox_id = await self.calls.patient(
            self.runtime.run_sandbox, config, runtime_handler=request.runtime_handler
        )
        return pb.RunPodSandboxResponse(pod_sandbox_id=sandbox_id)

    async def StopPodSandbox(
        self, request: pb.StopPodSandboxRequest, _context: Context
    ) -> pb.StopPodSandboxResponse:
        """Stop everything in the sandbox; succeeds for what is gone. Spec: CRI v1 StopPodSandbox."""
        await self.calls.patient(self.runtime.stop_sandbox, present("pod_sandbox_id", request.pod_sandbox_id))
        return pb.StopPodSandboxResponse()

    async def RemovePodSandbox(
        self, request: pb.RemovePodSandboxRequest, _context: Context
    ) -> pb.RemovePodSandboxResponse:
        """Remove the sandbox and its containers; succeeds for what is gone. Spec: CRI v1 RemovePodSandbox."""
        await self.calls.patient(
            self.runtime.remove_sandbox, present("pod_sandbox_id", request.pod_sandbox_id)
        )
        return pb.RemovePodSandboxResponse()

    async def PodSandboxStatus(
        self, request: pb.PodSandboxStatusRequest, _context: Context
    ) -> pb.PodSandboxStatusResponse:
        """One sandbox with the states of its containers at `timestamp`. Spec: CRI v1 PodSandboxStatus."""
        # taken before reading, so that what changes afterwards is never older than the time we say
        timestamp_ns = time.time_ns()
        status, containers = await self.look(
            self._with_containers, present("pod_sandbox_id", request.pod_sandbox_id)
        )
        return pb.PodSandboxStatusResponse(
            status=write_sandbox_status(status),
            info=sandbox_info(status) if request.verbose else None,
            containers_statuses=[write_container_status(c) for c in containers],
            timestamp=timestamp_ns,
        )

    async def ListPodSandbox(
        self, request: pb.ListPodSandboxRequest, _context: Context
    ) -> pb.ListPodSandboxResponse:
        """The sandboxes that match, newest first. Spec: CRI v1 ListPodSandbox."""
        return await self.look(self._listed_sandboxes, read_sandbox_filter(request.filter))

    def _with_containers(self, sandbox_id: str) -> tuple[SandboxStatus, Sequence[ContainerStatus]]:
        status = self.runtime.sandbox_status(sandbox_id)
        return status, self.runtime.list_containers(ContainerFilter(sandbox_id=status.id))

    def _listed_sandboxes(self, wanted: SandboxFilter) -> Any:
        found = self.runtime.list_sandboxes(wanted)
        return self._sandbox_listing.response(found, all_there_are=wanted == SandboxFilter())

    async def UpdatePodSandboxResources(
        self, request: pb.UpdatePodSandboxResourcesRequest, _context: Context
    ) -> pb.UpdatePodSandboxResourcesResponse:
        """Note a pod's new limits; what is 0 or empty stays as it is. Spec: CRI v1 UpdatePodSandboxResources."""
        await self.calls.patient(
            self.runtime.update_sandbox_resources,
            present("pod_sandbox_id", request.pod_sandbox_id),
            overhead=read_resources(request.overhead, "overhead", zero_score_is_said=False)
            if request.HasField("overhead")
            else None,
            resources=read_resources(request.resources, "resources", zero_score_is_said=False)
            if request.HasField("resources")
            else None,
        )
        return pb.UpdatePodSandboxResourcesResponse()

    async def StreamPodSandboxes(
        self, request: pb.StreamPodSandboxesRequest, _context: Context
    ) -> AsyncIterator[pb.StreamPodSandboxesResponse]:
        """As ListPodSandbox, in pieces. Spec: CRI v1 StreamPodSandboxes."""
        found = await self.calls.quick(self.runtime.list_sandboxes, read_sandbox_filter(request.filter))
        for piece in chunks(write_sandbox(s) for s in found):
            yield pb.StreamPodSandboxesResponse(pod_sandboxes=piece)
