# SPDX-License-Identifier: Apache-2.0
"""The commands of `oakum oci`: their options, what they call, and the exit codes that callers know."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from oakum.cli.oci.arguments import Option, Parsed, Usage, option_lines, parse
from oakum.cli.oci.checkpoints import CHECKPOINT, RESTORE, checkpoint, restore
from oakum.cli.oci.log import JSON, TEXT, Caller
from oakum.errors import FailedPrecondition, InvalidArgument, OakumError, SystemFailure, Unimplemented

if TYPE_CHECKING:
    from oakum.oci.runtime.container import Container

_DEFAULT_ROOT: Final = "/run/oakum/oci"
_EXEC_FAILED: Final = 255
_NO_SUCH_COMMAND: Final = 3
_PROGRAM: Final = "oakum oci"

_GLOBAL: Final = (
    Option("flag", ("debug",), "enable debug logging"),
    Option("text", ("log",), "the file to write log lines to (default: standard error)"),
    Option("text", ("log-format",), "the form of log lines: text or json"),
    Option("text", ("root",), f"the state directory (default: {_DEFAULT_ROOT})"),
    Option("text", ("criu",), "the program for checkpoints (default: criu)"),
    Option(
        "flag", ("systemd-cgroup",), "have systemd manage control groups; cgroupsPath is slice:prefix:name"
    ),
    Option("text", ("rootless",), "ignored"),
    Option("flag", ("help", "h"), "show help"),
    Option("flag", ("version", "v"), "print the version"),
)
_HELP: Final = Option("flag", ("help", "h"), "show help")
_CREATE: Final = (
    Option("text", ("bundle", "b"), "the bundle's directory (default: the current one)"),
    Option("text", ("console-socket",), "unix socket that receives the master of the container's terminal"),
    Option("text", ("pid-file",), "file to write the process id to"),
    Option("flag", ("no-pivot",), "refused: there is no safe way without pivot_root"),
    Option("flag", ("no-new-keyring",), "keep the caller's session keyring"),
    Option("number", ("preserve-fds",), "how many further descriptors to pass to the container"),
)


class Call(NamedTuple):
    """One command line, taken apart."""

    root: str
    caller: Caller
    arguments: Parsed
    globals: Parsed

    @property
    def container_id(self) -> str:
        """The first word."""
        return self.arguments.words[0]


class Command(NamedTuple):
    """A command: how many words it takes at least and at most (None: any number)."""

    act: Callable[[Call], int]
    help: str
    options: tuple[Option, ...] = ()
    least: int = 1
    most: int | None = 1
    words: str = "<container-id>"
    stop_at_word: bool = False
    failed: int = 1


def dispatch(arguments: list[str], *, sealed: bool) -> int:
    """Run one command line; its exit code. Every failure has been said."""
    try:
        given = parse(arguments, _GLOBAL, stop_at_word=True)
    except Usage as wrong:
        return _usage_error(wrong, Caller())
    if given.flag("version"):
        sys.stdout.write(_version())
        return 0
    if given.flag("help") or not given.words or given.words[0] in ("help", "h"):
        sys.stdout.write(_overview())
        return 0
    caller = Caller(given.text("log"), given.text("log-format") or TEXT, debug=given.flag("debug"))
    if (given.text("log-format") or TEXT) not in (TEXT, JSON):
        Caller().error(f"unknown log-format {given.text('log-format')!r}")
        return 1
    command = COMMANDS.get(given.words[0])
    if command is None:
        caller.error(f"No help topic for '{given.words[0]}'")
        return _NO_SUCH_COMMAND
    return _run(given.words[0], command, given, caller, sealed=sealed)


def _run(name: str, command: Command, given: Parsed, caller: Caller, *, sealed: bool) -> int:
    try:
        parsed = parse(given.words[1:], (*command.options, _HELP), stop_at_word=command.stop_at_word)
        if parsed.flag("help"):
            sys.stdout.write(_help(name, command))
            return 0
        count = len(parsed.words)
        if count < command.least or (command.most is not None and count > command.most):
            raise Usage(_wrong_count(name, command))
    except Usage as wrong:
        sys.stdout.write(_help(name, command))
        return _usage_error(wrong, caller)
    call = Call(given.text("root") or _default_root(), caller, parsed, given)
    from oakum.cli.oci.systemd import offer

    offer()
    try:
        _guard(name, parsed, sealed=sealed)
        return command.act(call)
    except OakumError as failure:
        caller.error(_words(name, failure))
    except OSError as failure:
        caller.error(_words(name, SystemFailure.from_os_error(failure, "call the system")))
    except Exception as failure:  # edge of the process: callers parse our log, not a traceback
        caller.error(f"oakum {name} failed: unexpected {type(failure).__name__}: {failure}")
        if given.flag("debug"):
            raise
    return command.failed


def _words(name: str, failure: OakumError) -> str:
    """One line; callers look for the runtime's own words in it ("container does not exist", "executable file not found")."""
    from oakum.errors import CommandNotRunnable

    text = str(failure)
    if isinstance(failure, CommandNotRunnable):
        text = f"unable to start container process: {failure.brief}"
    elif isinstance(failure, FailedPrecondition) and failure.operation in (
        "use container",
        "signal container",
    ):
        text = failure.cause
    prefix = {"exec": "exec failed: ", "create": "oakum create failed: ", "run": "oakum run failed: "}.get(
        name, ""
    )
    return (prefix + text).replace("\n", " ")


