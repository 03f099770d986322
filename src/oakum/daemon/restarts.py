# SPDX-License-Identifier: Apache-2.0
"""Containers of the command line that a server starts when it starts itself: `--restart always` and `unless-stopped`.

After a reboot, mostly. Beside the serving, one after the other; whoever cannot be started is said and left as it is.
"""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import TYPE_CHECKING

from oakum.errors import OakumError

if TYPE_CHECKING:
    from oakum.engine.engine import Engine

log = logging.getLogger(__name__)


class RestartsOwed:
    """Does it once, for the time of a block at most: the one under way is finished before the block ends."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            for namespace, container_id in self._engine.owed_restarts():
                if self._ending.is_set():
                    return
                self._start(namespace, container_id)
        except OakumError as error:
            log.warning("restart policies not followed", extra={"fields": {"error": str(error)}})

    def _start(self, namespace: str, container_id: str) -> None:
        containers = self._engine.namespace(namespace)
        try:
            containers.rearm_container(container_id)
            containers.start_container(container_id)
        except OakumError as error:
            log.warning("not started again", extra={"fields": {"error": str(error)}})
        else:
            log.info("started again", extra={"fields": {"container": container_id}})
