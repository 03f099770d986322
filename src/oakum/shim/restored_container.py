# SPDX-License-Identifier: Apache-2.0
"""A container that goes on from a checkpoint: made stopped, started by letting it go on; all else is as with any other."""

from __future__ import annotations

import signal

from oakum.linux.pids import kill_if_there
from oakum.shim.container import Container


class RestoredContainer(Container):
    """As `Container`, for a request that names images."""

    def _execute(self) -> None:
        for pid in self._need_cgroup("start").processes():
            kill_if_there(pid, signal.SIGCONT)
        self._executed()
