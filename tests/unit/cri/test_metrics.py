# SPDX-License-Identifier: Apache-2.0
"""Metrics through the front door: as the backend has them, listed and streamed."""

from __future__ import annotations

from oakum.api.cri._proto import cri_pb2 as pb
from tests.support.cri import CriClient, container_config, pod_config


def test_families_and_values(cri: CriClient) -> None:
    (family,) = cri.runtime.ListMetricDescriptors(pb.ListMetricDescriptorsRequest()).descriptors
    assert (family.name, list(family.label_keys)) == ("container_processes", ["id", "pod"])
    assert family.help
    cri.pull("busybox")
    pod = cri.run_pod(pod_config("p"))
    made = cri.create(pod, container_config("c", "busybox"))
    (found,) = cri.runtime.ListPodSandboxMetrics(pb.ListPodSandboxMetricsRequest()).pod_metrics
    assert found.pod_sandbox_id == pod
    assert [(m.name, list(m.label_values), m.value.value) for m in found.metrics] == [
        ("container_processes", [pod, "p"], 3)
    ]
    (inner,) = found.container_metrics
    assert inner.container_id == made
    assert (inner.metrics[0].metric_type, inner.metrics[0].timestamp) == (pb.GAUGE, 7)
    (part,) = cri.runtime.StreamPodSandboxMetrics(pb.StreamPodSandboxMetricsRequest())
    assert list(part.pod_sandbox_metrics) == [found]