def _guard(name: str, parsed: Parsed, *, sealed: bool) -> None:
    """What has to be true of this process before a child of it enters a container. Raises OakumError."""
    if name not in ("create", "run", "exec"):
        return
    from oakum.linux.process import close_from, set_dumpable

    if not sealed:
        raise FailedPrecondition("run", name, "this interpreter is not a sealed copy")
    kept = parsed.number("preserve-fds")
    if kept < 0:
        raise InvalidArgument("read command line", "--preserve-fds", f"{kept} is below zero")
    for number in range(3, 3 + kept):
        try:
            os.fstat(number)
        except OSError:
            raise InvalidArgument(
                "pass descriptors", f"--preserve-fds {kept}", f"descriptor {number} is not open"
            ) from None
    close_from(3 + kept)
    if os.geteuid() == 0:
        # Nobody in a container may look into what has not become the container's process yet. The parent of a
        # rootless one has to write its child's id maps, which it could not then.
        set_dumpable(False)


def _default_root() -> str:
    if os.geteuid() == 0:
        return _DEFAULT_ROOT
    directory = os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/oakum-{os.getuid()}"  # noqa: S108 - made 0700, by its owner
    return f"{directory}/oakum/oci"


# -- making and starting -----------------------------------------------------------------------------------------


def _create_options(call: Call, **changes: Any) -> Any:
    from oakum.oci.runtime.create import CreateOptions

    a = call.arguments
    if a.flag("no-pivot"):
        raise Unimplemented("create container", "--no-pivot", "a root that was not pivoted into can be left")
    return CreateOptions(
        bundle=a.text("bundle"),
        compile_filter=_compile_filter,
        console_socket=a.text("console-socket"),
        pid_file=a.text("pid-file"),
        preserve_fds=a.number("preserve-fds"),
        new_keyring=not a.flag("no-new-keyring"),
        systemd_cgroup=call.globals.flag("systemd-cgroup"),
        **changes,
    )


def _compile_filter(seccomp: dict[str, Any], spec: Any) -> tuple[bytes, int]:
    # Only containers with a filter pay for what compiles it.
    from oakum.cli.oci.filters import compile_filter

    return compile_filter(seccomp, spec)


def _create(call: Call) -> int:
    from oakum.oci.runtime.create import create

    created = create(call.root, call.container_id, _create_options(call))
    for warning in created.warnings:
        call.caller.warning(warning)
    return 0


def _start(call: Call) -> int:
    from oakum.oci.runtime.container import Container

    container = Container.find(call.root, call.container_id)
    container.start()
    _poststart(container)
    return 0


def _poststart(container: Container) -> None:
    if container.hooks("poststart"):
        from oakum.oci.runtime.create import run_poststart

        run_poststart(container)


