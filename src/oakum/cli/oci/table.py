# SPDX-License-Identifier: Apache-2.0
"""The commands of `oakum oci` and their options, as data: how each is called, and which function carries it out.

Options are plain tuples, which cost nothing until `arguments.parse` looks at those of the one command that is run.
"""

from __future__ import annotations

from oakum.model.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Final

    from oakum.cli.oci.arguments import Row

DEFAULT_ROOT: Final = "/run/oakum/oci"
_EXEC_FAILED: Final = 255

GLOBAL: Final = (
    ("flag", ("debug",), "enable debug logging"),
    ("text", ("log",), "the file to write log lines to (default: standard error)"),
    ("text", ("log-format",), "the form of log lines: text or json"),
    ("text", ("root",), f"the state directory (default: {DEFAULT_ROOT})"),
    ("text", ("criu",), "the program for checkpoints (default: criu)"),
    ("flag", ("systemd-cgroup",), "have systemd manage control groups; cgroupsPath is slice:prefix:name"),
    ("text", ("rootless",), "true, false or auto (default): do without control groups that belong to others"),
    ("flag", ("help", "h"), "show help"),
    ("flag", ("version", "v"), "print the version"),
)
HELP: Final = ("flag", ("help", "h"), "show help")
_CREATE: Final = (
    ("text", ("bundle", "b"), "the bundle's directory (default: the current one)"),
    ("text", ("console-socket",), "unix socket that receives the master of the container's terminal"),
    ("text", ("pid-file",), "file to write the process id to"),
    ("flag", ("no-pivot",), "refused: there is no safe way without pivot_root"),
    ("flag", ("no-new-keyring",), "keep the caller's session keyring"),
    ("number", ("preserve-fds",), "how many further descriptors to pass to the container"),
)

_BOTH: Final = (
    ("text", ("image-path",), "directory of the images (default: checkpoint)"),
    ("text", ("work-path",), "directory of CRIU's logs (default: that of the images)"),
    ("flag", ("tcp-established",), "also with open TCP connections"),
    ("flag", ("ext-unix-sk",), "also with unix sockets whose other end is outside"),
    ("flag", ("shell-job",), "also what is in another's session"),
    ("flag", ("file-locks",), "also with file locks"),
)
_CHECKPOINT: Final = (
    *_BOTH,
    ("flag", ("leave-running",), "let it run on, and keep it"),
    ("flag", ("pre-dump",), "only its memory, while it runs"),
    ("text", ("parent-path",), "an earlier image directory, relative to this one"),
    ("flag", ("auto-dedup",), "drop from the earlier images what this one has"),
)
_RESTORE: Final = (
    *_BOTH,
    ("text", ("bundle", "b"), "the bundle's directory (default: the current one)"),
    ("flag", ("detach", "d"), "leave it running"),
    ("text", ("pid-file",), "file to write the process id to"),
)


class Command(NamedTuple):
    """A command: `act` is module and function in this package.

    `least` and `most` are how many words it takes (None: any number).
    """

    act: str
    help: str
    options: tuple[Row, ...] = ()
    least: int = 1
    most: int | None = 1
    words: str = "<container-id>"
    stop_at_word: bool = False
    failed: int = 1


