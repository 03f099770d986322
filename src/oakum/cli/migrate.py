# SPDX-License-Identifier: Apache-2.0
"""`oakum migrate`: bring what another engine has into this one, and say what stays behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from oakum.cli import text
from oakum.cli.lazy import Entry, LazyGroup, TeachingCommand
from oakum.cli.output import Column, format_option, write_json, write_table
from oakum.cli.report import report
from oakum.cli.session import CONTEXT_SETTINGS, Session, pass_session
from oakum.errors import OakumError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oakum.backend.status import Image
    from oakum.docker.client import DockerClient
    from oakum.docker.images import Images

_DOCKER_HOST: Final = "unix:///var/run/docker.sock"
_COLUMNS: Final = (
    Column("IMAGE", keep=True),
    Column("ID", keep=True),
    Column("SIZE", right=True, keep=True),
    Column("RESULT", keep=True),
)
_FAILED: Final = 1


@click.group(
    cls=LazyGroup,
    context_settings=CONTEXT_SETTINGS,
    table={"docker": Entry("oakum.cli.migrate:docker", "From", "Bring the images of a Docker Engine.")},
)
def migrate() -> None:
    """Bring what another engine has into this one; nothing is changed there."""


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum -n k8s.io migrate docker", "All of Docker's images, for the kubelet's pods."),
        ("oakum migrate docker --dry-run", "Only say what would come, and what would stay."),
        ("oakum migrate docker busybox registry.example/app:3", "These two."),
    ),
)
@click.option(
    "--docker-host", default=_DOCKER_HOST, show_default=True, metavar="ADDRESS", help="Whose images."
)
@click.option("--dry-run", is_flag=True, help="Change nothing.")
@click.argument("images", nargs=-1)
@format_option
@pass_session
def docker(session: Session, *, docker_host: str, dry_run: bool, images: tuple[str, ...]) -> int:
    """Bring Docker's images into the native store, and say what stays behind: containers, volumes, networks.

    An image that is here already is only given the names that it lacks, so the command may be repeated.
    """
    # only this command knows Docker
    from oakum.daemon.handover import to_native
    from oakum.docker import pause
    from oakum.docker.client import DockerClient
    from oakum.docker.images import Images

    client = DockerClient(docker_host)
    store = Images(client, pinned=str)
    wanted = [image for image in _chosen(store, images) if not _is(image, pause.NAME)]
    rows: list[dict[str, Any]] = []
    failures: list[OakumError] = []
    for image in wanted:
        names = image.repo_tags or image.repo_digests
        row = {"image": names[0] if names else "<none>", "id": image.id, "size_bytes": image.size_bytes}
        here = session.namespace.image_status(image.id)
        if dry_run:
            row["result"] = "here" if here is not None else "would come"
        elif here is not None and set(image.repo_tags) <= set(here.repo_tags):
            row["result"] = "here"
        else:
            try:
                to_native(store, session.namespace, image.id, directory=session.root)
                row["result"] = "came"
            except OakumError as error:
                failures.append(error)
                row["result"] = "failed"
        rows.append(row)
    left = _left(client)
    if session.as_json:
        write_json({"images": rows, "left": left})
    else:
        write_table(
            _COLUMNS,
            [
                (r["image"], text.short_id(r["id"]), text.human_size(r["size_bytes"]), r["result"])
                for r in rows
            ],
        )
        for kind, names in left.items():
            if names:
                click.echo(f"left with Docker: {len(names)} {kind}: {text.printable(', '.join(names))}")
    for error in failures:
        report(error, as_json=session.as_json)
    return _FAILED if failures else 0


def _chosen(store: Images, names: Sequence[str]) -> Sequence[Image]:
    if not names:
        return store.list()
    for name in names:
        store.need(name)
    return [image for name in names for image in store.list(name)]


def _is(image: Image, repository: str) -> bool:
    """Whether an image has no name but those in one repository."""
    return bool(image.repo_tags) and all(name.startswith(f"{repository}:") for name in image.repo_tags)


def _left(client: DockerClient) -> dict[str, list[str]]:
    """What of Docker's is no image: the names, by kind. Raises OakumError."""
    containers: list[dict[str, Any]] = client.get("/containers/json", query={"all": 1})
    volumes: dict[str, Any] = client.get("/volumes")
    networks: list[dict[str, Any]] = client.get("/networks")
    return {
        "containers": sorted(str(c["Names"][0]).removeprefix("/") for c in containers if c["Names"]),
        "volumes": sorted(str(v["Name"]) for v in volumes.get("Volumes") or ()),
        "networks": sorted(str(n["Name"]) for n in networks if n["Name"] not in ("bridge", "host", "none")),
    }
