# SPDX-License-Identifier: Apache-2.0
"""Statistics of one container or sandbox, of those that match, and the same in pieces."""

# ruff: noqa: N802 - the methods are named as the RPCs are

from __future__ import annotations

from collections.abc import AsyncIterator

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.chunks import chunks
from oakum.api.cri.convert.checks import present
from oakum.api.cri.convert.containers import read_container_stats_filter
from oakum.api.cri.convert.sandboxes import read_sandbox_stats_filter
from oakum.api.cri.convert.stats import write_container_stats, write_sandbox_stats
from oakum.api.cri.rpc.base import Context, RuntimeRpcs


class StatsRpcs(RuntimeRpcs):
    """What containers and sandboxes use of the machine."""

    async def ContainerStats(
        self, request: pb.ContainerStatsRequest, _context: Context
    ) -> pb.ContainerStatsResponse:
        """Statistics of one container. Spec: CRI v1 ContainerStats."""
        stats = await self.calls.quick(
            self.runtime.container_stats, present("container_id", request.container_id)
        )
        return pb.ContainerStatsResponse(stats=write_container_stats(stats))

    async def ListContainerStats(
        self, request: pb.ListContainerStatsRequest, _context: Context
    ) -> pb.ListContainerStatsResponse:
        """Statistics of the containers that match. Spec: CRI v1 ListContainerStats."""
        wanted = read_container_stats_filter(request.filter)
        found = await self.calls.quick(self.runtime.list_container_stats, wanted)
        return pb.ListContainerStatsResponse(stats=[write_container_stats(s) for s in found])

    async def PodSandboxStats(
        self, request: pb.PodSandboxStatsRequest, _context: Context
    ) -> pb.PodSandboxStatsResponse:
        """Statistics of one sandbox and its containers. Spec: CRI v1 PodSandboxStats."""
        stats = await self.calls.quick(
            self.runtime.sandbox_stats, present("pod_sandbox_id", request.pod_sandbox_id)
        )
        return pb.PodSandboxStatsResponse(stats=write_sandbox_stats(stats))

    async def ListPodSandboxStats(
        self, request: pb.ListPodSandboxStatsRequest, _context: Context
    ) -> pb.ListPodSandboxStatsResponse:
        """Statistics of the sandboxes that match. Spec: CRI v1 ListPodSandboxStats."""
        wanted = read_sandbox_stats_filter(request.filter)
        found = await self.calls.quick(self.runtime.list_sandbox_stats, wanted)
        return pb.ListPodSandboxStatsResponse(stats=[write_sandbox_stats(s) for s in found])

    async def StreamContainerStats(
        self, request: pb.StreamContainerStatsRequest, _context: Context
    ) -> AsyncIterator[pb.StreamContainerStatsResponse]:
        """As ListContainerStats, in pieces. Spec: CRI v1 StreamContainerStats."""
        wanted = read_container_stats_filter(request.filter)
        found = await self.calls.quick(self.runtime.list_container_stats, wanted)
        for piece in chunks(write_container_stats(s) for s in found):
            yield pb.StreamContainerStatsResponse(container_stats=piece)

    async def StreamPodSandboxStats(
        self, request: pb.StreamPodSandboxStatsRequest, _context: Context
    ) -> AsyncIterator[pb.StreamPodSandboxStatsResponse]:
        """As ListPodSandboxStats, in pieces. Spec: CRI v1 StreamPodSandboxStats."""
        wanted = read_sandbox_stats_filter(request.filter)
        found = await self.calls.quick(self.runtime.list_sandbox_stats, wanted)
        for piece in chunks(write_sandbox_stats(s) for s in found):
            yield pb.StreamPodSandboxStatsResponse(pod_sandbox_stats=piece)
