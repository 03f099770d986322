# SPDX-License-Identifier: Apache-2.0
"""`create`, `start`, `run`: containers made and started."""

from __future__ import annotations

from oakum.cli.oci.call import Call
from oakum.errors import InvalidArgument, Unimplemented
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from oakum.oci.runtime.container import Container
    from oakum.oci.runtime.create import CompileFilter
    from oakum.oci.spec import Spec


def _create_options(call: Call, **changes: Any) -> Any:
    from oakum.oci.runtime.create import CreateOptions

    a = call.arguments
    if a.flag("no-pivot"):
        raise Unimplemented("create container", "--no-pivot", "a root that was not pivoted into can be left")
    return CreateOptions(
        bundle=a.text("bundle"),
        compile_filter=compiler(call.root),
        console_socket=a.text("console-socket"),
        pid_file=a.text("pid-file"),
        preserve_fds=a.number("preserve-fds"),
        new_keyring=not a.flag("no-new-keyring"),
        systemd_cgroup=call.globals.flag("systemd-cgroup"),
        rootless=_rootless(call.globals.text("rootless")),
        **changes,
    )


def _rootless(text: str) -> bool | None:
    if text in ("", "auto"):
        return None
    if text.lower() in ("true", "false", "1", "0"):
        return text.lower() in ("true", "1")
    raise InvalidArgument("read command line", f"--rootless {text}", "neither true nor false nor auto")


def compiler(root: str) -> CompileFilter:
    """What makes a system call filter for a container below `root`."""

    def compile_filter(seccomp: dict[str, Any], spec: Spec) -> tuple[bytes, int]:
        from oakum.cli.oci.programs import compiled  # only containers with a filter pay for it

        return compiled(root, seccomp, spec)

    return compile_filter


def create(call: Call) -> int:
    """Make a container that waits for its start."""
    from oakum.oci.runtime.create import create

    created = create(call.root, call.container_id, _create_options(call))
    for warning in created.warnings:
        call.caller.warning(warning)
    created.process.close()  # it waits at its gate, for whoever starts it
    return 0


def start(call: Call) -> int:
    """Let it run its command."""
    from oakum.oci.runtime.container import Container

    container = Container.find(call.root, call.container_id)
    container.start()
    _poststart(container)
    return 0


def _poststart(container: Container) -> None:
    if container.hooks("poststart"):
        from oakum.oci.runtime.create import run_poststart

        run_poststart(container)


def run(call: Call) -> int:
    """Both, and stay with it until its end unless --detach."""
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
        if not created.goes_on:
            process.start()
        process.wait_status()
        _poststart(container)
    except BaseException:
        process.abort()
        delete(call.root, call.container_id, force=True)
        raise
    if signals is None:
        process.close()
        return 0
    from oakum.oci.runtime.foreground import stay

    code = stay(process, signals, created.console)
    process.close()
    signals.close()
    if not call.arguments.flag("keep"):
        for warning in delete(call.root, call.container_id, force=True):
            call.caller.warning(warning)
    return code
