# SPDX-License-Identifier: Apache-2.0
"""What the groups of RPCs share: the backend, the pools, the generated base classes."""

from __future__ import annotations

from typing import Any

import grpc.aio

from oakum.api.cri._proto import cri_pb2_grpc
from oakum.api.cri.calls import Calls
from oakum.backend.protocols import ImageBackend, RuntimeBackend

Context = grpc.aio.ServicerContext[Any, Any]


class RuntimeRpcs(cri_pb2_grpc.RuntimeServiceServicer):
    """Base of the groups of RuntimeService; an RPC that no group has stays unimplemented."""

    def __init__(self, runtime: RuntimeBackend, calls: Calls) -> None:
        self.runtime = runtime
        self.calls = calls


class ImageRpcs(cri_pb2_grpc.ImageServiceServicer):
    """Base of ImageService."""

    def __init__(self, images: ImageBackend, calls: Calls) -> None:
        self.images = images
        self.calls = calls
