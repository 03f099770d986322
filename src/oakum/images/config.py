# SPDX-License-Identifier: Apache-2.0
"""The configuration of an image, read from hostile JSON into a value that never surprises.

Fields that builders leave out or set to null become empty. Spec: image-spec config.md v1.1.
"""

from __future__ import annotations

from typing import Any

import msgspec

from oakum.errors import DataLoss
from oakum.images.digests import chain_ids, is_digest

CONFIG_LIMIT_BYTES = 8 << 20


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """How one layer (or, with `empty_layer`, no layer) came to be."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What an image says about itself and about how its containers run.

    `exposed_ports` are "80/tcp", `volumes` container paths, `created` RFC 3339 text as found.
    """

    architecture: str = ""
    os: str = ""
    variant: str = ""
    created: str = ""
    author: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    labels: dict[str, str] = {}
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    shell: tuple[str, ...] = ()
    diff_ids: tuple[str, ...] = ()
    history: tuple[HistoryEntry, ...] = ()

    @property
    def chain_ids(self) -> tuple[str, ...]:
        """The chain id of each layer, lowest first."""
        return chain_ids(self.diff_ids)

    @property
    def chain_id(self) -> str:
        """The chain id of the topmost layer; empty for an image of no layers."""
        return self.chain_ids[-1] if self.diff_ids else ""


_Texts = list[str] | str | None


class _Inner(msgspec.Struct):
    entrypoint: _Texts = msgspec.field(name="Entrypoint", default=None)
    cmd: _Texts = msgspec.field(name="Cmd", default=None)
    env: list[str] | None = msgspec.field(name="Env", default=None)
    user: str | None = msgspec.field(name="User", default=None)
    working_dir: str | None = msgspec.field(name="WorkingDir", default=None)
    labels: dict[str, str | None] | None = msgspec.field(name="Labels", default=None)
    exposed_ports: dict[str, Any] | None = msgspec.field(name="ExposedPorts", default=None)
    volumes: dict[str, Any] | None = msgspec.field(name="Volumes", default=None)
    stop_signal: str | None = msgspec.field(name="StopSignal", default=None)
    shell: _Texts = msgspec.field(name="Shell", default=None)


class _History(msgspec.Struct):
    created: str | None = None
    created_by: str | None = None
    author: str | None = None
    comment: str | None = None
    empty_layer: bool | None = None


class _RootFs(msgspec.Struct):
    type: str | None = None
    diff_ids: list[str] | None = None


class _Document(msgspec.Struct):
    rootfs: _RootFs
    architecture: str | None = None
    os: str | None = None
    variant: str | None = None
    created: str | None = None
    author: str | None = None
    config: _Inner | None = None
    history: list[_History] | None = None


_DECODER = msgspec.json.Decoder(_Document)


def parse_config(data: bytes, digest: str = "") -> ImageConfig:
    """The configuration in `data`; `digest` is only for messages.

    Raises:
        DataLoss: not JSON, not a configuration, or a diff id is none.
    """
    try:
        document = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataLoss("read image config", digest, str(error)) from error
    diff_ids = tuple(document.rootfs.diff_ids or ())
    for diff_id in diff_ids:
        if not is_digest(diff_id):
            raise DataLoss("read image config", digest, f"{diff_id[:160]!r} is not a diff id")
    inner = document.config or _Inner()
    return ImageConfig(
        architecture=document.architecture or "",
        os=document.os or "",
        variant=document.variant or "",
        created=document.created or "",
        author=document.author or "",
        entrypoint=_texts(inner.entrypoint),
        cmd=_texts(inner.cmd),
        env=tuple(inner.env or ()),
        user=inner.user or "",
        working_dir=inner.working_dir or "",
        labels={key: value or "" for key, value in (inner.labels or {}).items()},
        exposed_ports=tuple(inner.exposed_ports or ()),
        volumes=tuple(inner.volumes or ()),
        stop_signal=inner.stop_signal or "",
        shell=_texts(inner.shell),
        diff_ids=diff_ids,
        history=tuple(_history(entry) for entry in document.history or ()),
    )


def _history(entry: _History) -> HistoryEntry:
    return HistoryEntry(
        created=entry.created or "",
        created_by=entry.created_by or "",
        author=entry.author or "",
        comment=entry.comment or "",
        empty_layer=bool(entry.empty_layer),
    )


def _texts(value: _Texts) -> tuple[str, ...]:
    # Old builders wrote a single string where a list belongs.
    if isinstance(value, str):
        return (value,)
    return tuple(value or ())
