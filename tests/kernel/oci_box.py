# SPDX-License-Identifier: Apache-2.0
"""A bundle with a busybox root for tests of the OCI runtime: run a command in it, see what it printed, leave nothing."""

from __future__ import annotations

import copy
import itertools
import os
import select
import time
from typing import Any, NamedTuple

from oakum.oci.cgroups import Cgroup, detect_layout
from oakum.oci.child import ContainerProcess, Status
from oakum.oci.container import CreateRequest, create
from oakum.oci.execution import ExecRequest, spawn_exec
from oakum.oci.spec import parse
from tests.support.patience import patient
from tests.support.rootfs import make_rootfs

_numbers = itertools.count()
NAMESPACES = ("mount", "pid", "ipc", "uts", "network", "cgroup")
CAPABILITIES = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_NET_BIND_SERVICE",
]
_MOUNTS: list[dict[str, Any]] = [
    {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
    {
        "destination": "/dev",
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "mode=755", "size=65536k"],
    },
    {
        "destination": "/dev/pts",
        "type": "devpts",
        "source": "devpts",
        "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    },
    {
        "destination": "/dev/shm",
        "type": "tmpfs",
        "source": "shm",
        "options": ["nosuid", "noexec", "nodev", "mode=1777"],
    },
    {
        "destination": "/dev/mqueue",
        "type": "mqueue",
        "source": "mqueue",
        "options": ["nosuid", "noexec", "nodev"],
    },
    {
        "destination": "/sys",
        "type": "sysfs",
        "source": "sysfs",
        "options": ["nosuid", "noexec", "nodev", "ro"],
    },
]


class Output(NamedTuple):
    """What a command printed and how it ended."""

    text: str
    code: int
    status: Status


class Box:
    """One bundle. `spec` is where a test starts from; each run has a cgroup of its own, removed after it."""

    def __init__(self, bundle: str) -> None:
        self.bundle = bundle
        self.rootfs = make_rootfs(os.path.join(bundle, "rootfs"))
        self.layout = detect_layout()

    def spec(
        self,
        *args: str,
        linux: dict[str, Any] | None = None,
        mounts: list[dict[str, Any]] | None = None,
        **process: Any,
    ) -> dict[str, Any]:
        """A spec that runs `args` as root with few capabilities; `process` and `linux` members are laid over it."""
        return {
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "hostname": "box",
            "process": {
                "args": list(args),
                "cwd": "/",
                "env": ["PATH=/bin:/usr/bin"],
                "capabilities": {kind: list(CAPABILITIES) for kind in ("bounding", "effective", "permitted")},
                "noNewPrivileges": True,
                **process,
            },
            "mounts": [*copy.deepcopy(_MOUNTS), *(mounts or [])],
            "linux": {
                "namespaces": [{"type": kind} for kind in NAMESPACES],
                "cgroupsPath": f"/oakum-test-{os.getpid()}/{next(_numbers)}",
                **(linux or {}),
            },
        }

    def create(self, spec: dict[str, Any], stdout_fd: int = 1, **request: Any) -> ContainerProcess:
        """A created container; the caller ends it."""
        null = os.open("/dev/null", os.O_RDONLY)
        try:
            return create(
                CreateRequest("test", parse(spec), self.bundle, stdio=(null, stdout_fd, stdout_fd), **request)
            )
        finally:
            os.close(null)

    def remove(self, spec: dict[str, Any]) -> None:
        """Remove the spec's cgroup and the tests' own above it."""
        path = spec["linux"].get("cgroupsPath")
        if path:
            Cgroup(self.layout, path).remove()
            for tree in self.layout.hierarchies:
                try:
                    os.rmdir(f"{tree.mountpoint}/oakum-test-{os.getpid()}")
                except OSError:
                    pass  # another container of the test is still in it, or it is gone

    def run(self, spec: dict[str, Any], **request: Any) -> Output:
        """Run to the end. Raises what the runtime raises; then nothing is left either."""
        read_fd, write_fd = os.pipe()
        child: ContainerProcess | None = None
        try:
            child = self.create(spec, write_fd, **request)
            os.close(write_fd)
            write_fd = -1
            status = child.wait_status()
            if status.console_fd is not None:
                os.close(read_fd)
                read_fd = status.console_fd.steal()
            child.start()
            assert child.wait_status().stage == "running"
            text = read_all(read_fd)
            _, code = os.waitpid(child.pid, 0)
            child.close()
            child = None
            return Output(text, os.waitstatus_to_exitcode(code), status)
        finally:
            for fd in (read_fd, write_fd):
                if fd >= 0:
                    os.close(fd)
            if child is not None:
                child.abort()
            self.remove(spec)

    def output(self, *args: str, **changes: Any) -> str:
        """What a command that has to succeed prints."""
        result = self.run(self.spec(*args, **changes))
        assert result.code == 0, result
        return result.text

    def shell(self, script: str, **changes: Any) -> str:
        """`output` of a shell script."""
        return self.output("sh", "-c", script, **changes)


class Running:
    """A container that sleeps, to exec into; a context manager."""

    def __init__(self, box: Box, spec: dict[str, Any], **request: Any) -> None:
        self.box, self.made = box, spec
        self.process = box.create(spec, **request)
        try:
            self.status = self.process.wait_status()
            self.process.start()
            self.process.wait_status()
        except BaseException:
            self.__exit__()
            raise
        self.pid = self.process.pid
        self.cgroup = Cgroup(box.layout, spec["linux"]["cgroupsPath"])

    def exec(self, *args: str, process: dict[str, Any] | None = None, **request: Any) -> Output:
        """Run a command in it to the end."""
        read_fd, write_fd = os.pipe()
        null = os.open("/dev/null", os.O_RDONLY)
        body = {**self.made["process"], "args": list(args), **(process or {})}
        request.setdefault("cgroup_path", self.made["linux"]["cgroupsPath"])
        child: ContainerProcess | None = None
        try:
            child = spawn_exec(ExecRequest(self.pid, body, (null, write_fd, write_fd), **request))  # pyright: ignore[reportArgumentType]
            os.close(write_fd)
            write_fd = -1
            status = child.wait_status()
            if status.console_fd is not None:
                os.close(read_fd)
                read_fd = status.console_fd.steal()
            assert child.wait_status().stage == "running"
            text = read_all(read_fd)
            _, code = os.waitpid(child.pid, 0)
            child.close()
            child = None
            return Output(text, os.waitstatus_to_exitcode(code), status)
        finally:
            for fd in (read_fd, write_fd, null):
                if fd >= 0:
                    os.close(fd)
            if child is not None:
                child.abort()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.abort()
        self.box.remove(self.made)


def read_all(fd: int, timeout_s: float = 20.0) -> str:
    """Everything until end-of-file (or EIO, as terminals have it)."""
    limit_s = patient(timeout_s)
    deadline = time.monotonic() + limit_s
    data = b""
    while time.monotonic() < deadline:
        ready, _, _ = select.select([fd], [], [], 1.0)
        if not ready:
            continue
        try:
            chunk = os.read(fd, 65536)
        except OSError:
            return data.decode()
        if not chunk:
            return data.decode()
        data += chunk
    raise AssertionError(f"no end after {limit_s:g} s: {data!r}")
