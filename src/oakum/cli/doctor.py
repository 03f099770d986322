# SPDX-License-Identifier: Apache-2.0
"""`oakum doctor`: whether this host can do what containers need, and what to do where it cannot."""

from __future__ import annotations

from typing import Final

import click

from oakum.cli.checks import run_checks
from oakum.cli.lazy import TeachingCommand
from oakum.cli.output import Column, format_option, write_json, write_table
from oakum.cli.session import Session, pass_session

_COLUMNS: Final = (
    Column("", keep=True),
    Column("CHECK", keep=True),
    Column("FOUND"),
    Column("WHAT TO DO"),
)


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum doctor", "before the first container"),
        ("oakum --root /srv/oakum doctor", "whether that place is a good one"),
    ),
)
@format_option
@pass_session
def doctor(session: Session) -> int:
    """Check what this host can do, and say what to do. Changes nothing; ends with 1 when something must be done."""
    checks = run_checks(session.root, session.state)
    if session.as_json:
        write_json([check._asdict() for check in checks])
    else:
        write_table(_COLUMNS, [(check.level, check.name, check.found, check.advice) for check in checks])
    return 1 if any(check.level == "fail" for check in checks) else 0
