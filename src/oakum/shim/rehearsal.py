# SPDX-License-Identifier: Apache-2.0
"""The lives of a supervisor and a keeper, played once in the zygote for the shims that are forked after it.

A fork shares the zygote's memory until one of them writes to it, and an interpreter writes wherever it goes: inline
caches that find their types, method caches, dicts and key tables made at first use, free lists. What the play has
written is shared by every shim; without it an idle shim has 350 KB more of its own.

In the play containers run, log and are stopped. It is real but for those containers, which are forks without
namespaces, cgroup or root file system. Its files are in STATE/rehearsal, which is gone afterwards.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any, Final

from oakum.linux import process, sockets
from oakum.linux.fd import Fd, pipe
from oakum.oci.rehearsal import rehearse as play_container
from oakum.oci.wire import Channel
from oakum.shim import keeper, supervisor, wire
from oakum.shim.handover import END, HANDED_OVER, OVER, Left, Parcel
from oakum.shim.logs import Log
from oakum.shim.loop import report
from oakum.shim.pod import Makers, Place, Pod, Stdio
from oakum.shim.requests import ContainerRequest, ExecRequest, SandboxRequest
from oakum.shim.typical import config
from oakum.shim.worker import Result

_NAME: Final = "rehearsal"
_LOG_NAME: Final = "container.log"
_ROUNDS: Final = 3
_LIMIT_S: Final = 5.0
# Lives of supervisors in the keeper's part, and how long the keeper has to itself between two lines of output.
_LIVES: Final = 6
_PAUSE_S: Final = 0.0005
# How often a function has to run until its code is made for what it meets: 3.11 counts to eight.
_CONTAINERS: Final = 8
_TEXT: Final = b"Is this a log which I see before me?\n"


def rehearse(state: str) -> None:
    """Play; a failure is reported to standard error and makes shims larger, nothing else.

    The caller's name, title, SIGCHLD handler and session are those of a shim afterwards.
    """
    directory = os.path.join(state, _NAME)
    own_stderr = os.dup(2)
    process.handle_signal(signal.SIGCHLD, process.SIGNAL_DEFAULT)
    process.handle_signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, _LIMIT_S, 0.1)
    try:
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:  # a zygote was killed in its rehearsal
            pass
        _play_supervisor(directory)
        _play_keeper(directory)
        _clear(directory)
        # last: a host that refuses a part of it is none the worse for the rest
        for _ in range(_CONTAINERS):
            play_container(config())
    except Exception:  # noqa: BLE001 - edge: shims work without
        os.dup2(own_stderr, 2)
        report()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        process.handle_signal(signal.SIGALRM, process.SIGNAL_DEFAULT)
        os.dup2(own_stderr, 2)
        os.close(own_stderr)
        signal.set_wakeup_fd(-1)
        process.set_child_subreaper(False)


def _too_long(_number: int, _frame: object) -> None:
    # A callback of the loop may swallow it: then it comes again.
    raise TimeoutError(f"the rehearsal took over {_LIMIT_S:g} s")


def _play_supervisor(directory: str) -> None:
    """We are the supervisor, and the keeper's part is reduced to a signal handler."""
    link, our_link = sockets.packet_pair()
    client = _start_client(directory)
    makers = Makers(process.fork, _make_at_once, _make_container, _make_exec)
    process.handle_signal(signal.SIGCHLD, lambda _number, _frame: _reap(link))
    try:
        supervisor.begin(client, our_link, SandboxRequest(_NAME, directory), makers, _LIMIT_S)
    finally:
        process.handle_signal(signal.SIGCHLD, process.SIGNAL_DEFAULT)
        link.close()
        our_link.close()


def _reap(link: sockets.Socket) -> None:
    try:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            link.send(END.pack(*ended))
    except ChildProcessError:
        pass


def _play_keeper(directory: str) -> None:
    """We are the keeper; its supervisors have nothing but a log and a pipe, and leave at once."""
    output, log_end = pipe()
    calls, call_end = pipe()
    log = Log(os.path.join(directory, _LOG_NAME))
    os.set_blocking(output.fileno(), False)

    def life(link: sockets.Socket, left: Left | None) -> int:
        number = left.state()["number"] + 1 if left is not None else 0
        if left is None:
            link.send(_NAME.encode())
        if number > 1:
            os.read(calls.fileno(), 1)
        if number == _LIVES:
            return OVER
        parcel = Parcel(calls.fileno())
        parcel.expect(1)
        parcel.add_log(_NAME, log.pack(parcel.add), [("stdout", parcel.add(output.fileno()))])
        parcel.send(link, {"number": number})
        return HANDED_OVER

    keeper.settle(keeper.title_of(_NAME))
    if process.fork() == 0:
        process.run_and_exit(lambda: _perform(lambda: _speak_and_call(log_end.fileno(), call_end.fileno())))
    with output, log_end, calls, call_end:
        keeper.Keeper(life, []).run()
    log.finish()


