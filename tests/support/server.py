# SPDX-License-Identifier: Apache-2.0
"""`oakum serve` as a child process on directories of its own, as a node runs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import grpc

from oakum.api.cri._proto import cri_pb2 as pb
from tests.support.cri import CriClient
from tests.support.daemons import Daemon
from tests.support.installations import end_installation
from tests.support.zygotes import zygote_pid

OAKUM = str(Path(sys.executable).with_name("oakum"))


class OakumServer:
    """A running server: `with OakumServer(root, state, directory) as server: server.client()`.

    The socket lies in `directory`, which must be short. `argv` goes behind `serve`, `prefix` before the whole command.
    """

    def __init__(
        self,
        root: str,
        state: str,
        directory: str,
        *argv: str,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.root = root
        self.state = state
        self.socket = f"{directory}/cri.sock"
        self.log_path = f"{directory}/serve.log"
        self._argv = argv
        self._env = env or {}
        self._prefix = prefix
        self.daemon: Daemon | None = None

    @property
    def endpoint(self) -> str:
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        assert self.daemon is not None
        return self.daemon.pid

    def start(self) -> None:
        """Start it and wait until Version answers."""
        argv = [
            *self._prefix,
            OAKUM,
            *self.command_line()[1:],
            "serve",
            "--cri-listen",
            self.endpoint,
            *self._argv,
        ]
        self.daemon = Daemon("oakum serve", argv, self.log_path, env={"NOTIFY_SOCKET": "", **self._env})
        self.daemon.wait_until(self._answers)

    def __enter__(self) -> Self:
        os.makedirs(os.path.dirname(self.socket), exist_ok=True)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.daemon is not None
        self.daemon.stop()
        end_installation(self.root, self.state)

    def command_line(self, *arguments: str) -> list[str]:
        """The command line of `oakum` on the same directories."""
        return [OAKUM, "--root", self.root, "--state", self.state, *arguments]

    def client(self) -> CriClient:
        return CriClient(self.socket)

    def shim_pids(self) -> list[int]:
        """The shims of its pods, as their pid files say."""
        return [int(path.read_text()) for path in Path(self.state).glob("pods/*/shim.pid")]

    def zygote_pids(self) -> list[int]:
        pid = zygote_pid(self.state)
        return [] if pid is None else [pid]

    def _answers(self) -> bool:
        if not os.path.exists(self.socket):
            return False
        with self.client() as client:
            try:
                return bool(client.runtime.Version(pb.VersionRequest(), timeout=5).runtime_name)
            except grpc.RpcError:
                return False
