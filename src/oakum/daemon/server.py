# SPDX-License-Identifier: Apache-2.0
"""The composition root of `oakum serve`: the only place that wires front doors to backends.

    lock the state directory ─► recover what was left half done ─► bind ─► serve, READY ─┐
    exit ◄─ close ◄─ drain calls in flight ◄─ STOPPING ◄──────────── SIGTERM or SIGINT ◄─┘

Containers never notice: their shims are their parents, and the state on disk is the truth.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from msgspec import structs

from oakum import __version__
from oakum.daemon.config import Config
from oakum.daemon.listen import SocketOwner, bind, check_socket_path, only_server
from oakum.daemon.logs import set_level, set_up_logs
from oakum.daemon.notify import ServiceManager
from oakum.daemon.restarts import RestartsOwed
from oakum.errors import OakumError
from oakum.network.settings import from_environment
from oakum.shim.starter import hold_zygote

if TYPE_CHECKING:
    import socket

    import grpc.aio

    from oakum.api.cri.calls import Calls
    from oakum.api.cri.rpc.streams import Streams
    from oakum.backend.protocols import ImageBackend, RuntimeBackend
    from oakum.engine.engine import Engine

log = logging.getLogger(__name__)

_ZYGOTE_RETRY_S = 5.0
_GC_THRESHOLD = (700, 10, 10)  # Python's own


def serve(config: Config, reload: Callable[[], Config] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; `reload` gives the configuration anew on SIGHUP.

    Raises:
        OakumError: it cannot begin: another server is there, a socket cannot be bound, the state is damaged.
    """
    manager = ServiceManager.from_environment(os.environ)
    owner = SocketOwner(config.cri.socket_user, config.cri.socket_group, config.cri.socket_mode)
    for path in config.cri_sockets():
        check_socket_path(path)
    with only_server(config.state):
        began = time.monotonic()
        # gRPC and the engine are imported late: a wrong configuration is told at once, and no option pays for them
        from oakum.api.cri.edge import current_rpc
        from oakum.daemon.compose import opened
        from oakum.engine.engine import Engine
        from oakum.streaming.server import StreamingConfig, StreamingServer

        set_up_logs(config.log, current_rpc.get)
        network = config.network.settings() if config.network is not None else None
        with Engine(
            config.root,
            config.state,
            network=network,
            cgroup_driver=config.cgroup_driver,
            runtimes=config.runtimes,
        ) as engine:
            # beside: programs are asked, and one that hangs must keep nobody waiting
            threading.Thread(target=_tell_of_handlers, args=(engine,), daemon=True).start()
            for line in engine.recover_fully():
                log.info("recovered", extra={"fields": {"what": line}})
            settings = network or from_environment(os.environ)
            with (
                RestartsOwed(engine),
                opened(config, engine, settings) as backend,
                StreamingServer(backend, StreamingConfig(**structs.asdict(config.streaming))) as streams,
            ):
                daemon = Daemon(
                    config,
                    backend,
                    backend,
                    streams=streams,
                    manager=manager,
                    reload=reload,
                    hold_zygote=partial(hold_zygote, config.state),
                )
                running = asyncio.run(daemon.run(owner, began))
    log.info("ended", extra={"fields": {"calls_left": running}})
    if running:
        # Threads that wait (for an exec without a limit, say) would hold the process: they have nothing to lose.
        sys.stderr.flush()
        os._exit(0)


def _tell_of_handlers(engine: Engine) -> None:
    for line in engine.handler_problems():
        log.warning("runtime handler left out", extra={"fields": {"what": line}})


class Daemon:
    """One run of the server."""

    def __init__(
        self,
        config: Config,
        runtime: RuntimeBackend,
        images: ImageBackend,
        *,
        streams: Streams | None = None,
        manager: ServiceManager,
        reload: Callable[[], Config] | None,
        hold_zygote: Callable[[], socket.socket],
    ) -> None:
        self._config = config
        self._runtime = runtime
        self._images = images
        self._streams = streams
        self._manager = manager
        self._reload = reload
        self._hold_zygote = hold_zygote
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self, owner: SocketOwner, began: float) -> int:
        """Serve until told to stop; how many calls still ran in the end."""
        # as above: this brings gRPC
        from oakum.api.cri.calls import Calls
        from oakum.api.cri.server import cri_server

        calls = Calls()
        server = cri_server(self._runtime, self._images, calls, self._streams)
        sockets = self._config.cri_sockets()
        for path in sockets:
            bind(path, owner, server.add_insecure_port)
        self._listen_to_signals()
        await server.start()
        # what is there now stays: the collector need not look at it again, and its pages are not dirtied
        gc.collect()
        gc.freeze()
        # the command line collects late, which is right for a call of milliseconds; a server must not pile up
        gc.set_threshold(*_GC_THRESHOLD)
        self._manager.ready(f"CRI on {', '.join(sockets)}")
        ready_ms = round((time.monotonic() - began) * 1e3)
        facts = {
            "version": __version__,
            "cri": ",".join(sockets),
            "root": self._config.root,
            "ready_ms": ready_ms,
        }
        log.info("serving", extra={"fields": facts})
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._keep_zygote()), group.create_task(self._show_life(calls))]
            await self._stop.wait()
            for task in tasks:
                task.cancel()
        self._manager.stopping()
        await self._drain(server, calls)
        return calls.running

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_reload)

    def _on_stop(self, number: int) -> None:
        log.info("stopping", extra={"fields": {"signal": signal.Signals(number).name}})
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def _on_reload(self) -> None:
        if self._reload is None:
            log.info("nothing to reload: there is no configuration file")
            return
        try:
            config = self._reload()
        except OakumError as error:
            log.warning("configuration stays as it was", extra={"fields": {"error": str(error)}})
            return
        set_level(config.log.level)
        log.info("reloaded", extra={"fields": {"log_level": config.log.level}})

    async def _drain(self, server: grpc.aio.Server, calls: Calls) -> None:
        """Give the calls in flight their time, unless a second signal says to hurry."""
        deadline = time.monotonic() + self._config.drain_s
        calls.end_streams()

        async def finish() -> None:
            await server.stop(self._config.drain_s)
            # calls whose client is gone are not gRPC's any more, but still ours
            await asyncio.to_thread(calls.wait_idle, max(0.0, deadline - time.monotonic()))

        hurry = asyncio.ensure_future(self._hurry.wait())
        finished = asyncio.ensure_future(finish())
        await asyncio.wait((hurry, finished), return_when=asyncio.FIRST_COMPLETED)
        if self._hurry.is_set():
            await server.stop(0)
        calls.close()
        await finished
        hurry.cancel()

    async def _keep_zygote(self) -> None:
        """Keep the zygote warm, and have a new one when it is gone: the next pod then starts at once."""
        while True:
            try:
                connection = await asyncio.to_thread(self._hold_zygote)
            except OakumError as error:
                log.warning("no zygote", extra={"fields": {"error": str(error)}})
            else:
                connection.settimeout(0)
                try:
                    await asyncio.get_running_loop().sock_recv(connection, 1)
                except OSError as error:
                    log.warning("lost the zygote", extra={"fields": {"error": str(error)}})
                finally:
                    connection.close()
            await asyncio.sleep(_ZYGOTE_RETRY_S)

    async def _show_life(self, calls: Calls) -> None:
        """Tell the watchdog that the loop turns and that a quick call gets its thread."""
        if not self._manager.watchdog_s:
            return
        while True:
            await calls.quick(self._manager.alive)
            await asyncio.sleep(self._manager.watchdog_s / 2)
