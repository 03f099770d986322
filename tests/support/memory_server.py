# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.support.memory_server STATE SOCKET [CONFIG]`: the whole server over a backend in memory.

Everything of `oakum serve` but the engine: it writes a line for every zygote that it is asked to hold.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from oakum.api.cri.edge import current_rpc
from oakum.backend.status import ExecResult
from oakum.daemon.config import Config, load_config, with_options
from oakum.daemon.listen import SocketOwner, only_server
from oakum.daemon.logs import set_up_logs
from oakum.daemon.notify import ServiceManager
from oakum.daemon.server import Daemon
from tests.support.cri import MemoryBackend


class _Marking(MemoryBackend):
    """Leaves a mark for every exec that has begun, for who must not be too early."""

    def __init__(self, marks: Path) -> None:
        super().__init__()
        self._marks = marks

    def exec_sync(self, *arguments: Any, **options: Any) -> ExecResult:
        with self._marks.open("a") as file:
            file.write("exec\n")
        return super().exec_sync(*arguments, **options)


def main(state: str, path: str, config_path: str = "") -> int:
    def load() -> Config:
        config = load_config(config_path) if config_path else Config(drain_s=5)
        return with_options(config, state=state, cri_listen=[f"unix://{path}"])

    config = load()
    set_up_logs(config.log, current_rpc.get)
    held: list[socket.socket] = []  # the other ends: closed when the process ends

    def hold_zygote() -> socket.socket:
        ours, theirs = socket.socketpair()
        held.append(theirs)
        with (Path(state) / "zygotes").open("a") as file:
            file.write("held\n")
        return ours

    manager = ServiceManager.from_environment(os.environ)
    owner = SocketOwner(str(os.getuid()), str(os.getgid()), config.cri.socket_mode)
    backend = _Marking(Path(state) / "execs")
    with only_server(state):
        daemon = Daemon(
            config,
            backend,
            backend,
            manager=manager,
            reload=load if config_path else None,
            hold_zygote=hold_zygote,
        )
        running = asyncio.run(daemon.run(owner, time.monotonic()))
    print(f"left {running}", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
