# SPDX-License-Identifier: Apache-2.0
"""Commands that take many names: they go on after a failure, say each one, and end with the last one's exit code."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from oakum.cli.output import shown, write_json
from oakum.cli.report import report
from oakum.errors import OakumError


def inspect_each(
    names: Sequence[str], look: Callable[[str], object], *, as_json: bool, template: str = ""
) -> int:
    """Write what `look` finds of each name, as a JSON list or each as a template says."""
    code = 0
    if template:
        from oakum.cli.template import Template  # most who inspect want all

        parsed = Template(template)
        for name in names:
            try:
                click.echo(parsed.render(look(name), show=shown))
            except OakumError as error:
                code = report(error, as_json=as_json)
        return code
    found: list[object] = []
    for name in names:
        try:
            found.append(look(name))
        except OakumError as error:
            code = report(error, as_json=as_json)
    write_json(found)
    return code


def act_on_each(names: Sequence[str], act: Callable[[str], object], *, as_json: bool) -> int:
    """Do `act` with each name and write the names where it succeeded."""
    code = 0
    for name in names:
        try:
            act(name)
        except OakumError as error:
            code = report(error, as_json=as_json)
        else:
            click.echo(name)
    return code
