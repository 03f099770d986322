# SPDX-License-Identifier: Apache-2.0
"""Mount options of the runtime-spec ("ro", "rslave", "size=64k") sorted by what they ask of the kernel. Pure.

Spec: runtime-spec config.md "Linux mount options". Source: mount(8), mount_setattr(2).
"""

from __future__ import annotations

from oakum.linux import mount as m
from oakum.model.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Final

_SET: Final[dict[str, int]] = {
    "ro": m.ATTR_RDONLY,
    "nosuid": m.ATTR_NOSUID,
    "nodev": m.ATTR_NODEV,
    "noexec": m.ATTR_NOEXEC,
    "nodiratime": m.ATTR_NODIRATIME,
    "nosymfollow": m.ATTR_NOSYMFOLLOW,
}
_CLEAR: Final[dict[str, int]] = {
    "rw": m.ATTR_RDONLY,
    "suid": m.ATTR_NOSUID,
    "dev": m.ATTR_NODEV,
    "exec": m.ATTR_NOEXEC,
    "diratime": m.ATTR_NODIRATIME,
    "symfollow": m.ATTR_NOSYMFOLLOW,
}
# Exactly one of these holds, so setting one clears the field first.
_ATIME: Final[dict[str, int]] = {
    "relatime": m.ATTR_RELATIME,
    "norelatime": m.ATTR_STRICTATIME,
    "noatime": m.ATTR_NOATIME,
    "atime": m.ATTR_RELATIME,
    "strictatime": m.ATTR_STRICTATIME,
    "nostrictatime": m.ATTR_RELATIME,
}
_PROPAGATION: Final[dict[str, int]] = {
    "private": m.MS_PRIVATE,
    "slave": m.MS_SLAVE,
    "shared": m.MS_SHARED,
    "unbindable": m.MS_UNBINDABLE,
}
_IGNORED: Final = frozenset(
    {"", "defaults", "async", "nolazytime", "nomand", "loud", "silent", "remount", "iversion", "noiversion"}
    | {"copy", "nocopy", "z", "Z"}
)
# The kernel's own words for any file system: handed on as they are. Source: fs/fs_context.c, mount(8).
_SUPERBLOCK: Final = frozenset({"dirsync", "lazytime", "sync"})


class MountOptions(NamedTuple):
    """What a list of options means; flags are ATTR_* and MS_*. `data` is for the file system itself."""

    bind: bool = False
    recursive: bool = False
    set_flags: int = 0
    clear_flags: int = 0
    recursive_set: int = 0
    recursive_clear: int = 0
    propagation: int = 0
    recursive_propagation: bool = False
    copy_up: bool = False
    idmap: bool = False
    idmap_recursive: bool = False
    data: tuple[tuple[str, str | None], ...] = ()

    @property
    def read_only(self) -> bool:
        """Whether the mount itself ends up read-only."""
        return bool((self.set_flags | self.recursive_set) & m.ATTR_RDONLY)


def known_options() -> list[str]:
    """Every option that is not a single file system's own, sorted."""
    plain = {*_SET, *_CLEAR, *_ATIME}
    recursive = {f"r{name}" for name in (*plain, *_PROPAGATION)}
    others = {"bind", "rbind", "idmap", "ridmap", "tmpcopyup"}
    return sorted(plain | recursive | set(_PROPAGATION) | others | _SUPERBLOCK | (_IGNORED - {""}))


def parse_options(options: list[str]) -> MountOptions:
    """Sort `options`; later ones override earlier ones, as mount(8) does."""
    result = MountOptions()
    data: dict[str, str | None] = {}
    for option in options:
        if option in _IGNORED:
            continue
        changed = _known(result, option)
        if changed is not None:
            result = changed
        else:
            key, separator, value = option.partition("=")
            data[key] = value if separator else None
    return result._replace(data=tuple(data.items()))


def _known(o: MountOptions, option: str) -> MountOptions | None:
    if option in ("bind", "rbind"):
        return o._replace(bind=True, recursive=o.recursive or option == "rbind")
    if option in ("idmap", "ridmap"):
        return o._replace(idmap=True, idmap_recursive=option == "ridmap")
    if option == "tmpcopyup":
        __import__("oakum.oci.copyup")  # while all that is found is the host's: few containers need it
        return o._replace(copy_up=True)
    if flag := _SET.get(option):
        return o._replace(set_flags=o.set_flags | flag, clear_flags=o.clear_flags & ~flag)
    if flag := _CLEAR.get(option):
        return o._replace(set_flags=o.set_flags & ~flag, clear_flags=o.clear_flags | flag)
    if option in _ATIME:
        kept = o.set_flags & ~m.ATTR_ATIME_MASK
        return o._replace(set_flags=kept | _ATIME[option], clear_flags=o.clear_flags | m.ATTR_ATIME_MASK)
    if flag := _PROPAGATION.get(option.removeprefix("r")):
        return o._replace(propagation=flag, recursive_propagation=option.startswith("r"))
    if option.startswith("r"):
        plain = option[1:]
        if flag := _SET.get(plain):
            return o._replace(recursive_set=o.recursive_set | flag, recursive_clear=o.recursive_clear & ~flag)
        if flag := _CLEAR.get(plain):
            return o._replace(recursive_set=o.recursive_set & ~flag, recursive_clear=o.recursive_clear | flag)
        if plain in _ATIME:
            kept = o.recursive_set & ~m.ATTR_ATIME_MASK
            cleared = o.recursive_clear | m.ATTR_ATIME_MASK
            return o._replace(recursive_set=kept | _ATIME[plain], recursive_clear=cleared)
    return None
