# SPDX-License-Identifier: Apache-2.0
"""What every command starts from: the global options and, once it is asked for, the engine behind them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import click

from oakum.errors import PermissionDenied

if TYPE_CHECKING:
    from oakum.engine.engine import Engine
    from oakum.engine.namespace import Namespace

DEFAULT_ROOT: Final = "/var/lib/oakum"
DEFAULT_STATE: Final = "/run/oakum"
DEFAULT_NAMESPACE: Final = "default"
CONTEXT_SETTINGS: Final[dict[str, object]] = {"help_option_names": ["-h", "--help"]}


class Session:
    """The global options of this call, and the engine over their directories."""

    __slots__ = ("_engine", "_namespace", "format", "namespace_name", "root", "state", "template")

    def __init__(
        self,
        root: str = DEFAULT_ROOT,
        state: str = DEFAULT_STATE,
        namespace: str = DEFAULT_NAMESPACE,
        output_format: str = "table",
    ) -> None:
        self.root = root
        self.state = state
        self.namespace_name = namespace
        self.format = output_format
        self.template = ""  # of --format, where the command takes one
        self._engine: Engine | None = None
        self._namespace: Namespace | None = None

    @staticmethod
    def defaults() -> dict[str, str]:
        """Where things are when no option says so."""
        return {"root": DEFAULT_ROOT, "state": DEFAULT_STATE, "namespace": DEFAULT_NAMESPACE}

    @property
    def engine(self) -> Engine:
        """The engine, opened at the first use; what killed processes left half done is settled first.

        Raises:
            PermissionDenied: we are not root.
        """
        if self._engine is None:
            if os.geteuid() != 0:
                raise PermissionDenied(
                    "open",
                    self.root,
                    f"user {os.geteuid()} is not root",
                    hint="run it as root; rootless is not supported yet",
                )
            # `oakum --help` and shell completion must not pay for it
            from oakum.engine.engine import Engine

            self._engine = Engine(self.root, self.state)
            self._engine.recover()
        return self._engine

    @property
    def namespace(self) -> Namespace:
        """The namespace that --namespace names."""
        if self._namespace is None:
            self._namespace = self.engine.namespace(self.namespace_name)
        return self._namespace

    @property
    def as_json(self) -> bool:
        """Whether results are wanted as JSON."""
        return self.format == "json"

    def close(self) -> None:
        """Close the engine if it was opened."""
        if self._engine is not None:
            self._engine.close()
            self._engine = self._namespace = None


pass_session = click.make_pass_decorator(Session, ensure=True)
