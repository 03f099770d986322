# SPDX-License-Identifier: Apache-2.0
"""ListMetricDescriptors, ListPodSandboxMetrics, StreamPodSandboxMetrics."""

# ruff: noqa: N802 - the methods are named as the RPCs are

from __future__ import annotations

from collections.abc import AsyncIterator

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.chunks import chunks
from oakum.api.cri.convert.metrics import write_descriptor, write_sandbox_metrics
from oakum.api.cri.rpc.base import Context, RuntimeRpcs


class MetricRpcs(RuntimeRpcs):
    """What a kubelet passes on to Prometheus."""

    async def ListMetricDescriptors(
        self, _request: pb.ListMetricDescriptorsRequest, _context: Context
    ) -> pb.ListMetricDescriptorsResponse:
        """The families there are. Spec: CRI v1 ListMetricDescriptors."""
        found = await self.calls.quick(self.runtime.metric_descriptors)
        return pb.ListMetricDescriptorsResponse(descriptors=[write_descriptor(d) for d in found])

    async def ListPodSandboxMetrics(
        self, _request: pb.ListPodSandboxMetricsRequest, _context: Context
    ) -> pb.ListPodSandboxMetricsResponse:
        """All values of all ready sandboxes. Spec: CRI v1 ListPodSandboxMetrics."""
        found = await self.calls.quick(self.runtime.list_sandbox_metrics)
        return pb.ListPodSandboxMetricsResponse(pod_metrics=[write_sandbox_metrics(m) for m in found])

    async def StreamPodSandboxMetrics(
        self, _request: pb.StreamPodSandboxMetricsRequest, _context: Context
    ) -> AsyncIterator[pb.StreamPodSandboxMetricsResponse]:
        """As ListPodSandboxMetrics, in pieces. Spec: CRI v1 StreamPodSandboxMetrics."""
        found = await self.calls.quick(self.runtime.list_sandbox_metrics)
        for piece in chunks(write_sandbox_metrics(m) for m in found):
            yield pb.StreamPodSandboxMetricsResponse(pod_sandbox_metrics=piece)