def _speak_and_call(output_fd: int, call_fd: int) -> int:
    process.set_parent_death_signal(signal.SIGKILL)
    for _ in range(_LIVES - 1):
        for _ in range(_ROUNDS):
            os.write(output_fd, _TEXT)
            time.sleep(_PAUSE_S)
        os.write(call_fd, b"c")
    return 0


def _start_client(directory: str) -> sockets.Socket:
    ours, theirs = sockets.stream_pair()
    if process.fork() == 0:
        ours.close()
        process.run_and_exit(lambda: _perform(lambda: _client(theirs, directory)))
    theirs.close()
    return ours


def _clear(directory: str) -> None:
    for name in os.listdir(directory):
        os.unlink(os.path.join(directory, name))
    os.rmdir(directory)


# -- the other parts, each in a process of its own ------------------------------------------------------------------


def _perform(part: Callable[[], int]) -> int:
    try:
        return part()
    except Exception:  # noqa: BLE001 - edge of a process: it may not go on as the zygote, and must say what happened
        report()
        return 1


def _client(first: sockets.Socket, directory: str) -> int:
    """The engine: asks for everything that most shims are asked for."""
    process.set_parent_death_signal(signal.SIGKILL)  # a zygote that is killed must not leave us waiting
    sockets.receive_with_fds(first)
    first.close()
    for number in range(_ROUNDS):
        container_id = f"container-{number}"
        container = ContainerRequest(container_id, directory, log_path=os.path.join(directory, _LOG_NAME))
        # One connection for each request, as the engine does it.
        _ask(directory, {"op": "ping"})
        if number % 2:
            _ask(directory, {"op": "create_and_start", "container": container.to_dict()})
        else:
            _ask(directory, {"op": "create", "container": container.to_dict()})
            _ask(directory, {"op": "start", "container_id": container_id})
        _ask(directory, {"op": "containers"})
        request = ExecRequest({})
        ran = _ask(directory, {"op": "exec", "container_id": container_id, "exec": request.to_dict()})
        _ask(directory, {"op": "wait_exec", "exec_id": ran["exec_id"], "timeout_s": _LIMIT_S})
        _ask(
            directory,
            {"op": "stop", "container_id": container_id, "signal": int(signal.SIGTERM), "grace_s": _LIMIT_S},
        )
        _ask(directory, {"op": "wait", "container_id": container_id, "timeout_s": _LIMIT_S})
        _ask(directory, {"op": "delete", "container_id": container_id})
    _ask(directory, {"op": "shutdown"})
    return 0


def _ask(directory: str, request: dict[str, Any]) -> Any:
    sock = sockets.connect(directory, "shim.sock", timeout_s=_LIMIT_S)
    try:
        return wire.call(sock, request, timeout_s=_LIMIT_S, peer=_NAME).value
    finally:
        sock.close()


def _make_at_once(
    _request: ContainerRequest, _pod: Pod, stdio: Stdio | None, _target_pid: int
) -> Result | None:
    return _make_process(stdio, waits=True, parentage=0)


def _make_container(_request: ContainerRequest, _pod: Pod, stdio: Stdio | None, _target_pid: int) -> Result:
    return _make_process(stdio, waits=True)


def _make_exec(_request: ExecRequest, _place: Place, stdio: Stdio | None) -> Result:
    return _make_process(stdio, waits=False)


def _make_process(stdio: Stdio | None, *, waits: bool, parentage: int = process.CLONE_PARENT) -> Result:
    ours, theirs = Channel.pair()
    pid = process.clone(parentage, pidfd=True)
    if pid == 0:
        ours.close()
        process.run_and_exit(lambda: _perform(lambda: _act(theirs, stdio, waits=waits)))
    assert pid.pidfd is not None
    return Result({"pid": int(pid), "cgroup_path": "", "warnings": []}, [pid.pidfd.steal(), ours.steal()])


def _act(channel: Channel, stdio: Stdio | None, *, waits: bool) -> int:
    """A container's first process, or an exec."""
    process.set_parent_death_signal(signal.SIGKILL)
    process.handle_signal(signal.SIGTERM, process.SIGNAL_DEFAULT)
    channel.send("created", {"uid": 0, "gid": 0, "groups": [], "warnings": []})
    if waits:
        channel.receive()
    for fd in stdio[1:] if stdio else ():
        os.write(fd, _TEXT)
    with Fd(channel.steal()):
        pass  # the end of file that an execve would give
    if waits:
        time.sleep(_LIMIT_S)
    return 0
