# SPDX-License-Identifier: Apache-2.0
"""What the groups of RPCs share: the backend, the pools, the generated base classes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec, TypeVar

import grpc.aio

from oakum.api.cri._proto import cri_pb2_grpc
from oakum.api.cri.calls import Calls
from oakum.backend.protocols import ImageBackend, Prompt, RuntimeBackend

P = ParamSpec("P")
R = TypeVar("R")

Context = grpc.aio.ServicerContext[Any, Any]


class RuntimeRpcs(cri_pb2_grpc.RuntimeServiceServicer):
    """Base of the groups of RuntimeService; an RPC that no group has stays unimplemented."""

    def __init__(self, runtime: RuntimeBackend, calls: Calls) -> None:
        self.runtime = runtime
        self.calls = calls
        self._prompt = runtime if isinstance(runtime, Prompt) else None

    async def look(self, call: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """What `call` gives (never None), which asks for sandboxes and containers: here and now, else in a thread.

        A thread's turn there and back takes ten times as long as a node's usual handful of pods.
        """
        question = partial(call, *args, **kwargs)
        if self._prompt is not None:
            found = self._prompt.at_once(question)
            if found is not None:
                return found
        return await self.calls.quick(question)


class ImageRpcs(cri_pb2_grpc.ImageServiceServicer):
    """Base of ImageService."""

    def __init__(self, images: ImageBackend, calls: Calls) -> None:
        self.images = images
        self.calls = calls
