# SPDX-License-Identifier: Apache-2.0
"""The whole command line: global options, the table of commands, and what any failure becomes at the end.

`oakum run` must start fast: this module imports click and what it needs to find a command, nothing else.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any, Final

import click

from oakum import __version__
from oakum.cli.lazy import Entry, LazyGroup
from oakum.cli.report import (
    EXIT_BROKEN_PIPE,
    EXIT_INTERRUPTED,
    EXIT_RUN_FAILED,
    report,
    report_bug,
    say,
)
from oakum.cli.session import CONTEXT_SETTINGS, Session
from oakum.errors import InvalidArgument, OakumError, SystemFailure

DEBUG_VARIABLE: Final = "OAKUM_DEBUG"
_RUN: Final = "Run and look"
_LIFE: Final = "Life of a container"
_NOUNS: Final = "Other objects"
_HOST: Final = "This host"
_BYTES_WELCOME: Final = frozenset(["exec", "cp"])

COMMANDS: Final[dict[str, Entry]] = {
    "run": Entry("oakum.cli.run:run", _RUN, "Run a command in a new container."),
    "exec": Entry("oakum.cli.process:exec_", _RUN, "Run a further command in a container."),
    "attach": Entry("oakum.cli.process:attach", _RUN, "Join a container's input and output."),
    "ps": Entry("oakum.cli.containers:ps", _RUN, "List containers."),
    "logs": Entry("oakum.cli.logs:logs", _RUN, "Show what a container wrote."),
    "cp": Entry("oakum.cli.cp:cp", _RUN, "Copy files into and out of containers."),
    "stats": Entry("oakum.cli.stats:stats", _RUN, "Show what containers use."),
    "top": Entry("oakum.cli.looking:top", _RUN, "Show the processes of a container."),
    "port": Entry("oakum.cli.looking:port", _RUN, "Show the published ports of a container."),
    "diff": Entry("oakum.cli.looking:diff", _RUN, "List what a container has changed."),
    "inspect": Entry("oakum.cli.containers:inspect", _RUN, "Say all there is to say about a container."),
    "create": Entry("oakum.cli.run:create", _LIFE, "Prepare a container without starting it."),
    "start": Entry("oakum.cli.lifecycle:start", _LIFE, "Start what was created or has ended."),
    "restart": Entry("oakum.cli.lifecycle:restart", _LIFE, "Stop containers and start them again."),
    "stop": Entry("oakum.cli.lifecycle:stop", _LIFE, "Stop containers, politely first."),
    "kill": Entry("oakum.cli.lifecycle:kill", _LIFE, "Send containers a signal."),
    "wait": Entry("oakum.cli.lifecycle:wait", _LIFE, "Wait for containers to end."),
    "pause": Entry("oakum.cli.lifecycle:pause", _LIFE, "Freeze containers."),
    "unpause": Entry("oakum.cli.lifecycle:unpause", _LIFE, "Let frozen containers go on."),
    "update": Entry("oakum.cli.lifecycle:update", _LIFE, "Change limits of containers."),
    "rename": Entry("oakum.cli.lifecycle:rename", _LIFE, "Give a container another name."),
    "rm": Entry("oakum.cli.lifecycle:rm", _LIFE, "Remove containers."),
    "image": Entry("oakum.cli.images:image", _NOUNS, "List, pull, push, tag, import and remove images."),
    "pod": Entry("oakum.cli.pods:pod", _NOUNS, "List, inspect, stop and remove pods."),
    "network": Entry("oakum.cli.network:network", _NOUNS, "List, make, inspect and remove networks."),
    "volume": Entry("oakum.cli.volume:volume", _NOUNS, "List, create, inspect and remove volumes."),
    "ns": Entry("oakum.cli.namespaces:ns", _NOUNS, "List, create and remove namespaces."),
    "login": Entry("oakum.cli.login:login", _NOUNS, "Keep a user and password for a registry."),
    "logout": Entry("oakum.cli.login:logout", _NOUNS, "Forget them."),
    "serve": Entry("oakum.cli.serve:serve", _HOST, "Answer the kubelet on a socket."),
    "oci": Entry("oakum.cli.host:oci", _HOST, "Speak runc's command line: an OCI runtime for daemons."),
    "info": Entry("oakum.cli.host:info", _HOST, "Say what oakum runs on, and what it holds."),
    "doctor": Entry("oakum.cli.doctor:doctor", _HOST, "Check what this host can do, and say what to do."),
    "migrate": Entry("oakum.cli.migrate:migrate", _HOST, "Bring what another engine has."),
    "system": Entry(
        "oakum.cli.system:system", _HOST, "What the space on the disk goes to, and getting it back."
    ),
    "gc": Entry("oakum.cli.host:gc", _HOST, "Remove what nothing needs any more."),
    "completion": Entry("oakum.cli.host:completion", _HOST, "Write the shell's completion script."),
    "version": Entry("oakum.cli.host:version", _HOST, "Write the version."),
}
# as docker has them
ALSO: Final[dict[str, str]] = {
    "history": "oakum.cli.history:history",
    "images": "oakum.cli.images:ls",
    "pull": "oakum.cli.images:pull",
    "push": "oakum.cli.images:push",
    "rmi": "oakum.cli.images:rm",
    "tag": "oakum.cli.images:tag",
}


@click.group(
    cls=LazyGroup,
    table=COMMANDS,
    also=ALSO,
    context_settings=CONTEXT_SETTINGS,
    epilog="`oakum COMMAND --help` says more, with examples. State lies on disk: no server needs to run.",
)
@click.option(
    "--root",
    envvar="OAKUM_ROOT",
    metavar="DIR",
    default=Session.defaults()["root"],
    show_default=True,
    help="Where images and containers are kept.",
)
@click.option(
    "--state",
    envvar="OAKUM_STATE",
    metavar="DIR",
    default=Session.defaults()["state"],
    show_default=True,
    help="Where what is gone after a reboot is kept.",
)
@click.option(
    "-n",
    "--namespace",
    envvar="OAKUM_NAMESPACE",
    metavar="NAME",
    default=Session.defaults()["namespace"],
    show_default=True,
    help="Whose containers and image names; the kubelet's is k8s.io.",
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How results are written.",
)
@click.version_option(__version__, prog_name="oakum")
@click.pass_context
def cli(ctx: click.Context, root: str, state: str, namespace: str, output_format: str) -> None:
    """Run containers and pods, with or without a server: engine, images, network and shims in one program."""
    for option, value in (("--root", root), ("--state", state)):
        if not value:
            raise InvalidArgument(
                f"parse {option}", "''", "no directory", hint="leave it out for the usual one"
            )
    session = ctx.ensure_object(Session)
    session.root, session.state = root, state
    session.namespace_name, session.format = namespace, output_format


def _check_text(arguments: list[str]) -> None:
    # What is kept, and printed again, is text. Commands in a running container and names of files may be any bytes.
    if _BYTES_WELCOME.isdisjoint(arguments):
        for argument in arguments:
            if not argument.isascii() and any("\udc80" <= letter <= "\udcff" for letter in argument):
                raise _no_text(argument)


def _no_text(text: str) -> OakumError:
    return InvalidArgument(
        "keep text", repr(text.encode("utf-8", "surrogateescape"))[1:200], "it is not UTF-8"
    )


def _usage(error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    say(f"oakum: {error.format_message()}")
    if context is not None:
        say(f"       see `{context.command_path} --help`")
    return EXIT_RUN_FAILED


def invoke(arguments: list[str] | None = None) -> int:
    """Run one command line; its exit code. Every failure has been said on standard error."""
    session = Session()
    try:
        _check_text(sys.argv[1:] if arguments is None else arguments)
        result: Any = cli.main(arguments, prog_name="oakum", standalone_mode=False, obj=session)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except OakumError as error:
        return report(error, as_json=session.as_json)
    except click.exceptions.NoArgsIsHelpError as error:
        say(error.format_message())
        return EXIT_RUN_FAILED
    except click.ClickException as error:
        return _usage(error)
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # our reader has seen enough; what is still buffered has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_BROKEN_PIPE
    except OSError as error:
        # the machine, not us: a full disk, a closed file, no memory
        if os.environ.get(DEBUG_VARIABLE):
            return report_bug(error)
        hint = f"{DEBUG_VARIABLE}=1 shows where"
        if error.errno == errno.EROFS:
            from oakum.model.readonly import HINT as hint  # noqa: N811 - hardly ever
        return report(
            SystemFailure.from_os_error(error, "call the system", hint=hint), as_json=session.as_json
        )
    except UnicodeEncodeError as error:
        # bytes of the environment or of a directory's name, on their way to where only text is kept
        if error.encoding != "utf-8" or os.environ.get(DEBUG_VARIABLE):
            return report_bug(error)
        return report(_no_text(error.object), as_json=session.as_json)
    except Exception as error:  # noqa: BLE001 - the edge of the process: a bug is said, never lost
        return report_bug(error)
    finally:
        session.close()


def finish(code: int) -> int:
    """Flush what is buffered; the exit code, another one when nobody reads it any more."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (BrokenPipeError, ValueError):
        return code or EXIT_BROKEN_PIPE
    return code
