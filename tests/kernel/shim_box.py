# SPDX-License-Identifier: Apache-2.0
"""A sandbox with its shim, and containers of busybox in it, for the tests of this folder."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

from oakum.model.rootfs import RootfsSource
from oakum.oci.cgroups import Cgroup, detect_layout
from oakum.shim.client import (
    ContainerRequest,
    Created,
    Exec,
    ExecRequest,
    SandboxRequest,
    ShimClient,
    cleanup_directory,
    spawn_shim,
)
from tests.support.patience import eventually

NAMESPACES = ("network", "ipc", "uts")
MOUNTS = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
    {
        "destination": "/dev/pts",
        "type": "devpts",
        "source": "devpts",
        "options": ["newinstance", "ptmxmode=0666", "mode=0620"],
    },
]


class Box:
    """One sandbox below the given ROOT and STATE."""

    def __init__(self, root: str, state: str, rootfs: str, **wanted: Any) -> None:
        self.sandbox_id = os.urandom(32).hex()
        self.root, self.state, self.rootfs = root, state, rootfs
        self.directory = f"{state}/pods/{self.sandbox_id}"
        os.makedirs(self.directory)
        self.cgroup = f"/oakum-test-{self.sandbox_id[:12]}"
        self.wanted = {"create_namespaces": NAMESPACES, "cgroup_path": self.cgroup, **wanted}
        self.shim = spawn_shim(state, SandboxRequest(self.sandbox_id, self.directory, **self.wanted))
        self.pid = self.shim.pid()

    def request(
        self,
        name: str,
        args: list[str],
        *,
        namespaces: tuple[str, ...] | list[dict[str, str]] = ("mount", "pid", "ipc", "uts", "network"),
        resources: dict[str, Any] | None = None,
        process: dict[str, Any] | None = None,
        **wanted: Any,
    ) -> ContainerRequest:
        """A container's bundle, and the request for it."""
        bundle = self.bundle(name)
        os.makedirs(bundle, exist_ok=True)
        listed = [n if isinstance(n, dict) else {"type": n} for n in namespaces]
        capabilities = ["CAP_KILL", "CAP_CHOWN", "CAP_SETUID", "CAP_SETGID"]
        spec = {
            "ociVersion": "1.2.0",
            "process": {
                "terminal": wanted.get("tty", False),
                "user": {"uid": 0, "gid": 0},
                "args": args,
                "env": ["PATH=/bin", "FROM=container"],
                "cwd": "/",
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
                **(process or {}),
            },
            "mounts": MOUNTS,
            "linux": {
                "namespaces": listed,
                "cgroupsPath": f"{self.cgroup}/{name}",
                "resources": resources or {},
            },
        }
        with open(f"{bundle}/config.json", "w", encoding="utf-8") as file:
            json.dump(spec, file)
        return ContainerRequest(name, bundle, RootfsSource((), self.rootfs, ""), **wanted)

    def bundle(self, name: str) -> str:
        """The bundle's directory."""
        return f"{self.root}/containers/{name}"

    def run(self, name: str, *args: str, **wanted: Any) -> Created:
        """Create and start a container."""
        return self.shim.create_and_start(self.request(name, list(args), **wanted))

    def sh(self, name: str, script: str, **wanted: Any) -> Created:
        """The same for a shell's script."""
        return self.run(name, "sh", "-c", script, **wanted)

    def execute(self, name: str, script: str, **wanted: Any) -> tuple[int, str]:
        """Exit code and output of a script run in a container."""
        read_fd, write_fd = os.pipe()
        try:
            running = self.shim.exec(
                name, ExecRequest({"args": ["sh", "-c", script]}, **wanted), (0, write_fd, write_fd)
            )
        except BaseException:
            os.close(read_fd)
            raise
        finally:
            os.close(write_fd)
        with open(read_fd, "rb") as out:
            text = out.read().decode()
        return running.wait(60).exit_code, text

    def start_exec(self, name: str, *args: str) -> Exec:
        """A running exec without any output."""
        return self.shim.exec(name, ExecRequest({"args": list(args)}))

    def connect(self) -> ShimClient:
        """A further connection."""
        return ShimClient.connect(self.directory)

    def supervisor_pid(self) -> int:
        """The process that serves, while something happens; else 0."""
        with open(f"/proc/{self.pid}/task/{self.pid}/children", encoding="ascii") as file:
            children = file.read().split()
        host = os.readlink("/proc/self/ns/mnt")  # a container that was not started has our title too
        return next((int(pid) for pid in children if _is_shim(pid) and _mounts(pid) == host), 0)

    def rest(self) -> None:
        """Let go of the shim until its keeper is alone."""
        self.shim.close()
        eventually(lambda: not self.supervisor_pid(), "the supervisor has left")

    def wake(self) -> None:
        """Connect again."""
        self.shim = self.connect()

    def kill_shim(self) -> None:
        """SIGKILL, and wait until nothing of it serves any more."""
        supervisor = self.supervisor_pid()
        pidfd = os.pidfd_open(self.pid)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
        eventually(lambda: not alive(self.pid), "the shim is dead")
        eventually(lambda: not supervisor or not alive(supervisor), "its supervisor is dead")

    def close(self) -> None:
        """Shut down, by force if need be."""
        if alive(self.pid):
            with self.connect() as client:
                client.shutdown()
            eventually(lambda: not alive(self.pid), "the shim has ended")
        self.shim.close()
        cleanup_directory(self.directory, self.cgroup)

    def left(self) -> list[str]:
        """What is left of the sandbox on the host: directory entries, mounts, cgroups."""
        found = [f"{self.directory}/{name}" for name in os.listdir(self.directory)]
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            found += [line for line in file if self.sandbox_id in line]
        if Cgroup(detect_layout(), self.cgroup).exists():
            found.append(self.cgroup)
        return found


def _is_shim(pid: str) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().startswith(b"oakum shim")
    except (FileNotFoundError, ProcessLookupError):
        return False


def _mounts(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def read_log(path: str) -> str:
    """The text of a CRI log."""
    with open(path, encoding="utf-8") as file:
        lines = [line.rstrip("\n").split(" ", 3) for line in file]
    return "".join(text + ("\n" if tag == "F" else "") for _, _, tag, text in lines)
