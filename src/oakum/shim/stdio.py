# SPDX-License-Identifier: Apache-2.0
"""A container's standard streams: its pipes or terminal on one side, log and attached clients on the other.

Owns the shim's ends of the pipes or the terminal's master. Output is read only as fast as the log takes it and,
with backpressure, as the slowest such client reads; input waits in a bounded buffer.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from oakum.errors import FailedPrecondition
from oakum.linux import terminal
from oakum.linux.fd import Fd, pipe
from oakum.linux.sockets import Socket
from oakum.model.exits import ExitRecord
from oakum.shim import frames
from oakum.shim.attach import AttachHub
from oakum.shim.handover import Parcel, State
from oakum.shim.logs import Log
from oakum.shim.loop import Loop, Timer

_READ_BYTES: Final = 64 << 10
STDIN_BUFFER_BYTES: Final = 64 << 10
# After the end of the container, output that is still in the pipes is read; a process that holds a pipe open
# beyond the container's end (it left the cgroup) may not hold up the record longer than this.
DRAIN_S: Final = 1.0
_NAMES: Final = {frames.STDOUT: "stdout", frames.STDERR: "stderr"}


class ChildEnds(NamedTuple):
    """The container's ends of its pipes; closed by whoever cloned it."""

    stdin: Fd
    stdout: Fd
    stderr: Fd

    def numbers(self) -> tuple[int, int, int]:
        """Borrowed, in the order of descriptors 0, 1, 2."""
        return self.stdin.fileno(), self.stdout.fileno(), self.stderr.fileno()

    def close(self) -> None:
        """Close all three."""
        for fd in self:
            fd.close()


