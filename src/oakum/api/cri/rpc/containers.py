# SPDX-License-Identifier: Apache-2.0
"""Create, Start, Stop, Remove; status, lists, limits and the log of containers."""

# ruff: noqa: N802 - the methods are named as the RPCs are

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.calls import Calls
from oakum.api.cri.convert.checks import LONGEST_S, present, refusal, within
from oakum.api.cri.convert.containers import (
    read_container_config,
    read_container_filter,
    write_container,
    write_container_status,
)
from oakum.api.cri.convert.resources import read_resources
from oakum.api.cri.convert.runtime import container_info
from oakum.api.cri.listings import Listing
from oakum.api.cri.rpc.base import Context, RuntimeRpcs
from oakum.backend.protocols import RuntimeBackend
from oakum.backend.status import ContainerFilter, ContainerStatus


class ContainerRpcs(RuntimeRpcs):
    """The life of a container."""

    def __init__(self, runtime: RuntimeBackend, calls: Calls) -> None:
        super().__init__(runtime, calls)
        field = pb.ListContainersResponse.CONTAINERS_FIELD_NUMBER
        # both kinds of listing have their items in the same field
        assert field == pb.StreamContainersResponse.CONTAINERS_FIELD_NUMBER
        self._container_listing = Listing(field, write_container)

    async def CreateContainer(
        self, request: pb.CreateContainerRequest, _context: Context
    ) -> pb.CreateContainerResponse:
        """Prepare a container; the sandbox's own stored configuration counts. Spec: CRI v1 CreateContainer."""
        sandbox_id = present("pod_sandbox_id", request.pod_sandbox_id)
        config = read_container_config(request.config)
        container_id = await self.calls.patient(self.runtime.create_container, sandbox_id, config)
        return pb.CreateContainerResponse(container_id=container_id)

    async def StartContainer(
        self, request: pb.StartContainerRequest, _context: Context
    ) -> pb.StartContainerResponse:
        """Start a created container. Spec: CRI v1 StartContainer."""
        await self.calls.patient(self.runtime.start_container, present("container_id", request.container_id))
        return pb.StartContainerResponse()

    async def StopContainer(
        self, request: pb.StopContainerRequest, _context: Context
    ) -> pb.StopContainerResponse:
        """Stop signal, `timeout` seconds of grace (0: none), kill. Spec: CRI v1 StopContainer."""
        timeout_s = min(within("timeout", request.timeout, 0), LONGEST_S)
        await self.calls.patient(
            self.runtime.stop_container, present("container_id", request.container_id), timeout_s=timeout_s
        )
        return pb.StopContainerResponse()

    async def RemoveContainer(
        self, request: pb.RemoveContainerRequest, _context: Context
    ) -> pb.RemoveContainerResponse:
        """Remove a container, killed first if it runs. Spec: CRI v1 RemoveContainer."""
        await self.calls.patient(self.runtime.remove_container, present("container_id", request.container_id))
        return pb.RemoveContainerResponse()

    async def ListContainers(
        self, request: pb.ListContainersRequest, _context: Context
    ) -> pb.ListContainersResponse:
        """The containers that match, newest first. Spec: CRI v1 ListContainers."""
        wanted = read_container_filter(request.filter)
        return await self.look(self._listed_containers, wanted)

    async def StreamContainers(
        self, request: pb.StreamContainersRequest, _context: Context
    ) -> AsyncIterator[pb.StreamContainersResponse]:
        """As ListContainers, in pieces. Spec: CRI v1 StreamContainers."""
        wanted = read_container_filter(request.filter)
        found = await self.calls.quick(self._matching_containers, wanted)
        for piece in self._container_listing.responses(found, all_there_are=wanted == ContainerFilter()):
            yield piece

    def _listed_containers(self, wanted: ContainerFilter) -> Any:
        return self._container_listing.response(
            self._matching_containers(wanted), all_there_are=wanted == ContainerFilter()
        )

    def _matching_containers(self, wanted: ContainerFilter) -> Sequence[ContainerStatus]:
        if wanted.state != "running":
            return self.runtime.list_containers(wanted)
        # a paused container counts as running in CRI, so both are asked for
        anyhow = ContainerFilter(id=wanted.id, sandbox_id=wanted.sandbox_id, labels=wanted.labels)
        return [c for c in self.runtime.list_containers(anyhow) if c.state in ("running", "paused")]

    async def ContainerStatus(
        self, request: pb.ContainerStatusRequest, _context: Context
    ) -> pb.ContainerStatusResponse:
        """One container. Spec: CRI v1 ContainerStatus."""
        status = await self.look(self.runtime.container_status, present("container_id", request.container_id))
        info = None
        if request.verbose:
            info = container_info(status, await self.calls.quick(_runtime_spec, status))
        return pb.ContainerStatusResponse(status=write_container_status(status), info=info)

    async def UpdateContainerResources(
        self, request: pb.UpdateContainerResourcesRequest, _context: Context
    ) -> pb.UpdateContainerResourcesResponse:
        """Change limits; what is 0 or empty stays as it is. Spec: CRI v1 UpdateContainerResources."""
        container_id = present("container_id", request.container_id)
        if not request.HasField("linux"):
            raise refusal("linux", "missing")
        resources = read_resources(request.linux, "linux", zero_score_is_said=False)
        await self.calls.patient(self.runtime.update_container_resources, container_id, resources)
        return pb.UpdateContainerResourcesResponse()

    async def ReopenContainerLog(
        self, request: pb.ReopenContainerLogRequest, _context: Context
    ) -> pb.ReopenContainerLogResponse:
        """Write on to a new file at the log's path. Spec: CRI v1 ReopenContainerLog."""
        await self.calls.patient(
            self.runtime.reopen_container_log, present("container_id", request.container_id)
        )
        return pb.ReopenContainerLogResponse()


def _runtime_spec(status: ContainerStatus) -> object:
    """The container's config.json, or None while or after it is there."""
    if not status.bundle_path:
        return None
    try:
        with open(os.path.join(status.bundle_path, "config.json"), "rb") as file:
            return json.load(file)
    except (FileNotFoundError, ValueError):  # being written or being removed: the answer goes without it
        return None
