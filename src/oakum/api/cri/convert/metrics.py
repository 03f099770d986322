# SPDX-License-Identifier: Apache-2.0
"""Metrics and their descriptors."""

from __future__ import annotations

from collections.abc import Sequence

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.backend.status import Metric, MetricDescriptor, SandboxMetrics


def write_descriptor(descriptor: MetricDescriptor) -> pb.MetricDescriptor:
    """A family of metrics."""
    return pb.MetricDescriptor(name=descriptor.name, help=descriptor.help, label_keys=descriptor.label_keys)


def _metrics(metrics: Sequence[Metric]) -> list[pb.Metric]:
    return [
        pb.Metric(
            name=m.name,
            timestamp=m.timestamp_ns,
            metric_type=pb.COUNTER if m.counter else pb.GAUGE,
            label_values=m.labels,
            # counters of the kernel may be read around a reset: protobuf would refuse a negative one
            value=pb.UInt64Value(value=max(0, m.value)),
        )
        for m in metrics
    ]


def write_sandbox_metrics(found: SandboxMetrics) -> pb.PodSandboxMetrics:
    """A sandbox's metrics, and its containers'."""
    return pb.PodSandboxMetrics(
        pod_sandbox_id=found.id,
        metrics=_metrics(found.metrics),
        container_metrics=[
            pb.ContainerMetrics(container_id=container_id, metrics=_metrics(metrics))
            for container_id, metrics in found.containers
        ],
    )
