# SPDX-License-Identifier: Apache-2.0
"""Events of containers and sandboxes."""

from __future__ import annotations

from typing import Final

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.convert.containers import write_container_status
from oakum.api.cri.convert.sandboxes import write_sandbox_status
from oakum.backend.status import ContainerEvent

_KINDS: Final[dict[str, pb.ContainerEventType]] = {
    "created": pb.CONTAINER_CREATED_EVENT,
    "started": pb.CONTAINER_STARTED_EVENT,
    "stopped": pb.CONTAINER_STOPPED_EVENT,
    "deleted": pb.CONTAINER_DELETED_EVENT,
}


def write_event(event: ContainerEvent) -> pb.ContainerEventResponse:
    """One event; of a sandbox, `container_id` is the sandbox's id, as the kubelet knows it."""
    return pb.ContainerEventResponse(
        container_id=event.id,
        container_event_type=_KINDS[event.kind],
        created_at=event.timestamp_ns,
        pod_sandbox_status=write_sandbox_status(event.sandbox),
        containers_statuses=[write_container_status(c) for c in event.containers],
    )