def _run_container(call: Call) -> int:
    from oakum.oci.runtime.container import delete
    from oakum.oci.runtime.create import create

    detach = call.arguments.flag("detach")
    signals = None
    if not detach:
        from oakum.oci.runtime.foreground import Signals

        signals = Signals()  # before there is a child: none of them may be missed, nor end us without it
    created = create(call.root, call.container_id, _create_options(call, detach=detach, waits=False))
    container, process = created.container, created.process
    for warning in created.warnings:
        call.caller.warning(warning)
    try:
        process.start()
        process.wait_status()
        _poststart(container)
    except BaseException:
        process.abort()
        delete(call.root, call.container_id, force=True)
        raise
    if signals is None:
        return 0
    from oakum.oci.runtime.foreground import stay

    code = stay(process, signals, created.console)
    if not call.arguments.flag("keep"):
        for warning in delete(call.root, call.container_id, force=True):
            call.caller.warning(warning)
    return code


def _exec(call: Call) -> int:
    from oakum.oci.runtime.execs import execute

    options = _exec_options(call)
    signals = None
    if not options.detach:
        from oakum.oci.runtime.foreground import Signals

        signals = Signals()
    executed = execute(call.root, call.container_id, options)
    for warning in executed.warnings:
        call.caller.warning(warning)
    if signals is None:
        return 0
    from oakum.oci.runtime.foreground import stay

    return stay(executed.process, signals, executed.console)


def _exec_options(call: Call) -> Any:
    from oakum.oci.runtime.execs import ExecOptions

    a = call.arguments
    process: dict[str, Any] = {}
    if path := a.text("process"):
        process = _read_json(path)
    elif len(call.arguments.words) < 2:
        raise InvalidArgument("exec in container", call.container_id, "process args cannot be empty")
    else:
        process["args"] = a.words[1:]
        process["terminal"] = a.flag("tty")
        for option, member in (
            ("cwd", "cwd"),
            ("process-label", "selinuxLabel"),
            ("apparmor", "apparmorProfile"),
        ):
            if value := a.text(option):
                process[member] = value
        if "no-new-privs" in a.options:
            process["noNewPrivileges"] = a.flag("no-new-privs")
        if user := a.text("user"):
            process["user"] = _user(user)
        if groups := a.texts("additional-gids"):
            process.setdefault("user", {})["additionalGids"] = [
                _number("--additional-gids", g) for g in groups
            ]
    return ExecOptions(
        process=process,
        whole=bool(a.text("process")),
        env=tuple(a.texts("env")),
        capabilities=tuple(a.texts("cap")),
        console_socket=a.text("console-socket"),
        pid_file=a.text("pid-file"),
        detach=a.flag("detach"),
        preserve_fds=a.number("preserve-fds"),
        ignore_paused=a.flag("ignore-paused"),
        sub_cgroup=a.text("cgroup"),
    )


def _user(text: str) -> dict[str, Any]:
    uid, separator, gid = text.partition(":")
    user = {"uid": _number("--user", uid)}
    if separator:
        user["gid"] = _number("--user", gid)
    return user


def _number(option: str, text: str) -> int:
    # Exactly digits: a number that is read in part or wraps around is another user (CVE-2024-40635, CVE-2026-30892).
    if not (text.isascii() and text.isdecimal() and int(text) < 0xFFFFFFFF):
        raise InvalidArgument("read command line", f"{option} {text!r}", "not a numeric id")
    return int(text)


def _read_json(path: str) -> dict[str, Any]:
    import json

    try:
        if path == "-":
            data: object = json.load(sys.stdin)
        else:
            with open(path, "rb") as file:
                data = json.load(file)
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "read", path) from failure
    except (ValueError, RecursionError) as failure:
        raise InvalidArgument("read", path, f"not JSON: {failure}") from failure
    if not isinstance(data, dict):
        raise InvalidArgument("read", path, "not a JSON object")
    return data  # pyright: ignore[reportUnknownVariableType] - checked by whoever parses it


# -- life ----------------------------------------------------------------------------------------------------------


def _state(call: Call) -> int:
    import json

    from oakum.oci.runtime.container import Container

    state = {**Container.find(call.root, call.container_id).state(), "owner": ""}
    sys.stdout.write(json.dumps(state, indent=2))
    return 0


