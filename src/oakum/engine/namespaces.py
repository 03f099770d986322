# SPDX-License-Identifier: Apache-2.0
"""Namespaces: names over shared content. Owns their list; what lies in them belongs to its own modules."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, TypeVar

from oakum.engine.context import Context
from oakum.errors import AlreadyExists, FailedPrecondition, NotFound
from oakum.model.ids import check_namespace

N = TypeVar("N")
ALWAYS: Final = ("default", "k8s.io")


class Namespaces:
    """The namespaces of one engine."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._guard = threading.Lock()
        self._open: dict[str, object] = {}

    def open(self, name: str, make: Callable[[Context, str], N]) -> N:
        """The one object for a namespace; nothing is written."""
        check_namespace(name)
        with self._guard:
            found = self._open.get(name)
            if found is None:
                found = self._open[name] = make(self._context, name)
        return found  # type: ignore[return-value] - one kind of object for each Namespaces

    def list(self) -> list[str]:
        """All names, sorted: the two that are always there, those made, and those that hold anything."""
        return sorted({*ALWAYS, *self._context.store.namespaces()})

    def create(self, name: str) -> None:
        """Make an empty namespace. Raises AlreadyExists."""
        check_namespace(name)
        if name in ALWAYS or not self._context.store.add_namespace(name):
            raise AlreadyExists("create namespace", repr(name), "it is there already")

    def remove(self, name: str) -> None:
        """Remove an empty namespace. Raises NotFound, FailedPrecondition."""
        from oakum.engine.named_volumes import NamedVolumes  # only here is every kind of object asked for

        store = self._context.store
        with store.transaction():
            if name not in self.list():
                raise NotFound("remove namespace", repr(name), "no such namespace")
            held = [
                f"{len(items)} {kind}"
                for kind, items in (
                    ("sandboxes", store.sandboxes(name)),
                    ("containers", store.containers(name)),
                    ("image names", store.image_names(name)),
                    ("volumes", NamedVolumes(self._context, name).list()),
                )
                if items
            ]
            if held:
                raise FailedPrecondition(
                    "remove namespace", repr(name), f"it holds {', '.join(held)}", hint="remove them first"
                )
            store.remove_namespace(name)
