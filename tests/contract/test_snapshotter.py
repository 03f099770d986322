# SPDX-License-Identifier: Apache-2.0
"""What every snapshotter promises, tried on both. Root file systems are looked at as containers mount them."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oakum.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from oakum.model.rootfs import RootfsSource
from oakum.oci.rootfs import open_root
from oakum.snapshots import CopySnapshotter, OverlaySnapshotter, Snapshotter
from tests.support.lines import killed_at_every_line

Make = Callable[[], Snapshotter]


def chain(number: int) -> str:
    return f"sha256:{number:064x}"


@pytest.fixture(params=[OverlaySnapshotter, CopySnapshotter], ids=["overlay", "copy"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    directory = str(tmp_path / "snapshots")
    kind: Callable[[str], Snapshotter] = request.param
    return lambda: kind(directory)


@pytest.fixture
def snapshots(make: Make) -> Snapshotter:
    return make()


def add_layer(
    snapshots: Snapshotter, number: int, fill: Callable[[Path], object], parent: int | None = None
) -> str:
    directory = snapshots.open_layer(chain(number), "" if parent is None else chain(parent))
    assert directory is not None
    fill(Path(directory))
    snapshots.commit_layer(chain(number))
    return chain(number)


@contextmanager
def mounted(source: RootfsSource) -> Iterator[Path]:
    """The root file system as a detached mount, which goes with its descriptor."""
    with open_root(source, "") as tree:
        yield Path(f"/proc/{os.getpid()}/fd/{tree.fileno()}")


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_text(text)


def tree_of(directory: str) -> set[str]:
    return {
        os.path.relpath(os.path.join(at, name), directory)
        for at, folders, files in os.walk(directory)
        for name in (*folders, *files)
    }


def test_a_container_writes_on_a_layer_that_stays_as_it_is(snapshots: Snapshotter) -> None:
    top = add_layer(snapshots, 1, write("hello", "from the image"))
    with mounted(snapshots.prepare_container("one", top)) as root:
        assert (root / "hello").read_text() == "from the image"
        (root / "hello").write_text("changed")
        (root / "new").write_text("made")
    with mounted(snapshots.container_source("one")) as root:
        assert (root / "hello").read_text() == "changed"
        assert (root / "new").read_text() == "made"
    with mounted(snapshots.prepare_container("two", top)) as root:
        assert (root / "hello").read_text() == "from the image"
        assert not (root / "new").exists()
    assert sorted(snapshots.containers()) == ["one", "two"]
    assert (Path(snapshots.container_directory("one")) / "new").read_text() == "made"


def _lower(d: Path) -> None:
    for name in ("kept", "hidden", "replaced", "emptied", "file-then-directory"):
        (d / name).mkdir() if name != "file-then-directory" else (d / name).write_text("file")
    for name in ("kept/a", "kept/b", "hidden/x", "replaced/old", "emptied/x"):
        (d / name).write_text(name)
    (d / "directory-then-file").mkdir()
    (d / "directory-then-file" / "x").write_text("x")
    (d / "linked").mkdir()
    (d / "linked" / "first").write_text("both")
    os.link(d / "linked" / "first", d / "second")
    os.symlink("/etc/passwd", d / "link")
    os.symlink("kept", d / "link-to-directory")
    os.mknod(d / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(d / "pipe")
    with (d / "sparse").open("wb") as file:
        file.truncate(10 << 30)
        file.seek(5 << 30)
        file.write(b"middle")
    (d / "program").write_text("#!")
    os.chown(d / "program", 12, 34)
    (d / "program").chmod(0o4755)
    os.setxattr(d / "program", "user.note", b"kept")
    os.setxattr(
        d / "program", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000")
    )
    os.utime(d / "kept", (1000, 2000))
    os.utime(d / "link", (1000, 3000), follow_symlinks=False)
    d.chmod(0o711)
    os.chown(d, 5, 6)


def _upper(d: Path) -> None:
    os.mknod(d / "hidden", stat.S_IFCHR, 0)
    (d / "kept").mkdir()
    os.mknod(d / "kept" / "a", stat.S_IFCHR, 0)
    (d / "kept" / "c").write_text("kept/c")
    (d / "replaced").mkdir()
    os.setxattr(d / "replaced", "trusted.overlay.opaque", b"y")
    (d / "replaced" / "new").write_text("new")
    os.utime(d / "kept", (1000, 2000))
    (d / "file-then-directory").mkdir()
    (d / "file-then-directory" / "y").write_text("y")
    (d / "directory-then-file").write_text("file")
    (d / "link-to-directory").mkdir()
    (d / "link-to-directory" / "z").write_text("not in kept")
    d.chmod(0o755)


def test_layers_hide_replace_and_keep_what_is_below(snapshots: Snapshotter) -> None:
    add_layer(snapshots, 1, _lower)
    top = add_layer(snapshots, 2, _upper, parent=1)
    for source in (snapshots.prepare_container("one", top), snapshots.view("seen", top)):
        with mounted(source) as root:
            assert sorted(os.listdir(root / "kept")) == ["b", "c"]
            assert not (root / "hidden").exists()
            assert os.listdir(root / "replaced") == ["new"]
            assert os.listdir(root / "emptied") == ["x"]
            assert os.listdir(root / "file-then-directory") == ["y"]
            assert (root / "directory-then-file").read_text() == "file"
            assert os.listdir(root / "link-to-directory") == ["z"]
            first, second = (os.stat(root / name) for name in ("linked/first", "second"))
            assert (first.st_ino, first.st_nlink) == (second.st_ino, 2)
            assert os.readlink(root / "link") == "/etc/passwd"
            assert os.lstat(root / "link").st_mtime == 3000
            null = os.stat(root / "null")
            assert (stat.S_ISCHR(null.st_mode), null.st_rdev) == (True, os.makedev(1, 3))
            assert stat.S_ISFIFO(os.stat(root / "pipe").st_mode)
            sparse = os.stat(root / "sparse")
            assert (sparse.st_size, sparse.st_blocks < 1000) == (10 << 30, True)
            with (root / "sparse").open("rb") as file:
                file.seek(5 << 30)
                assert file.read(7) == b"middle\0"
            program = os.stat(root / "program")
            assert (program.st_uid, program.st_gid, program.st_mode & 0o7777) == (12, 34, 0o4755)
            assert os.getxattr(root / "program", "user.note") == b"kept"
            assert len(os.getxattr(root / "program", "security.capability")) == 20
            assert os.stat(root / "kept").st_mtime == 2000
            assert os.stat(root).st_mode & 0o7777 == 0o755
            assert os.stat(root).st_uid == 0


def test_the_root_directory_looks_like_the_images(snapshots: Snapshotter) -> None:
    def fill(d: Path) -> None:
        d.chmod(0o711)
        os.chown(d, 5, 6)
        os.utime(d, (1000, 2000))

    with mounted(snapshots.prepare_container("one", add_layer(snapshots, 1, fill))) as root:
        status = os.stat(root)
        assert (status.st_mode & 0o7777, status.st_uid, status.st_gid, status.st_mtime) == (0o711, 5, 6, 2000)


def test_an_image_without_layers(snapshots: Snapshotter) -> None:
    with mounted(snapshots.prepare_container("one", "")) as root:
        assert os.listdir(root) == []
        (root / "made").write_text("x")
        assert os.stat(root).st_mode & 0o7777 == 0o755
    with mounted(snapshots.container_source("one")) as root:
        assert os.listdir(root) == ["made"]
    with mounted(snapshots.view("empty", "")) as root:
        assert os.listdir(root) == []
    assert snapshots.layer_directories("") == []


def test_127_layers(snapshots: Snapshotter) -> None:
    def fill(number: int) -> Callable[[Path], object]:
        def act(d: Path) -> None:
            (d / f"layer-{number}").write_text(str(number))
            (d / "top").write_text(str(number))
            if number:
                os.mknod(d / f"layer-{number - 1}", stat.S_IFCHR, 0) if number % 2 else None

        return act

    for number in range(127):
        add_layer(snapshots, number, fill(number), parent=number - 1 if number else None)
    assert len(snapshots.layer_directories(chain(126))) == 127
    for source in (snapshots.prepare_container("one", chain(126)), snapshots.view("seen", chain(126))):
        with mounted(source) as root:
            assert (root / "top").read_text() == "126"
            odd = [number for number in range(126) if number % 2]
            assert sorted(os.listdir(root)) == sorted([f"layer-{n}" for n in (*odd, 126)] + ["top"])


def test_preparing_again_gives_the_same(snapshots: Snapshotter, make: Make) -> None:
    one, two = (add_layer(snapshots, number, write("f", str(number))) for number in (1, 2))
    first = snapshots.prepare_container("one", one)
    with mounted(first) as root:
        (root / "mine").write_text("x")
    assert make().prepare_container("one", one) == first
    with mounted(first) as root:
        assert (root / "mine").exists()
    with pytest.raises(AlreadyExists, match="another chain"):
        snapshots.prepare_container("one", two)


def test_a_view_cannot_be_written_and_holds_its_layers(snapshots: Snapshotter) -> None:
    add_layer(snapshots, 1, write("a", "a"))
    for key, top in (("single", chain(1)), ("double", add_layer(snapshots, 2, write("b", "b"), parent=1))):
        with mounted(snapshots.view(key, top)) as root:
            assert (root / "a").read_text() == "a"
            with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
                (root / "new").write_text("x")
    assert sorted(snapshots.views()) == ["double", "single"]
    with pytest.raises(FailedPrecondition, match="view double stands on it"):
        snapshots.remove_layer(chain(2))
    for key in ("single", "double", "gone"):
        snapshots.remove_view(key)
    snapshots.remove_layer(chain(2))


def test_a_layer_in_use_is_not_removed(snapshots: Snapshotter) -> None:
    add_layer(snapshots, 1, write("a", "a"))
    add_layer(snapshots, 2, write("b", "b"), parent=1)
    snapshots.prepare_container("one", chain(2))
    assert snapshots.open_layer(chain(3), chain(2)) is not None
    with pytest.raises(FailedPrecondition, match=r"layer sha256:0*2 stands on it"):
        snapshots.remove_layer(chain(1))
    with pytest.raises(FailedPrecondition, match="being unpacked stands on it"):
        snapshots.remove_layer(chain(2))
    snapshots.abandon_layer(chain(3))
    with pytest.raises(FailedPrecondition, match="container one stands on it"):
        snapshots.remove_layer(chain(2))
    snapshots.remove_container("one")
    snapshots.remove_container("one")
    for number in (2, 1, 1):
        snapshots.remove_layer(chain(number))
    assert list(snapshots.layers()) == []
    assert snapshots.cleanup() == 0


def test_a_missing_layer_is_named(snapshots: Snapshotter) -> None:
    add_layer(snapshots, 2, write("b", "b"), parent=1)
    assert not snapshots.has_layer(chain(2))
    assert not snapshots.has_layer(chain(1))
    with pytest.raises(NotFound, match=f"layer {chain(1)} is missing"):
        snapshots.prepare_container("one", chain(2))
    with pytest.raises(NotFound, match="no such layer"):
        snapshots.layer_directories(chain(9))
    for ask in (snapshots.container_source, snapshots.usage, snapshots.container_directory):
        with pytest.raises(NotFound):
            ask("one")
    with pytest.raises(NotFound):
        snapshots.layer_usage(chain(9))
    add_layer(snapshots, 1, write("a", "a"))
    assert snapshots.has_layer(chain(2))
    assert list(snapshots.containers()) == []


@pytest.mark.parametrize(
    "hostile",
    [
        "sha256:../../../etc",
        "../x",
        "sha256:" + "A" * 64,
        "sha256:" + "0" * 63,
        "sha256:" + "0" * 64 + "\n",
        "sha512:" + "0" * 64,
        "sha256:" + "٣" * 64,
    ],
)
def test_what_is_no_chain_id_is_refused(snapshots: Snapshotter, hostile: str) -> None:
    for call in (
        lambda: snapshots.open_layer(hostile, ""),
        lambda: snapshots.open_layer(chain(1), hostile),
        lambda: snapshots.commit_layer(hostile),
        lambda: snapshots.abandon_layer(hostile),
        lambda: snapshots.layer_directories(hostile),
        lambda: snapshots.prepare_container("one", hostile),
        lambda: snapshots.view("one", hostile),
        lambda: snapshots.remove_layer(hostile),
        lambda: snapshots.layer_usage(hostile),
        lambda: snapshots.has_layer(hostile),
    ):
        with pytest.raises(InvalidArgument, match="not a chain id"):
            call()
    assert snapshots.cleanup() == 0


@pytest.mark.parametrize("hostile", ["", "..", ".", "a/b", "/etc", "-x\n", "a\0b", "x" * 300])
def test_what_is_no_container_id_is_refused(snapshots: Snapshotter, hostile: str) -> None:
    for call in (
        lambda: snapshots.prepare_container(hostile, ""),
        lambda: snapshots.remove_container(hostile),
        lambda: snapshots.container_source(hostile),
        lambda: snapshots.usage(hostile),
        lambda: snapshots.view(hostile, ""),
        lambda: snapshots.remove_view(hostile),
    ):
        with pytest.raises(InvalidArgument, match="not a valid id"):
            call()


def test_a_layer_is_there_when_it_is_committed(snapshots: Snapshotter, make: Make) -> None:
    directory = snapshots.open_layer(chain(1), "")
    assert directory is not None
    assert os.listdir(directory) == []
    assert os.stat(directory).st_mode & 0o7777 == 0o755
    (Path(directory) / "half").write_text("x")
    assert list(make().layers()) == []
    snapshots.commit_layer(chain(1))
    assert list(make().layers()) == [chain(1)]
    assert snapshots.open_layer(chain(1), "") is None
    for again in (snapshots.commit_layer, make().commit_layer):
        with pytest.raises(FailedPrecondition, match="not opened here"):
            again(chain(1))
    snapshots.abandon_layer(chain(1))
    assert snapshots.has_layer(chain(1))


def test_a_second_thread_waits_for_the_first(snapshots: Snapshotter) -> None:
    assert snapshots.open_layer(chain(1), "") is not None
    assert snapshots.open_layer(chain(2), "") is not None
    results: dict[int, str | None] = {}

    def ask(number: int) -> None:
        results[number] = snapshots.open_layer(chain(number), "")

    threads = [threading.Thread(target=ask, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    assert results == {}
    snapshots.commit_layer(chain(1))
    snapshots.abandon_layer(chain(2))
    for thread in threads:
        thread.join(60)
    assert results[1] is None
    assert results[2] is not None, "what one gave up the other takes over"
    snapshots.commit_layer(chain(2))
    assert sorted(snapshots.layers()) == [chain(1), chain(2)]


def test_of_two_processes_the_first_to_commit_wins(snapshots: Snapshotter, make: Make) -> None:
    other = make()
    ours, theirs = snapshots.open_layer(chain(1), ""), other.open_layer(chain(1), "")
    assert ours is not None
    assert theirs is not None
    assert ours != theirs
    (Path(ours) / "who").write_text("ours")
    (Path(theirs) / "who").write_text("theirs")
    other.commit_layer(chain(1))
    snapshots.commit_layer(chain(1))
    assert (Path(snapshots.layer_directories(chain(1))[0]) / "who").read_text() == "theirs"
    assert snapshots.cleanup() == 0


def test_cleanup_leaves_alone_what_is_being_filled(snapshots: Snapshotter, make: Make) -> None:
    directory = snapshots.open_layer(chain(1), "")
    assert directory is not None
    assert make().cleanup() == 0
    (Path(directory) / "f").write_text("x")
    snapshots.commit_layer(chain(1))
    assert snapshots.has_layer(chain(1))


def test_usage_is_what_du_says(snapshots: Snapshotter) -> None:
    def fill(d: Path) -> None:
        (d / "a" / "b").mkdir(parents=True)
        (d / "a" / "big").write_bytes(os.urandom(300_000))
        for number in range(5):
            os.link(d / "a" / "big", d / "a" / "b" / f"link-{number}")
        with (d / "sparse").open("wb") as file:
            file.truncate(1 << 30)
        os.symlink("/", d / "link")

    top = add_layer(snapshots, 1, fill)
    snapshots.prepare_container("one", top)
    with mounted(snapshots.container_source("one")) as root:
        (root / "more").write_bytes(bytes(50_000))
        os.sync()
    for usage, directory in (
        (snapshots.layer_usage(top), snapshots.layer_directories(top)[0]),
        (snapshots.layer_usage(top), snapshots.layer_directories(top)[0]),
        (snapshots.usage("one"), snapshots.container_directory("one")),
    ):
        said = [
            int(subprocess.check_output(["du", "-s", *options, directory]).split()[0])
            for options in (["-B1"], ["--inodes"])
        ]
        assert list(usage) == said


def test_a_tree_deeper_than_any_path_is_counted_and_removed(snapshots: Snapshotter) -> None:
    levels = 5000
    snapshots.prepare_container("one", "")
    fd = os.open(snapshots.container_directory("one"), os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d" * 50, dir_fd=fd)
        inner = os.open("d" * 50, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    assert snapshots.usage("one").inodes == levels + 2
    snapshots.remove_container("one")
    assert snapshots.cleanup() == 0
    assert list(snapshots.containers()) == []


def test_removal_follows_no_link_out(snapshots: Snapshotter, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    snapshots.prepare_container("one", "")
    with mounted(snapshots.container_source("one")) as root:
        os.symlink(outside, root / "link")
        (root / "d").mkdir(mode=0)
        os.symlink(outside / "precious", root / "d" / "file")
        os.link(root / "d" / "file", root / "again")
    snapshots.remove_container("one")
    assert (outside / "precious").read_text() == "x"


def test_two_processes_remove_the_same(snapshots: Snapshotter, make: Make) -> None:
    for round_number in range(3):
        name = f"c{round_number}"
        snapshots.prepare_container(name, "")
        base = Path(snapshots.container_directory(name))
        for number in range(200):
            (base / f"d{number}" / "e" / "f").mkdir(parents=True)
        threads = [threading.Thread(target=make().remove_container, args=(name,)) for _ in range(4)]
        threads += [threading.Thread(target=make().cleanup) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert list(snapshots.containers()) == []
        assert snapshots.cleanup() == 0


def test_killed_between_any_two_lines_a_life_converges(make: Make) -> None:
    before = make()
    add_layer(before, 1, write("base", "base"))

    def life() -> None:
        snapshots = make()
        directory = snapshots.open_layer(chain(2), chain(1))
        if directory is not None:
            (Path(directory) / "first").write_text("x")
            (Path(directory) / "last").write_text("x")
            snapshots.commit_layer(chain(2))
        snapshots.prepare_container("one", chain(2))
        snapshots.view("seen", chain(2))
        snapshots.layer_usage(chain(2))
        snapshots.usage("one")
        snapshots.remove_view("seen")
        snapshots.remove_container("one")
        snapshots.remove_layer(chain(2))
        snapshots.cleanup()

    count = 0
    # The copy is slow and shares most lines with the overlay.
    step = 1 if before.kind == "overlay" else 5
    for count in killed_at_every_line(life, within="oakum/snapshots", step=step):
        after = make()
        after.cleanup()
        directory = after.open_layer(chain(2), chain(1))
        if directory is None:
            found = os.listdir(after.layer_directories(chain(2))[0])
            assert sorted(found) == ["first", "last"], "a committed layer is whole"
        else:
            after.abandon_layer(chain(2))
        for name in after.containers():
            with mounted(after.container_source(name)) as root:
                assert sorted(os.listdir(root)) == ["base", "first", "last"]
            after.remove_container(name)
        for key in after.views():
            after.remove_view(key)
        after.remove_layer(chain(2))
        folder = os.path.dirname(os.path.dirname(os.path.dirname(after.layer_directories(chain(1))[0])))
        left = {name: os.listdir(f"{folder}/{name}") for name in ("staging", "trash", "containers", "views")}
        assert left == {"staging": [], "trash": [], "containers": [], "views": []}, f"after line {count}"
        assert list(after.layers()) == [chain(1)]
    assert count > 150
