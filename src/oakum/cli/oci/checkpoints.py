# SPDX-License-Identifier: Apache-2.0
"""`oakum oci checkpoint` and `restore`: how they reach `oakum.oci.runtime.checkpoint`."""

from __future__ import annotations

import os

from oakum.cli.oci.call import Call
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Final

_DEFAULT_IMAGES: Final = "checkpoint"


def checkpoint(call: Call) -> int:
    """Write a container to disk."""
    from oakum.oci.runtime.checkpoint import CheckpointOptions
    from oakum.oci.runtime.checkpoint import checkpoint as dump

    a = call.arguments
    options = CheckpointOptions(
        **_both(call),
        leave_running=a.flag("leave-running"),
        pre_dump=a.flag("pre-dump"),
        parent=a.text("parent-path"),
        auto_dedup=a.flag("auto-dedup"),
    )
    dump(call.root, call.container_id, options)
    return 0


def restore(call: Call) -> int:
    """Let a container go on from what was written; without --detach, its exit code."""
    from oakum.cli.oci.making import compiler
    from oakum.oci.runtime.checkpoint import RestoreOptions
    from oakum.oci.runtime.checkpoint import restore as load

    a = call.arguments
    detach = a.flag("detach")
    options = RestoreOptions(
        **_both(call),
        bundle=a.text("bundle"),
        compile_filter=compiler(call.root),
        pid_file=a.text("pid-file"),
        detach=detach,
    )
    container = load(call.root, call.container_id, options)
    if detach:
        return 0
    from oakum.oci.runtime.container import delete

    code = os.waitstatus_to_exitcode(os.waitpid(container.record.pid, 0)[1])
    for warning in delete(call.root, call.container_id, force=True):
        call.caller.warning(warning)
    return code if code >= 0 else 128 - code


def _both(call: Call) -> dict[str, Any]:
    a = call.arguments
    return {
        "images": os.path.abspath(a.text("image-path") or _DEFAULT_IMAGES),
        "work": a.text("work-path"),
        "program": call.globals.text("criu") or "criu",
        "tcp_established": a.flag("tcp-established"),
        "unix_sockets": a.flag("ext-unix-sk"),
        "shell_job": a.flag("shell-job"),
        "file_locks": a.flag("file-locks"),
    }
