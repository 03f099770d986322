# SPDX-License-Identifier: Apache-2.0
"""Debian's dockerd on its own socket, directories, bridge and network namespace.

The namespace keeps its firewall rules and its default-drop of forwarded packets away from the machine's own. Without
one dockerd makes no bridge and no rules: what runs in it has no network but what others give it.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Self

from oakum.docker import pause
from tests.support.daemons import Daemon
from tests.support.leaks import remove_cgroups
from tests.support.reaper import unmount_below

BRIDGE = "odk0"
_DOCKER = "/usr/bin/docker"


class DockerPeer:
    """A running dockerd: `with DockerPeer(directory) as peer: peer.docker("run", ...)`.

    `directory` must be short (unix sockets lie below it), and `state` (default below it). Images come by `load`, for registries on the machine's
    loopback cannot be reached from its network namespace; with `own_network` False they can. `runtimes` are OCI runtimes by name, for `docker run --runtime`.
    """

    def __init__(
        self,
        directory: str,
        *,
        state: str = "",
        runtimes: dict[str, str] | None = None,
        own_network: bool = True,
        live_restore: bool = False,
    ) -> None:
        self.directory = directory
        self._live_restore = live_restore
        self._own_network = own_network
        self._runtimes = runtimes or {}
        self._state = state or f"{directory}/exec"
        self.socket = f"{directory}/docker.sock"
        self.netns = f"oakum-dk-{os.getpid()}"
        """The name of its network namespace, where it has one of its own."""
        self._cgroup = f"/{self.netns}"
        self._daemon: Daemon | None = None

    @property
    def host(self) -> str:
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        assert self._daemon is not None
        return self._daemon.pid

    def __enter__(self) -> Self:
        os.makedirs(self.directory, exist_ok=True)
        d = self.directory
        with open(f"{d}/daemon.json", "w", encoding="ascii") as f:
            # also so that a configuration in /etc/docker is none of ours
            runtimes = {name: {"path": path} for name, path in self._runtimes.items()}
            json.dump({"runtimes": runtimes, "live-restore": self._live_restore}, f)
        try:
            if self._own_network:
                self._make_network()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make_network(self) -> None:
        _run("ip", "netns", "add", self.netns)
        inside = ("ip", "-n", self.netns)
        _run(*inside, "link", "set", "lo", "up")
        _run(*inside, "link", "add", BRIDGE, "type", "bridge")
        _run(*inside, "addr", "add", "10.198.0.1/20", "dev", BRIDGE)
        _run(*inside, "link", "set", BRIDGE, "up")

    def start(self) -> None:
        """Start dockerd (again) and wait until it answers."""
        d = self.directory
        # nsenter and not `ip netns exec`: that would mount a /sys without cgroups
        inside = f"nsenter --net=/run/netns/{self.netns}" if self._own_network else ""
        network = (
            f"--bridge {BRIDGE}"
            if self._own_network
            else "--bridge none --iptables=false --ip-forward=false --ip-masq=false"
        )
        self._daemon = Daemon(
            "dockerd",
            f"{inside} dockerd -H {self.host} --config-file {d}/daemon.json --data-root {d}/data"
            f" --exec-root {self._state} -p {d}/pid {network}"
            f" --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent {self._cgroup}".split(),
            f"{d}/log",
        )
        self._daemon.wait_until(self._answers, timeout_s=60)

    def keep_host_namespace(self) -> None:
        """Have dockerd keep its mount of the host's network namespace, which it makes with the first container there."""
        name, archive = pause.archive(os.uname().machine)
        subprocess.run(self.argv("load"), input=archive, check=True, capture_output=True)
        self.docker("rm", "-f", self.docker("run", "--detach", "--network", "host", name).strip())
        self.docker("rmi", name)

    def stop(self) -> None:
        """End dockerd and with it its containers."""
        assert self._daemon is not None
        self._daemon.stop(grace_s=20)

    def kill(self) -> None:
        """As `kill -9` does."""
        assert self._daemon is not None
        self._daemon.kill()

    def __exit__(self, *_: object) -> None:
        if self._daemon is not None:
            if self._daemon.process.poll() is None:
                for container in self.docker("ps", "-aq").split():
                    self.docker("rm", "-f", container)
            self._daemon.stop(grace_s=20)
        for directory in (self.directory, self._state):
            unmount_below(directory)
        remove_cgroups(self._cgroup)
        if self._own_network:
            subprocess.run(["ip", "netns", "delete", self.netns], check=False, capture_output=True)

    def argv(self, *arguments: str) -> list[str]:
        """The command line of one `docker` command."""
        return [_DOCKER, "-H", self.host, *arguments]

    def docker(self, *arguments: str) -> str:
        """The output of one `docker` command."""
        return subprocess.run(self.argv(*arguments), check=True, capture_output=True, text=True).stdout

    def _answers(self) -> bool:
        return subprocess.run(self.argv("info"), check=False, capture_output=True).returncode == 0


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)
