# SPDX-License-Identifier: Apache-2.0
"""A shim forked before anybody asks for it: a keeper and its first supervisor, which waits for its sandbox.

    zygote ──fork, when nobody waits──► keeper ──fork──► supervisor, blocked on the link
       └──── request and client ────────────────────────────┘

So neither of the two forks, nor the first steps of a fresh process, are waited for by who wants a sandbox. It knows
the zygote by the link only: when that ends without a word, the spare ends. Owns no file and no name.
"""

from __future__ import annotations

import marshal
from typing import Any, Final

from oakum.linux import process, sockets
from oakum.shim import keeper, supervisor
from oakum.shim.handover import OVER, Left
from oakum.shim.makers import MAKERS
from oakum.shim.requests import SandboxRequest

TITLE: Final = "oakum zygote: spare"


class Spare:
    """The zygote's end of one."""

    def __init__(self, pid: int, link: sockets.Socket) -> None:
        self.pid = pid
        self._link = link

    def give(self, client: sockets.Socket, request: dict[str, Any]) -> bool:
        """Have it make a sandbox and answer `client`; False when it is not there any more."""
        try:
            sockets.send_frame(self._link, marshal.dumps(request), [client.fileno()])
        except OSError:
            return False
        finally:
            self._link.close()
        return True

    def forget(self) -> None:
        """Close the descriptor only: for whoever was forked meanwhile, and for a zygote that wants it no more."""
        self._link.close()


def run(link: sockets.Socket) -> int:
    """Be one, in the fork: wait for a sandbox, then be the shim of it. `link` leads to the zygote."""
    link_fd = link.detach()

    def life(keepers: sockets.Socket, left: Left | None) -> int:
        if left is None:
            return _begin(sockets.adopt(link_fd), keepers)
        return supervisor.resume(left, keepers, MAKERS, keeper.QUIET_S)

    keeper.settle(TITLE)
    return keeper.Keeper(life, [link_fd], _take_name).run()


def _begin(link: sockets.Socket, keepers: sockets.Socket) -> int:
    told = sockets.receive_frame(link)
    link.close()
    if told is None:
        return OVER  # the zygote has ended
    payload, fds = told
    request = SandboxRequest.from_dict(marshal.loads(payload))  # noqa: S302 - the process that we were forked from wrote it
    return supervisor.begin(sockets.adopt(fds[0]), keepers, request, MAKERS, keeper.QUIET_S)


def _take_name(sandbox_id: str) -> None:
    process.set_title(keeper.title_of(sandbox_id))
