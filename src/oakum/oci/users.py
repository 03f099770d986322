# SPDX-License-Identifier: Apache-2.0
"""Who a container runs as: /etc/passwd and /etc/group of the image, read safely and parsed without trust.

Pure parsers, and `resolve_user`, which reads through a descriptor of the root file system. Changing to the user is
`credentials`' business. Formats: passwd(5), group(5).
"""

from __future__ import annotations

import errno

from oakum.errors import InvalidArgument, NotFound, SystemFailure
from oakum.linux.paths import read_in_root
from oakum.model.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Final

# Directory services write files of some megabytes; an image with more is trying something.
_LIMIT_BYTES: Final = 16 << 20
_HIGHEST_ID: Final = 0xFFFFFFFE


class PasswdEntry(NamedTuple):
    """One usable line of /etc/passwd."""

    name: str
    uid: int
    gid: int
    home: str


class GroupEntry(NamedTuple):
    """One usable line of /etc/group."""

    name: str
    gid: int
    members: tuple[str, ...]


class Identity(NamedTuple):
    """A resolved user: numeric ids, supplementary groups, and the home directory ("" when unknown)."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str = ""
    name: str = ""


def parse_passwd(data: bytes) -> Iterator[PasswdEntry]:
    """The lines of a passwd file that make sense; damaged ones are passed over, as the C library does."""
    for fields in _lines(data):
        if len(fields) < 4 or not fields[0]:
            continue
        uid, gid = _id(fields[2]), _id(fields[3])
        if uid is not None and gid is not None:
            yield PasswdEntry(fields[0], uid, gid, fields[5] if len(fields) > 5 else "")


def parse_group(data: bytes) -> Iterator[GroupEntry]:
    """The lines of a group file that make sense."""
    for fields in _lines(data):
        if len(fields) < 3 or not fields[0]:
            continue
        gid = _id(fields[2])
        if gid is not None:
            members = fields[3].split(",") if len(fields) > 3 else []
            yield GroupEntry(fields[0], gid, tuple(name for name in (m.strip() for m in members) if name))


def resolve_user(
    root_fd: int, text: str, *, extra_groups: Iterable[int] = (), strict_groups: bool = False
) -> Identity:
    """The identity for "name", "name:group", "uid", "uid:gid", ":gid" or "" (root) in the image `root_fd`.

    The groups are those the image's /etc/group lists for the user, and `extra_groups`; with `strict_groups` only the latter
    (CRI SupplementalGroupsPolicy Strict). Naming a group explicitly leaves the listed ones in.

    Raises:
        NotFound: no such user or group in the image.
        InvalidArgument: the text or a number in it is not valid.
    """
    return resolve(
        text,
        list(parse_passwd(_read(root_fd, "/etc/passwd"))),
        list(parse_group(_read(root_fd, "/etc/group"))),
        extra_groups=extra_groups,
        strict_groups=strict_groups,
    )


def resolve(
    text: str,
    passwd: list[PasswdEntry],
    group: list[GroupEntry],
    *,
    extra_groups: Iterable[int] = (),
    strict_groups: bool = False,
) -> Identity:
    """`resolve_user` on parsed files. Raises NotFound, InvalidArgument."""
    user_text, _, group_text = text.partition(":")
    user_text = user_text or "0"
    entry = _find_user(user_text, passwd)
    if entry is None:
        uid = _id(user_text)
        if uid is None:
            raise _unknown("user", user_text)
        entry = PasswdEntry("", uid, 0, "")
    gid = _find_group(group_text, group) if group_text else entry.gid
    # The primary group is a supplementary one too: else a process could leave it behind with setgid and get past
    # files that deny that group.
    groups = [gid]
    if entry.name and not strict_groups:
        groups += [g.gid for g in group if entry.name in g.members]
    groups += extra_groups
    return Identity(entry.uid, gid, tuple(dict.fromkeys(groups)), entry.home, entry.name)


def home_of(root_fd: int, uid: int) -> str:
    """The home directory of `uid` in the image, or "" when it has none."""
    return next((e.home for e in parse_passwd(_read(root_fd, "/etc/passwd")) if e.uid == uid), "")


def _find_user(text: str, passwd: list[PasswdEntry]) -> PasswdEntry | None:
    # A name wins over a number that looks the same, as in every container tool.
    for entry in passwd:
        if entry.name == text:
            return entry
    uid = _id(text)
    if uid is None:
        return None
    return next((entry for entry in passwd if entry.uid == uid), None)


def _find_group(text: str, group: list[GroupEntry]) -> int:
    for entry in group:
        if entry.name == text:
            return entry.gid
    gid = _id(text)
    if gid is None:
        raise _unknown("group", text)
    return gid


def _unknown(kind: str, text: str) -> InvalidArgument | NotFound:
    if text.isascii() and text.removeprefix("-").isdecimal():
        return InvalidArgument(f"find {kind}", repr(text), f"not within 0 and {_HIGHEST_ID}")
    return NotFound(
        f"find {kind}",
        repr(text),
        f"unable to find {kind} {text}: no matching entries in {'passwd' if kind == 'user' else 'group'} file",
        hint="use a numeric id, or a name that the image knows",
    )


def _lines(data: bytes) -> Iterator[list[str]]:
    for raw in data.split(b"\n"):
        line = raw.strip()
        if line and not line.startswith(b"#"):
            yield line.decode("utf-8", "surrogateescape").split(":")


def _id(text: str) -> int | None:
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):
        return None
    number = int(text)
    return number if number <= _HIGHEST_ID else None


def _read(root_fd: int, path: str) -> bytes:
    try:
        return read_in_root(root_fd, path, _LIMIT_BYTES)
    except OSError as failure:
        # No file: an image from scratch. A directory, device or fifo in its place names nobody either.
        if failure.errno in (errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.ELOOP, errno.EISDIR):
            return b""
        raise SystemFailure.from_os_error(failure, "read", f"{path} of the image") from failure
