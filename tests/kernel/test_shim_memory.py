# SPDX-License-Identifier: Apache-2.0
"""What zygote and shims weigh: the modules they import, and the memory that is each shim's own."""

import os
from collections.abc import Iterator

import pytest

from oakum.linux import sockets
from oakum.shim import wire
from tests.conftest import Directories
from tests.kernel.shim_box import Box
from tests.support.patience import eventually
from tests.support.zygotes import zygote_pid

pytestmark = pytest.mark.root

# Top-level modules beyond our own. Each costs every shim: 20-200 KB, so a new one needs a reason.
ALLOWED = {
    "__future__", "__main__", "_abc", "_codecs", "_collections", "_collections_abc", "_ctypes", "_frozen_importlib",
    "_frozen_importlib_external", "_functools", "_heapq", "_imp", "_io", "_json", "_operator", "_signal", "_socket",
    "_sre", "_stat", "_struct", "_thread", "_typing", "_warnings", "_weakref", "_weakrefset", "abc", "array", "binascii",
    "builtins", "codecs", "collections", "contextlib", "copyreg", "ctypes", "encodings", "enum", "errno", "fcntl",
    "functools", "gc", "genericpath", "heapq", "io", "itertools", "json", "keyword", "linecache", "marshal", "math",
    "operator", "os", "platform", "posix", "posixpath", "re", "reprlib", "resource", "select", "signal",
    "stat", "struct", "sys", "textwrap", "time", "token", "tokenize", "traceback", "types",
    "typing", "warnings", "zipimport",
}  # fmt: skip

# Measured with Python 3.11 on x86-64, and a tenth more: 1.26 MB for a shim at rest, 1.38 MB with a container that logs.
# Most of it is pages of the zygote's heap in which a reference count changed.
IDLE_KB = 1400
RUNNING_KB = 1520


@pytest.fixture
def box(directories: Directories, rootfs: str) -> Iterator[Box]:
    made = Box(directories.root, directories.state, rootfs)
    yield made
    made.close()


def private_dirty_kb(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Private_Dirty:"))


def test_zygote_and_shim_import_only_what_is_allowed(box: Box, tmp_path) -> None:
    with sockets.connect(box.state, "zygote.sock", timeout_s=60) as sock:
        zygote = wire.call(sock, {"op": "modules"}, timeout_s=60, peer="zygote").value
    for modules in (zygote, box.shim.call({"op": "modules"}).value):
        beyond = {name.partition(".")[0] for name in modules} - ALLOWED - {"oakum"}
        assert not beyond
        ours = {name.split(".")[1] for name in modules if name.startswith("oakum.")}
        assert ours <= {"errors", "model", "linux", "oci", "shim"}
    box.sh("c1", "echo hello", log_path=str(tmp_path / "log"))
    box.shim.wait("c1", 60)
    assert box.shim.call({"op": "modules"}).value == zygote  # nothing is imported late


def told(state: str) -> dict[str, int]:
    with sockets.connect(state, "zygote.sock", timeout_s=60) as sock:
        return wire.call(sock, {"op": "ping"}, timeout_s=60, peer="zygote").value


def is_rehearsed(state: str) -> bool:
    return bool(told(state)["rehearsed"])


def test_the_rehearsal_leaves_nothing(box: Box) -> None:
    eventually(lambda: is_rehearsed(box.state), "the zygote has rehearsed", timeout_s=20)
    assert not os.path.exists(f"{box.state}/rehearsal")
    with open(f"{box.state}/zygote.log", encoding="utf-8") as log:
        assert log.read() == ""  # every part was played to its end
    pid = zygote_pid(box.state)

    def children() -> list[str]:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return file.read().split()

    eventually(lambda: children() == [str(box.pid), str(told(box.state)["spare"])], "only shims are left")
    assert len(os.listdir(f"/proc/{pid}/fd")) < 10


def test_the_memory_that_is_a_shims_own(box: Box, tmp_path) -> None:
    eventually(lambda: is_rehearsed(box.state), "the zygote has rehearsed", timeout_s=20)
    others = [Box(box.root, box.state, box.rootfs) for _ in range(3)]
    try:
        for other in others:
            other.rest()
        assert private_dirty_kb(others[0].pid) < IDLE_KB
        others[0].wake()
        others[0].sh("c1", "while :; do echo tick; sleep 0.1; done", log_path=str(tmp_path / "log"))
        others[0].rest()
        before = os.path.getsize(tmp_path / "log")
        eventually(lambda: os.path.getsize(tmp_path / "log") > before, "the keeper logs")
        assert private_dirty_kb(others[0].pid) < RUNNING_KB
        before_kb = private_dirty_kb(others[0].pid)
        others[0].wake()
        for _ in range(20):
            others[0].execute("c1", "true")
        others[0].rest()
        assert private_dirty_kb(others[0].pid) < before_kb + 200  # it does not grow with use
        assert len(os.listdir(f"/proc/{others[0].pid}/fd")) < 25
    finally:
        for other in others:
            other.close()
