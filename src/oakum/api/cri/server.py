# SPDX-License-Identifier: Apache-2.0
"""The gRPC server of the CRI front door: services, limits, edge. Sockets are the daemon's business."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import grpc.aio

from oakum.api.cri._proto import cri_pb2_grpc
from oakum.api.cri.calls import Calls
from oakum.api.cri.edge import Edge
from oakum.api.cri.rpc.checkpoints import CheckpointRpcs
from oakum.api.cri.rpc.containers import ContainerRpcs
from oakum.api.cri.rpc.events import EventRpcs
from oakum.api.cri.rpc.exec import ExecRpcs
from oakum.api.cri.rpc.images import ImageServiceRpcs
from oakum.api.cri.rpc.metrics import MetricRpcs
from oakum.api.cri.rpc.runtime import RuntimeInfoRpcs
from oakum.api.cri.rpc.sandboxes import SandboxRpcs
from oakum.api.cri.rpc.stats import StatsRpcs
from oakum.api.cri.rpc.streams import StreamRpcs, Streams
from oakum.backend.protocols import ImageBackend, RuntimeBackend

MAX_RECEIVE_BYTES = 16 * 1024 * 1024
MAX_SEND_BYTES = 64 * 1024 * 1024
"""More than the kubelet takes (16 MiB): a client with a larger limit gets its long lists whole."""
MAX_CONNECTIONS = 512
"""A kubelet has two, critest 300 in the end; their descriptors must leave enough of the usual 1024 for the work."""

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    ("grpc.max_send_message_length", MAX_SEND_BYTES),
    # a kubelet that hangs is noticed; one that pings often is not refused
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 0),
    # idle connections keep nobody out: what is too many is closed at once, what says nothing soon, what rests later
    ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
    ("grpc.server_handshake_timeout_ms", 5000),
    ("grpc.max_connection_idle_ms", 300_000),
    # two servers must never share one socket without knowing
    ("grpc.so_reuseport", 0),
    # all clients are on this machine: compression only costs
    ("grpc.default_compression_algorithm", 0),
]


class RuntimeService(
    RuntimeInfoRpcs,
    SandboxRpcs,
    ContainerRpcs,
    ExecRpcs,
    StatsRpcs,
    EventRpcs,
    MetricRpcs,
    CheckpointRpcs,
    StreamRpcs,
):
    """RuntimeService out of its groups."""


def cri_server(
    runtime: RuntimeBackend, images: ImageBackend, calls: Calls, streams: Streams | None = None
) -> grpc.aio.Server:
    """A server with both services on it, not yet bound and not yet started.

    Without `streams` there are no Exec, Attach and PortForward.
    """
    make = cast("Callable[..., grpc.aio.Server]", grpc.aio.server)  # pyright: ignore[reportUnknownMemberType] - stubs
    server = make(options=_OPTIONS)
    edge = cast("grpc.aio.Server", Edge(server))  # all of a server that generated code knows
    service = RuntimeService(runtime, calls)
    service.streams = streams
    cri_pb2_grpc.add_RuntimeServiceServicer_to_server(service, edge)
    cri_pb2_grpc.add_ImageServiceServicer_to_server(ImageServiceRpcs(images, calls), edge)
    return server