def _kill(call: Call) -> int:
    from oakum.model.signals import parse_signal
    from oakum.oci.runtime.container import Container

    number = parse_signal(call.arguments.words[1] if len(call.arguments.words) > 1 else "SIGTERM")
    Container.find(call.root, call.container_id).kill(number, everyone=call.arguments.flag("all"))
    return 0


def _delete(call: Call) -> int:
    from oakum.oci.runtime.container import delete

    for warning in delete(call.root, call.container_id, force=call.arguments.flag("force")):
        call.caller.warning(warning)
    return 0


def _pause(call: Call) -> int:
    from oakum.oci.runtime.container import Container

    Container.find(call.root, call.container_id).pause()
    return 0


def _resume(call: Call) -> int:
    from oakum.oci.runtime.container import Container

    Container.find(call.root, call.container_id).resume()
    return 0


def _list(call: Call) -> int:
    from oakum.cli.oci.listing import write_list

    return write_list(
        call.root, call.arguments.text("format") or "table", call.caller, quiet=call.arguments.flag("quiet")
    )


def _ps(call: Call) -> int:
    from oakum.cli.oci.listing import write_processes

    return write_processes(
        call.root, call.container_id, call.arguments.text("format") or "table", call.arguments.words[1:]
    )


def _update(call: Call) -> int:
    from oakum.cli.oci.updates import resources_of
    from oakum.oci.runtime.container import Container

    container = Container.find(call.root, call.container_id)
    path = call.arguments.text("resources")
    for warning in container.update(resources_of(call.arguments, _read_json(path) if path else None)):
        call.caller.warning(warning)
    return 0


def _events(call: Call) -> int:
    from oakum.cli.oci.events import write_events

    a = call.arguments
    return write_events(
        call.root, call.container_id, interval=a.text("interval") or "5s", once=a.flag("stats")
    )


def _spec(call: Call) -> int:
    from oakum.cli.oci.template import write_spec

    return write_spec(call.arguments.text("bundle") or ".", rootless=call.arguments.flag("rootless"))


def _features(call: Call) -> int:  # noqa: ARG001 - every command has this shape
    import json

    from oakum.cli.oci.filters import seccomp_features
    from oakum.oci.runtime.features import features

    sys.stdout.write(json.dumps(features(seccomp_features()), indent=4) + "\n")
    return 0


