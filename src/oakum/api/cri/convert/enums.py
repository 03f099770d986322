# SPDX-License-Identifier: Apache-2.0
"""Tables between CRI's enums and the backend's words; states and signals included."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final, cast

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.convert.checks import known
from oakum.backend.config import NamespaceMode, Propagation, Protocol, SeccompKind
from oakum.backend.status import ContainerState, SandboxState
from oakum.errors import InvalidArgument
from oakum.model.signals import parse_signal, signal_name

NAMESPACE_MODES: Final[dict[int, NamespaceMode]] = {
    pb.POD: "pod",
    pb.CONTAINER: "container",
    pb.NODE: "node",
    pb.TARGET: "target",
}
NAMESPACE_NUMBERS: Final[dict[NamespaceMode, pb.NamespaceMode]] = {
    "pod": pb.POD,
    "container": pb.CONTAINER,
    "node": pb.NODE,
    "target": pb.TARGET,
}
PROPAGATIONS: Final[dict[int, Propagation]] = {
    pb.PROPAGATION_PRIVATE: "private",
    pb.PROPAGATION_HOST_TO_CONTAINER: "host_to_container",
    pb.PROPAGATION_BIDIRECTIONAL: "bidirectional",
}
PROPAGATION_NUMBERS: Final[dict[Propagation, pb.MountPropagation]] = {
    "private": pb.PROPAGATION_PRIVATE,
    "host_to_container": pb.PROPAGATION_HOST_TO_CONTAINER,
    "bidirectional": pb.PROPAGATION_BIDIRECTIONAL,
}
PROTOCOLS: Final[dict[int, Protocol]] = {pb.TCP: "tcp", pb.UDP: "udp", pb.SCTP: "sctp"}
PROTOCOL_NUMBERS: Final[dict[Protocol, pb.Protocol]] = {"tcp": pb.TCP, "udp": pb.UDP, "sctp": pb.SCTP}
PROFILES: Final[dict[int, SeccompKind]] = {
    pb.SecurityProfile.RuntimeDefault: "runtime_default",
    pb.SecurityProfile.Unconfined: "unconfined",
    pb.SecurityProfile.Localhost: "localhost",
}
PROFILE_NUMBERS: Final[dict[SeccompKind, pb.SecurityProfile.ProfileType]] = {
    "runtime_default": pb.SecurityProfile.RuntimeDefault,
    "unconfined": pb.SecurityProfile.Unconfined,
    "localhost": pb.SecurityProfile.Localhost,
}
GROUP_POLICIES: Final[dict[int, bool]] = {pb.Merge: False, pb.Strict: True}
"""Whether groups are strict: only those asked for, none from the image's /etc/group."""

SANDBOX_STATES: Final[dict[int, SandboxState]] = {pb.SANDBOX_READY: "ready", pb.SANDBOX_NOTREADY: "not_ready"}
SANDBOX_STATE_NUMBERS: Final[dict[SandboxState, pb.PodSandboxState]] = {
    "ready": pb.SANDBOX_READY,
    "not_ready": pb.SANDBOX_NOTREADY,
}
CONTAINER_STATES: Final[dict[int, ContainerState]] = {
    pb.CONTAINER_CREATED: "created",
    pb.CONTAINER_RUNNING: "running",
    pb.CONTAINER_EXITED: "exited",
    pb.CONTAINER_UNKNOWN: "unknown",
}
# CRI knows no paused container; its processes are there, so it counts as running.
CONTAINER_STATE_NUMBERS: Final[dict[ContainerState, pb.ContainerState]] = {
    "created": pb.CONTAINER_CREATED,
    "running": pb.CONTAINER_RUNNING,
    "paused": pb.CONTAINER_RUNNING,
    "exited": pb.CONTAINER_EXITED,
    "unknown": pb.CONTAINER_UNKNOWN,
}


def _signal_tables() -> tuple[dict[int, str], dict[str, pb.Signal]]:
    names: dict[int, str] = {pb.SIGNAL_RUNTIME_DEFAULT: ""}
    numbers: dict[str, pb.Signal] = {"": pb.SIGNAL_RUNTIME_DEFAULT}
    for key, value in pb.Signal.items():
        if value != pb.SIGNAL_RUNTIME_DEFAULT:
            written = key.removeprefix("SIGNAL_").replace("PLUS", "+").replace("MINUS", "-")
            name = signal_name(parse_signal(written))
            names[value] = name
            # SIGCLD, SIGIOT and SIGPOLL are second names: the first name wins on the way back
            if name not in numbers or written == name:
                numbers[name] = cast("pb.Signal", value)
    return names, numbers


_names, _numbers = _signal_tables()
SIGNAL_NAMES = MappingProxyType(_names)


def read_signal(field: str, number: int) -> str:
    """The name of CRI signal `number` ("SIGTERM", "SIGRTMIN+3"); empty for the runtime's default."""
    return known(field, SIGNAL_NAMES, number)


def write_signal(text: str) -> pb.Signal:
    """The CRI number of the signal `text`; the default where the image's author wrote nonsense."""
    if not text:
        return pb.SIGNAL_RUNTIME_DEFAULT
    try:
        return _numbers.get(signal_name(parse_signal(text)), pb.SIGNAL_RUNTIME_DEFAULT)
    except InvalidArgument:
        return pb.SIGNAL_RUNTIME_DEFAULT
