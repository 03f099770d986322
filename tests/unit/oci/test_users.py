# SPDX-License-Identifier: Apache-2.0
"""Users of an image: what /etc/passwd and /etc/group say, and what they cannot make us believe."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.errors import InvalidArgument, NotFound, OakumError
from oakum.oci.users import GroupEntry, PasswdEntry, home_of, parse_group, parse_passwd, resolve, resolve_user

PASSWD = [
    PasswdEntry("root", 0, 0, "/root"),
    PasswdEntry("web", 33, 33, "/var/www"),
    PasswdEntry("1234", 7, 8, "/odd"),
]
GROUP = [
    GroupEntry("root", 0, ()),
    GroupEntry("web", 33, ()),
    GroupEntry("logs", 44, ("web",)),
    GroupEntry("tape", 26, ("web", "root")),
]


@pytest.mark.parametrize(
    ("text", "uid", "gid", "groups", "home"),
    [
        ("", 0, 0, (0, 26), "/root"),
        ("web", 33, 33, (33, 44, 26), "/var/www"),
        ("33", 33, 33, (33, 44, 26), "/var/www"),
        ("web:logs", 33, 44, (44, 26), "/var/www"),
        ("web:999", 33, 999, (999, 44, 26), "/var/www"),
        ("999", 999, 0, (0,), ""),
        ("999:logs", 999, 44, (44,), ""),
        (":logs", 0, 44, (44, 26), "/root"),
        ("1234", 7, 8, (8,), "/odd"),  # a name that looks like a number is a name
    ],
)
def test_the_forms_a_user_can_be_written_in(
    text: str, uid: int, gid: int, groups: tuple[int, ...], home: str
) -> None:
    found = resolve(text, PASSWD, GROUP)
    assert (found.uid, found.gid, found.groups, found.home) == (uid, gid, groups, home)


def test_extra_groups_are_added_once_and_strict_leaves_the_images_out() -> None:
    assert resolve("web", PASSWD, GROUP, extra_groups=(44, 5, 5)).groups == (33, 44, 26, 5)
    assert resolve("web", PASSWD, GROUP, extra_groups=(5,), strict_groups=True).groups == (33, 5)


@pytest.mark.parametrize("text", ["nobody-here", "web:nothing", "0x10", "٣"])
def test_unknown_names(text: str) -> None:
    with pytest.raises(NotFound, match="no matching entries"):
        resolve(text, PASSWD, GROUP)


@pytest.mark.parametrize("text", ["4294967295", "-1", "0:99999999999"])
def test_numbers_that_are_no_ids(text: str) -> None:
    with pytest.raises(InvalidArgument):
        resolve(text, PASSWD, GROUP)


def test_damaged_lines_are_passed_over() -> None:
    data = b"#c\n\nshort\n:x:1:1::/:\nbad:x:NaN:0::/:/\nhuge:x:4294967295:0::/\nok:x:5:6:gecos:/h:/bin/sh\n  spaced:x:7:8\n\xff:x:9:9::/b\n"
    assert [(e.name, e.uid, e.gid, e.home) for e in parse_passwd(data)] == [
        ("ok", 5, 6, "/h"),
        ("spaced", 7, 8, ""),
        ("\udcff", 9, 9, "/b"),
    ]
    assert list(parse_group(b"a:x:1:b, c,,\nnope\nz:x:-1:\n")) == [GroupEntry("a", 1, ("b", "c"))]


@given(st.binary(max_size=400), st.text(max_size=20))
def test_no_file_and_no_user_text_crashes_the_parsers(data: bytes, text: str) -> None:
    passwd, group = list(parse_passwd(data)), list(parse_group(data))
    assert all(0 <= e.uid < 2**32 - 1 and 0 <= e.gid < 2**32 - 1 and e.name for e in passwd)
    try:
        found = resolve(text, passwd, group)
    except OakumError:
        return
    assert 0 <= found.uid < 2**32 - 1
    assert 0 <= found.gid < 2**32 - 1


_NAMES = st.from_regex(r"[a-z_][a-z0-9_-]{0,8}", fullmatch=True)
_IDS = st.integers(0, 2**32 - 2)


@given(st.lists(st.tuples(_NAMES, _IDS, _IDS), max_size=8))
def test_what_is_written_is_read(entries: list[tuple[str, int, int]]) -> None:
    data = "".join(f"{name}:x:{uid}:{gid}:,,:/home/{name}:/bin/sh\n" for name, uid, gid in entries).encode()
    assert list(parse_passwd(data)) == [
        PasswdEntry(name, uid, gid, f"/home/{name}") for name, uid, gid in entries
    ]


def test_files_are_read_inside_the_root_only(tmp_path: Path) -> None:
    root = os.open(tmp_path, os.O_PATH)
    try:
        assert resolve_user(root, "").uid == 0  # an image from scratch
        (tmp_path / "etc").mkdir()
        os.symlink("/etc/passwd", tmp_path / "etc/passwd")  # points at itself within the root
        assert resolve_user(root, "0").home == ""
        (tmp_path / "etc/passwd").unlink()
        os.mkfifo(tmp_path / "etc/passwd")
        assert home_of(root, 0) == ""
        (tmp_path / "etc/passwd").unlink()
        with open(tmp_path / "etc/passwd", "wb") as file:
            file.truncate(1 << 30)  # a sparse gigabyte
        with pytest.raises(OakumError, match="passwd"):
            resolve_user(root, "web")
    finally:
        os.close(root)
