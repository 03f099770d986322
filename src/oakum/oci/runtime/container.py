# SPDX-License-Identifier: Apache-2.0
"""A container found by its id: what it is doing now, its state as JSON, and the simple things done to it.

Making one is `create`, further processes are `execs`.
"""

from __future__ import annotations

import os
import time

from oakum.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, OakumError, SystemFailure
from oakum.linux.fd import Fd
from oakum.linux.pids import pidfd_open, pidfd_send_signal
from oakum.model.light import TYPE_CHECKING, cast, signal
from oakum.oci.cgroups.group import Cgroup
from oakum.oci.cgroups.layout import detect_layout, normalise_path
from oakum.oci.gate import close_gate, is_waiting, open_gate
from oakum.oci.runtime.state import Directory, Record, list_ids, start_ticks
from oakum.oci.runtime.units import units

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Final

    from oakum.oci.spec import Hook, LinuxResources

OCI_VERSION: Final = "1.3.0"
_KILL_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.005


class Container:
    """One container of the state directory."""

    def __init__(self, directory: Directory, record: Record) -> None:
        self.directory = directory
        self.record = record

    @classmethod
    def find(cls, root: str, container_id: str) -> Container:
        """The container called `container_id`. Raises NotFound, DataLoss."""
        directory = Directory(root, container_id)
        return cls(directory, directory.load())

    @property
    def id(self) -> str:
        """Its name."""
        return self.record.id

    @property
    def cgroup(self) -> Cgroup:
        """Its control group; there whatever became of it. Raises FailedPrecondition where it never had one."""
        if not self.record.cgroup_path:
            raise FailedPrecondition(
                "use control group",
                self.id,
                "the container has none",
                hint="it was made without root's rights, and none was delegated",
            )
        return Cgroup(detect_layout(), self.record.cgroup_path)

    def alive(self) -> bool:
        """Whether its first process is there, and not yet a zombie."""
        pid = self.record.pid
        return pid > 0 and start_ticks(pid) == self.record.start_ticks

    def status(self) -> str:
        """What it is doing: "creating", "created", "running", "paused" or "stopped"."""
        if self.record.pid == 0:
            return "creating" if self.directory.is_locked() else "stopped"
        if not self.alive():
            return "stopped"
        if is_waiting(self.directory.path):
            return "created"
        return "paused" if self._frozen() else "running"

    def _frozen(self) -> bool:
        try:
            return self.cgroup.frozen()
        except (FileNotFoundError, OakumError):
            return False  # no freezer here, or the group is being removed

    def state(self, status: str | None = None) -> dict[str, Any]:
        """The state as the runtime-spec has it, with what runc adds. Spec: runtime.md "State"."""
        r = self.record
        status = status or self.status()
        state: dict[str, Any] = {
            "ociVersion": r.oci_version,
            "id": r.id,
            "pid": 0 if status == "stopped" else r.pid,
            "status": status,
            "bundle": r.bundle,
            "rootfs": r.rootfs,
            "created": r.created,
        }
        if r.annotations:
            state["annotations"] = r.annotations
        return state

    def require(self, *allowed: str, cause: str = "container not running") -> str:
        """Its status, if it is one of `allowed`. Raises FailedPrecondition."""
        status = self.status()
        if status not in allowed:
            raise FailedPrecondition("use container", self.id, cause)
        return status

    def hooks(self, kind: str) -> list[Hook]:
        """The spec's hooks of one kind; none where no spec was kept yet."""
        if not self.directory.has_hooks():
            return []
        try:
            hooks = self.directory.load_spec().get("hooks") or {}
        except DataLoss:
            return []
        return hooks.get(kind) or []  # pyright: ignore[reportUnknownVariableType,reportReturnType] - one of the members

    # -- what is done to it -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Let a created container run its command. Raises FailedPrecondition, CommandNotRunnable, OakumError."""
        with self.directory.lock():
            status = self.status()
            if status in ("running", "paused"):
                raise FailedPrecondition(
                    "start container", self.id, "cannot start an already running container"
                )
            if status != "created":
                raise FailedPrecondition(
                    "start container", self.id, "cannot start a container that has stopped"
                )
            open_gate(self.directory.path)

    def kill(self, number: int, *, everyone: bool = False) -> None:
        """Signal its first process, or all of them. Raises FailedPrecondition, SystemFailure."""
        if everyone:
            self._kill_all(number)
            return
        self.require("created", "running", "paused")
        try:
            with self._pidfd() as pidfd:
                pidfd_send_signal(pidfd.fileno(), number)
        except ProcessLookupError as failure:
            raise FailedPrecondition("signal container", self.id, "container not running") from failure
        except OSError as failure:
            raise SystemFailure.from_os_error(failure, "signal", f"container {self.id}") from failure
        if number == signal.SIGKILL:
            if not self.has_own_pids():
                if self.record.cgroup_path:
                    self._kill_all(number)
            elif self._frozen():
                self.cgroup.thaw()  # a frozen process of cgroup v1 dies only when it is thawed

    def has_own_pids(self) -> bool:
        """Whether all processes end with the first one: it is the init of a PID namespace made for it."""
        return self.directory.has_new_namespace("pid")

    def _pidfd(self) -> Fd:
        """A pidfd of the first process; it is checked after it was opened, so that no other one is meant."""
        pidfd = pidfd_open(self.record.pid)
        if not self.alive():
            pidfd.close()
            raise ProcessLookupError(f"pid {self.record.pid}")
        return pidfd

    def _kill_all(self, number: int) -> None:
        if not self.record.cgroup_path and self.has_own_pids() and number == signal.SIGKILL:
            self.kill(number)  # all others end with it
            return
        group = self.cgroup
        if number == signal.SIGKILL:
            group.kill_all()
            return
        for pid in group.processes():
            try:
                with pidfd_open(pid) as pidfd:
                    pidfd_send_signal(pidfd.fileno(), number)
            except ProcessLookupError:
                continue

    def pause(self) -> None:
        """Freeze all its processes. Raises FailedPrecondition, DeadlineExceeded, SystemFailure."""
        with self.directory.lock():
            self.require("running", "created")
            self.cgroup.freeze()

    def resume(self) -> None:
        """Let frozen processes go on. Raises FailedPrecondition, DeadlineExceeded, SystemFailure."""
        with self.directory.lock():
            if self.status() != "paused":
                raise FailedPrecondition("resume container", self.id, "container not paused")
            self.cgroup.thaw()

    def processes(self) -> list[int]:
        """The ids of all its processes, as seen from here."""
        return self.cgroup.processes()

    def update(self, resources: LinuxResources) -> list[str]:
        """Change its limits; returns warnings. Raises FailedPrecondition, SystemFailure, Unimplemented."""
        with self.directory.lock():
            self.require("created", "running", "paused")
            if self.record.systemd:
                units().change(self.record.cgroup_path, resources)
            warnings = self.cgroup.apply(resources)
            spec = self.directory.load_spec()
            linux = spec.setdefault("linux", {})
            linux["resources"] = _merged(linux.get("resources") or {}, resources)
            self.directory.save_spec(spec)
        return warnings


