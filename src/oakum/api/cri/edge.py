# SPDX-License-Identifier: Apache-2.0
"""What happens around every RPC, once for all: decoding, NUL check, error to status code, one log line, one context.

An error of ours becomes its gRPC code with operation, object, cause and hint as the message. Anything else is
a bug: the client gets INTERNAL and a reference, the log gets the reference and the traceback. Requests
themselves are never logged, only the ids in them: environment and credentials stay out.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, NoReturn, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from oakum.api.cri.convert.checks import refuse_nul
from oakum.api.cri.decode import decode
from oakum.errors import OakumError, Unimplemented, grpc_status_number

log = logging.getLogger(__name__)

current_rpc: ContextVar[str] = ContextVar("current_rpc", default="")
"""The RPC that this task or thread works for, for log lines."""

# HTTP/2 peers accept header blocks of 8 KiB at least, and the message travels in one
_MAX_DETAILS = 4096
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
# RPCs that only look: a kubelet makes several a second, so they are logged at debug level
_LOOKS = (
    "List",
    "Stream",
    "GetContainerEvents",
    "Version",
    "Status",
    "RuntimeConfig",
    "ImageFsInfo",
    "ImageStatus",
    "ExecSync",
)

# failures that are the client's own or that it asked for
_CLIENTS_OWN = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNIMPLEMENTED,
)

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Callable[[Any, Context], Awaitable[Any]]
StreamHandler = Callable[[Any, Context], AsyncIterator[Any]]
_untyped = cast("Any", grpc)  # the stubs of these functions know no types


class Edge:
    """Stands before a server while services are added to it: each of their handlers is added wrapped.

    An interceptor of gRPC's would do the same for every call anew, which costs an eighth of a short one.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server: Any = server  # as `_untyped`

    def add_generic_rpc_handlers(self, _handlers: object) -> None:
        """Nothing: the same handlers come once more, by their names."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Add a service. As generated code calls it."""
        wrapped = {method: _wrapped(method, handler) for method, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((_untyped.method_handlers_generic_handler(service, wrapped),))


def _wrapped(method: str, handler: Any) -> Any:
    if handler.response_streaming:
        stream = cast("StreamHandler", handler.unary_stream)
        if not inspect.isasyncgenfunction(stream):  # the generated base class: nobody implements it here
            stream = _unimplemented_stream(method)
        return _untyped.unary_stream_rpc_method_handler(
            _around_stream(method, stream, _kind(handler)), response_serializer=_serialized
        )
    inner = cast("Handler", handler.unary_unary)
    if not inspect.iscoroutinefunction(inner):  # the generated base class: nobody implements it here
        inner = _unimplemented(method)
    return _untyped.unary_unary_rpc_method_handler(
        _around(method, inner, _kind(handler)), response_serializer=_serialized
    )


def _serialized(answer: Message | bytes) -> bytes:
    """What goes out; some answers are bytes already."""
    return answer if isinstance(answer, bytes) else answer.SerializeToString()


def _kind(handler: Any) -> type[Message]:
    """The class of a method's requests; decoding is ours, so that what is none is refused like any other request."""
    return handler.request_deserializer.__self__


def _unimplemented(method: str) -> Handler:
    async def handler(_request: Any, _context: Context) -> NoReturn:
        raise Unimplemented("answer", method, "this version of oakum does not implement it")

    return handler


def _unimplemented_stream(method: str) -> StreamHandler:
    async def handler(request: Any, context: Context) -> AsyncIterator[Any]:
        yield await _unimplemented(method)(request, context)

    return handler


class _Failed(Exception):
    """Carries the status that a call ends with out of `_edge`."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(code, details)
        self.code = code
        self.details = details


@contextmanager
def _edge(method: str, kind: type[Message], data: bytes) -> Generator[Message]:
    """The edge of the process around one call: decoding, error to status, one log line. Raises _Failed."""
    current_rpc.set(method)
    request: Message = kind()
    began = time.monotonic()

    def done(code: grpc.StatusCode, details: str = "") -> None:
        _log(method, request, code, details, time.monotonic() - began)

    try:
        request = decode(kind, data)
        refuse_nul(request)
        yield request
    except OakumError as error:
        code, details = _CODES[grpc_status_number(error)], str(error)
        done(code, details)
    except (asyncio.CancelledError, GeneratorExit):
        done(grpc.StatusCode.CANCELLED, "the client gave up")
        raise
    except Exception:
        # the edge of the process: a bug in one call must not end the others
        reference = os.urandom(4).hex()
        log.exception("rpc failed by a bug", extra={"fields": {**_subject(request), "reference": reference}})
        code, details = grpc.StatusCode.INTERNAL, f"internal error (reference {reference} in the log)"
    else:
        done(grpc.StatusCode.OK)
        return
    raise _Failed(code, details[:_MAX_DETAILS])


def _around(method: str, inner: Handler, kind: type[Message]) -> Handler:
    async def handler(data: bytes, context: Context) -> Any:
        try:
            with _edge(method, kind, data) as request:
                return await inner(request, context)
        except _Failed as failed:
            return await context.abort(failed.code, failed.details)

    return handler


def _around_stream(method: str, inner: StreamHandler, kind: type[Message]) -> StreamHandler:
    async def handler(data: bytes, context: Context) -> AsyncIterator[Any]:
        try:
            with _edge(method, kind, data) as request:
                async for response in inner(request, context):
                    yield response
        except _Failed as failed:
            await context.abort(failed.code, failed.details)

    return handler


def _log(method: str, request: Message, code: grpc.StatusCode, details: str, seconds: float) -> None:
    level = _level(code, quiet=method.startswith(_LOOKS) or method.endswith(("Status", "Stats")))
    if log.isEnabledFor(level):
        fields = {**_subject(request), "code": code.name, "ms": round(seconds * 1e3, 1)}
        if details:
            fields["error"] = details
        log.log(level, "rpc", extra={"fields": fields})


def _level(code: grpc.StatusCode, *, quiet: bool) -> int:
    if code in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED):
        return logging.DEBUG if quiet else logging.INFO
    if code in _CLIENTS_OWN:
        return logging.DEBUG if quiet else logging.WARNING
    return logging.ERROR


def _subject(request: Message) -> dict[str, str]:
    """The ids and names that the request is about."""
    found: dict[str, str] = {}
    for name in ("pod_sandbox_id", "container_id"):
        if value := getattr(request, name, ""):
            found[name] = str(value)
    spec = getattr(request, "image", None)
    if spec is not None and spec.image:
        found["image"] = str(spec.image)
    metadata = getattr(getattr(request, "config", None), "metadata", None)
    if metadata is not None:
        parts = (getattr(metadata, "namespace", ""), metadata.name)
        found["name"] = "/".join(part for part in parts if part)
    return found
