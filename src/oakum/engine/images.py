# SPDX-License-Identifier: Apache-2.0
"""The images of one namespace: names for what the content store and the snapshots hold.

Owns names and their resolution, pull and push as one call each, listings. Fetching and unpacking are
`oakum.images`', removal of what nothing names any more is `engine.garbage`'s.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

from oakum.backend.config import AuthConfig
from oakum.backend.protocols import PullProgress
from oakum.backend.status import FilesystemUsage, Image
from oakum.engine import garbage
from oakum.engine.context import Context
from oakum.engine.flights import Flight
from oakum.engine.registry_auth import credentials_of
from oakum.engine.store.records import ImageName, ImageRecord, plain
from oakum.errors import FailedPrecondition, ImageNotFound, InvalidArgument, SystemFailure
from oakum.images.reference import Reference, is_image_id, parse_reference

if TYPE_CHECKING:
    from oakum.images.config import ImageConfig
    from oakum.images.layers import PulledImage

_HEX = frozenset("0123456789abcdef")


class Images:
    """Image names of one namespace."""

    def __init__(self, context: Context, namespace: str) -> None:
        self._context = context
        self._namespace = namespace

    # finding

    def find(self, text: str) -> ImageRecord | None:
        """The image that a name, an id or the beginning of an id means; None when there is none.

        Raises:
            InvalidArgument: the text can be neither.
            FailedPrecondition: several ids begin so.
        """
        store = self._context.store
        if is_image_id(text):
            return self._by_id(text)
        try:
            reference = parse_reference(text)
        except InvalidArgument:
            found = self._by_id(text)
            if found is None:
                raise
            return found
        for name in _lookup_names(reference):
            record = store.image_by_name(self._namespace, name)
            if record is not None:
                return record
        return self._by_id(text)

    def need(self, text: str) -> ImageRecord:
        """As `find`. Raises ImageNotFound."""
        found = self.find(text)
        if found is None:
            raise ImageNotFound(
                "find image", repr(text), "no such image in this namespace", hint=f"oakum image pull {text}"
            )
        return found

    def _by_id(self, text: str) -> ImageRecord | None:
        beginning = text.removeprefix("sha256:")
        if not beginning or not _HEX.issuperset(beginning):
            return None
        named = {name.manifest_digest for name in self._context.store.image_names(self._namespace)}
        hits: dict[str, ImageRecord] = {}
        for record in self._context.store.images():
            if record.manifest_digest not in named:
                continue
            if record.config_digest.removeprefix("sha256:").startswith(beginning):
                hits[record.config_digest] = record
            elif record.manifest_digest == f"sha256:{beginning}":
                return record
        if len(hits) > 1:
            raise FailedPrecondition(
                "find image", repr(text), f"{len(hits)} ids begin so", hint="give more of the id"
            )
        return next(iter(hits.values()), None)

    def _names_by_image(self) -> dict[str, list[ImageName]]:
        """Image id → its names here."""
        store = self._context.store
        ids = {record.manifest_digest: record.config_digest for record in store.images()}
        found: dict[str, list[ImageName]] = {}
        for name in store.image_names(self._namespace):
            found.setdefault(ids[name.manifest_digest], []).append(name)
        return found

    # listing

    def list(self, wanted: str = "") -> list[Image]:
        """All images, newest name first, or the one that `wanted` names."""
        if wanted:
            found = self.status(wanted)
            return [] if found is None else [found]
        with self._context.store.transaction():
            by_id = {record.config_digest: record for record in self._context.store.images()}
            named = self._names_by_image()
        newest = sorted(named.items(), key=lambda item: -max(name.created_at_ns for name in item[1]))
        return [_image(by_id[image_id], names) for image_id, names in newest]

    def status(self, image: str) -> Image | None:
        """The image that a name or id means; None when there is none."""
        try:
            record = self.find(image)
        except InvalidArgument:
            return None
        if record is None:
            return None
        return _image(record, self._names_by_image().get(record.config_digest, []))

    def config(self, image: str) -> ImageConfig:
        """The configuration of an image. Raises ImageNotFound."""
        # msgspec types of a whole configuration; containers take what they need from the row.
        from oakum.images.config import CONFIG_LIMIT_BYTES, parse_config

        record = self.need(image)
        data = self._context.content.read(record.config_digest, CONFIG_LIMIT_BYTES)
        return parse_config(data, record.config_digest)

    def document(self, image: str) -> dict[str, Any]:
        """The configuration of an image as its author wrote it. Raises ImageNotFound."""
        import json  # asked for by people only

        from oakum.images.config import CONFIG_LIMIT_BYTES  # as above

        record = self.need(image)
        return json.loads(self._context.content.read(record.config_digest, CONFIG_LIMIT_BYTES))

    def layer_sizes(self, image: str) -> list[int]:
        """What each layer of an image takes unpacked, the lowest first. Raises ImageNotFound."""
        snapshotter = self._context.snapshotter
        return [snapshotter.layer_usage(chain_id).used_bytes for chain_id in self.need(image).chain_ids]

    def inspect(self, image: str) -> dict[str, Any]:
        """All there is to say about an image. Raises ImageNotFound."""
        record = self.need(image)
        status = _image(record, self._names_by_image().get(record.config_digest, []))
        return {
            "id": record.config_digest,
            "repo_tags": list(status.repo_tags),
            "repo_digests": list(status.repo_digests),
            "manifest_digest": record.manifest_digest,
            "media_type": record.media_type,
            "size_bytes": record.size_bytes,
            "layers": list(record.layer_digests),
            "chain_ids": list(record.chain_ids),
            "config": plain(self.config(image)),
        }

    # bringing in

    def pull(
        self,
        image: str,
        *,
        auth: AuthConfig | None,
        progress: PullProgress | None,
        cancelled: Callable[[], bool] | None,
    ) -> str:
        """Bring an image; its id. Who asks for the same with the same credentials joins a running pull."""
        if is_image_id(image):
            raise InvalidArgument("pull image", repr(image), "an id does not say which registry has it")
        if image.startswith("/"):
            raise InvalidArgument(
                "pull image",
                repr(image[:128]),
                "a path is no image",
                hint="a container's checkpoint is named where the container is created, and not pulled",
            )
        reference = parse_reference(image)
        # Credentials belong to the key: nobody gets an image by joining somebody else's rights.
        key = (self._namespace, reference.canonical, auth)

        def work(flight: Flight[str]) -> str:
            with self._context.collection.shared():
                # The registry client with its event loop is loaded by the first pull only.
                from oakum.images.pull import pull

                pulled = pull(
                    reference,
                    content=self._context.content,
                    layers=self._context.snapshotter,
                    credentials=credentials_of(auth),
                    progress=flight.progress,
                    cancelled=flight.cancelled,
                )
                self._enter(pulled, _names_for(reference, pulled))
            return pulled.config_digest

        image_id = self._context.pulls.fly(key, work, progress=progress, cancelled=cancelled)
        garbage.collect_if_due(self._context)
        return image_id

    def _enter(self, pulled: PulledImage, names: Iterable[str]) -> ImageRecord:
        record = _record(pulled)
        now = time.time_ns()
        self._context.store.add_namespace(self._namespace)
        self._context.store.put_image(
            record,
            [
                ImageName(
                    namespace=self._namespace,
                    name=name,
                    manifest_digest=record.manifest_digest,
                    target_digest=pulled.target_digest,
                    created_at_ns=now,
                )
                for name in names
            ],
        )
        return record

    def import_archive(self, path: str, *, progress: PullProgress | None) -> Sequence[Image]:
        """Read an archive (or a layout's directory); the images that are here then."""
        # Archives and unpacking need asyncio and tarfile; nothing else of the engine does.
        from oakum.images.archive import import_archive
        from oakum.images.layers import no_progress
        from oakum.images.unpack import unpack_local

        found: list[str] = []
        with self._context.collection.shared():
            with _archive_source(path) as source:
                imported = import_archive(source, content=self._context.content)
            for item in imported:
                pulled = unpack_local(
                    item.target_digest,
                    content=self._context.content,
                    layers=self._context.snapshotter,
                    progress=progress or no_progress,
                )
                names = [name for text in item.names for name in _names_for(parse_reference(text), pulled)]
                # Without any name it is kept, and found, by its id.
                record = self._enter(pulled, names or [pulled.config_digest])
                found.append(record.config_digest)
        garbage.collect_if_due(self._context)
        return [image for image_id in dict.fromkeys(found) if (image := self.status(image_id)) is not None]

    # sending out

    def push(self, image: str, *, auth: AuthConfig | None, progress: PullProgress | None) -> str:
        """Send an image to the registry of its name; the digest there."""
        # As for pulls.
        from oakum.images.layers import no_progress
        from oakum.images.push import push

        reference = parse_reference(image)
        with self._context.collection.shared():
            record = self.need(image)
            target = self._target(reference, record)
            push(
                reference,
                target,
                content=self._context.content,
                credentials=credentials_of(auth),
                mount_from=self._repositories_on(reference, record),
                progress=progress or no_progress,
            )
        return target

    def _target(self, reference: Reference, record: ImageRecord) -> str:
        wanted = set(_lookup_names(reference))
        for name in self._context.store.image_names(self._namespace):
            if name.name in wanted:
                return name.target_digest
        return record.manifest_digest

    def _repositories_on(self, reference: Reference, record: ImageRecord) -> list[str]:
        """Other repositories of the same registry that have this image: its blobs can be mounted from there."""
        found: set[str] = set()
        for name in self._context.store.image_names(self._namespace):
            if name.manifest_digest == record.manifest_digest and not is_image_id(name.name):
                other = parse_reference(name.name)
                if other.domain == reference.domain and other.path != reference.path:
                    found.add(other.path)
        return sorted(found)

    def export_archive(self, names: Sequence[str], path: str | BinaryIO, *, archive_format: str) -> None:
        """Write images as an archive, also to an open file; one by path appears only when it is complete."""
        from oakum.images.archive import export_archive  # as for imports
        from oakum.images.archived import ExportedImage
        from oakum.images.content import storage_error

        if archive_format not in ("oci", "docker"):
            raise InvalidArgument(
                "export images", repr(archive_format), "no such format", hint="use oci or docker"
            )
        if not names:
            raise InvalidArgument("export images", "", "no image named")
        with self._context.collection.shared():
            images: list[ExportedImage] = []
            for text in names:
                record = self.need(text)
                if is_image_id(text) or self.status(text) is None:
                    images.append(ExportedImage(record.manifest_digest, ()))
                    continue
                reference = parse_reference(text)
                has_name = self._context.store.image_by_name(self._namespace, reference.canonical) is not None
                full = (reference.canonical,) if has_name and not reference.digest else ()
                images.append(ExportedImage(self._target(reference, record), full))
            if path == "-":
                export_archive(images, sys.stdout.buffer, content=self._context.content, form=archive_format)
                sys.stdout.buffer.flush()
                return
            if not isinstance(path, str):
                try:
                    export_archive(images, path, content=self._context.content, form=archive_format)
                    path.flush()
                except OSError as error:
                    raise storage_error(error, "write archive", "an open file") from error
                return
            partial = f"{path}.partial-{os.getpid()}"
            try:
                with open(partial, "xb") as out:
                    export_archive(images, out, content=self._context.content, form=archive_format)
                os.rename(partial, path)
            except OSError as error:
                raise SystemFailure.from_os_error(error, "write archive", path) from error
            finally:
                if os.path.exists(partial):
                    os.unlink(partial)

    # naming

    def tag(self, source: str, target: str) -> None:
        """Give an image a further name."""
        reference = parse_reference(target)
        if reference.digest:
            raise InvalidArgument("tag image", repr(target), "a name with a digest cannot be given")
        store = self._context.store
        with store.transaction():
            record = self.need(source)
            target_digest = record.manifest_digest
            if not is_image_id(source):
                target_digest = self._target(parse_reference(source), record)
            store.add_namespace(self._namespace)
            store.put_image_name(
                ImageName(
                    namespace=self._namespace,
                    name=reference.canonical,
                    manifest_digest=record.manifest_digest,
                    target_digest=target_digest,
                    created_at_ns=time.time_ns(),
                )
            )

    def remove(self, image: str) -> None:
        """Forget all names of an image; succeeds when there is none."""
        store = self._context.store
        with store.transaction():
            try:
                record = self.find(image)
            except InvalidArgument:
                record = None
            if record is None:
                return
            names = self._names_by_image().get(record.config_digest, [])
            store.delete_image_names(self._namespace, [name.name for name in names])
        garbage.collect(self._context)

    def untag(self, name: str) -> list[str]:
        """Forget one name; what was removed."""
        store = self._context.store
        with store.transaction():
            record = self.need(name)
            names = [n.name for n in self._names_by_image().get(record.config_digest, [])]
            tags = [n for n in names if _is_tag(n)]
            gone = self._to_forget(name, names, tags)
            store.delete_image_names(self._namespace, gone)
        if len(gone) == len(names):
            garbage.collect(self._context)
            return [*gone, record.config_digest]
        return gone

    def _to_forget(self, name: str, names: Sequence[str], tags: Sequence[str]) -> list[str]:
        wanted = "" if is_image_id(name) else next((n for n in _lookup_or_none(name) if n in names), "")
        if not wanted:
            if len(tags) > 1:
                raise FailedPrecondition(
                    "remove image",
                    repr(name),
                    f"it has {len(tags)} names",
                    hint="name the one to remove, or force",
                )
            return list(names)
        left = [n for n in tags if n != wanted]
        if not left:
            return list(names)
        # With a repository's last tag go its digests: nothing shows them otherwise.
        repository = parse_reference(wanted).repository
        if any(parse_reference(n).repository == repository for n in left):
            return [wanted]
        return [wanted, *(n for n in names if not _is_tag(n) and n.startswith(f"{repository}@"))]

    # space

    def filesystems(self) -> Sequence[FilesystemUsage]:
        """Content and layers: one file system, all namespaces."""
        snapshotter = self._context.snapshotter
        used = inodes = 0
        for blob in self._context.content.list():
            used += blob.size_bytes
            inodes += 1
        for chain_id in snapshotter.layers():
            usage = snapshotter.layer_usage(chain_id)
            used += usage.used_bytes
            inodes += usage.inodes
        return (
            FilesystemUsage(
                timestamp_ns=time.time_ns(),
                mountpoint=self._context.layout.root,
                used_bytes=used,
                inodes_used=inodes,
            ),
        )


@contextmanager
def _archive_source(path: str) -> Generator[str | BinaryIO]:
    """What an archive is read from: standard input, a layout's directory, or a file."""
    if path == "-":
        yield sys.stdin.buffer
    elif os.path.isdir(path):
        yield path
    else:
        try:
            file = open(path, "rb")  # noqa: SIM115 - closed by the with below; this try is for the opening alone
        except OSError as error:
            raise SystemFailure.from_os_error(error, "open archive", path) from error
        with file:
            yield file


def _lookup_names(reference: Reference) -> list[str]:
    """The stored names that a reference may mean: the digest decides where there is one."""
    if reference.digest:
        return [f"{reference.repository}@{reference.digest}"]
    return [reference.canonical]


def _lookup_or_none(text: str) -> list[str]:
    try:
        return _lookup_names(parse_reference(text))
    except InvalidArgument:
        return []


def _names_for(reference: Reference, pulled: PulledImage) -> list[str]:
    """What a pull of `reference` names: its tag, and the digest that it stood for."""
    by_digest = f"{reference.repository}@{reference.digest or pulled.target_digest}"
    if reference.tag and not reference.digest:
        return [f"{reference.repository}:{reference.tag}", by_digest]
    return [by_digest]


def _is_tag(name: str) -> bool:
    return "@" not in name and not is_image_id(name)


def _record(pulled: PulledImage) -> ImageRecord:
    config = pulled.config
    return ImageRecord(
        manifest_digest=pulled.manifest_digest,
        config_digest=pulled.config_digest,
        media_type=pulled.media_type,
        size_bytes=pulled.size_bytes,
        chain_id=pulled.chain_id,
        chain_ids=config.chain_ids,
        layer_digests=pulled.layer_digests,
        architecture=config.architecture,
        os=config.os,
        created_at_ns=_created_ns(config.created),
        entrypoint=config.entrypoint,
        cmd=config.cmd,
        env=config.env,
        user=config.user,
        working_dir=config.working_dir,
        stop_signal=config.stop_signal,
        volumes=config.volumes,
    )


def _created_ns(text: str) -> int:
    from oakum.engine.logs import parse_time  # only for images that come in

    return max(0, parse_time(text.encode(errors="replace")) or 0)


def _image(record: ImageRecord, names: Sequence[ImageName]) -> Image:
    user = record.user.partition(":")[0]
    numeric = user.isascii() and user.isdecimal() and len(user) < 11
    return Image(
        id=record.config_digest,
        repo_tags=tuple(name.name for name in names if _is_tag(name.name)),
        repo_digests=tuple(name.name for name in names if "@" in name.name),
        size_bytes=record.size_bytes,
        uid=int(user) if numeric else None,
        username="" if numeric else user,
        created_at_ns=record.created_at_ns,
        architecture=record.architecture,
        os=record.os,
    )
