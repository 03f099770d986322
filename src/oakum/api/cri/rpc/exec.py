# SPDX-License-Identifier: Apache-2.0
"""ExecSync: a command in a running container, its output in one answer.

The answer stays below 16 MiB, the largest message that the kubelet and crictl accept: a longer one would
reach them as an error and no output at all. What does not fit is cut, and the end of stderr says how much.
"""

# ruff: noqa: N802 - the methods are named as the RPCs are

from __future__ import annotations

import asyncio
import threading
from typing import cast

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.convert.checks import LONGEST_S, present, refusal, within
from oakum.api.cri.rpc.base import Context, RuntimeRpcs

ROOM_BYTES = 16 * 1024 * 1024 - 64 * 1024
"""Bytes of output in one answer; the rest of the 16 MiB is for framing and the note."""


class ExecRpcs(RuntimeRpcs):
    """Commands in containers; the streaming ones are not here."""

    async def ExecSync(self, request: pb.ExecSyncRequest, context: Context) -> pb.ExecSyncResponse:
        """Run a command, killed at `timeout` seconds or the caller's deadline. Spec: CRI v1 ExecSync."""
        container_id = present("container_id", request.container_id)
        if not request.cmd:
            raise refusal("cmd", "missing")
        if not request.cmd[0]:
            raise refusal("cmd[0]", "empty")
        timeout_s = float(min(within("timeout", request.timeout, 0), LONGEST_S))
        # nobody reads the answer after the caller's own deadline: the command must not go on until then
        left_s = cast("float | None", context.time_remaining())  # None without a deadline
        if left_s is not None and (timeout_s == 0 or left_s < timeout_s):
            timeout_s = max(left_s, 0.001)
        gone = threading.Event()
        try:
            result = await self.calls.patient(
                self.runtime.exec_sync,
                container_id,
                tuple(request.cmd),
                timeout_s=timeout_s,
                cancelled=gone.is_set,
            )
        except asyncio.CancelledError:
            gone.set()  # nobody waits for it: it is killed as at its deadline
            raise
        stdout, stderr = cut(result.stdout, result.stderr)
        return pb.ExecSyncResponse(stdout=stdout, stderr=stderr, exit_code=result.exit_code)


def cut(stdout: bytes, stderr: bytes, room_bytes: int = ROOM_BYTES) -> tuple[bytes, bytes]:
    """Both streams cut to fit into `room_bytes` together, stderr being kept first up to half of it."""
    if len(stdout) + len(stderr) <= room_bytes:
        return stdout, stderr
    kept_stderr = stderr[: max(room_bytes // 2, room_bytes - len(stdout))]
    kept_stdout = stdout[: room_bytes - len(kept_stderr)]
    note = (
        f"\noakum: output cut: at least {len(stdout) - len(kept_stdout)} bytes of stdout and "
        f"{len(stderr) - len(kept_stderr)} bytes of stderr left out\n"
    )
    return kept_stdout, kept_stderr + note.encode()
