# SPDX-License-Identifier: Apache-2.0
"""Running the hooks of a runtime-spec: each gets the container's state on its standard input, and only its own time.

When each kind runs and what its failure means is decided by who calls. Spec: runtime-spec config.md "POSIX-platform Hooks".
"""

from __future__ import annotations

import os
import time

from oakum.errors import SystemFailure
from oakum.linux import control
from oakum.linux.fd import Fd
from oakum.linux.pids import pidfd_open
from oakum.model.light import TYPE_CHECKING, signal
from oakum.oci.spec import Hook

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

# In the order in which a container's life meets them.
KINDS: Final = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_OUTPUT_LIMIT_BYTES: Final = 4096


def run_hooks(kind: str, hooks: Sequence[Hook], state: bytes) -> None:
    """Run the hooks one after the other with `state` (JSON) on their standard input.

    Raises:
        SystemFailure: one could not be executed, failed or took too long; those after it do not run.
    """
    for index, hook in enumerate(hooks):
        _run(f"{kind} hook #{index} {hook.get('path')}", hook, state)


def _run(subject: str, hook: Hook, state: bytes) -> None:
    stdin_read, stdin_write = (Fd(n) for n in os.pipe2(os.O_CLOEXEC))
    output_read, output_write = (Fd(n) for n in os.pipe2(os.O_CLOEXEC))
    path = hook.get("path", "")
    env = dict(entry.split("=", 1) for entry in hook.get("env") or () if "=" in entry)
    with stdin_write, output_read:
        try:
            with stdin_read, output_write:
                pid = os.posix_spawn(
                    path,
                    hook.get("args") or [path],
                    env,
                    file_actions=[
                        (os.POSIX_SPAWN_DUP2, stdin_read.fileno(), 0),
                        (os.POSIX_SPAWN_DUP2, output_write.fileno(), 1),
                        (os.POSIX_SPAWN_DUP2, output_write.fileno(), 2),
                    ],
                    setsigmask=(),
                )
        except OSError as failure:
            raise SystemFailure.from_os_error(failure, "run", subject) from failure
        timeout = hook.get("timeout")
        with pidfd_open(pid) as pidfd:
            output, ended = _converse(stdin_write, output_read, pidfd, state, timeout)
        if not ended:
            os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not ended:
        raise SystemFailure("run", subject, f"not done after {timeout} s")
    if code:
        how = f"exit status {code}" if code > 0 else f"signal {-code}"
        said = output.decode(errors="replace").strip()
        raise SystemFailure("run", subject, f"{how}{', output: ' + said if said else ''}")


def _converse(stdin: Fd, output: Fd, pidfd: Fd, state: bytes, timeout_s: int | None) -> tuple[bytes, bool]:
    """Feed the hook and hear it until it ends; False when its time was over first."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    os.set_blocking(stdin.fileno(), False)
    wanted = {
        pidfd.fileno(): control.READABLE,
        output.fileno(): control.READABLE,
        stdin.fileno(): control.WRITABLE,
    }
    heard, pending, listening = b"", memoryview(state), True
    while True:
        left_ms = None if deadline is None else (deadline - time.monotonic()) * 1000
        if left_ms is not None and left_ms <= 0:
            return heard, False
        ready = control.wait_for(wanted, left_ms)
        if not stdin.closed and stdin.fileno() in ready:
            pending = _feed(stdin, pending)
            if not pending:
                del wanted[stdin.fileno()]
                stdin.close()
        if listening and output.fileno() in ready:
            chunk = os.read(output.fileno(), 65536)
            heard = (heard + chunk)[:_OUTPUT_LIMIT_BYTES]
            if not chunk:
                listening = False
                del wanted[output.fileno()]
        # What it wrote before its end is in the pipe already, and is read above in the same or an earlier round.
        elif pidfd.fileno() in ready:
            return heard, True


def _feed(stdin: Fd, pending: memoryview) -> memoryview:
    try:
        return pending[os.write(stdin.fileno(), pending) :]
    except BlockingIOError:
        return pending
    except BrokenPipeError:
        return memoryview(b"")  # it does not want to know
