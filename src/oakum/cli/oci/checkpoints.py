# SPDX-License-Identifier: Apache-2.0
"""`oakum oci checkpoint` and `restore`: their options, and how they reach `oakum.oci.runtime.checkpoint`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from oakum.cli.oci.arguments import Option

if TYPE_CHECKING:
    from oakum.cli.oci.commands import Call

_BOTH: Final = (
    Option("text", ("image-path",), "directory of the images (default: checkpoint)"),
    Option("text", ("work-path",), "directory of CRIU's logs (default: that of the images)"),
    Option("flag", ("tcp-established",), "also with open TCP connections"),
    Option("flag", ("ext-unix-sk",), "also with unix sockets whose other end is outside"),
    Option("flag", ("shell-job",), "also what is in another's session"),
    Option("flag", ("file-locks",), "also with file locks"),
)
CHECKPOINT: Final = (
    *_BOTH,
    Option("flag", ("leave-running",), "let it run on, and keep it"),
    Option("flag", ("pre-dump",), "only its memory, while it runs"),
    Option("text", ("parent-path",), "an earlier image directory, relative to this one"),
    Option("flag", ("auto-dedup",), "drop from the earlier images what this one has"),
)
RESTORE: Final = (
    *_BOTH,
    Option("text", ("bundle", "b"), "the bundle's directory (default: the current one)"),
    Option("flag", ("detach", "d"), "leave it running"),
    Option("text", ("pid-file",), "file to write the process id to"),
)
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
    from oakum.cli.oci.filters import compile_filter
    from oakum.oci.runtime.checkpoint import RestoreOptions
    from oakum.oci.runtime.checkpoint import restore as load

    a = call.arguments
    detach = a.flag("detach")
    options = RestoreOptions(
        **_both(call),
        bundle=a.text("bundle"),
        compile_filter=compile_filter,
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
