# SPDX-License-Identifier: Apache-2.0
"""`oakum image`: images of the namespace, from and to registries and archives."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Final

import click

from oakum.cli import text, views
from oakum.cli.complete import complete_image
from oakum.cli.each import inspect_each
from oakum.cli.lazy import Entry, LazyGroup, TeachingCommand
from oakum.cli.output import (
    Column,
    format_option,
    no_trunc_option,
    quiet_option,
    template_option,
    write_json,
    write_lines,
    write_table,
)
from oakum.cli.report import report
from oakum.cli.session import CONTEXT_SETTINGS, Session, pass_session
from oakum.cli.signals import SignalQueue
from oakum.errors import ImageNotFound, InvalidArgument, OakumError

if TYPE_CHECKING:
    from oakum.backend.status import Image
    from oakum.engine.namespace import Namespace

_HERE: Final = "oakum.cli.images"
_COLUMNS: Final = (
    Column("REPOSITORY"),
    Column("TAG"),
    Column("ID", keep=True),
    Column("CREATED"),
    Column("SIZE", right=True, keep=True),
)
_MOVE: Final = "From and to registries and archives"
_LOOK: Final = "What is here"


@click.group(
    cls=LazyGroup,
    context_settings=CONTEXT_SETTINGS,
    table={
        "ls": Entry(f"{_HERE}:ls", _LOOK, "List images."),
        "inspect": Entry(f"{_HERE}:inspect", _LOOK, "Say all there is to say about images."),
        "history": Entry("oakum.cli.history:history", _LOOK, "Show the steps that an image was made in."),
        "tag": Entry(f"{_HERE}:tag", _LOOK, "Give an image a further name."),
        "rm": Entry(f"{_HERE}:rm", _LOOK, "Remove names, and images with their last name."),
        "prune": Entry(f"{_HERE}:prune", _LOOK, "Remove images that no container uses."),
        "pull": Entry(f"{_HERE}:pull", _MOVE, "Bring an image from its registry."),
        "push": Entry(f"{_HERE}:push", _MOVE, "Send an image to its registry."),
        "import": Entry(f"{_HERE}:import_", _MOVE, "Read images from an archive."),
        "export": Entry(f"{_HERE}:export", _MOVE, "Write images as an archive."),
    },
)
def image() -> None:
    """List, pull, push, tag, import, export and remove images."""


def split_name(name: str) -> tuple[str, str]:
    """(repository, tag) of "host:5000/app:1"; without a tag "<none>"."""
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        return name, "<none>"
    return repository, tag


def familiar(repository: str) -> str:
    """The name as people type it: docker.io and library/ left out."""
    short = repository.removeprefix("docker.io/")
    return short.removeprefix("library/") if short != repository else repository


def image_row(found: Image) -> dict[str, Any]:
    """The image as `image ls --format json` writes it."""
    return {
        "id": found.id,
        "names": list(found.repo_tags),
        "digests": list(found.repo_digests),
        "size_bytes": found.size_bytes,
        "created_at": text.iso_time(found.created_at_ns),
        "os": found.os,
        "architecture": found.architecture,
        "pinned": found.pinned,
    }


def _table_rows(found: Image, *, now_ns: int, full: bool, digests: bool) -> list[tuple[str, ...]]:
    tail = (
        found.id if full else text.short_id(found.id),
        text.human_age(found.created_at_ns, now_ns=now_ns),
        text.human_size(found.size_bytes),
    )
    names = [split_name(name) for name in found.repo_tags]
    if digests or not names:
        names += [
            (repository, digest if full else text.shorten(digest, 19))
            for repository, _, digest in (name.partition("@") for name in found.repo_digests)
        ]
    if not names:
        names = [("<none>", "<none>")]
    return [(familiar(repository), tag, *tail) for repository, tag in names]


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum image ls", "all of them"),
        ("oakum image ls busybox", "one of them"),
        ("oakum image ls -q", "ids for scripts"),
    ),
)
@click.option("--digests", is_flag=True, help="Also the names by digest.")
@quiet_option("ids")
@no_trunc_option
@template_option()
@click.argument("wanted", default="", metavar="[IMAGE]", shell_complete=complete_image)
@pass_session
def ls(session: Session, *, wanted: str, digests: bool, quiet: bool, no_trunc: bool) -> int:
    """List images."""
    found = session.namespace.list_images(wanted)
    if quiet:
        for one in found:
            click.echo(one.id if no_trunc else text.short_id(one.id))
    elif session.template:
        now_ns = time.time_ns()
        lines = [
            line
            for one in found
            for line in views.image_lines(
                one,
                [(familiar(repository), tag) for repository, tag in map(split_name, one.repo_tags)]
                or [("<none>", "<none>")],
                now_ns=now_ns,
                full=no_trunc,
            )
        ]
        write_lines(session.template, lines, views.IMAGE_TITLES)
    elif session.as_json:
        write_json([image_row(one) for one in found])
    else:
        now_ns = time.time_ns()
        rows = [
            row for one in found for row in _table_rows(one, now_ns=now_ns, full=no_trunc, digests=digests)
        ]
        write_table(_COLUMNS, rows, full=no_trunc)
    return 0


_creds = click.option(
    "--creds", metavar="USER:PASSWORD", help="Credentials; - reads them; else docker's configuration."
)


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum image pull busybox", "docker.io/library/busybox:latest"),
        ("oakum image pull 127.0.0.1:5000/app:1", "a registry on this machine, over plain HTTP"),
        ("echo me:secret | oakum image pull --creds - registry.example/app", "with credentials"),
    ),
)
@_creds
@click.option("-q", "--quiet", is_flag=True, help="No progress; writes the id only.")
@format_option
@click.argument("images", nargs=-1, required=True)
@pass_session
def pull(session: Session, images: tuple[str, ...], creds: str | None, quiet: bool) -> int:
    """Bring images from their registries; writes their ids. Ctrl-C stops it, and what came so far is used again."""
    from oakum.cli.credentials import parse_credentials
    from oakum.cli.progress import pull_with_progress  # keeps threads and rich out of the other commands

    auth = parse_credentials(creds)
    pulled: list[dict[str, str]] = []
    with SignalQueue() as signals:
        for name in images:
            identifier = pull_with_progress(
                session.namespace,
                name,
                quiet=quiet or session.as_json,
                cancelled=signals.cancelled,
                auth=auth,
            )
            pulled.append({"image": name, "id": identifier})
    if session.as_json:
        write_json(pulled)
    else:
        for line in pulled:
            click.echo(line["id"])
    return 0


@click.command(
    cls=TeachingCommand,
    examples=(
        (
            "oakum image tag app 127.0.0.1:5000/app:2 && oakum image push 127.0.0.1:5000/app:2",
            "name it, send it",
        ),
    ),
)
@_creds
@click.option("-q", "--quiet", is_flag=True, help="No progress; writes the digest only.")
@format_option
@click.argument("name", metavar="IMAGE", shell_complete=complete_image)
@pass_session
def push(session: Session, name: str, creds: str | None, quiet: bool) -> int:
    """Send an image to the registry that its name says; writes the manifest's digest."""
    from oakum.cli.credentials import configured_credentials, parse_credentials
    from oakum.cli.progress import view_for

    auth = parse_credentials(creds) or configured_credentials(name)
    with view_for(f"pushing {name}", quiet=quiet or session.as_json) as view:
        digest = session.namespace.push_image(name, auth=auth, progress=view)
    if session.as_json:
        write_json({"image": name, "digest": digest})
    else:
        click.echo(digest)
    return 0


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum image rm busybox", "one name; the image goes with its last one"),
        ("oakum image rm -f 3f57d9401f8d", "an image with all its names"),
    ),
)
@click.option("-f", "--force", is_flag=True, help="All names at once; what is not there is no failure.")
@click.argument("images", nargs=-1, required=True, shell_complete=complete_image)
@pass_session
def rm(session: Session, images: tuple[str, ...], force: bool) -> int:
    """Remove names of images, and images with their last name."""
    code = 0
    for name in images:
        try:
            if force:
                session.namespace.remove_image(name)
                click.echo(name)
            else:
                for line in session.namespace.untag_image(name):
                    click.echo(line)
        except OakumError as error:
            code = report(error, as_json=session.as_json)
    return code


