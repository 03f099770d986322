# SPDX-License-Identifier: Apache-2.0
"""What a layer takes from those below it: found as overlay would find it, without a mount and without root."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from oakum.errors import DataLoss
from oakum.images.layerfiles import LayerRest
from oakum.images.lower import finish_layer


@pytest.fixture
def layers(tmp_path: Path) -> list[Path]:
    """The layer on top, and two below it."""
    found = [tmp_path / name for name in ("top", "middle", "bottom")]
    for layer in found:
        layer.mkdir()
    return found


def finish(
    layers: list[Path], *, implicit: tuple[bytes, ...] = (), links: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    finish_layer(str(layers[0]), [str(layer) for layer in layers[1:]], LayerRest(implicit, links))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_directories_look_as_below(layers: list[Path]) -> None:
    top, middle, bottom = layers
    for layer, bits in ((middle, 0o711), (bottom, 0o777)):
        (layer / "a").mkdir()
        os.chmod(layer / "a", bits)
    (bottom / "a/b").mkdir()
    os.chmod(bottom / "a/b", 0o1770)
    os.setxattr(bottom / "a/b", "user.note", b"x")
    os.utime(bottom / "a/b", (1000, 1000))
    (top / "a/b").mkdir(parents=True)
    finish(layers, implicit=(b"a", b"a/b"))
    assert mode(top / "a") == 0o711, "the topmost one below counts"
    assert mode(top / "a/b") == 0o1770
    assert os.getxattr(top / "a/b", "user.note") == b"x"
    assert (top / "a/b").stat().st_mtime == 1000


@pytest.mark.parametrize("how", ["opaque", "link", "file"])
def test_what_is_hidden_below_is_not_found(layers: list[Path], how: str) -> None:
    top, middle, bottom = layers
    (bottom / "a/b").mkdir(parents=True)
    os.chmod(bottom / "a/b", 0o700)
    if how == "opaque":
        (middle / "a").mkdir()
        os.setxattr(middle / "a", "user.overlay.opaque", b"y")
    elif how == "link":
        (middle / "a").symlink_to(bottom / "a")
    else:
        (middle / "a").write_text("")
    (top / "a/b").mkdir(parents=True)
    os.chmod(top / "a/b", 0o755)
    finish(layers, implicit=(b"a/b",))
    assert mode(top / "a/b") == 0o755


def test_a_link_to_a_file_below_brings_it_up(layers: list[Path]) -> None:
    top, middle, bottom = layers
    (bottom / "d").mkdir()
    os.chmod(bottom / "d", 0o710)
    (bottom / "d/file").write_text("old")
    os.chmod(bottom / "d/file", 0o4711)
    (top / "l").mkdir()
    finish(layers, links=((b"l/one", b"d/file"), (b"two", b"d/file")))
    assert (top / "l/one").read_text() == "old"
    assert mode(top / "two") == 0o4711
    assert mode(top / "d") == 0o710
    assert (top / "d/file").stat().st_nlink == 3
    assert (bottom / "d/file").stat().st_nlink == 1
    assert middle.exists()


@pytest.mark.parametrize("target", [b"missing", b"dir", b"link", b"dir/x"])
def test_links_to_what_is_no_file_of_the_image_are_refused(layers: list[Path], target: bytes) -> None:
    (layers[1] / "dir").mkdir()
    (layers[1] / "link").symlink_to("/etc/passwd")
    with pytest.raises(DataLoss, match="hard link"):
        finish(layers, links=((b"l", target),))
    assert not (layers[0] / "l").exists()


def test_a_link_to_a_file_of_holes_brings_up_its_holes(layers: list[Path]) -> None:
    top, _, bottom = layers
    with open(bottom / "f", "wb") as file:
        for offset in (0, 300 << 20, 600 << 20):
            file.seek(offset)
            file.write(b"x" * 5000)
        file.truncate(1 << 30)
    finish(layers, links=((b"l", b"f"),))
    found = (top / "l").stat()
    assert found.st_size == 1 << 30
    assert found.st_blocks * 512 < 1 << 20
    with open(top / "l", "rb") as file:
        file.seek((300 << 20) - 1)
        assert file.read(5002) == b"\0" + b"x" * 5000 + b"\0"
