# SPDX-License-Identifier: Apache-2.0
"""The last part of a child's life before execve, the same for a container's first process and for an exec.

Joins the cgroup, resolves the user, becomes it, finds the command, tells the parent, waits for its word, executes.
"""

from __future__ import annotations

import errno
import os

from oakum.errors import Internal, OakumError, SystemFailure
from oakum.linux.fd import Fd
from oakum.linux.libc import call_name
from oakum.linux.mount import kernel_message, move_mount, open_tree
from oakum.linux.namespaces import CLONE_NEWCGROUP, unshare
from oakum.linux.paths import make_file_in_root, open_beneath
from oakum.linux.process import close_except, close_from, reset_signals
from oakum.linux.sysinfo import join_new_session_keyring
from oakum.linux.terminal import make_controlling, open_pty, set_size
from oakum.model import jsontext as json
from oakum.model.light import TYPE_CHECKING, NamedTuple
from oakum.oci import command, credentials
from oakum.oci.gate import Gate
from oakum.oci.hooks import run_hooks
from oakum.oci.spec import Hook, Linux, Process
from oakum.oci.users import Identity, home_of, resolve_user
from oakum.oci.wire import Channel, die_unless

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, NoReturn

    from oakum.oci.listener import Listener, Report
    from oakum.oci.tuning import Tuning


# Members that `oci.tuning` carries out; of process and of linux.
_TUNED: Final = frozenset({"scheduler", "ioPriority", "execCPUAffinity", "memoryPolicy", "personality"})
_CWD: Final = "the working directory (-w, process.cwd) has to be a directory inside the container"
# What limits on a process itself (setrlimit) may take from us, who are that process until execve.
_NO_ROOM: Final = "Cannot allocate memory (ENOMEM)"
_ROOM: Final = "its limit of address space or data (--ulimit, rlimits) is below what a start needs: 32 MiB"
_FILES: Final = "its limit of open files (--ulimit nofile, rlimits) is below what a start needs: 16"


class Handover(NamedTuple):
    """What the end of both kinds of children needs. `proc_fd` is a private proc handle."""

    name: str
    process: Process
    credentials: credentials.Credentials
    user: str
    extra_groups: tuple[int, ...]
    strict_groups: bool
    proc_fd: int
    new_cgroup_namespace: bool
    create_cwd: bool
    wait_for_start: bool
    gate: Gate | None = None
    preserve_fds: int = 0
    new_keyring: bool = True
    start_hooks: tuple[Hook, ...] = ()
    state: dict[str, Any] = {}
    tuning: Tuning | None = None
    listener: Listener | None = None


def wanted_tuning(process: Process, linux: Linux) -> Tuning | None:
    """What `oci.tuning` is to do, if there is anything. Raises InvalidArgument."""
    if not _TUNED.isdisjoint((*process, *linux)):
        from oakum.oci.tuning import plan_tuning  # few processes pay for it

        return plan_tuning(process, linux)
    return None


def guard(channel: Channel, body: Callable[[], None]) -> Callable[[], int]:
    """A child's `body` whose failure reaches the parent as a structured error; the result is for `run_and_exit`."""

    def guarded() -> int:
        error: OakumError
        try:
            body()
            error = Internal("set up container", "child", "returned without executing anything")
        except OakumError as failure:
            error = failure
        except OSError as failure:
            error = SystemFailure.from_os_error(
                failure,
                call_name(failure) or "set up container",
                str(failure.filename or ""),
                hint=_FILES if failure.errno == errno.EMFILE else kernel_message(failure),
            )
        except MemoryError:
            error = SystemFailure("set up container", "its process", _NO_ROOM, hint=_ROOM, errno=errno.ENOMEM)
        except Exception as failure:  # noqa: BLE001 - edge of the process: a bug must reach the parent too
            error = Internal("set up container", _raised_at(failure), repr(failure))
        channel.send("error", {"error": error.to_dict()})
        return 1

    return guarded


def _raised_at(failure: BaseException) -> str:
    """File and line of the innermost frame; `traceback` would cost its memory in every shim."""
    frame = failure.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    if frame is None:
        return "unknown place"
    return f"{os.path.basename(frame.tb_frame.f_code.co_filename)}:{frame.tb_lineno}"


def settle() -> None:
    """First thing in a child: no inherited signal handling, no file creation mask."""
    reset_signals()
    os.umask(0)
    os.setsid()


def open_console(root_fd: int, process: Process, *, bind: bool) -> tuple[Fd, Fd]:
    """Master and slave of a new terminal of the container; with `bind` also put at /dev/console. Raises OSError."""
    master, slave, path = open_pty(root_fd)
    if size := process.get("consoleSize"):
        set_size(master.fileno(), size["height"], size["width"])
    if bind:
        with open_beneath(root_fd, path, os.O_PATH) as named:
            if os.fstat(named.fileno()).st_rdev != os.fstat(slave.fileno()).st_rdev:
                raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY), "/" + path)
            with (
                open_tree(named.fileno(), "", clone=True) as tree,
                make_file_in_root(root_fd, "/dev/console") as target,
            ):
                move_mount(tree.fileno(), target.fileno(), target="/dev/console")
    return master, slave


