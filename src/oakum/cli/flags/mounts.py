# SPDX-License-Identifier: Apache-2.0
"""Options about files: volumes, tmpfs, devices.

Parses text only; whether a source exists is found by the engine, which opens it.
"""

from __future__ import annotations

import os.path
from typing import Final, NamedTuple

from oakum.backend.config import Device, Mount, Propagation
from oakum.errors import InvalidArgument
from oakum.model.ids import check_name

_PROPAGATION: Final[dict[str, Propagation]] = {
    "private": "private",
    "rprivate": "private",
    "slave": "host_to_container",
    "rslave": "host_to_container",
    "shared": "bidirectional",
    "rshared": "bidirectional",
}
_FLAGS: Final = frozenset(["nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "relatime"])
_IGNORED: Final = frozenset(["rw", "consistent", "cached", "delegated", "bind", "rbind"])
# as docker has it: a scratch area for everybody that nothing is run from, unless said otherwise
_TMPFS_USUAL: Final[tuple[str, ...]] = ("nosuid", "nodev", "noexec", "mode=1777")
_TMPFS_KEYS: Final = frozenset(["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks"])


class Volume(NamedTuple):
    """The source of a mount that is a volume of ours; "" is one that goes with its container."""

    name: str


def _inside(option: str, text: str, path: str) -> str:
    """`path` when it is absolute, not the root, and has nothing a mount table cannot carry."""
    if not path.startswith("/") or "\0" in path:
        raise InvalidArgument(
            f"parse {option}",
            repr(text),
            f"{path!r} is not an absolute path in the container",
            hint="begin it with /",
        )
    clean = os.path.normpath("/" + path.lstrip("/"))
    if clean == "/":
        raise InvalidArgument(f"parse {option}", repr(text), "the container's root cannot be mounted over")
    return clean


def _path(option: str, text: str, path: str, cwd: str) -> str:
    if not path or "\0" in path:
        raise InvalidArgument(f"parse {option}", repr(text), "the source is empty")
    if path.startswith("~"):
        path = os.path.expanduser(path)
    elif not path.startswith(("/", ".")):
        raise InvalidArgument(
            f"parse {option}",
            repr(text),
            f"{path!r} is not a path",
            hint=f"give an absolute path, or ./{path}",
        )
    return os.path.normpath(os.path.join(cwd, path))


def _source(option: str, text: str, source: str, cwd: str) -> str | Volume:
    """A path, or the name of a volume: what begins like no path and has no slash in it."""
    if not source or source.startswith(("/", ".", "~")):
        return _path(option, text, source, cwd)
    try:
        return Volume(check_name("volume", source))
    except InvalidArgument as error:
        raise InvalidArgument(
            f"parse {option}",
            repr(text),
            f"{source!r} is neither a path nor the name of a volume",
            hint=f"give an absolute path, or ./{source}",
        ) from error


def _mount(option: str, text: str, source: str | Volume, target: str, options: list[str]) -> Mount:
    readonly = recursive = relabel = no_copy = False
    propagation: Propagation = "private"
    extra: list[str] = []
    for word in options:
        if word in ("ro", "readonly"):
            readonly = True
        elif word == "rro":
            readonly = recursive = True
        elif word in ("z", "Z"):
            relabel = True
        elif word in ("nocopy", "volume-nocopy") and isinstance(source, Volume):
            no_copy = True
        elif word in _PROPAGATION:
            propagation = _PROPAGATION[word]
        elif word in _FLAGS:
            extra.append(word)
        elif word not in _IGNORED:
            cause = "of a path nothing is copied" if word.endswith("nocopy") else f"unknown option {word!r}"
            raise InvalidArgument(
                f"parse {option}",
                repr(text),
                cause,
                hint="try ro, rro, rslave, rshared or noexec",
            )
    return Mount(
        container_path=target,
        host_path="" if isinstance(source, Volume) else source,
        volume=source.name if isinstance(source, Volume) else None,
        readonly=readonly,
        recursive_read_only=recursive,
        selinux_relabel=relabel,
        no_copy=no_copy,
        propagation=propagation,
        options=tuple(extra),
    )


def parse_volume(text: str, *, cwd: str) -> Mount:
    """The mount that "[SOURCE:]TARGET[:OPTION,...]" describes; a relative source starts at `cwd`.

    Without a source it is a volume that goes with its container.

    Raises:
        InvalidArgument: not such a text, or an unknown option.
    """
    parts = text.split(":")
    if len(parts) == 1:
        return Mount(container_path=_inside("--volume", text, parts[0]), volume="")
    if len(parts) > 3:
        raise InvalidArgument(
            "parse --volume", repr(text), "too many colons", hint="write SOURCE:TARGET[:ro]"
        )
    target = _inside("--volume", text, parts[1])
    options = [word for word in (parts[2].split(",") if len(parts) == 3 else []) if word]
    return _mount("--volume", text, _source("--volume", text, parts[0], cwd), target, options)


def parse_tmpfs(text: str) -> Mount:
    """The tmpfs that "TARGET[:size=64m,mode=1777,ro,...]" describes.

    Raises:
        InvalidArgument: not such a text.
    Source: tmpfs(5).
    """
    path, _, words = text.partition(":")
    target = _inside("--tmpfs", text, path)
    options: list[str] = [*_TMPFS_USUAL]
    for word in filter(None, words.split(",")):
        key, equals, value = word.partition("=")
        known = key in _TMPFS_KEYS and value.isascii() and value.isalnum() if equals else word in _FLAGS
        if not known and word not in ("ro", "rw"):
            raise InvalidArgument(
                "parse --tmpfs",
                repr(text),
                f"unknown option {word!r}",
                hint="try size=64m, mode=1777, ro or noexec",
            )
        replaced = "mode=1777" if key == "mode" else f"no{word}"
        if replaced in options:
            options.remove(replaced)
        if word not in ("ro", "rw", *options) and f"no{word}" not in _TMPFS_USUAL:
            options.append(word)
    readonly = "ro" in words.split(",")
    return Mount(container_path=target, tmpfs=True, readonly=readonly, options=tuple(options))


def _mount_fields(text: str) -> tuple[dict[str, str], list[str]]:
    fields: dict[str, str] = {}
    words: list[str] = []
    names = {
        "source": "src",
        "src": "src",
        "target": "dst",
        "dst": "dst",
        "destination": "dst",
        "type": "type",
        "subpath": "subpath",
        "image-subpath": "subpath",
        "tmpfs-size": "size",
        "tmpfs-mode": "mode",
        "bind-propagation": "propagation",
    }
    for word in filter(None, text.split(",")):
        key, equals, value = word.partition("=")
        if equals and key in names:
            fields[names[key]] = value
        elif key in ("ro", "readonly") and value in ("", "1", "true"):
            words.append("ro")
        elif key == "volume-nocopy" and value in ("", "1", "true", "0", "false"):
            words += [key] * (value in ("", "1", "true"))
        elif not equals or (key in ("ro", "readonly") and value in ("0", "false")):
            words.append(word if not equals else "rw")
        else:
            raise InvalidArgument(
                "parse --mount",
                repr(text),
                f"unknown key {key!r}",
                hint="try type=bind,src=/data,dst=/data,ro",
            )
    return fields, words


def parse_mount(text: str, *, cwd: str) -> Mount:
    """The mount that "type=bind|volume|tmpfs|image,src=...,dst=...[,ro]" describes.

    Raises:
        InvalidArgument: not such a text.
    """
    fields, words = _mount_fields(text)
    given = fields.get("src", "")
    kind = fields.get("type", "bind" if given.startswith(("/", ".", "~")) else "volume")
    target = _inside("--mount", text, fields.get("dst", ""))
    if kind == "tmpfs":
        options = [f"{key}={fields[key]}" for key in ("size", "mode") if key in fields]
        return parse_tmpfs(":".join([target, ",".join(options + words)]))
    if kind == "image":
        if not fields.get("src"):
            raise InvalidArgument("parse --mount", repr(text), "no image", hint="add src=IMAGE")
        return Mount(
            container_path=target,
            image=fields["src"],
            image_sub_path=fields.get("subpath", ""),
            readonly=True,
        )
    if kind not in ("bind", "volume"):
        raise InvalidArgument(
            "parse --mount", repr(text), f"unknown type {kind!r}", hint="try bind, volume, tmpfs or image"
        )
    if "propagation" in fields:
        words.append(fields["propagation"])
    if kind == "bind":
        return _mount("--mount", text, _path("--mount", text, given, cwd), target, words)
    return _mount("--mount", text, Volume(check_name("volume", given) if given else ""), target, words)


def parse_device(text: str) -> Device:
    """The device that "HOST[:CONTAINER][:rwm]" describes.

    Raises:
        InvalidArgument: not such a text.
    """
    parts = text.split(":")
    permissions = "rwm"
    if len(parts) > 1 and parts[-1] and set(parts[-1]) <= set("rwm"):
        permissions = "".join(sorted(set(parts.pop()), key="rwm".index))
    if len(parts) > 2 or not all(part.startswith("/") and "\0" not in part for part in parts):
        raise InvalidArgument(
            "parse --device",
            repr(text),
            "not HOST[:CONTAINER][:rwm]",
            hint="try /dev/fuse or /dev/sda:/dev/xvda:r",
        )
    host = os.path.normpath(parts[0])
    inside = _inside("--device", text, parts[1]) if len(parts) == 2 else host
    return Device(container_path=inside, host_path=host, permissions=permissions)