class Stdio:
    """The streams of one container, from before it starts to the last byte."""

    def __init__(
        self, loop: Loop, container_id: str, log: Log, *, tty: bool, stdin: bool, stdin_once: bool
    ) -> None:
        self._loop = loop
        self._container_id = container_id
        self._log = log
        self._tty = tty
        self._wants_stdin = stdin
        self._stdin_once = stdin_once
        self._hub = AttachHub(loop, self, container_id)
        self._outputs: dict[int, Fd] = {}  # stream kind -> our end
        self._input: Fd | None = None
        self._input_queue = bytearray()
        self._input_ending = False
        self._draining: Callable[[], None] | None = None
        self._drain_timer: Timer | None = None

    # -- setting up ---------------------------------------------------------------------------------------------

    def open_pipes(self) -> ChildEnds | None:
        """Make the pipes; None with a terminal, which comes later with `take_console`."""
        if self._tty:
            return None
        if self._wants_stdin:
            child_stdin, our_stdin = pipe()
            os.set_blocking(our_stdin.fileno(), False)
            self._input = our_stdin
        else:
            child_stdin = Fd(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        our_stdout, child_stdout = pipe()
        our_stderr, child_stderr = pipe()
        self._add_output(frames.STDOUT, our_stdout)
        self._add_output(frames.STDERR, our_stderr)
        return ChildEnds(child_stdin, child_stdout, child_stderr)

    def take_console(self, console: Fd) -> None:
        """The terminal's master side, which carries both directions."""
        if self._wants_stdin:
            self._input = console.duplicate()
        self._add_output(frames.STDOUT, console)

    def _add_output(self, kind: int, fd: Fd) -> None:
        os.set_blocking(fd.fileno(), False)
        self._outputs[kind] = fd
        self._watch_outputs()

    # -- from one supervisor to the next ------------------------------------------------------------------------

    @property
    def at_rest(self) -> bool:
        """Whether there is nothing to do but to log output."""
        return not self._hub.count and not self._input_queue and self._draining is None

    def pack(self, parcel: Parcel) -> State:
        """Put everything into the parcel. Only when `at_rest`."""
        outputs = [(_NAMES[kind], parcel.add(fd.fileno())) for kind, fd in self._outputs.items()]
        parcel.add_log(self._container_id, self._log.pack(parcel.add), outputs)
        return {
            "input": parcel.add(self._input.fileno()) if self._input is not None else -1,
            "outputs": [(kind, place) for kind, (_, place) in zip(self._outputs, outputs, strict=True)],
        }

    def unpack(self, state: State, fds: Sequence[int]) -> None:
        """Go on where another supervisor was; takes the descriptors over."""
        if state["input"] >= 0:
            self._input = Fd(fds[int(state["input"])])
        for kind, place in state["outputs"]:
            self._add_output(kind, Fd(fds[int(place)]))

    # -- operations ---------------------------------------------------------------------------------------------

    @property
    def log_error(self) -> str:
        """Why the log could last not be written; "" when it could."""
        return self._log.error

    @property
    def log_lost_bytes(self) -> int:
        """How many bytes of log are missing."""
        return self._log.lost_bytes

    def attach(
        self,
        sock: Socket,
        received: bytes,
        *,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        backpressure: bool,
    ) -> None:
        """Add a client."""
        self._hub.add(
            sock,
            received,
            stdin=stdin and self._wants_stdin,
            stdout=stdout,
            stderr=stderr and not self._tty,
            backpressure=backpressure,
        )

    def set_size(self, rows: int, columns: int) -> None:
        """Tell the terminal its size. Raises FailedPrecondition when there is none."""
        if not self._tty:
            raise FailedPrecondition("resize", f"container {self._container_id}", "it has no terminal")
        self.resize(rows, columns)

    def close_input(self) -> None:
        """Close standard input once what was sent is through; on a terminal there is nothing to close."""
        if not self._tty:
            self._input_ending = True
            self._push_input()

    def reopen_log(self) -> None:
        """Open the log's path anew. Raises SystemFailure."""
        self._log.reopen()

    def drain(self, done: Callable[[], None]) -> None:
        """Read what is left after the container's end, then call `done`; no longer than `DRAIN_S`."""
        self._draining = done
        self._drain_timer = self._loop.later(DRAIN_S, self._drained)
        self._watch_outputs()
        for kind in list(self._outputs):
            self._read_all(kind)
        if not self._outputs:
            self._drained()

    def finish(self, record: ExitRecord) -> None:
        """The record is written: close the log, and tell every client."""
        self._hub.finish(record)
        self._close_descriptors()

    def close(self) -> None:
        """Let go of everything at once."""
        self._hub.close()
        self._close_descriptors()
        self._log.finish()

    # -- output -------------------------------------------------------------------------------------------------

    def flow_changed(self) -> None:
        """A client with backpressure is behind, or is no longer."""
        self._watch_outputs()

    def _watch_outputs(self) -> None:
        paused = self._hub.congested and self._draining is None
        for kind, fd in self._outputs.items():
            self._loop.watch(fd.fileno(), read=None if paused else self._reader(kind))

    def _reader(self, kind: int) -> Callable[[], object]:
        return lambda: self._read_once(kind)

    def _read_once(self, kind: int) -> bool:
        """One read; whether there may be more at once."""
        fd = self._outputs.get(kind)
        if fd is None:
            return False
        try:
            data = os.read(fd.fileno(), _READ_BYTES)
        except BlockingIOError:
            return False
        except OSError as failure:
            if failure.errno != errno.EIO:  # EIO: nobody has the terminal open any more
                raise
            data = b""
        if not data:
            self._end_output(kind)
            return False
        self._log.write(_NAMES[kind], data)
        self._hub.send(kind, data)
        return True

    def _read_all(self, kind: int) -> None:
        # A pipe holds at most 1 MiB, so this ends also while somebody still writes.
        for _ in range((1 << 20) // 4096):
            if not self._read_once(kind):
                return

    def _end_output(self, kind: int) -> None:
        fd = self._outputs.pop(kind)
        self._loop.watch(fd.fileno())
        fd.close()
        if self._draining is not None and not self._outputs:
            self._drained()

    def _drained(self) -> None:
        done, self._draining = self._draining, None
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        self._close_descriptors()
        self._log.finish()
        if done is not None:
            done()

    # -- input --------------------------------------------------------------------------------------------------

    def stdin_data(self, data: bytes) -> None:
        """Input from a client; dropped when the container has closed its end."""
        if self._input is not None and not self._input_ending:
            self._input_queue += data
            self._push_input()

    def stdin_full(self) -> bool:
        """Whether clients should wait."""
        return len(self._input_queue) >= STDIN_BUFFER_BYTES

    def stdin_closed_by_client(self) -> None:
        """With stdin_once the first client that leaves ends the input; else others may come."""
        if self._stdin_once:
            self.close_input()

    def resize(self, rows: int, columns: int) -> None:
        """Set the terminal's size, where there is one."""
        console = self._outputs.get(frames.STDOUT)
        if self._tty and console is not None:
            terminal.set_size(console.fileno(), rows, columns)

    def _push_input(self) -> None:
        if self._input is None:
            return
        fd = self._input.fileno()
        was_full = self.stdin_full()
        try:
            while self._input_queue:
                written = os.write(fd, self._input_queue)
                del self._input_queue[:written]
        except BlockingIOError:
            self._loop.watch(fd, write=self._push_input)
        except OSError:  # EPIPE, EIO: nobody reads it any more
            self._close_input_now()
        else:
            self._loop.watch(fd)
            if self._input_ending:
                self._close_input_now()
        if was_full != self.stdin_full():
            self._hub.input_changed()

    def _close_input_now(self) -> None:
        self._input_queue.clear()
        fd, self._input = self._input, None
        if fd is not None:
            self._loop.watch(fd.fileno())
            fd.close()

    def _close_descriptors(self) -> None:
        self._close_input_now()
        for fd in self._outputs.values():
            self._loop.watch(fd.fileno())
            fd.close()
        self._outputs.clear()
