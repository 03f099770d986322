# SPDX-License-Identifier: Apache-2.0
"""One control group in all trees of the host: make, limit, join, freeze, kill, count, remove.

Paths are relative to each tree's root. What to write is planned in `values`; this is the thin loop that writes it.
Never blocks for long: waits are bounded and named.
"""

from __future__ import annotations

import errno
import os
import time

from oakum.errors import DeadlineExceeded, SystemFailure, Unimplemented
from oakum.linux.fd import Fd
from oakum.linux.pids import kill_if_there, stat_fields
from oakum.model.light import TYPE_CHECKING
from oakum.oci.cgroups.layout import Hierarchy, Layout, normalise_path

if TYPE_CHECKING:
    from typing import Final

    from oakum.oci.cgroups.values import Write
    from oakum.oci.spec import LinuxResources

_FREEZE_TIMEOUT_S: Final = 2.0
_REMOVE_TIMEOUT_S: Final = 2.0
_POLL_S: Final = 0.002
# Controllers asked for in v2 trees; what the host lacks is left out.
_WANTED_V2: Final = ("cpu", "cpuset", "io", "memory", "pids", "hugetlb")


class Cgroup:
    """A group at `path` below the root of every tree in `layout`. Making the object touches nothing."""

    __slots__ = ("layout", "path")

    def __init__(self, layout: Layout, path: str) -> None:
        self.layout = layout
        self.path = normalise_path(path)

    def directory(self, tree: Hierarchy) -> str:
        """Where the group is in one tree."""
        return tree.mountpoint + self.path

    def exists(self) -> bool:
        """Whether the group is there in any tree."""
        return any(os.path.isdir(self.directory(tree)) for tree in self.layout.hierarchies)

    def create(self) -> None:
        """Make the group and its parents in every tree; one that exists is taken over. Raises SystemFailure."""
        for tree in self.layout.hierarchies:
            if tree.version == 2:
                self._create_v2(tree)
            else:
                self._create_v1(tree)

    def _create_v1(self, tree: Hierarchy) -> None:
        try:
            os.mkdir(self.directory(tree))
            if "cpuset" not in tree.controllers:
                return
        except FileNotFoundError:
            pass
        except FileExistsError:
            return
        except OSError as failure:
            raise SystemFailure.from_os_error(failure, "make cgroup", self.directory(tree)) from failure
        directory = tree.mountpoint
        for name in self.path.split("/")[1:]:
            parent, directory = directory, f"{directory}/{name}"
            _make_directory(directory)
            if "cpuset" in tree.controllers:
                _inherit_cpuset(parent, directory)

    def _create_v2(self, tree: Hierarchy) -> None:
        wanted = [c for c in _WANTED_V2 if c in tree.controllers]
        directory = tree.mountpoint
        for name in self.path.split("/")[1:]:
            _enable_controllers(directory, wanted)
            directory = f"{directory}/{name}"
            _make_directory(directory)

    def apply(self, resources: LinuxResources) -> list[str]:
        """Set limits and device rules; returns warnings about what this host cannot do but need not fail for.

        Raises:
            SystemFailure: the kernel refused a value.
            Unimplemented: the host has no controller for a limit that was asked for.
        """
        warnings: list[str] = []
        pure_v2 = self.layout.mode == "v2"
        if not pure_v2 and (unified := resources.get("unified")):
            raise Unimplemented(
                "limit cgroup", f"unified {', '.join(sorted(unified))}", "this host is not pure cgroup v2"
            )
        # those who only remove or freeze one need no plans
        from oakum.oci.cgroups.devices import attach_device_rules
        from oakum.oci.cgroups.values import plan_v1, plan_v2

        for write in (plan_v2 if pure_v2 else plan_v1)(resources):
            self._apply_one(write, resources, warnings)
        rules, tree = resources.get("devices"), self.layout.unified
        if pure_v2 and rules and tree is not None:
            attach_device_rules(self.directory(tree), rules)
        return warnings

    def _apply_one(self, write: Write, resources: LinuxResources, warnings: list[str]) -> None:
        tree = self.layout.of(write.controller)
        if tree is None:
            if write.controller == "devices" or write.optional:
                warnings.append(
                    f"{write.describe()} is not set: no {write.controller} controller on this host"
                )
                return
            raise Unimplemented(
                "set cgroup value",
                write.describe(),
                f"this host has no {write.controller} controller",
                hint="mount or enable it, or leave the limit out",
            )
        if tree.version == 2 and write.file.endswith(".limit_in_bytes"):
            # A hybrid host: huge pages are the one controller that often sits on the v2 tree there.
            write = write._replace(file=write.file.replace(".limit_in_bytes", ".max"))
        path = f"{self.directory(tree)}/{write.file}"
        try:
            _write(path, write.value)
        except OSError as failure:
            if self._second_try(write, failure, resources, tree):
                return
            if write.optional and failure.errno in (errno.ENOENT, errno.EACCES, errno.EOPNOTSUPP):
                warnings.append(f"{write.describe()} is not set: this kernel lacks it")
                return
            raise SystemFailure.from_os_error(
                failure,
                "write",
                f"{write.describe()} of cgroup {self.path}",
                hint=self._limit_hint(write, failure),
            ) from failure

    def _second_try(self, write: Write, failure: OSError, resources: LinuxResources, tree: Hierarchy) -> bool:
        """Values that bound each other have to be raised in the other order: the partner goes first."""
        if failure.errno != errno.EINVAL:
            return False
        partner: tuple[str, str] | None = None
        if write.file == "memory.limit_in_bytes":
            swap = (resources.get("memory") or {}).get("swap") or -1
            partner = ("memory.memsw.limit_in_bytes", str(swap))
        elif write.file == "cpu.cfs_period_us" and (quota := (resources.get("cpu") or {}).get("quota")):
            partner = ("cpu.cfs_quota_us", str(quota))
        if partner is None:
            return False
        try:
            _write(f"{self.directory(tree)}/{partner[0]}", partner[1])
            _write(f"{self.directory(tree)}/{write.file}", write.value)
        except OSError:
            return False  # the first failure is the one to report
        return True

    def _limit_hint(self, write: Write, failure: OSError) -> str:
        if failure.errno == errno.EBUSY and write.file.startswith("memory."):
            return "the group uses more memory than that and it could not be reclaimed"
        return ""

    def create_unified(self) -> None:
        """Make only the v2 part of the group, where there is one. Raises SystemFailure."""
        if self.layout.unified is not None:
            self._create_v2(self.layout.unified)

    def open_unified(self) -> Fd | None:
        """The group's directory in the v2 tree, for clone to put a child there at birth. Raises SystemFailure.

        A later move within v2 waits for an RCU grace period (5 to 15 ms measured); being born there does not.
        """
        if self.layout.unified is None:
            return None
        return self._open(self.directory(self.layout.unified), os.O_PATH | os.O_DIRECTORY)

    def join_fds(self, *, unified: bool = True) -> list[Fd]:
        """The files to which a single-threaded process writes "0" to join; without `unified` those of v1 trees only.

        In v1 trees it is `tasks`: moving a lone thread by itself skips the grace period that `cgroup.procs` costs.
        Raises SystemFailure.
        """
        held: list[Fd] = []
        try:
            for tree in self.layout.hierarchies:
                if tree.version == 1 or unified:
                    file = "tasks" if tree.version == 1 else "cgroup.procs"
                    held.append(self._open(f"{self.directory(tree)}/{file}", os.O_WRONLY))
        except SystemFailure:
            for fd in held:
                fd.close()
            raise
        return held

    def _open(self, path: str, flags: int) -> Fd:
        try:
            return Fd(os.open(path, flags | os.O_CLOEXEC))
        except OSError as failure:
            raise SystemFailure.from_os_error(failure, "open", f"{path} of cgroup {self.path}") from failure

    def processes(self) -> list[int]:
        """The ids of all processes in the group and below, as seen from here; empty when it is gone."""
        found: set[int] = set()
        for directory in _subtree(self.directory(self._main_tree())):
            try:
                with open(f"{directory}/cgroup.procs", encoding="utf-8") as file:
                    found.update(int(line) for line in file if line.strip() != "0")
            except OSError as failure:
                if failure.errno not in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
                    raise SystemFailure.from_os_error(
                        failure, "read", f"{directory}/cgroup.procs"
                    ) from failure
        return sorted(found)

    def freeze(self) -> None:
        """Stop every process of the group until `thaw`. Raises DeadlineExceeded, SystemFailure."""
        self._set_frozen(frozen=True)

    def thaw(self) -> None:
        """Let the processes of a frozen group go on. Raises DeadlineExceeded, SystemFailure."""
        self._set_frozen(frozen=False)

    def freezer(self) -> str:
        """The directory of what freezes the group; "" where nothing can."""
        tree = self.layout.of("freezer") or self.layout.unified
        return self.directory(tree) if tree is not None else ""

    def frozen(self) -> bool:
        """Whether the group is frozen."""
        unified, freezer = self.layout.unified, self.layout.of("freezer")
        if freezer is not None:
            return _read(f"{self.directory(freezer)}/freezer.state").strip() == "FROZEN"
        assert unified is not None
        return "frozen 1" in _read(f"{self.directory(unified)}/cgroup.events")

    def _set_frozen(self, *, frozen: bool) -> None:
        freezer, unified = self.layout.of("freezer"), self.layout.unified
        tree = freezer or unified
        if tree is None:
            raise Unimplemented("freeze cgroup", self.path, "this host has no freezer")
        file, value = (
            ("freezer.state", "FROZEN" if frozen else "THAWED")
            if freezer
            else ("cgroup.freeze", str(int(frozen)))
        )
        deadline = time.monotonic() + _FREEZE_TIMEOUT_S
        try:
            while True:
                # v1 stays FREEZING while tasks fork; writing again takes in the new ones.
                _write(f"{self.directory(tree)}/{file}", value)
                if self.frozen() == frozen:
                    return
                if time.monotonic() > deadline:
                    break
                time.sleep(_POLL_S)
        except OSError as failure:
            raise SystemFailure.from_os_error(
                failure, "freeze" if frozen else "thaw", f"cgroup {self.path}"
            ) from failure
        if frozen:
            _write(f"{self.directory(tree)}/{file}", "THAWED" if freezer else "0")
        raise DeadlineExceeded(
            "freeze" if frozen else "thaw", f"cgroup {self.path}", f"not done after {_FREEZE_TIMEOUT_S} s"
        )

    def kill_all(self) -> None:
        """SIGKILL every process in the group and below, also those that fork meanwhile. Returns without reaping."""
        unified = self.layout.unified
        if unified is not None:
            try:
                _write(f"{self.directory(unified)}/cgroup.kill", "1")  # Linux 5.14
                if self.layout.mode == "v2":
                    return
            except FileNotFoundError:
                pass
            except OSError as failure:
                if failure.errno not in (errno.ENODEV, errno.EOPNOTSUPP):
                    raise SystemFailure.from_os_error(failure, "kill", f"cgroup {self.path}") from failure
        for _ in range(16):
            pids = [pid for pid in self.processes() if not _is_dying(pid)]
            if not pids:
                break
            for pid in pids:
                kill_if_there(pid)
        freezer = self.layout.of("freezer")
        if freezer is not None and os.path.isdir(self.directory(freezer)) and self.frozen():
            self.thaw()  # frozen v1 tasks die only when thawed

    def remove(self) -> None:
        """Kill what is left and remove the group and its children everywhere. One that is gone is fine.

        Raises:
            DeadlineExceeded: processes would not die in time.
            SystemFailure: the kernel refused for another reason.
        """
        deadline = time.monotonic() + _REMOVE_TIMEOUT_S
        killed = False
        for tree in self.layout.hierarchies:
            if _remove_directory(self.directory(tree)):
                continue
            for directory in _subtree(self.directory(tree))[::-1]:
                while not _remove_directory(directory):
                    if not killed:
                        self.kill_all()
                        killed = True
                    if time.monotonic() > deadline:
                        raise DeadlineExceeded(
                            "remove", f"cgroup {self.path}", f"processes left: {self.processes()[:8]}"
                        )
                    time.sleep(_POLL_S)

    def oom_kills(self) -> int:
        """How many processes of the group the out-of-memory killer has ended; 0 when that cannot be known."""
        tree = self.layout.of("memory")
        if tree is None:
            return 0
        file = "memory.events" if tree.version == 2 else "memory.oom_control"
        try:
            for line in _read(f"{self.directory(tree)}/{file}").splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value)
        except OSError as failure:
            if failure.errno not in (errno.ENOENT, errno.ENODEV):
                raise SystemFailure.from_os_error(
                    failure, "read", f"{file} of cgroup {self.path}"
                ) from failure
        return 0

    def _main_tree(self) -> Hierarchy:
        for controller in ("pids", "memory", "freezer", "cpu"):
            if tree := self.layout.of(controller):
                return tree
        return self.layout.hierarchies[0]