def take_console(slave: Fd) -> None:
    """Make the terminal the stdio and the controlling terminal of this session. Raises OSError."""
    credentials.duplicate_stdio((slave.fileno(), slave.fileno(), slave.fileno()))
    slave.close()
    make_controlling(0)


def join_cgroup(fds: tuple[Fd, ...]) -> None:
    """Move this process into the groups whose `tasks` or `cgroup.procs` are given. Raises SystemFailure."""
    for fd in fds:
        try:
            os.write(fd.fileno(), b"0")
        except OSError as failure:
            raise SystemFailure.from_os_error(
                failure, "join cgroup", f"descriptor {fd.fileno()}"
            ) from failure
    for fd in fds:
        fd.close()


def hand_over(h: Handover, channel: Channel, console: Fd | None, warnings: list[str]) -> NoReturn:
    """From a finished root (now "/") to the running command. Raises OakumError, OSError."""
    process = h.process
    warnings = [*h.credentials.warnings, *warnings, *credentials.apply_limits(h.credentials)]
    if h.new_keyring:
        join_new_session_keyring(f"_ses.{h.name[:64]}")
    env = parse_env(process.get("env") or [])
    with Fd(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as root:
        identity = _identity(h, root.fileno())
        if "HOME" not in env:
            env["HOME"] = identity.home or home_of(root.fileno(), identity.uid) or "/"
    if h.new_cgroup_namespace:
        unshare(CLONE_NEWCGROUP)
    if h.create_cwd:
        _make_cwd(process.get("cwd") or "/", identity)
    credentials.set_exec_label(h.proc_fd, process)
    credentials.own_stdio(identity.uid)
    if h.tuning is not None:
        from oakum.oci import tuning  # loaded by who planned it: few containers pay for it

        tuning.apply(h.tuning)
    report = h.listener.prepare(h.proc_fd, initial=h.wait_for_start) if h.listener is not None else None
    credentials.become(h.credentials, identity.uid, identity.gid, identity.groups, report)
    _enter_cwd(process.get("cwd") or "/")
    args = process.get("args") or []
    path = command.find(args[0], env)
    body = {"uid": identity.uid, "gid": identity.gid, "groups": list(identity.groups), "warnings": warnings}
    told = channel.send("created", body, () if console is None else (console.fileno(),))
    if console is not None:
        console.close()
    if not told:
        os._exit(1)
    if h.gate is None:
        if h.wait_for_start:
            die_unless(channel.receive(), "start")
        _execute(h, path, args, env, report)
    # It may wait for long, and must hold nothing open meanwhile: not the lock of who made it, not the host's directories.
    kept = h.gate.filenos()
    if report is not None:
        kept.add(report.fileno())
    close_except(kept, 3 + h.preserve_fds)
    h.gate.wait()
    try:
        _execute(h, path, args, env, report)
    except OakumError as failure:
        # Who made us is gone; who starts us hears it.
        h.gate.report(failure)
        os._exit(1)


def _execute(h: Handover, path: str, args: list[str], env: dict[str, str], report: Report | None) -> NoReturn:
    close_from(3 + h.preserve_fds, cloexec=True)
    if h.start_hooks:
        run_hooks("startContainer", h.start_hooks, json.dumps({**h.state, "status": "created"}).encode())
    credentials.load_late_filter(h.credentials, report)
    command.execute(path, args, env)


def parse_env(env: list[str]) -> dict[str, str]:
    """The environment as a mapping: the last of several settings wins, an entry without "=" is dropped."""
    pairs = (entry.partition("=") for entry in env)
    return {name: value for name, separator, value in pairs if separator}


def _identity(h: Handover, root_fd: int) -> Identity:
    if h.user or h.strict_groups or h.extra_groups:
        text = h.user
        if not text:
            user = h.process.get("user") or {}
            text = f"{user.get('uid') or 0}:{user.get('gid') or 0}"
        return resolve_user(root_fd, text, extra_groups=h.extra_groups, strict_groups=h.strict_groups)
    user = h.process.get("user") or {}
    return Identity(user.get("uid") or 0, user.get("gid") or 0, tuple(user.get("additionalGids") or ()))


def _make_cwd(cwd: str, identity: Identity) -> None:
    """An image's working directory need not exist; it is made for root, as other runtimes do."""
    if not os.path.isdir(cwd):
        try:
            os.makedirs(cwd, 0o755, exist_ok=True)
        except FileExistsError as failure:
            raise SystemFailure(
                "enter working directory", cwd, "it is not a directory", hint=_CWD, errno=errno.ENOTDIR
            ) from failure
        except OSError as failure:
            raise SystemFailure.from_os_error(
                failure, "make working directory", f"{cwd} for {identity.uid}:{identity.gid}"
            ) from failure


def _enter_cwd(cwd: str) -> None:
    try:
        os.chdir(cwd)
        # A directory outside the root (through a leaked descriptor, CVE-2024-21626) has no path here.
        if not os.getcwd().startswith("/"):
            raise FileNotFoundError(errno.ENOENT, "outside of the container's root", cwd)
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "chdir", cwd, hint=_CWD) from failure
