# SPDX-License-Identifier: Apache-2.0
"""Exec, Attach and PortForward: each is checked here and answered with a URL; the streaming server does the rest."""

# ruff: noqa: N802 - the methods are named as the RPCs are

from __future__ import annotations

from typing import Protocol

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.convert.checks import present, refusal, within
from oakum.api.cri.rpc.base import Context, RuntimeRpcs
from oakum.errors import FailedPrecondition, Unimplemented
from oakum.streaming.requests import AttachRequest, ExecRequest, ForwardRequest, Request, Wanted


class Streams(Protocol):
    """Who answers at the URLs."""

    def url(self, request: Request) -> str:
        """A URL that answers to `request`, once and soon. Raises ResourceExhausted."""
        ...


class StreamRpcs(RuntimeRpcs):
    """Requests that are answered with a URL."""

    streams: Streams | None = None

    async def Exec(self, request: pb.ExecRequest, _context: Context) -> pb.ExecResponse:
        """A URL to run a command at. Spec: CRI v1 Exec."""
        container_id = present("container_id", request.container_id)
        if not request.cmd:
            raise refusal("cmd", "missing")
        if not request.cmd[0]:
            raise refusal("cmd[0]", "empty")
        wanted = _wanted(request)
        argv = tuple(request.cmd)
        running = await self._running("exec", container_id)
        return pb.ExecResponse(url=self._url(ExecRequest(running, argv, wanted)))

    async def Attach(self, request: pb.AttachRequest, _context: Context) -> pb.AttachResponse:
        """A URL to join a container at. Spec: CRI v1 Attach."""
        container_id = present("container_id", request.container_id)
        wanted = _wanted(request)
        running = await self._running("attach", container_id)
        return pb.AttachResponse(url=self._url(AttachRequest(running, wanted)))

    async def PortForward(self, request: pb.PortForwardRequest, _context: Context) -> pb.PortForwardResponse:
        """A URL to reach a pod's ports at; `port` matters to few clients. Spec: CRI v1 PortForward."""
        sandbox_id = present("pod_sandbox_id", request.pod_sandbox_id)
        ports = tuple(within(f"port[{i}]", port, 1, 65535) for i, port in enumerate(request.port))
        status = await self.calls.quick(self.runtime.sandbox_status, sandbox_id)
        if status.state != "ready":
            raise FailedPrecondition("forward port", status.id[:12], "the pod is not ready")
        return pb.PortForwardResponse(url=self._url(ForwardRequest(status.id, ports)))

    async def _running(self, operation: str, container_id: str) -> str:
        status = await self.calls.quick(self.runtime.container_status, container_id)
        if status.state not in ("running", "paused"):
            raise FailedPrecondition(
                operation, status.id[:12], f"the container is {status.state}, not running"
            )
        return status.id

    def _url(self, request: Request) -> str:
        if self.streams is None:
            raise Unimplemented("make stream", "", "this server has no streaming server")
        return self.streams.url(request)


def _wanted(request: pb.ExecRequest | pb.AttachRequest) -> Wanted:
    if not (request.stdin or request.stdout or request.stderr):
        raise refusal("stdin, stdout, stderr", "at least one of them must be true")
    if request.tty and request.stderr:
        raise refusal(
            "stderr", "true together with tty", hint="a terminal has no stream of its own for errors"
        )
    return Wanted(request.stdin, request.stdout, request.stderr, request.tty)