def _make_directory(path: str) -> None:
    try:
        os.mkdir(path)
    except FileExistsError:
        pass
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "make cgroup", path) from failure


def _inherit_cpuset(parent: str, directory: str) -> None:
    """A new v1 cpuset is empty and can hold no process until it has CPUs and memory nodes."""
    for file in ("cpuset.cpus", "cpuset.mems"):
        try:
            if not _read(f"{directory}/{file}").strip():
                _write(f"{directory}/{file}", _read(f"{parent}/{file}").strip())
        except OSError as failure:
            raise SystemFailure.from_os_error(failure, "write", f"{directory}/{file}") from failure


def _enable_controllers(directory: str, wanted: list[str]) -> None:
    try:
        present = _read(f"{directory}/cgroup.subtree_control").split()
        missing = [c for c in wanted if c not in present]
        if not missing:
            return
        available = _read(f"{directory}/cgroup.controllers").split()
        missing = [c for c in missing if c in available]
        if missing:
            _write(f"{directory}/cgroup.subtree_control", " ".join(f"+{c}" for c in missing))
    except OSError as failure:
        hint = (
            "the cgroup holds processes itself; move them into a child"
            if failure.errno == errno.EBUSY
            else ""
        )
        raise SystemFailure.from_os_error(
            failure, "enable controllers", f"{directory}/cgroup.subtree_control", hint=hint
        ) from failure


def _subtree(directory: str) -> list[str]:
    """The directory and all below it, parents first; what vanishes meanwhile is left out."""
    found = [directory] if os.path.isdir(directory) else []
    for current in found:
        try:
            with os.scandir(current) as entries:
                found += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            continue
    return found


def _remove_directory(path: str) -> bool:
    """Whether it is gone; False while it is busy."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as failure:
        if failure.errno == errno.EBUSY:
            return False
        raise SystemFailure.from_os_error(failure, "remove cgroup", path) from failure
    return True


def _is_dying(pid: int) -> bool:
    try:
        return stat_fields(pid)[0] in (b"Z", b"X")
    except OSError:
        return True


def _read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536).decode("ascii", "replace")
    finally:
        os.close(fd)


def _write(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, os.fsencode(value))
    finally:
        os.close(fd)
