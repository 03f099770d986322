# SPDX-License-Identifier: Apache-2.0
"""Network configurations: what a file in the configuration directory means. Pure functions; the files are hostile."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeGuard

from oakum.errors import InvalidArgument

# Oldest first. CNI specification, "Released versions".
VERSIONS: Final = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
FILE_LIMIT_BYTES: Final = 1 << 20
_OPERATION: Final = "read CNI configuration"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*", re.ASCII)
_TYPE_LIMIT: Final = 255

Json = dict[str, Any]


class Plugin(NamedTuple):
    """One plugin of a list; `config` is what its author wrote, but for what the host decides."""

    type: str
    config: Json
    capabilities: frozenset[str] = frozenset()
    ipam_type: str = ""


class NetworkList(NamedTuple):
    """A network: its plugins in order. `versions` are those that both the list and we can speak, oldest first."""

    name: str
    versions: tuple[str, ...]
    plugins: tuple[Plugin, ...]
    disable_check: bool = False
    disable_gc: bool = False
    only_inlined: bool = True
    source: str = ""

    @property
    def version(self) -> str:
        """The version that is spoken: the newest one (CNI specification, "Version considerations")."""
        return self.versions[-1]

    @property
    def checkable(self) -> bool:
        """Whether CHECK may be called."""
        return at_least(self.version, "0.4.0") and not self.disable_check

    @property
    def collectable(self) -> bool:
        """Whether GC may be called."""
        return at_least(self.version, "1.1.0") and not self.disable_gc

    @property
    def tells_status(self) -> bool:
        """Whether STATUS may be called."""
        return at_least(self.version, "1.1.0")


def at_least(version: str, wanted: str) -> bool:
    """Whether a known version is `wanted` or newer."""
    return VERSIONS.index(version) >= VERSIONS.index(wanted)


def parse_list(data: bytes, source: str) -> NetworkList:
    """The network that a file describes: a list, or a single plugin, which makes a list of one.

    Raises:
        InvalidArgument: it is none, with the place in it that is wrong.
    """
    found = load_object(data, source)
    name = _text(found, "name", source)
    if not _NAME.fullmatch(name):
        raise InvalidArgument(_OPERATION, source, f"{name[:80]!r} is no name for a network")
    versions = _versions(found, source)
    if "plugins" not in found and "type" in found:
        plugins = [parse_plugin(found, source, "the file")]
        return NetworkList(name, versions, tuple(plugins), source=source)
    listed = found.get("plugins", [])
    if not _is_list(listed):
        raise InvalidArgument(_OPERATION, source, '"plugins" is no list')
    return NetworkList(
        name,
        versions,
        tuple(parse_plugin(each, source, f"plugins[{index}]") for index, each in enumerate(listed)),
        disable_check=_flag(found, "disableCheck", source),
        disable_gc=_flag(found, "disableGC", source),
        only_inlined=_flag(found, "loadOnlyInlinedPlugins", source),
        source=source,
    )


def parse_plugin(found: object, source: str, place: str) -> Plugin:
    """One plugin's object. Raises InvalidArgument."""
    if not _is_object(found):
        raise InvalidArgument(_OPERATION, source, f"{place} is no object")
    kind = _text(found, "type", source, place)
    check_type(kind, source)
    capabilities = found.get("capabilities", {})
    if not _is_object(capabilities):
        raise InvalidArgument(_OPERATION, source, f'"capabilities" of {place} is no object')
    ipam = found.get("ipam")
    ipam_type = ""
    if _is_object(ipam):
        ipam_type = ipam.get("type", "")
        if not isinstance(ipam_type, str):
            raise InvalidArgument(_OPERATION, source, f'"ipam.type" of {place} is no text')
        if ipam_type:
            check_type(ipam_type, source)
    kept = {key: value for key, value in found.items() if key not in _DECIDED_BY_THE_HOST}
    return Plugin(
        kind, kept, frozenset(key for key, value in capabilities.items() if value is True), ipam_type
    )


# Reserved keys (CNI specification, "Plugin configuration objects"), and those that each call gets anew. What stays
# under "cni.dev/" is reserved, too, but authors may have reason to set it: only what a call adds is replaced.
_DECIDED_BY_THE_HOST: Final = frozenset(
    {"capabilities", "runtimeConfig", "prevResult", "name", "cniVersion", "cniVersions"}
)


def with_plugins(network: NetworkList, more: Sequence[Plugin]) -> NetworkList:
    """A list with the plugins of its directory after its own.

    Raises:
        InvalidArgument: there is none at all.
    """
    complete = network._replace(plugins=(*network.plugins, *more))
    if not complete.plugins:
        raise InvalidArgument(_OPERATION, network.source, f"network {network.name} has no plugins")
    return complete


def to_json(network: NetworkList) -> Json:
    """The list as JSON that `parse_list` reads, for the record of an attachment."""
    return {
        "cniVersion": network.version,
        "name": network.name,
        "disableCheck": network.disable_check,
        "disableGC": network.disable_gc,
        "loadOnlyInlinedPlugins": True,
        "plugins": [
            {**plugin.config, "capabilities": dict.fromkeys(sorted(plugin.capabilities), True)}
            for plugin in network.plugins
        ],
    }


def check_type(kind: str, source: str) -> None:
    """Raises InvalidArgument for a type that could lead out of the plugin directories."""
    if kind in ("", ".", "..") or len(kind) > _TYPE_LIMIT or "/" in kind or not kind.isprintable():
        raise InvalidArgument(_OPERATION, source, f"{kind[:80]!r} is no name for a plugin")


def load_object(data: bytes, source: str) -> Json:
    """A JSON object from outside. Raises InvalidArgument."""
    if len(data) > FILE_LIMIT_BYTES:
        raise InvalidArgument(_OPERATION, source, f"longer than {FILE_LIMIT_BYTES} bytes")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(_OPERATION, source, f"no JSON: {str(error)[:200]}") from error
    if not _is_object(found):
        raise InvalidArgument(_OPERATION, source, "no JSON object")
    return found


def _versions(found: Mapping[str, Any], source: str) -> tuple[str, ...]:
    said = found.get("cniVersion", "")
    more = found.get("cniVersions", [])
    if not isinstance(said, str) or not _is_list(more) or not all(isinstance(each, str) for each in more):
        raise InvalidArgument(
            _OPERATION, source, '"cniVersion" is no text, or "cniVersions" no list of texts'
        )
    offered = [each for each in (said, *more) if each]
    common = tuple(version for version in VERSIONS if version in offered)
    if not common:
        raise InvalidArgument(
            _OPERATION,
            source,
            f"written for CNI {', '.join(each[:20] for each in offered[:8]) or 'of no version'}",
            hint=f"versions {VERSIONS[0]} to {VERSIONS[-1]} are supported",
        )
    return common


def _text(found: Mapping[str, Any], key: str, source: str, place: str = "the file") -> str:
    value = found.get(key)
    if not isinstance(value, str) or not value:
        raise InvalidArgument(_OPERATION, source, f'{place} has no "{key}"')
    return value


def _flag(found: Mapping[str, Any], key: str, source: str) -> bool:
    value = found.get(key, False)
    # The specification's own library takes both words as text, too.
    if value in ("true", "false"):
        return value == "true"
    if not isinstance(value, bool):
        raise InvalidArgument(_OPERATION, source, f'"{key}" is neither true nor false')
    return value


def _is_object(value: object) -> TypeGuard[Json]:
    return isinstance(value, dict)


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)
