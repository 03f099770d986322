# SPDX-License-Identifier: Apache-2.0
"""The shim's main module: makes the sandbox, serves its socket, and ends with the sandbox or when nothing happens.

It lives in a fork of the `keeper` for as long as there is something to do: `live`. One thread, one loop; nothing in
it waits for a client or a container. Owns the table of operations and the containers by id; what a container does is
`container`, what its processes say is `stdio`.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from oakum.errors import AlreadyExists, InvalidArgument, NotFound, OakumError, SystemFailure
from oakum.linux import pids, sockets
from oakum.oci.cgroups import Cgroup, detect_layout
from oakum.oci.spec import parse_resources
from oakum.shim import cleanup, nameserver, relay, sandbox, wire
from oakum.shim.companions import NONE, Companion
from oakum.shim.connection import Connection
from oakum.shim.container import Container
from oakum.shim.foreign_container import ForeignContainer
from oakum.shim.handover import END, HANDED_OVER, OVER, Left, Parcel, State
from oakum.shim.loop import Loop, report
from oakum.shim.pod import Makers, Pod
from oakum.shim.requests import ContainerRequest, ExecRequest, RestartRequest, SandboxRequest
from oakum.shim.restarts import Restarts
from oakum.shim.restored_container import RestoredContainer
from oakum.shim.waiting import answer_when_over

_INIT_NOTE: Final = "pod-init"
# A name server's UDP socket, TCP socket, hosts file, and the network namespaces of pod and host.
NAME_SERVER_FDS: Final = 5


def begin(
    client: sockets.Socket, link: sockets.Socket, request: SandboxRequest, makers: Makers, quiet_s: float
) -> int:
    """Make the sandbox, answer the one who asked for it, and serve; as `resume`. `link` leads to the keeper, our parent."""
    try:
        lock_fd, listener, init_pid = _make(request)
    except OakumError as error:
        _refuse(client, error)
        return 1
    client.settimeout(None)
    try:
        sockets.send_frame(client, wire.encode_answer({"pid": os.getppid()}))
    except OSError:  # who asked has gone, and nobody else knows that this sandbox was made
        _unmake(request, init_pid)
        return OVER
    link.send(request.sandbox_id.encode())
    supervisor = Supervisor(request, lock_fd, listener, link, makers=makers, quiet_s=quiet_s)
    supervisor.begin(client, init_pid)
    return supervisor.serve()


def _state(
    request: SandboxRequest, parcel: Parcel, lock_fd: int, init_pid: int, containers: list[State]
) -> State:
    return {
        "request": request.to_dict(),
        "lock": parcel.add(lock_fd),
        "init_pid": init_pid,
        "containers": containers,
        "relay": list(NONE),
        "names": list(NONE),
    }


def resume(left: Left, link: sockets.Socket, makers: Makers, quiet_s: float) -> int:
    """Go on where another was, until nothing has happened for `quiet_s` or the sandbox is no more."""
    state = left.state()
    left.close_what_is_read()
    supervisor = Supervisor(
        SandboxRequest.from_dict(state["request"]),
        left.fds[int(state["lock"])],
        sockets.adopt(left.listener_fd),
        link,
        makers=makers,
        quiet_s=quiet_s,
    )
    supervisor.unpack(state, left)
    return supervisor.serve()


def _make(request: SandboxRequest) -> tuple[int, sockets.Socket, int]:
    """Make the sandbox; the lock, the listening socket, the pod's own process (0: none).

    Standard error becomes the pod's log. Whatever was made is removed if a part fails. Raises OakumError.
    """
    lock_fd = _claim(request.directory)
    init_pid = 0
    try:
        if request.cgroup_path:
            cgroup = Cgroup(detect_layout(), request.cgroup_path)
            cgroup.create()
            if request.pod_resources:
                for warning in cgroup.apply(parse_resources(request.pod_resources)):
                    os.write(2, f"pod cgroup: {warning}\n".encode())
        init_pid = sandbox.make(request)
        if init_pid:
            cleanup.note_process(request.directory, _INIT_NOTE, init_pid, "")
        listener = _listen(request.directory)
    except BaseException as failure:
        _unmake(request, init_pid)
        if isinstance(failure, OSError):
            raise SystemFailure.from_os_error(failure, "set up", str(failure.filename or "")) from failure
        raise
    return lock_fd, listener, init_pid


def _unmake(request: SandboxRequest, init_pid: int) -> None:
    if init_pid:
        pids.kill_if_there(init_pid)
    for error in _remove(request):
        os.write(2, f"{error}\n".encode())


def _remove(request: SandboxRequest) -> list[OakumError]:
    """Remove what the sandbox is made of; every step is tried, the errors are returned."""
    errors: list[OakumError | None] = []
    if request.cgroup_path:
        errors.append(cleanup.attempt(cleanup.remove_cgroup, request.cgroup_path))
    errors.append(cleanup.attempt(cleanup.remove_entries, request.directory))
    return [error for error in errors if error is not None]


def _claim(directory: str) -> int:
    """Make the keeper, our parent, the only one of the directory while the descriptor is open; open its log."""
    try:
        lock_fd = os.open(
            os.path.join(directory, cleanup.PID_NAME), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        if not cleanup.take_lock(lock_fd):
            os.close(lock_fd)
            raise AlreadyExists("create sandbox", directory, "a shim lives there already")
        os.ftruncate(lock_fd, 0)
        os.write(lock_fd, f"{os.getppid()}\n".encode())
        log = os.path.join(directory, cleanup.LOG_NAME)
        log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(log_fd, 2)
        os.close(log_fd)
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "create sandbox", directory) from failure
    return lock_fd


def _listen(directory: str) -> sockets.Socket:
    try:
        directory_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                os.unlink(cleanup.SOCKET_NAME, dir_fd=directory_fd)
            except FileNotFoundError:
                pass
            return sockets.listen(directory_fd, cleanup.SOCKET_NAME)
        finally:
            os.close(directory_fd)
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "listen", directory) from failure


def _refuse(sock: sockets.Socket, error: OakumError) -> None:
    loop = Loop()
    connection = Connection(loop, sock, _no_operation, _nothing)
    connection.fail(error)
    connection.close()


def _no_operation(_connection: Connection, _request: dict[str, Any], _fds: list[int]) -> None:
    raise InvalidArgument("ask shim", "", "the sandbox could not be made")


def _nothing(_connection: Connection) -> None:
    """Nothing is kept of a refused connection."""


class Supervisor:
    """One sandbox."""

    def __init__(
        self,
        request: SandboxRequest,
        lock_fd: int,
        listener: sockets.Socket,
        link: sockets.Socket,
        *,
        makers: Makers,
        quiet_s: float,
    ) -> None:
        self._shim_pid = os.getppid()
        self._lock_fd = lock_fd
        self._link = link
        self._quiet_s = quiet_s
        self._happened = 0
        self._happened_before = 0
        self._loop = Loop()
        self._request = request
        self._connections: set[Connection] = set()
        self._containers: dict[str, Container] = {}
        self._listener = listener
        self._pod = Pod(request.directory, request.create_namespaces, makers)
        self._relay = Companion("relay", relay.run, self._pod, request.sandbox_id, self._shim_pid)
        self._names = Companion("names", _serve_names, self._pod, request.sandbox_id, self._shim_pid)
        self._restarts = Restarts(self._loop, self._pod)
        self._init_pid = 0
        self._stopping: list[Connection] = []
        self._ended = False
        self._operations: dict[str, Callable[[Connection, dict[str, Any], list[int]], None]] = {
            "ping": self._ping,
            "modules": self._modules,
            "create": self._create,
            "start": self._start,
            "create_and_start": self._create_and_start,
            "wait": self._wait,
            "kill": self._kill,
            "stop": self._stop,
            "pause": self._pause,
            "resume": self._resume,
            "update": self._update,
            "change_restart": self._change_restart,
            "exec": self._exec,
            "wait_exec": self._wait_exec,
            "kill_exec": self._kill_exec,
            "attach": self._attach,
            "resize": self._resize,
            "close_stdin": self._close_stdin,
            "reopen_log": self._reopen_log,
            "delete": self._delete,
            "containers": self._list,
            "relay": self._have_relay,
            "serve_names": self._have_names,
            "shutdown": self._shutdown,
        }

    # -- beginning and end --------------------------------------------------------------------------------------

    def serve(self) -> int:
        """Serve until shut down, or until nothing happens; which of it."""
        self._loop.watch(self._link.fileno(), read=self._read_ends)
        self._listener.settimeout(0)
        self._loop.watch(self._listener.fileno(), read=self._accept)
        self._loop.later(self._quiet_s, self._look)
        self._loop.run()
        for open_connection in list(self._connections):
            open_connection.close()
        self._loop.abandon()
        return OVER if self._ended else HANDED_OVER

    # -- from one supervisor to the next ------------------------------------------------------------------------

    def _look(self) -> None:
        """Leave, if nothing has happened since the last look and nothing is under way."""
        if self._happened == self._happened_before and self._at_rest():
            try:
                self._hand_over()
            except OSError:  # no descriptors left, or no memory: stay for good
                report()
            else:
                self._loop.stop()
            return
        self._happened_before = self._happened
        self._loop.later(self._quiet_s, self._look)

    def _at_rest(self) -> bool:
        if self._connections or self._stopping or self._loop.has_timers or not self._restarts.at_rest:
            return False
        return all(container.at_rest for container in self._containers.values())

    def _hand_over(self) -> None:
        parcel = Parcel(self._listener.fileno())
        init_pid = 0
        if self._pod.expects(self._init_pid):
            init_pid = self._init_pid
            parcel.expect(init_pid)
        containers = [container.pack(parcel) for container in self._containers.values()]
        state = _state(self._request, parcel, self._lock_fd, init_pid, containers)
        state["relay"] = self._relay.pack(parcel)
        state["names"] = self._names.pack(parcel)
        parcel.send(self._link, state)

    def begin(self, client: sockets.Socket, init_pid: int) -> None:
        """Have what was made with the sandbox, and the client that asked for it."""
        self._expect_init(init_pid)
        self._admit(client)

    def _expect_init(self, pid: int) -> None:
        self._init_pid = pid
        if pid:
            self._pod.expect(pid, self._init_ended)

    def unpack(self, state: State, left: Left) -> None:
        """Have the containers that another supervisor had."""
        self._expect_init(state["init_pid"])
        self._relay.unpack(state["relay"])
        self._names.unpack(state["names"])
        for values in state["containers"]:
            request = ContainerRequest.from_dict(values["request"])
            container = _kind(request)(self._loop, request, self._pod, self._gone)
            container.unpack(values, left.fds, left.logs[request.container_id])
            self._containers[request.container_id] = container
            self._restarts.watch(container)

    def _tear_down(self) -> list[OakumError]:
        if self._pod.expects(self._init_pid):
            os.kill(self._init_pid, signal.SIGKILL)
        self._relay.end()
        self._names.end()
        self._loop.watch(self._listener.fileno())
        self._listener.close()
        errors = _remove(self._request)
        # From here on the directory may have another shim, or be cleaned up if a step above failed.
        fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
        os.close(self._lock_fd)
        return errors

    def _shutdown(self, connection: Connection, _request: dict[str, Any], _fds: list[int]) -> None:
        self._stopping.append(connection)
        if len(self._stopping) == 1:
            self._begin_shutdown()

    def _begin_shutdown(self) -> None:
        for container in list(self._containers.values()):
            container.delete(self._one_less)
        self._one_less()

    def _one_less(self) -> None:
        if self._containers or self._ended:
            return
        self._ended = True
        errors = self._tear_down()
        for connection in self._stopping:
            if errors:
                connection.fail(errors[0])
            else:
                connection.answer({})
        self._stopping.clear()
        self._loop.stop()

    # -- children and clients -----------------------------------------------------------------------------------

    def _read_ends(self) -> None:
        """The keeper has reaped children."""
        while True:
            try:
                told, _ = sockets.receive_with_fds(self._link, END.size, wait=False)
            except BlockingIOError:
                return
            self._happened += 1
            pid, status = END.unpack(told)
            try:
                self._pod.reaped(pid, status)
            except Exception:  # noqa: BLE001 - edge: the other children of this round must be told too
                report()

    def _init_ended(self, _status: int) -> None:
        cleanup.forget_process(self._request.directory, _INIT_NOTE)

    def _accept(self) -> None:
        try:
            sock = sockets.accept(self._listener)
        except OSError:  # gone again
            return
        self._admit(sock)

    def _admit(self, sock: sockets.Socket) -> Connection:
        self._happened += 1
        connection = Connection(self._loop, sock, self._handle, self._connections.discard)
        self._connections.add(connection)
        return connection

    def _handle(self, connection: Connection, request: dict[str, Any], fds: list[int]) -> None:
        operation = self._operations.get(str(request.get("op")))
        if operation is None:
            raise InvalidArgument("ask shim", repr(request.get("op")), "no such operation")
        operation(connection, request, fds)

    def _container(self, request: dict[str, Any]) -> Container:
        container_id = str(request["container_id"])
        found = self._containers.get(container_id)
        if found is None:
            raise NotFound(str(request["op"]), f"container {container_id}", "the shim does not know it")
        return found

    # -- operations ---------------------------------------------------------------------------------------------

    def _ping(self, connection: Connection, _request: dict[str, Any], _fds: list[int]) -> None:
        connection.answer({"pid": self._shim_pid})

    def _modules(self, connection: Connection, _request: dict[str, Any], _fds: list[int]) -> None:
        connection.answer(sorted(sys.modules))

    def _make_container(self, connection: Connection, request: dict[str, Any]) -> Container:
        wanted = ContainerRequest.from_dict(request["container"])
        if wanted.container_id in self._containers:
            raise AlreadyExists("create", f"container {wanted.container_id}", "the shim has one of this id")
        if self._stopping:
            raise InvalidArgument(
                "create", f"container {wanted.container_id}", "the sandbox is being shut down"
            )
        target_pid = 0
        if wanted.target_pid_of:
            target_pid = self._container({"op": "create", "container_id": wanted.target_pid_of}).running_pid(
                "share processes"
            )
        container = _kind(wanted)(self._loop, wanted, self._pod, self._gone, target_pid=target_pid)
        self._containers[wanted.container_id] = container
        self._restarts.watch(container)
        # A client that vanishes before it was told of the container would leave one that nobody knows.
        connection.when_gone = lambda: self._disown(container)
        return container

    def _disown(self, container: Container) -> None:
        if self._containers.get(container.container_id) is container:
            container.delete(_no_more)

    def _create(self, connection: Connection, request: dict[str, Any], _fds: list[int]) -> None:
        container = self._make_container(connection, request)
        container.create(lambda created: connection.answer(created.to_dict()), connection.fail)

    def _create_and_start(self, connection: Connection, request: dict[str, Any], _fds: list[int]) -> None:
        container = self._make_container(connection, request)
        container.create(
            lambda created: container.start(
                lambda started_at_ns: connection.answer(
                    created._replace(started_at_ns=started_at_ns).to_dict()
                ),
                connection.fail,
            ),
            connection.fail,
            goes_on=True,
        )

    def _gone(self, container: Container) -> None:
        self._containers.pop(container.container_id, None)
        self._restarts.forget(container.container_id)

    def _start(self, connection: Connection, request: dict[str, Any], _fds: list[int]) -> None:
        self._container(request).start(connection.answer, connection.fail)

    def _wait(self, connection: Connection, request: dict[str, Any], _fds: list[int]) -> None:
        over = self._container(request).waiters("wait")
        answer_when_over(self._loop, connection, over, float(request["timeout_s"]))

    def _kill(self, connection: Connection, request: dict[str, Any], _fds: list[int]) -> None:
        self._container(request).kill(
            _signal_of(request), whole_cgroup=bool(request.get("whole_cgroup", False))
        )
        connection.answer({})

    def _stop(self, connection: Connection, request: dict[str, Any], _fds: list[int]) -> None:
        container = self._container(request)
        over = container.stop(_signal_of(request), float(request["grace_s"]))
        answer_when_over(self._loop, connection, over, None)

    def _pause(self, connection: Connection, request: dict[str, Any], _fds: list[int]) -> None:
        self._container(request).pause()
        connection.answer({})

    def _resume(self, connection: Connection, request: dict[str, Any], _fds: list[int]) -> None:
        self._container(request).resume()
        connection.answer({})

    def _update(self, connection: Connection, request: dict[str, Any], _fds: list[int]) -> None:
        connection.answer({"warnings": self._container(request).update(request["resources"])})

    def _change_restart(self, connection: Connection, request: dict[str, Any], _fds: list[int]) -> None:
        self._restarts.change(self._container(request), RestartRequest.from_dict(request["restart"]))
        connection.answer({})

    def _exec(self, connection: Connection, request: dict[str, Any], fds: list[int]) -> None:
        self._container(request).execs.start(ExecRequest.from_dict(request["exec"]), fds, connection)

    def _exec_owner(self, request: dict[str, Any]) -> Container:
        for container in self._containers.values():
            if container.execs.has(str(request["exec_id"])):
                return container
        raise NotFound(str(request["op"]), f"exec {request['exec_id']}", "the shim does not know it")

    def _wait_exec(self, connection: Connection, request: dict[str, Any], _fds: list[int]) -> None:
        exec_id, execs = str(request["exec_id"]), self._exec_owner(request).execs
        answer_when_over(
            self._loop,
            connection,
            execs.over(exec_id),
            float(request["timeout_s"]),
            delivered=lambda: execs.fetched(exec_id),
        )

    def _kill_exec(self, connection: Connection, request: dict[str, Any], _fds: list[int]) -> None:
        try:
            owner = self._exec_owner(request)
        except NotFound:  # it ended, and its record was fetched
            connection.answer({})
            return
        owner.execs.kill(str(request["exec_id"]), _signal_of(request))
        connection.answer({})

    def _attach(self, connection: Connection, request: dict[str, Any], _fds: list[int]) -> None:
        stdio = self._container(request).streams("attach")
        wanted = {k: bool(request[k]) for k in ("stdin", "stdout", "stderr", "backpressure")}
        connection.answer({})
        if connection.open:
            sock, received = connection.hand_over()
            stdio.attach(sock, received, **wanted)

    def _resize(self, connection: Connection, request: dict[str, Any], _fds: list[int]) -> None:
        rows, columns = int(request["rows"]), int(request["columns"])
        if not (0 <= rows < 65536 and 0 <= columns < 65536):
            raise InvalidArgument("resize", f"{rows}x{columns}", "not the size of a terminal")
        self._container(request).streams("resize").set_size(rows, columns)
        connection.answer({})

    def _close_stdin(self, connection: Connection, request: dict[str, Any], _fds: list[int]) -> None:
        self._container(request).streams("close stdin").close_input()
        connection.answer({})

    def _reopen_log(self, connection: Connection, request: dict[str, Any], _fds: list[int]) -> None:
        self._container(request).streams("reopen log").reopen_log()
        connection.answer({})

    def _delete(self, connection: Connection, request: dict[str, Any], _fds: list[int]) -> None:
        container = self._containers.get(str(request["container_id"]))
        if container is None:
            self._restarts.forget(str(request["container_id"]))
            connection.answer({})
        else:
            container.delete(lambda: connection.answer({}))

    def _list(self, connection: Connection, _request: dict[str, Any], _fds: list[int]) -> None:
        connection.answer([container.describe().to_dict() for container in self._containers.values()])

    def _have_relay(self, connection: Connection, request: dict[str, Any], fds: list[int]) -> None:
        routes = request["routes"]
        if len(routes) != len(fds):
            raise InvalidArgument("relay", f"{len(routes)} routes", f"{len(fds)} sockets came with them")
        connection.answer({"changed": self._relay.replace(routes, fds)})

    def _have_names(self, connection: Connection, request: dict[str, Any], fds: list[int]) -> None:
        if len(fds) != NAME_SERVER_FDS:
            raise InvalidArgument("serve names", f"{len(fds)} descriptors", f"{NAME_SERVER_FDS} are needed")
        # Values are told from none by being there, and upstreams there may be none.
        if request["anew"] or self._names.mark is not None:
            self._names.replace([request["upstreams"]], fds, request["ports"])
        connection.answer({"ports": self._names.mark})


def _serve_names(values: list[Any], fds: Sequence[int]) -> int:
    return nameserver.run(values[0], fds)


def _kind(request: ContainerRequest) -> type[Container]:
    if request.images:
        return RestoredContainer
    return ForeignContainer if request.runtime else Container


def _signal_of(request: dict[str, Any]) -> int:
    number = int(request["signal"])
    if not 0 <= number <= 64:
        raise InvalidArgument(str(request["op"]), f"signal {number}", "no such signal")
    return number


def _no_more() -> None:
    """Nobody waits for this deletion."""