@click.command(
    cls=TeachingCommand, examples=(("oakum image tag busybox 127.0.0.1:5000/tools/busybox:1", "for a push"),)
)
@click.argument("source", shell_complete=complete_image)
@click.argument("target")
@pass_session
def tag(session: Session, source: str, target: str) -> int:
    """Give the image SOURCE the further name TARGET; it is taken from any other image."""
    session.namespace.tag_image(source, target)
    return 0


def unused_images(namespace: Namespace, *, everything: bool) -> list[Image]:
    """Those that no container stands on and nobody pinned; with `everything` also those with names."""
    used = {status.image_id for status in namespace.list_containers()}
    return [
        image
        for image in namespace.list_images()
        if image.id not in used and not image.pinned and (everything or not image.repo_tags)
    ]


def inspected_image(session: Session, name: str) -> dict[str, Any]:
    """All there is to say about an image; for a template also under docker's names. Raises ImageNotFound."""
    found = session.namespace.inspect_image(name)
    return views.image(found, session.namespace.image_document(name)) if session.template else found


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum image inspect busybox | jq '.[0].config'", "its configuration"),
        ("oakum image inspect -f '{{.Config.Cmd}} {{.Size}}' busybox", "some of it"),
    ),
)
@template_option("-f")
@click.argument("images", nargs=-1, required=True, shell_complete=complete_image)
@pass_session
def inspect(session: Session, images: tuple[str, ...]) -> int:
    """Say all there is to say about images, as a JSON list."""
    return inspect_each(
        images,
        lambda name: inspected_image(session, name),
        as_json=session.as_json,
        template=session.template,
    )


