# SPDX-License-Identifier: Apache-2.0
"""`exec`: a further process in a container."""

from __future__ import annotations

from oakum.cli.oci.call import Call, read_json
from oakum.errors import InvalidArgument
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


def execute(call: Call) -> int:
    """Run a process; its exit code, or 0 at once with --detach."""
    from oakum.oci.runtime import execs

    options = _exec_options(call)
    signals = None
    if not options.detach:
        from oakum.oci.runtime.foreground import Signals

        signals = Signals()
    executed = execs.execute(call.root, call.container_id, options)
    for warning in executed.warnings:
        call.caller.warning(warning)
    if signals is None:
        executed.process.close()
        return 0
    from oakum.oci.runtime.foreground import stay

    code = stay(executed.process, signals, executed.console)
    executed.process.close()
    signals.close()
    return code


def _exec_options(call: Call) -> Any:
    from oakum.oci.runtime.execs import ExecOptions

    a = call.arguments
    process: dict[str, Any] = {}
    if path := a.text("process"):
        process = read_json(path)
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
