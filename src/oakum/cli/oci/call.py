# SPDX-License-Identifier: Apache-2.0
"""One command line of the runtime, taken apart: what every command is given."""

from __future__ import annotations

import sys

from oakum.cli.oci.arguments import Parsed
from oakum.cli.oci.log import Caller
from oakum.errors import InvalidArgument, SystemFailure
from oakum.model.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any


class Call(NamedTuple):
    """One command line, taken apart."""

    root: str
    caller: Caller
    arguments: Parsed
    globals: Parsed

    @property
    def container_id(self) -> str:
        """The first word."""
        return self.arguments.words[0]


def read_json(path: str) -> dict[str, Any]:
    """The JSON object in a file, "-" for standard input. Raises SystemFailure, InvalidArgument."""
    from oakum.model import jsontext  # few commands read one

    try:
        if path == "-":
            data: object = jsontext.loads(sys.stdin.read())
        else:
            with open(path, "rb") as file:
                data = jsontext.loads(file.read())
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "read", path) from failure
    except (ValueError, RecursionError) as failure:
        raise InvalidArgument("read", path, f"not JSON: {failure}") from failure
    if not isinstance(data, dict):
        raise InvalidArgument("read", path, "not a JSON object")
    return data  # pyright: ignore[reportUnknownVariableType] - checked by whoever parses it
