# SPDX-License-Identifier: Apache-2.0
"""A container that a foreign runtime makes, starts and forgets; all between is as with the built-in one.

Owns when the runtime is called; what the calls are is `foreign`, in workers.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from oakum.errors import OakumError
from oakum.shim import foreign
from oakum.shim.container import Container
from oakum.shim.worker import Body, Worker


class ForeignContainer(Container):
    """As `Container`, for a request that names a runtime."""

    _starting = False
    # The wait status of a first process that ended before its runtime said that it had started it.
    _early_end: int | None = None

    def _execute(self) -> None:
        self._starting = True
        self._work(lambda: foreign.start(self._request, self._pod), self._start_told)

    def _start_told(self, error: OakumError | None) -> None:
        self._starting = False
        if error is None:
            self._executed()
        else:
            self._init_failed(error)
        if self._early_end is not None:
            self._ended(self._early_end)

    def _ended(self, wait_status: int) -> None:
        if self._starting:
            self._early_end = wait_status
        else:
            super()._ended(wait_status)

    def delete(self, deleted: Callable[[], None]) -> None:
        """As `Container.delete`; a runtime that hangs holds up nobody."""
        super().delete(deleted)
        if self._worker is not None and (self._starting or self._cancelled is not None):
            self._worker.kill()

    def _cgroup_removed(self) -> None:
        """Last of all the runtime forgets it. What it could not make is cleared away here, too."""
        self._work(lambda: foreign.delete(self._request, self._pod), self._deleted)

    def _deleted(self, error: OakumError | None) -> None:
        if error is not None:
            os.write(2, f"{error}\n".encode())  # the sandbox's own removal takes what is left
        super()._cgroup_removed()

    def _work(self, body: Body, told: Callable[[OakumError | None], None]) -> None:
        """Have a worker do it, and be told once how that went."""
        try:
            self._worker = Worker(
                self._loop, self._pod, body, keep=(), done=lambda _: told(None), failed=told
            )
        except OakumError as error:
            told(error)
