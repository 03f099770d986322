# SPDX-License-Identifier: Apache-2.0
"""Debian's containerd with runc on its own directories: what the benchmarks compare with and tests use as oracle.

Owns the process, its configuration, its bridge, and the end of all shims it started.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import Self

from tests.support.daemons import Daemon
from tests.support.patience import eventually
from tests.support.reaper import unmount_below

CNI_PLUGINS = "/usr/lib/cni"


class ContainerdPeer:
    """A running containerd: `with ContainerdPeer(directory, pause_image=...) as peer: grpc on peer.socket`.

    `directory` must be short (unix sockets lie below it), and `state` (default below it). Images of 127.0.0.0/8 registries come over HTTP.
    """

    def __init__(
        self, directory: str, *, pause_image: str, subnet: str = "10.199.0.0/20", state: str = ""
    ) -> None:
        self.directory = directory
        self._state = state or f"{directory}/state"
        self.socket = f"{directory}/c.sock"
        self._pause_image = pause_image
        self._subnet = subnet
        # a link's name has 15 characters at most (IFNAMSIZ)
        self._bridge = f"octd{os.getpid() % 100000}"
        self._daemon: Daemon | None = None

    @property
    def endpoint(self) -> str:
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        assert self._daemon is not None
        return self._daemon.pid

    def __enter__(self) -> Self:
        os.makedirs(f"{self.directory}/cni", exist_ok=True)
        with open(f"{self.directory}/config.toml", "w", encoding="utf-8") as f:
            f.write(self._config())
        with open(f"{self.directory}/cni/10-bridge.conflist", "w", encoding="utf-8") as f:
            json.dump(self._network(), f)
        # restrict_oom_score_adj: the machine may lack CAP_SYS_RESOURCE
        self._daemon = Daemon(
            "containerd",
            ["containerd", "--config", f"{self.directory}/config.toml"],
            f"{self.directory}/log",
            env={"CNI_IFNAME": "", "NOTIFY_SOCKET": ""},
        )
        self._daemon.wait_until(self._answers)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._daemon is not None
        self._daemon.stop()
        for pid in self.shim_pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        eventually(lambda: not self.shim_pids(), "its shims are gone")
        for directory in (self.directory, self._state):
            unmount_below(directory)
        subprocess.run(["ip", "link", "delete", self._bridge], check=False, capture_output=True)

    def ctr(self, *arguments: str, namespace: str = "k8s.io") -> str:
        """The output of one `ctr` command."""
        argv = ["ctr", "--address", self.socket, "--namespace", namespace, *arguments]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    def shim_pids(self) -> list[int]:
        """The shims of this containerd: each names its socket on its command line."""
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    with open(f"/proc/{name}/cmdline", "rb") as f:
                        words = f.read().split(b"\0")
                except OSError:
                    continue
                if words[0].endswith(b"containerd-shim-runc-v2") and self.socket.encode() in words:
                    found.append(int(name))
        return found

    def _answers(self) -> bool:
        if not os.path.exists(self.socket):
            return False
        argv = ["ctr", "--address", self.socket, "--connect-timeout", "1s", "version"]
        return subprocess.run(argv, check=False, capture_output=True).returncode == 0

    def _config(self) -> str:
        d = self.directory
        return f"""version = 2
root = "{d}/root"
state = "{self._state}"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = "{self.socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{d}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{self._pause_image}"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{CNI_PLUGINS}"
conf_dir = "{d}/cni"
"""

    def _network(self) -> dict[str, object]:
        ipam = {
            "type": "host-local",
            "ranges": [[{"subnet": self._subnet}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": f"{self.directory}/ipam",
        }
        bridge = {
            "type": "bridge",
            "bridge": self._bridge,
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": ipam,
        }
        return {"cniVersion": "0.4.0", "name": self._bridge, "plugins": [bridge]}
