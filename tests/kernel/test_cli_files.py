# SPDX-License-Identifier: Apache-2.0
"""`oakum cp` with containers that run, that do not, and that do not want it to stay where it belongs."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from tests.kernel.cli_box import Box


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A tree of a user's own on the host."""
    made = tmp_path / "site"
    (made / "sub").mkdir(parents=True)
    (made / "page").write_text("hello\n")
    (made / "page").chmod(0o640)
    (made / "sub" / "link").symlink_to("../page")
    os.chown(made / "page", 1234, 1234)
    return made


@pytest.mark.parametrize("running", [True, False])
def test_in_and_out_again(box: Box, site: Path, tmp_path: Path, running: bool) -> None:
    box("create", "--name", "c", box.image, "sleep", "1000")
    if running:
        box("start", "c")
    box("cp", str(site), "c:/tmp/new")  # not there: made, as this
    box("cp", str(site), "c:/tmp/new")  # there: put into it
    box("cp", f"{site}/.", "c:/srv")
    box("cp", "-a", str(site / "page"), "c:/tmp/kept")
    if not running:
        box("start", "c")
    seen = box(
        "exec",
        "c",
        "sh",
        "-c",
        "cat /tmp/new/page /tmp/new/site/page /srv/sub/link; stat -c '%a %u' /srv/page /tmp/kept",
    )
    assert seen == "hello\n" * 3 + "640 0\n640 1234\n"
    box("exec", "c", "sh", "-c", "echo more >> /srv/page")
    if not running:
        box("kill", "c")
        box("wait", "c")
    box("cp", "c:/srv", str(tmp_path / "back"))
    assert (tmp_path / "back" / "page").read_text() == "hello\nmore\n"
    assert os.readlink(tmp_path / "back" / "sub" / "link") == "../page"
    box("cp", "c:/srv/page", str(tmp_path))
    assert (tmp_path / "page").stat().st_uid == 0


def test_links_of_the_container_lead_nowhere_else(box: Box, site: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("of the host\n")
    script = f"mkdir -p /tmp; ln -s {outside} /tmp/out; ln -s {outside}/secret /tmp/file; sleep 1000"
    box("run", "-d", "--name", "c", box.image, "sh", "-c", script)
    box("exec", "c", "sh", "-c", "until [ -L /tmp/file ]; do sleep 0.1; done")
    box("cp", "c:/tmp/out/secret", str(tmp_path / "got"), code=1)
    box("cp", str(site / "page"), "c:/tmp/out/planted", code=1)
    box("cp", str(site / "page"), "c:/tmp/file")  # the link itself is replaced
    assert box("exec", "c", "cat", "/tmp/file") == "hello\n"
    assert sorted(os.listdir(outside)) == ["secret"]
    assert (outside / "secret").read_text() == "of the host\n"
    # and the other way: what is allowed is
    box("exec", "c", "sh", "-c", "mkdir -p /real && ln -s /real /tmp/inside")
    box("cp", str(site / "page"), "c:/tmp/inside")
    assert box("exec", "c", "cat", "/real/page") == "hello\n"


def test_what_cannot_be_copied_is_said(box: Box, site: Path, tmp_path: Path) -> None:
    box("create", "--name", "c", box.image, "true")
    for source, target, cause in (
        ("c:/nothing", str(tmp_path), "no such file"),
        (str(site / "page"), "c:/no/such/place/", "no such directory"),
        (str(site), "c:/bin/busybox", "one is a directory"),
        (str(site), str(tmp_path), "neither is in a container"),
        ("nobody:/x", str(tmp_path), "no such container"),
    ):
        done = box.full("cp", source, target)
        assert done.returncode != 0
        assert cause in done.stderr.decode()


def test_the_whole_of_a_running_container_without_the_kernels_own(box: Box, tmp_path: Path) -> None:
    box(
        "run",
        "-d",
        "--name",
        "c",
        "--tmpfs",
        "/scratch",
        box.image,
        "sh",
        "-c",
        "echo x > /scratch/file; sleep 1000",
    )
    box("exec", "c", "sh", "-c", "while ! [ -s /scratch/file ]; do sleep 0.1; done")
    box("cp", "c:/", str(tmp_path / "all"))
    assert (tmp_path / "all/bin/busybox").stat().st_size > 100_000
    assert (tmp_path / "all/scratch/file").read_text() == "x\n"
    assert os.listdir(tmp_path / "all/proc") == os.listdir(tmp_path / "all/sys") == []
    box("cp", "c:/proc/version", str(tmp_path))
    assert (tmp_path / "version").read_text() == Path("/proc/version").read_text()


def test_a_slash_behind_a_link_means_what_it_leads_to(box: Box, site: Path, tmp_path: Path) -> None:
    (tmp_path / "way").symlink_to("site")
    box("run", "-d", "--name", "c", box.image, "sleep", "1000")
    box("cp", str(tmp_path / "way"), "c:/root/link")
    box("cp", str(tmp_path / "way") + "/", "c:/root/new")
    box("cp", str(tmp_path / "way") + "/", "c:/root")
    kinds = "readlink /root/link; readlink /root/new /root/way; cat /root/new/page /root/way/page"
    assert box("exec", "c", "sh", "-c", kinds) == "site\nhello\nhello\n"


def test_archives_through_a_pipe(box: Box, site: Path) -> None:
    box("run", "-d", "--name", "c", box.image, "sleep", "1000")
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        archive.add(site, "site")
    box("cp", "-", "c:/root", stdin=made.getvalue())
    assert box("exec", "c", "stat", "-c", "%a %u", "/root/site/page") == "640 1234\n"
    for path, page in (("/root/site", "site/page"), ("/root/site/.", "./page"), ("/root/site/page", "page")):
        got = box.full("cp", f"c:{path}", "-").stdout
        with tarfile.open(fileobj=io.BytesIO(got)) as archive:
            held = archive.extractfile(page)
            assert held is not None
            assert held.read() == b"hello\n"
            assert archive.getmember(page).uid == 1234
    assert b"tar archive" in box.full("cp", "-", "c:/root", stdin=b"no archive").stderr
    assert b"no such directory" in box.full("cp", "-", "c:/nowhere", stdin=made.getvalue()).stderr
