# SPDX-License-Identifier: Apache-2.0
"""What the commands of the runtime import: nothing that they do not need, because every container waits for it.

An import of the interpreter's own is named here before a command may have it; ours are held by their packages.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import oakum
from oakum.cli.oci.start import ROOTS
from tests.kernel.oci_cli_box import OAKUM_OCI, Runtime

# The interpreter's start has these whatever is run, in one version or another.
_START = frozenset(
    [
        "__future__",
        "_abc",
        "_codecs",
        "_collections_abc",
        "_distutils_hack",
        "_frozen_importlib",
        "_frozen_importlib_external",
        "_imp",
        "_io",
        "_signal",
        "_stat",
        "_thread",
        "_warnings",
        "_weakref",
        "abc",
        "codecs",
        "encodings",
        "encodings.aliases",
        "encodings.utf_8",
        "encodings.ascii",
        "genericpath",
        "importlib._bootstrap",
        "importlib._bootstrap_external",
        "io",
        "marshal",
        "os",
        "os.path",
        "posix",
        "posixpath",
        "site",
        "stat",
        "sys",
        "time",
        "winreg",
        "zipimport",
        "builtins",
    ]
)
# What commands need; what those that make processes have from the C library, and not from libraries that take longer to load
# (`fcntl` is asked before that: only where the modules are not kept together).
_ASKING = frozenset(["_collections", "_json", "errno", "fcntl", "gc"])
_STARTING = _ASKING | {"select"}
_MAKING = _ASKING | {"_ctypes"}
_LIGHT_PACKAGES = ("oakum.cli.oci", "oakum.errors", "oakum.linux", "oakum.model", "oakum.oci")
# Modules of ours. One more is a decision: it costs each container what a small file, its code and its functions cost.
_MOST_ASKING, _MOST_MAKING = 32, 70
_ASKED, _MADE, _JOINED = (frozenset(ROOTS[kind]) for kind in ("asking", "making", "joining"))
_OS = "oakum.cli.oci.light_os"  # comes from that file alone
_STAYING = {"oakum.oci.runtime.foreground"}  # `run` alone; its file is that of `create`


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    made = Runtime(tmp_path)
    yield made
    made.close()


def imported(runtime: Runtime, *arguments: str) -> set[str]:
    """The modules that a command line imports, in all processes of ours; it has to succeed."""
    package = Path(oakum.__file__).parent
    words = [sys.executable, "-X", "importtime", "-IS", str(package / "cli/oci/__main__.py")]
    log = runtime.directory / "imports"
    with open(log, "wb") as file:
        done = subprocess.run(
            [*words, "--root", runtime.root, *arguments],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=file,
            timeout=60,
        )
    lines = log.read_text(errors="replace").splitlines()
    assert done.returncode == 0, lines[-3:]
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")} - {
        "imported package"
    }


def check(modules: set[str], allowed: frozenset[str], most: int, kept: frozenset[str]) -> None:
    ours = {name for name in modules if name.partition(".")[0] == "oakum"}
    assert modules - ours - _START <= allowed
    assert {name for name in ours if not name.startswith(_LIGHT_PACKAGES)} <= {"oakum", "oakum.cli"}
    assert len(ours) <= most, sorted(ours)
    assert kept - {_OS} <= ours  # what is loaded without being asked for has to be needed


def test_the_life_of_a_container_imports_what_it_needs(runtime: Runtime) -> None:
    runtime.write("sleep", "60")
    container = runtime.new_id()
    check(
        imported(runtime, "create", "--bundle", runtime.bundle, container),
        _MAKING,
        _MOST_MAKING,
        _MADE - _STAYING,
    )
    check(imported(runtime, "start", container), _STARTING, _MOST_ASKING, _ASKED)
    check(imported(runtime, "state", container), _ASKING, _MOST_ASKING, _ASKED)
    check(imported(runtime, "exec", container, "true"), _MAKING, _MOST_MAKING, _JOINED)
    for command in (["kill", container, "KILL"], ["delete", "--force", container]):
        check(imported(runtime, *command), _ASKING, _MOST_ASKING, _ASKED)


def test_run_imports_what_it_needs(runtime: Runtime) -> None:
    runtime.write("true")
    check(
        imported(runtime, "run", "--bundle", runtime.bundle, runtime.new_id()), _MAKING, _MOST_MAKING, _MADE
    )


def test_a_filter_is_compiled_once(runtime: Runtime) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}],
    }
    runtime.write("true", linux={"seccomp": profile})
    assert "pyseccomp" in imported(runtime, "run", "--bundle", runtime.bundle, runtime.new_id())
    again = imported(runtime, "run", "--bundle", runtime.bundle, runtime.new_id())
    check(again, _MAKING | {"_blake2"}, _MOST_MAKING + 1, _MADE)
    (kept,) = Path(runtime.root, ".seccomp").iterdir()
    kept.write_bytes(kept.read_bytes()[:-8])
    assert "pyseccomp" in imported(runtime, "run", "--bundle", runtime.bundle, runtime.new_id())
    assert kept.stat().st_size > 44


def test_the_script_starts_python_without_site(runtime: Runtime) -> None:
    """And from anywhere: by a relative path, by a link, with odd words."""
    link = runtime.directory / "link"
    link.symlink_to(OAKUM_OCI)
    for program, directory in ((OAKUM_OCI, "/"), (link, "/"), (f"./{OAKUM_OCI.name}", OAKUM_OCI.parent)):
        done = subprocess.run(
            [str(program), "--root", f"{runtime.root} $x'", "list", "-q"],
            check=False, cwd=directory, capture_output=True, env={"PYTHONHOME": "/nowhere"}, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b""), program
    assert b'exec "$here/oakum" oci "$@"' in OAKUM_OCI.read_bytes()
    assert os.access(OAKUM_OCI, os.X_OK)