COMMANDS: Final[dict[str, Command]] = {
    "create": Command("making.create", "create a container", _CREATE),
    "start": Command("making.start", "execute the command of a created container"),
    "run": Command(
        "making.run",
        "create and start a container",
        (
            *_CREATE,
            ("flag", ("detach", "d"), "leave it running"),
            ("flag", ("keep",), "do not delete it when it ends"),
            ("flag", ("no-subreaper",), "ignored"),
        ),
    ),
    "exec": Command(
        "executing.execute",
        "run a further process in a container",
        (
            ("text", ("console-socket",), "unix socket that receives the master of the terminal"),
            ("text", ("cwd",), "working directory"),
            ("list", ("env", "e"), "an environment variable, NAME=VALUE"),
            ("flag", ("tty", "t"), "allocate a terminal"),
            ("text", ("user", "u"), "UID[:GID]"),
            ("list", ("additional-gids", "g"), "a further group"),
            ("text", ("process", "p"), "file with the process as JSON"),
            ("flag", ("detach", "d"), "do not wait for its end"),
            ("text", ("pid-file",), "file to write the process id to"),
            ("text", ("process-label",), "SELinux label"),
            ("text", ("apparmor",), "AppArmor profile"),
            ("flag", ("no-new-privs",), "no execve grants privileges"),
            ("list", ("cap", "c"), "a further capability"),
            ("number", ("preserve-fds",), "how many further descriptors to pass"),
            ("text", ("cgroup",), "an existing group below the container's"),
            ("flag", ("ignore-paused",), "also in a paused container"),
        ),
        most=None,
        words="<container-id> <command> [argument ...]",
        stop_at_word=True,
        failed=_EXEC_FAILED,
    ),
    "state": Command("life.state", "write the state of a container"),
    "kill": Command(
        "life.kill",
        "signal a container (default: SIGTERM)",
        (("flag", ("all", "a"), "signal all its processes"),),
        most=2,
        words="<container-id> [signal]",
    ),
    "delete": Command(
        "life.delete", "remove a container", (("flag", ("force", "f"), "kill it first if it runs"),)
    ),
    "list": Command(
        "life.list_all",
        "list the containers of the state directory",
        (
            ("text", ("format", "f"), "table or json"),
            ("flag", ("quiet", "q"), "only ids"),
        ),
        least=0,
        most=0,
        words="",
    ),
    "ps": Command(
        "life.ps",
        "list the processes of a container",
        (("text", ("format", "f"), "table or json"),),
        most=None,
        words="<container-id> [ps options]",
        stop_at_word=True,
    ),
    "checkpoint": Command(
        "checkpoints.checkpoint", "write a running container to disk, through CRIU", _CHECKPOINT
    ),
    "restore": Command("checkpoints.restore", "let a container go on from a checkpoint", _RESTORE),
    "pause": Command("life.pause", "freeze all processes of a container"),
    "resume": Command("life.resume", "let a paused container go on"),
    "update": Command(
        "life.update",
        "change limits",
        (
            ("text", ("resources", "r"), "file with linux.resources as JSON, - for standard input"),
            ("text", ("blkio-weight",), "weight of block input and output, 10 to 1000"),
            ("text", ("cpu-period",), "microseconds"),
            ("text", ("cpu-quota",), "microseconds"),
            ("text", ("cpu-burst",), "microseconds"),
            ("text", ("cpu-share",), "relative weight"),
            ("text", ("cpu-rt-period",), "microseconds"),
            ("text", ("cpu-rt-runtime",), "microseconds"),
            ("text", ("cpu-idle",), "1: only when nobody else runs"),
            ("text", ("cpuset-cpus",), "CPUs, as 0-2,4"),
            ("text", ("cpuset-mems",), "memory nodes"),
            ("text", ("memory",), "bytes"),
            ("text", ("memory-reservation",), "bytes"),
            ("text", ("memory-swap",), "bytes of memory and swap, -1: no limit"),
            ("text", ("pids-limit",), "processes, -1: no limit"),
        ),
    ),
    "events": Command(
        "life.events",
        "write statistics and out-of-memory events as JSON",
        (
            ("text", ("interval",), "between statistics, as 5s or 500ms"),
            ("flag", ("stats",), "once, and end"),
        ),
    ),
    "spec": Command(
        "life.spec",
        "write a config.json to start from",
        (
            ("text", ("bundle", "b"), "the directory to write it to"),
            ("flag", ("rootless",), "for a user without privileges"),
        ),
        least=0,
        most=0,
        words="",
    ),
    "features": Command(
        "life.features", "write what this runtime can do, as JSON", least=0, most=0, words=""
    ),
}
