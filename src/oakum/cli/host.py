# SPDX-License-Identifier: Apache-2.0
"""`oakum info`, `version`, `gc`, `completion` and where `oci` stands: about the program and this host."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import click

from oakum import __version__
from oakum.cli.flags.request import ANNOTATION_REMOVE
from oakum.cli.lazy import TeachingCommand
from oakum.cli.output import format_option, write_json
from oakum.cli.session import Session, pass_session
from oakum.cli.text import printable
from oakum.errors import InvalidArgument


@click.command(cls=TeachingCommand, examples=(("oakum version --format json", "for scripts"),))
@format_option
@pass_session
def version(session: Session) -> int:
    """Write the version of oakum, of Python and of the kernel."""
    uname = os.uname()
    facts = {
        "oakum": __version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "kernel": uname.release,
        "machine": uname.machine,
    }
    if session.as_json:
        write_json(facts)
    else:
        click.echo(
            f"oakum {facts['oakum']} (Python {facts['python']}, Linux {facts['kernel']}, {facts['machine']})"
        )
    return 0


def lines_of(facts: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Nested values as indented lines "name: value"."""
    for name, value in facts.items():
        title = f"{indent}{printable(name.replace('_', ' '))}:"
        if isinstance(value, Mapping):
            yield title
            yield from lines_of({str(k): v for k, v in value.items()}, indent + "  ")  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - JSON values
        elif isinstance(value, list | tuple):
            items: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType] - JSON values
            if any(isinstance(item, Mapping) for item in items):
                yield title
                for item in items:
                    yield f"{indent}  - " + ", ".join(f"{k} {v}" for k, v in dict(item).items())
            else:
                yield f"{title} {', '.join(printable(str(item)) for item in items) or '-'}"
        else:
            shown = "-" if value is None or value == "" else value
            if isinstance(value, bool):
                shown = "yes" if value else "no"
            yield f"{title} {printable(str(shown))}"


@click.command(cls=TeachingCommand, examples=(("oakum info", "where things are, and what this host can do"),))
@format_option
@pass_session
def info(session: Session) -> int:
    """Say what oakum runs on, and what it holds."""
    facts = {"version": __version__, **session.engine.info()}
    if session.as_json:
        write_json(facts)
    else:
        for line in lines_of(facts):
            click.echo(line)
    return 0


@click.command(cls=TeachingCommand, examples=(("oakum gc", "what killed processes and removed images left"),))
@format_option
@pass_session
def gc(session: Session) -> int:
    """Remove what nothing needs: unused content and layers, leftovers of killed processes, ended --rm containers."""
    engine = session.engine
    removed: list[str] = list(engine.recover_fully())
    for name in engine.namespaces():
        namespace = engine.namespace(name)
        for status in namespace.list_containers():
            if status.state == "exited" and ANNOTATION_REMOVE in status.config.annotations:
                namespace.remove_container(status.id)
                removed.append(f"container {status.config.metadata.name} ({status.id[:12]})")
    removed += engine.gc()
    if session.as_json:
        write_json(removed)
    else:
        for line in removed:
            click.echo(line)
    return 0


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum completion bash > /etc/bash_completion.d/oakum", "for all users of bash"),
        ("oakum completion fish > ~/.config/fish/completions/oakum.fish", "for fish"),
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> int:
    """Write the script that makes SHELL complete commands, options, and names of containers and images."""
    from click.shell_completion import get_completion_class  # this command only

    kind = get_completion_class(shell)
    if kind is None:
        raise InvalidArgument("write completion", shell, "unknown shell")
    click.echo(kind(ctx.find_root().command, {}, "oakum", "_OAKUM_COMPLETE").source())
    return 0


@click.command(
    cls=TeachingCommand,
    context_settings={"ignore_unknown_options": True},
    examples=(("oakum oci --help", "its own commands and options"), ("oakum oci run NAME", "as runc has it")),
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def oci(arguments: tuple[str, ...]) -> int:
    """Make containers from bundles, with runc's commands. Behind `oakum` at once: its options, and --root, are its own."""
    # `cli.main` never comes here with `oakum oci`
    raise InvalidArgument(
        "run oci", " ".join(arguments), "options of oakum stand before it", hint="begin with `oakum oci`"
    )
