# SPDX-License-Identifier: Apache-2.0
"""Statistics of containers, sandboxes and file systems; a part that is not known stays out of the message."""

from __future__ import annotations

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.convert.containers import write_container_metadata
from oakum.api.cri.convert.sandboxes import write_sandbox_metadata
from oakum.backend.status import (
    ContainerStats,
    CpuUsage,
    FilesystemUsage,
    InterfaceUsage,
    IoUsage,
    MemoryUsage,
    Pressure,
    Psi,
    SandboxStats,
    SwapUsage,
)


def _number(value: int | None) -> pb.UInt64Value | None:
    # counters of the kernel may be read around a reset: protobuf would refuse a negative one
    return None if value is None else pb.UInt64Value(value=max(0, value))


def _psi(psi: Psi) -> pb.PsiData:
    return pb.PsiData(Total=psi.total_us, Avg10=psi.avg10, Avg60=psi.avg60, Avg300=psi.avg300)


def _pressure(pressure: Pressure | None) -> pb.PsiStats | None:
    return None if pressure is None else pb.PsiStats(Full=_psi(pressure.full), Some=_psi(pressure.some))


def write_cpu(usage: CpuUsage | None) -> pb.CpuUsage | None:
    """Processor time."""
    if usage is None:
        return None
    return pb.CpuUsage(
        timestamp=usage.timestamp_ns,
        usage_core_nano_seconds=_number(usage.usage_core_ns),
        usage_nano_cores=_number(usage.usage_nano_cores),
        psi=_pressure(usage.psi),
    )


def write_memory(usage: MemoryUsage | None) -> pb.MemoryUsage | None:
    """Memory; without a limit there is no number of available bytes."""
    if usage is None:
        return None
    return pb.MemoryUsage(
        timestamp=usage.timestamp_ns,
        working_set_bytes=_number(usage.working_set_bytes),
        available_bytes=_number(usage.available_bytes),
        usage_bytes=_number(usage.usage_bytes),
        rss_bytes=_number(usage.rss_bytes),
        page_faults=_number(usage.page_faults),
        major_page_faults=_number(usage.major_page_faults),
        psi=_pressure(usage.psi),
    )


def write_swap(usage: SwapUsage | None) -> pb.SwapUsage | None:
    """Swap."""
    if usage is None:
        return None
    return pb.SwapUsage(
        timestamp=usage.timestamp_ns,
        swap_available_bytes=_number(usage.available_bytes),
        swap_usage_bytes=_number(usage.usage_bytes),
    )


def write_io(usage: IoUsage | None) -> pb.IoUsage | None:
    """Pressure of block devices; CRI has no field for the traffic itself."""
    if usage is None:
        return None
    return pb.IoUsage(timestamp=usage.timestamp_ns, psi=_pressure(usage.psi))


def write_filesystem(usage: FilesystemUsage | None) -> pb.FilesystemUsage | None:
    """A file system or a tree on one."""
    if usage is None:
        return None
    return pb.FilesystemUsage(
        timestamp=usage.timestamp_ns,
        fs_id=pb.FilesystemIdentifier(mountpoint=usage.mountpoint),
        used_bytes=_number(usage.used_bytes),
        inodes_used=_number(usage.inodes_used),
    )


def write_interface(usage: InterfaceUsage) -> pb.NetworkInterfaceUsage:
    """One network interface."""
    return pb.NetworkInterfaceUsage(
        name=usage.name,
        rx_bytes=_number(usage.rx_bytes),
        rx_errors=_number(usage.rx_errors),
        tx_bytes=_number(usage.tx_bytes),
        tx_errors=_number(usage.tx_errors),
    )


def write_container_stats(stats: ContainerStats) -> pb.ContainerStats:
    """One container's use of the machine."""
    return pb.ContainerStats(
        attributes=pb.ContainerAttributes(
            id=stats.id,
            metadata=write_container_metadata(stats.config.metadata),
            labels=stats.config.labels,
            annotations=stats.config.annotations,
        ),
        cpu=write_cpu(stats.cpu),
        memory=write_memory(stats.memory),
        writable_layer=write_filesystem(stats.writable_layer),
        swap=write_swap(stats.swap),
        io=write_io(stats.io),
    )


def write_sandbox_stats(stats: SandboxStats) -> pb.PodSandboxStats:
    """One sandbox's use of the machine; the default interface is the one with the pod's address, never lo."""
    interfaces = {usage.name: write_interface(usage) for usage in stats.interfaces}
    network = None
    if interfaces:
        default = interfaces.get(stats.default_interface)
        network = pb.NetworkUsage(
            timestamp=stats.timestamp_ns, default_interface=default, interfaces=interfaces.values()
        )
    return pb.PodSandboxStats(
        attributes=pb.PodSandboxAttributes(
            id=stats.id,
            metadata=write_sandbox_metadata(stats.config.metadata),
            labels=stats.config.labels,
            annotations=stats.config.annotations,
        ),
        linux=pb.LinuxPodSandboxStats(
            cpu=write_cpu(stats.cpu),
            memory=write_memory(stats.memory),
            network=network,
            process=pb.ProcessUsage(timestamp=stats.timestamp_ns, process_count=_number(stats.pids)),
            containers=[write_container_stats(c) for c in stats.containers],
            io=write_io(stats.io),
        ),
    )
