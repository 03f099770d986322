# SPDX-License-Identifier: Apache-2.0
"""The first run of a plugin that makes something once for the whole host goes alone. Runs nothing itself.

portmap and firewall look for their chains and then make them, and fail where another run of theirs has made one in
between: they take iptables' code 1 for that, and iptables on nf_tables ends with 4. Pods that start at once after a
reboot met this. Once one run has succeeded the chains are there, and nobody waits any more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Final

from oakum.network.cni.chain import Answer

MAKERS: Final = frozenset(["portmap", "firewall"])
# A plugin that hangs may not hold up the pods of all the others: after this they take their chance beside it.
_WAIT_S: Final = 5.0


class Firsts:
    """What has succeeded once, and who is trying. Of one process, which on a node is the server. Thread-safe."""

    def __init__(self, wait_s: float = _WAIT_S) -> None:
        self._wait_s = wait_s
        self._guard = threading.Lock()
        self._turns: dict[Hashable, threading.Lock] = {}
        self._done: set[Hashable] = set()

    def run(self, what: Hashable, program: Callable[[], Answer]) -> Answer:
        """Run it: alone, until one has ended well; after that nobody waits. Raises as `program`."""
        if what in self._done:
            return program()
        with self._guard:
            lock = self._turns.setdefault(what, threading.Lock())
        alone = lock.acquire(timeout=self._wait_s)
        try:
            if alone and what in self._done:
                lock.release()
                alone = False
            answer = program()
            if answer.status == 0:
                self._done.add(what)
            return answer
        finally:
            if alone:
                lock.release()
