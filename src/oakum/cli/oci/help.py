# SPDX-License-Identifier: Apache-2.0
"""What `oakum oci` says about itself: help, version, and what is wrong with a command line."""

from __future__ import annotations

from oakum.cli.oci.arguments import option_lines
from oakum.cli.oci.table import COMMANDS, GLOBAL, HELP, Command
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

_PROGRAM: Final = "oakum oci"


def wrong_count(name: str, command: Command) -> str:
    """What is wrong with how many words there are."""
    wanted = f"{command.least} to {command.most} arguments"
    if command.most in (command.least, None):
        wanted = f"{'exactly' if command.most else 'a minimum of'} {command.least} argument(s)"
    return f'oakum oci: "{name}" requires {wanted}'


def version() -> str:
    """The text of --version."""
    from oakum import __version__
    from oakum.oci.runtime.container import OCI_VERSION

    return f"oakum version {__version__}\nspec: {OCI_VERSION}\n"


def overview() -> str:
    """The text of --help."""
    head = [f"Usage: {_PROGRAM} [global options] command [options] [arguments]", "", "Commands:"]
    rows = [f"  {name:<10} {command.help}" for name, command in COMMANDS.items()]
    return "\n".join([*head, *rows, "", "Global options:", *option_lines(GLOBAL), ""])


def command_help(name: str, command: Command) -> str:
    """The text of --help for one command."""
    head = f"Usage: {_PROGRAM} {name} [options] {command.words}".rstrip()
    return "\n".join([head, "", command.help, "", "Options:", *option_lines((*command.options, HELP)), ""])
