# SPDX-License-Identifier: Apache-2.0
"""`oakum system`: what the space on this disk goes to, and getting back what nothing uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import click
import msgspec

from oakum.cli import text
from oakum.cli.images import unused_images
from oakum.cli.lazy import Entry, LazyGroup, TeachingCommand
from oakum.cli.output import Column, format_option, write_json, write_table
from oakum.cli.report import report, say
from oakum.cli.session import CONTEXT_SETTINGS, Session, pass_session
from oakum.errors import FailedPrecondition, NotFound, OakumError

if TYPE_CHECKING:
    from oakum.engine.namespace import Namespace

_HERE: Final = "oakum.cli.system"
_COLUMNS: Final = (
    Column("TYPE", keep=True),
    Column("TOTAL", right=True),
    Column("ACTIVE", right=True),
    Column("SIZE", right=True, keep=True),
    Column("RECLAIMABLE", right=True, keep=True),
)
_DEFAULT: Final = "default"
_ENDED: Final = ("created", "exited")


@click.group(
    cls=LazyGroup,
    context_settings=CONTEXT_SETTINGS,
    table={
        "df": Entry(f"{_HERE}:df", "Commands", "Say what the space on the disk goes to."),
        "prune": Entry(f"{_HERE}:prune", "Commands", "Remove what is not in use."),
        "info": Entry("oakum.cli.host:info", "Commands", "Say what oakum runs on, and what it holds."),
    },
)
def system() -> None:
    """The space on this disk: what it goes to, and getting it back."""


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum system df", "what images, containers and volumes take"),
        ("oakum system prune", "get back what nothing uses"),
    ),
)
@format_option
@pass_session
def df(session: Session) -> int:
    """Say what images, containers and volumes of all namespaces take on the disk, and how much is not in use.

    Reclaimable are images that no container stands on, containers that do not run, and volumes that nothing mounts.
    """
    found = session.engine.space()
    if session.as_json:
        write_json([msgspec.to_builtins(use) for use in found])
        return 0
    rows = [
        (
            use.kind.capitalize(),
            str(use.total),
            str(use.active),
            text.human_size(use.size_bytes),
            f"{text.human_size(use.reclaimable_bytes)} ({_percent(use.reclaimable_bytes, use.size_bytes)}%)",
        )
        for use in found
    ]
    write_table(_COLUMNS, rows)
    return 0


def _percent(part: int, whole: int) -> int:
    return 100 * part // whole if whole else 0


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum system prune", "ended containers, unused networks, images without a name"),
        ("oakum system prune -a -f", "all images that no container uses, too; without a question"),
        ("oakum system prune --volumes", "volumes that no container mounts, too"),
    ),
)
@click.option("-a", "--all", "everything", is_flag=True, help="Also images that have names.")
@click.option("--volumes", is_flag=True, help="Also volumes that no container mounts, with what is in them.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@format_option
@pass_session
def prune(session: Session, *, everything: bool, volumes: bool, force: bool) -> int:
    """Remove what is not in use in this namespace. Containers of pods are left to whoever runs the pods."""
    what = ["containers that do not run", "networks that no container is in"]
    what += [
        "images that no container uses" if everything else "images without a name that no container uses"
    ]
    what += ["volumes that no container mounts"] * volumes
    if not force:
        say("This removes:\n" + "\n".join(f"  - all {each}" for each in what))
        click.confirm("Go on?", abort=True, err=True)
    before = sum(use.size_bytes for use in session.engine.space())
    work = _Prune(session.namespace, as_json=session.as_json)
    # in this order: what a container used may be unused after it
    work.containers()
    work.networks(session)
    work.images(everything=everything)
    if volumes:
        work.volumes()
    session.engine.gc()
    freed = max(0, before - sum(use.size_bytes for use in session.engine.space()))
    if session.as_json:
        write_json({"removed": work.removed, "freed_bytes": freed})
    else:
        for kind, names in work.removed.items():
            for name in names:
                click.echo(f"{kind} {name}")
        click.echo(f"freed {text.human_size(freed)}")
    return work.code


class _Prune:
    """What was removed, by kind; a failure is said, and does not keep the rest."""

    def __init__(self, namespace: Namespace, *, as_json: bool) -> None:
        self.removed: dict[str, list[str]] = {}
        self.code = 0
        self._namespace = namespace
        self._as_json = as_json

    def _each(self, kind: str, names: Iterable[tuple[str, str]], remove: Callable[[str], object]) -> None:
        for key, name in names:
            try:
                remove(key)
            except (NotFound, FailedPrecondition):
                continue  # gone, or in use again since we looked
            except OakumError as error:
                self.code = report(error, as_json=self._as_json)
                continue
            self.removed.setdefault(kind, []).append(name)

    def containers(self) -> None:
        """Those that ended or never started; those of pods stay."""
        alone = {s.id for s in self._namespace.list_sandboxes() if s.config.owner == "container"}

        def remove(container_id: str) -> None:
            if text.shown_state(self._namespace.find_container(container_id)) not in _ENDED:
                raise FailedPrecondition("remove container", container_id[:12], "it was started meanwhile")
            self._namespace.remove_container(container_id)

        ended = [
            (status.id, status.config.metadata.name)
            for status in self._namespace.list_containers()
            if text.shown_state(status) in _ENDED and status.sandbox_id in alone
        ]
        self._each("container", ended, remove)

    def networks(self, session: Session) -> None:
        """Those made by people that nobody is in, nor will be when it starts; the default one stays."""
        wanted = {_DEFAULT, *session.engine.networks_in_use()}
        unused = [
            (info.name, info.name)
            for info in session.engine.networks.list_networks()
            if info.driver == "bridge" and info.name not in wanted and not info.attached
        ]
        self._each("network", unused, session.engine.networks.remove_network)

    def images(self, *, everything: bool) -> None:
        """Those that no container stands on and nobody pinned; with `everything` also those with names."""
        unused = [
            (image.id, image.repo_tags[0] if image.repo_tags else image.id)
            for image in unused_images(self._namespace, everything=everything)
        ]
        self._each("image", unused, self._namespace.remove_image)

    def volumes(self) -> None:
        """Those that no container mounts."""
        unused = [(info.name, info.name) for info in self._namespace.volumes.list() if not info.used_by]
        self._each("volume", unused, self._namespace.volumes.remove)