COMMANDS: Final[dict[str, Command]] = {
    "create": Command(_create, "create a container", _CREATE),
    "start": Command(_start, "execute the command of a created container"),
    "run": Command(
        _run_container,
        "create and start a container",
        (
            *_CREATE,
            Option("flag", ("detach", "d"), "leave it running"),
            Option("flag", ("keep",), "do not delete it when it ends"),
            Option("flag", ("no-subreaper",), "ignored"),
        ),
    ),
    "exec": Command(
        _exec,
        "run a further process in a container",
        (
            Option("text", ("console-socket",), "unix socket that receives the master of the terminal"),
            Option("text", ("cwd",), "working directory"),
            Option("list", ("env", "e"), "an environment variable, NAME=VALUE"),
            Option("flag", ("tty", "t"), "allocate a terminal"),
            Option("text", ("user", "u"), "UID[:GID]"),
            Option("list", ("additional-gids", "g"), "a further group"),
            Option("text", ("process", "p"), "file with the process as JSON"),
            Option("flag", ("detach", "d"), "do not wait for its end"),
            Option("text", ("pid-file",), "file to write the process id to"),
            Option("text", ("process-label",), "SELinux label"),
            Option("text", ("apparmor",), "AppArmor profile"),
            Option("flag", ("no-new-privs",), "no execve grants privileges"),
            Option("list", ("cap", "c"), "a further capability"),
            Option("number", ("preserve-fds",), "how many further descriptors to pass"),
            Option("text", ("cgroup",), "an existing group below the container's"),
            Option("flag", ("ignore-paused",), "also in a paused container"),
        ),
        most=None,
        words="<container-id> <command> [argument ...]",
        stop_at_word=True,
        failed=_EXEC_FAILED,
    ),
    "state": Command(_state, "write the state of a container"),
    "kill": Command(
        _kill,
        "signal a container (default: SIGTERM)",
        (Option("flag", ("all", "a"), "signal all its processes"),),
        most=2,
        words="<container-id> [signal]",
    ),
    "delete": Command(
        _delete, "remove a container", (Option("flag", ("force", "f"), "kill it first if it runs"),)
    ),
    "list": Command(
        _list,
        "list the containers of the state directory",
        (
            Option("text", ("format", "f"), "table or json"),
            Option("flag", ("quiet", "q"), "only ids"),
        ),
        least=0,
        most=0,
        words="",
    ),
    "ps": Command(
        _ps,
        "list the processes of a container",
        (Option("text", ("format", "f"), "table or json"),),
        most=None,
        words="<container-id> [ps options]",
        stop_at_word=True,
    ),
    "checkpoint": Command(checkpoint, "write a running container to disk, through CRIU", CHECKPOINT),
    "restore": Command(restore, "let a container go on from a checkpoint", RESTORE),
    "pause": Command(_pause, "freeze all processes of a container"),
    "resume": Command(_resume, "let a paused container go on"),
    "update": Command(
        _update,
        "change limits",
        (
            Option("text", ("resources", "r"), "file with linux.resources as JSON, - for standard input"),
            Option("text", ("blkio-weight",), "weight of block input and output, 10 to 1000"),
            Option("text", ("cpu-period",), "microseconds"),
            Option("text", ("cpu-quota",), "microseconds"),
            Option("text", ("cpu-burst",), "microseconds"),
            Option("text", ("cpu-share",), "relative weight"),
            Option("text", ("cpu-rt-period",), "microseconds"),
            Option("text", ("cpu-rt-runtime",), "microseconds"),
            Option("text", ("cpu-idle",), "1: only when nobody else runs"),
            Option("text", ("cpuset-cpus",), "CPUs, as 0-2,4"),
            Option("text", ("cpuset-mems",), "memory nodes"),
            Option("text", ("memory",), "bytes"),
            Option("text", ("memory-reservation",), "bytes"),
            Option("text", ("memory-swap",), "bytes of memory and swap, -1: no limit"),
            Option("text", ("pids-limit",), "processes, -1: no limit"),
        ),
    ),
    "events": Command(
        _events,
        "write statistics and out-of-memory events as JSON",
        (
            Option("text", ("interval",), "between statistics, as 5s or 500ms"),
            Option("flag", ("stats",), "once, and end"),
        ),
    ),
    "spec": Command(
        _spec,
        "write a config.json to start from",
        (
            Option("text", ("bundle", "b"), "the directory to write it to"),
            Option("flag", ("rootless",), "for a user without privileges"),
        ),
        least=0,
        most=0,
        words="",
    ),
    "features": Command(_features, "write what this runtime can do, as JSON", least=0, most=0, words=""),
}


# -- help ----------------------------------------------------------------------------------------------------------


def _usage_error(wrong: Usage, caller: Caller) -> int:
    caller.error(str(wrong))
    return 1


def _wrong_count(name: str, command: Command) -> str:
    wanted = f"{command.least} to {command.most} arguments"
    if command.most in (command.least, None):
        wanted = f"{'exactly' if command.most else 'a minimum of'} {command.least} argument(s)"
    return f'oakum oci: "{name}" requires {wanted}'


def _version() -> str:
    from oakum import __version__
    from oakum.oci.runtime.container import OCI_VERSION

    return f"oakum version {__version__}\nspec: {OCI_VERSION}\n"


def _overview() -> str:
    head = [f"Usage: {_PROGRAM} [global options] command [options] [arguments]", "", "Commands:"]
    rows = [f"  {name:<10} {command.help}" for name, command in COMMANDS.items()]
    return "\n".join([*head, *rows, "", "Global options:", *option_lines(_GLOBAL), ""])


def _help(name: str, command: Command) -> str:
    head = f"Usage: {_PROGRAM} {name} [options] {command.words}".rstrip()
    return "\n".join([head, "", command.help, "", "Options:", *option_lines((*command.options, _HELP)), ""])