def _merged(old: LinuxResources, new: LinuxResources) -> LinuxResources:
    """`old` with the members of `new`, group by group; device rules and lists are replaced."""
    kept: dict[str, Any] = dict(old)
    for kind, values in new.items():
        before = kept.get(kind)
        if isinstance(before, dict) and isinstance(values, dict):
            kept[kind] = {**before, **values}
        else:
            kept[kind] = values
    return cast("LinuxResources", kept)


def delete(root: str, container_id: str, *, force: bool = False) -> list[str]:
    """Remove a stopped container, or with `force` one in any state; returns warnings of poststop hooks.

    Raises:
        NotFound: there is none (with `force` that is fine).
        FailedPrecondition: it is not stopped.
        DeadlineExceeded: its processes would not die.
        DataLoss: its state is damaged (with `force` it is removed all the same).
    """
    directory = Directory(root, container_id)
    try:
        lock = directory.lock()
    except NotFound:
        if force:
            return []
        raise
    with lock:
        try:
            container = Container(directory, directory.load())
        except DataLoss:
            if directory.is_empty():
                directory.remove()  # killed between its first two steps: nothing else has been made
                return []
            if not force:
                raise
            warnings = _remove_damaged(directory)
            directory.remove()
            return warnings
        # While the lock is ours, no one is making it.
        status = container.status() if container.record.pid else "stopped"
        if status == "created" and not force:
            force = True  # as runc: what was never started has nothing to lose
        if status != "stopped":
            if not force:
                raise FailedPrecondition(
                    "delete container",
                    container_id,
                    f"cannot delete container {container_id} that is not stopped: {status}",
                )
            end(container)
        return destroy(container)


def _remove_damaged(directory: Directory) -> list[str]:
    """End what the spec that was kept says is the container's, for one whose record is damaged; returns warnings."""
    try:
        path = (directory.load_spec().get("linux") or {}).get("cgroupsPath") or ""
    except DataLoss:
        path = ""
    if not path.strip("/"):
        return [
            f"container {directory.id}: its process and control group are not known; if any are left, end them"
        ]
    group = Cgroup(detect_layout(), normalise_path(path))
    group.kill_all()
    group.remove()
    return []


def end(container: Container) -> None:
    """Kill it and wait until its first process is gone. Raises FailedPrecondition."""
    try:
        container.kill(signal.SIGKILL)
    except FailedPrecondition:
        if container.alive():
            raise
        # it ended by itself in this moment
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while container.alive():
        if time.monotonic() > deadline:
            raise FailedPrecondition(
                "delete container", container.id, f"its process {container.record.pid} does not die"
            )
        time.sleep(_POLL_S)


def destroy(container: Container) -> list[str]:
    """Remove what is left of a stopped container; its lock is held. Returns warnings of poststop hooks."""
    if container.record.cgroup_path:
        container.cgroup.remove()
    close_gate(container.directory.path)
    warnings: list[str] = []
    if container.record.systemd:
        try:
            units().release(container.record.cgroup_path)
        except OakumError as failure:
            warnings.append(failure.brief)  # it forgets empty scopes by itself, sooner or later
    if hooks := container.hooks("poststop"):
        # few containers have hooks
        from oakum.model import jsontext as json
        from oakum.oci.hooks import run_hooks

        state = json.dumps(container.state("stopped")).encode()
        for hook in hooks:
            try:
                run_hooks("poststop", [hook], state)
            except OakumError as failure:
                warnings.append(failure.brief)  # the specification: warn, and go on
    container.directory.remove()
    return warnings


def containers(root: str) -> Iterator[Container | OakumError]:
    """All containers of the state directory, or why one cannot be read."""
    for container_id in list_ids(root):
        try:
            yield Container.find(root, container_id)
        except NotFound:
            continue  # deleted meanwhile
        except (DataLoss, InvalidArgument) as failure:
            yield failure


def owner_name(uid: int) -> str:
    """The name of a user of this host, or the number."""
    import pwd  # listing only

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def bundle_path(path: str) -> str:
    """The bundle's absolute path. Raises SystemFailure when it is no directory."""
    absolute = os.path.abspath(path or ".")
    if not os.path.isdir(absolute):
        raise InvalidArgument("open bundle", absolute, "not a directory")
    return absolute
