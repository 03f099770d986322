# SPDX-License-Identifier: Apache-2.0
"""The runtime's own health and features, and the `info` maps of verbose answers."""

from __future__ import annotations

import json
from collections.abc import Mapping

from google.protobuf.message import Message

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.convert.containers import write_container_config
from oakum.api.cri.convert.sandboxes import write_sandbox_config
from oakum.backend.status import ContainerStatus, RuntimeStatus, SandboxStatus


def write_runtime_status(status: RuntimeStatus) -> pb.StatusResponse:
    """Health and features, without `info`."""
    return pb.StatusResponse(
        status=pb.RuntimeStatus(
            conditions=[
                pb.RuntimeCondition(type=c.type, status=c.status, reason=c.reason, message=c.message)
                for c in status.conditions
            ]
        ),
        runtime_handlers=[
            pb.RuntimeHandler(
                name=h.name,
                features=pb.RuntimeHandlerFeatures(
                    recursive_read_only_mounts=h.recursive_read_only_mounts, user_namespaces=h.user_namespaces
                ),
            )
            for h in status.handlers
        ],
        features=pb.RuntimeFeatures(
            supplemental_groups_policy=status.supplemental_groups_policy, mount_options=status.mount_options
        ),
    )


def runtime_info(info: Mapping[str, str]) -> dict[str, str]:
    """`info` of Status: crictl decodes every value as JSON, so plain texts become JSON strings."""
    return {key: value if _is_json(value) else json.dumps(value) for key, value in info.items()}


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _info(facts: Mapping[str, object]) -> dict[str, str]:
    """The map that crictl's inspect commands know: one key, `info`, with a JSON object."""
    return {"info": json.dumps(facts, separators=(",", ":"))}


def _as_dict(message: Message) -> dict[str, object]:
    # json_format costs about a megabyte, and only verbose answers need it
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(message, preserving_proto_field_name=True)


def sandbox_info(status: SandboxStatus) -> dict[str, str]:
    """`info` of PodSandboxStatus, under the names that users of crictl inspectp filter by.

    There is no pause process: `pid` is the shim's. `runtimeSpec` has what the sandbox has of it.
    """
    namespaces = [{"type": "network", "path": status.netns_path}] if status.netns_path else []
    return _info(
        {
            "pid": status.shim_pid,
            "processStatus": "running" if status.state == "ready" else "exited",
            "netNamespaceClosed": not status.netns_path,
            "runtimeHandler": status.runtime_handler,
            "runtimeType": "oakum.v1",
            "config": _as_dict(write_sandbox_config(status.config)),
            "runtimeSpec": {
                "hostname": status.config.hostname,
                "annotations": status.config.annotations,
                "linux": {"cgroupsPath": status.cgroup_path, "namespaces": namespaces},
            },
        }
    )


def container_info(status: ContainerStatus, runtime_spec: object) -> dict[str, str]:
    """`info` of ContainerStatus, under the names that users of crictl inspect filter by."""
    return _info(
        {
            "sandboxID": status.sandbox_id,
            "pid": status.pid,
            "removing": False,
            "snapshotKey": status.id,
            "snapshotter": "overlayfs",
            "runtimeType": "oakum.v1",
            "config": _as_dict(write_container_config(status.config)),
            "runtimeSpec": runtime_spec,
        }
    )


def image_info(document: Mapping[str, object]) -> dict[str, str]:
    """`info` of ImageStatus: the image's own configuration, under the name that users of crictl inspecti know."""
    return _info({"imageSpec": document})
