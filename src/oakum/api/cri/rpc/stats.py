# SPDX-License-Identifier: Apache-2.0
"""ContainerStats, ListContainerStats, PodSandboxStats, ListPodSandboxStats."""

# ruff: noqa: N802 - the methods are named as the RPCs are

from __future__ import annotations

from oakum.api.cri._proto import cri_pb2 as pb
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
