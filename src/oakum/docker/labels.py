# SPDX-License-Identifier: Apache-2.0
"""What our containers say of themselves in Docker's labels: all that must survive us. Pure.

A container without our labels, or with those of another installation, is none of ours and never touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, TypeVar

import msgspec

from oakum.backend.config import ContainerConfig, SandboxConfig
from oakum.errors import DataLoss

Kind = Literal["sandbox", "container", "probe"]

KIND: Final = "dev.oakum.kind"
INSTALLATION: Final = "dev.oakum.installation"
SANDBOX: Final = "dev.oakum.sandbox"
CONFIG: Final = "dev.oakum.config"
CREATED: Final = "dev.oakum.created"
HANDLER: Final = "dev.oakum.handler"
CGROUP: Final = "dev.oakum.cgroup"
MOUNTS: Final = "dev.oakum.mounts"
LOG: Final = "dev.oakum.log"

_T = TypeVar("_T", SandboxConfig, ContainerConfig)
_sandbox_decoder = msgspec.json.Decoder(SandboxConfig)
_container_decoder = msgspec.json.Decoder(ContainerConfig)


class Labels(NamedTuple):
    """The labels of one object of ours. `cgroup_parent` is Docker's, `mounts_key` names a directory of `Layout.mounts`."""

    kind: Kind
    installation: str
    created_at_ns: int
    config: bytes = b""
    sandbox_id: str = ""
    handler: str = ""
    cgroup_parent: str = ""
    mounts_key: str = ""
    log_path: str = ""

    def write(self) -> dict[str, str]:
        """As Docker keeps them."""
        return {
            KIND: self.kind,
            INSTALLATION: self.installation,
            CREATED: str(self.created_at_ns),
            CONFIG: self.config.decode(),
            SANDBOX: self.sandbox_id,
            HANDLER: self.handler,
            CGROUP: self.cgroup_parent,
            MOUNTS: self.mounts_key,
            LOG: self.log_path,
        }

    def sandbox_config(self) -> SandboxConfig:
        """What a sandbox was asked to be. Raises DataLoss."""
        return _decoded(_sandbox_decoder, self.config)

    def container_config(self) -> ContainerConfig:
        """What a container was asked to be. Raises DataLoss."""
        return _decoded(_container_decoder, self.config)


def read_labels(labels: Mapping[str, str] | None, installation: str) -> Labels | None:
    """The labels of an object; None when it is none of this installation's."""
    found = labels or {}
    kind = found.get(KIND)
    if found.get(INSTALLATION) != installation or kind not in ("sandbox", "container", "probe"):
        return None
    created = found.get(CREATED, "")
    return Labels(
        kind=kind,
        installation=installation,
        created_at_ns=int(created) if created.isdecimal() else 0,
        config=found.get(CONFIG, "").encode(),
        sandbox_id=found.get(SANDBOX, ""),
        handler=found.get(HANDLER, ""),
        cgroup_parent=found.get(CGROUP, ""),
        mounts_key=found.get(MOUNTS, ""),
        log_path=found.get(LOG, ""),
    )


def chosen(kind: Kind, installation: str) -> dict[str, list[str]]:
    """Docker's filter for our objects of one kind."""
    return {"label": [f"{KIND}={kind}", f"{INSTALLATION}={installation}"]}


def _decoded(decoder: msgspec.json.Decoder[_T], data: bytes) -> _T:
    try:
        return decoder.decode(data)
    except msgspec.DecodeError as error:
        raise DataLoss("read label", CONFIG, str(error)) from error