@click.command(
    "import",
    cls=TeachingCommand,
    examples=(
        ("oakum image import app.tar", "an OCI layout or docker archive, either as found"),
        ("docker save app | oakum image import -", "from a pipe"),
    ),
)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@format_option
@click.argument("path", metavar="FILE|DIR|-")
@pass_session
def import_(session: Session, path: str, quiet: bool) -> int:
    """Read images from an OCI layout (directory or archive) or a docker archive; writes their names."""
    from oakum.cli.progress import view_for

    with view_for(f"importing {path}", quiet=quiet or session.as_json) as view:
        found = session.namespace.import_images(path, progress=view)
    if session.as_json:
        write_json([image_row(one) for one in found])
    else:
        for one in found:
            click.echo("\n".join(one.repo_tags) or one.id)
    return 0


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum image export -o app.tar app:1", "an OCI layout in an archive"),
        ("oakum image export --as docker app | docker load", "for docker"),
    ),
)
@click.option("-o", "--output", "path", default="-", metavar="FILE", help="Where to; - is standard output.")
@click.option(
    "--as",
    "archive",
    type=click.Choice(["oci", "docker"]),
    default="oci",
    show_default=True,
    help="Kind of archive.",
)
@click.argument("images", nargs=-1, required=True, shell_complete=complete_image)
@pass_session
def export(session: Session, images: tuple[str, ...], path: str, archive: str) -> int:
    """Write images, with what they share once, as one archive."""
    if path == "-" and sys.stdout.isatty():
        raise InvalidArgument(
            "export images", "", "standard output is a terminal", hint="give -o FILE, or pipe it"
        )
    session.namespace.export_images(images, path, archive_format=archive)
    return 0


@click.command(
    cls=TeachingCommand,
    examples=(
        ("oakum image prune", "those without a name"),
        ("oakum image prune -a", "all that no container uses"),
    ),
)
@click.option("-a", "--all", "everything", is_flag=True, help="Also those that have names.")
@format_option
@pass_session
def prune(session: Session, everything: bool) -> int:
    """Remove images without a name (with -a: all) that no container uses and nobody pinned; frees their space."""
    removed: list[str] = []
    for one in unused_images(session.namespace, everything=everything):
        try:
            session.namespace.remove_image(one.id)
        except ImageNotFound:
            continue  # somebody else was faster
        removed.append(one.id)
    session.engine.gc()
    if session.as_json:
        write_json(removed)
    else:
        for identifier in removed:
            click.echo(identifier)
    return 0
