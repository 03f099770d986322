# SPDX-License-Identifier: Apache-2.0
"""Metrics of real containers: every family with its labels, and values that agree with what the containers do."""

from __future__ import annotations

import time

import pytest

from oakum.backend.config import Resources
from oakum.backend.status import SandboxMetrics
from tests.support.engines import Lab
from tests.support.patience import eventually

# What this host's kernel may account or not: huge pages, pressure, kernel memory, bursts.
UNSURE = ("container_hugetlb_", "container_pressure_", "container_memory_kernel", "container_memory_swap")
BUSY = (
    "dd if=/dev/urandom of=/file bs=64k count=16 2>/dev/null; sync; i=0;"
    " while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 600 & touch /ready; wait"
)


def values(found: SandboxMetrics, container_id: str = "") -> dict[str, dict[tuple[str, ...], int]]:
    """Family → further labels → value."""
    metrics = dict(found.containers)[container_id] if container_id else found.metrics
    made: dict[str, dict[tuple[str, ...], int]] = {}
    for metric in metrics:
        made.setdefault(metric.name, {})[metric.labels[6:]] = metric.value
    return made


@pytest.mark.cgroup
def test_every_family_has_its_labels_and_values(lab: Lab) -> None:
    families = {d.name: d for d in lab.cri.metric_descriptors()}
    limits = Resources(
        memory_limit_bytes=64 << 20, cpu_period_us=100_000, cpu_quota_us=90_000, cpu_shares=512, pids_limit=50
    )
    with lab.pod("metrics") as pod:
        container = lab.started(pod, "busy", BUSY, resources=limits)
        eventually(lambda: lab.run(container, "sh", "-c", "test -e /ready && echo yes || true"))

        def measured() -> SandboxMetrics:
            (found,) = (m for m in lab.cri.list_sandbox_metrics() if m.id == pod)
            return found

        # who looked is gone, and so is what said that it is ready
        eventually(lambda: values(measured(), container)["container_processes"] == {(): 2}, "two are left")
        found = measured()
        own, inner = values(found), values(found, container)
        for metric in (*found.metrics, *dict(found.containers)[container]):
            keys = families[metric.name].label_keys
            assert len(keys) == len(metric.labels), metric
            labels = dict(zip(keys, metric.labels, strict=True))
            assert (labels["pod"], labels["namespace"]) == ("metrics", "tests")
        missing = {n for n in families if n not in own and n not in inner and not n.startswith(UNSURE)}
        assert {n for n in missing if "burst" not in n} == set()

        assert inner["container_threads_max"] == {(): 50}
        assert sum(inner["container_tasks_state"].values()) == 2
        assert inner["container_file_descriptors"][()] >= 6
        assert inner["container_spec_memory_limit_bytes"] == {(): 64 << 20}
        assert inner["container_spec_cpu_quota"] == {(): 90_000}
        assert (1 << 20) <= sum(inner["container_fs_usage_bytes"].values()) < (2 << 20)
        assert inner["container_memory_usage_bytes"][()] > 0
        assert inner["container_memory_failures_total"][("pgfault", "hierarchy")] > 0
        assert abs(inner["container_last_seen"][()] - time.time()) < 10
        assert abs(inner["container_start_time_seconds"][()] - time.time()) < 60
        assert list(own["container_network_receive_bytes_total"]) == [("eth0",)]
        assert families["container_memory_failures_total"].label_keys[-2:] == ("failure_type", "scope")


def test_counters_grow_and_ended_containers_have_none(lab: Lab) -> None:
    with lab.pod("grow") as pod:
        container = lab.started(pod, "c", "while :; do :; done")
        name = "container_cpu_usage_seconds_total"

        def seconds() -> int:
            (found,) = (m for m in lab.cri.list_sandbox_metrics() if m.id == pod)
            return values(found, container)[name][("total",)]

        before = seconds()
        eventually(lambda: seconds() > before)
        lab.cri.stop_container(container, timeout_s=0)
        (found,) = (m for m in lab.cri.list_sandbox_metrics() if m.id == pod)
        assert found.containers == ()
