# SPDX-License-Identifier: Apache-2.0
"""An archive from standard input on its way through a directory of ours."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from oakum.cli.cp import extract


def _archive(*members: tuple[str, bytes, str, bytes]) -> io.BytesIO:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, kind, link, data in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size, info.mode = kind, link, len(data), 0o6775
            archive.addfile(info, io.BytesIO(data))
    made.seek(0)
    return made


def test_files_links_and_modes_are_as_in_the_archive(tmp_path: Path) -> None:
    extract(
        _archive(
            ("d", tarfile.DIRTYPE, "", b""),
            ("./d/a", tarfile.REGTYPE, "", b"data"),
            ("/b", tarfile.LNKTYPE, "d/a", b""),
            ("c", tarfile.SYMTYPE, "d", b""),
            ("c", tarfile.SYMTYPE, "../elsewhere", b""),
        ),
        str(tmp_path),
    )
    assert (tmp_path / "b").read_bytes() == b"data"
    assert (tmp_path / "b").samefile(tmp_path / "d/a")
    assert (tmp_path / "d/a").stat().st_mode & 0o7777 == 0o6775
    assert str((tmp_path / "c").readlink()) == "../elsewhere"


@pytest.mark.parametrize("absolute", [True, False], ids=["absolute", "parent"])
def test_a_hard_link_gives_no_file_of_the_host(tmp_path: Path, absolute: bool) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_bytes(b"mine")
    link = str(tmp_path / "secret") if absolute else "../secret"
    hostile = _archive(("x", tarfile.LNKTYPE, link, b""), ("x", tarfile.REGTYPE, "", b"theirs"))
    with pytest.raises(tarfile.TarError):
        extract(hostile, str(tmp_path / "in"))
    assert (tmp_path / "secret").read_bytes() == b"mine"
    assert not (tmp_path / "in" / "x").exists()


@pytest.mark.parametrize("then", ["link", "link/secret"])
def test_nothing_is_written_through_a_link(tmp_path: Path, then: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_bytes(b"mine")
    to = "../secret" if then == "link" else ".."
    hostile = _archive(("link", tarfile.SYMTYPE, to, b""), (then, tarfile.REGTYPE, "", b"theirs"))
    with pytest.raises(tarfile.TarError):
        extract(hostile, str(tmp_path / "in"))
    assert (tmp_path / "secret").read_bytes() == b"mine"
