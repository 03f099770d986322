# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of a running container as one archive, as the kubelet's checkpoint API asks for it. It runs on.

    checkpoint/       CRIU's images of its processes       config.dump   what it is, for people and tools
    rootfs-diff.tar   what it has changed in its image     spec.dump     its config.json
    deleted.files     what it has deleted of it            dump.log      CRIU's log, and stats-dump
    opaque.dirs       directories that hide the image's    oakum.*       see `engine.sealed_archive`

These are the names that tools for such archives know, but for the last two. A container goes on from one as part of
a pod's (`engine.restores`) or by itself (`engine.container_restores`).
"""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import tarfile
import tempfile
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

import msgspec

from oakum.backend.config import BUILT_IN
from oakum.engine import creation, host, sealed
from oakum.engine.containers import Containers
from oakum.engine.context import Context
from oakum.engine.storage import remove_directory, storing
from oakum.engine.store.records import ContainerRecord
from oakum.errors import FailedPrecondition, Internal, InvalidArgument, Unimplemented
from oakum.linux.durable import write_file_fast
from oakum.oci.cgroups import Cgroup

if TYPE_CHECKING:
    from oakum.engine.sealed_archive import ArchiveFacts
    from oakum.oci.spec import Spec

# CRIU's images, in the bundle and in the archive.
DIRECTORY: Final = creation.IMAGES
_CRIU: Final = "criu"
# What CRIU writes about its work.
_NOT_RESTORED: Final = ("dump.log", "stats-dump")
# What System V's inter-process communication in a namespace is when it is none: CRIU's magic numbers.
_EMPTY_IMAGE_BYTES: Final = 8
_REDIRECTS: Final = ("trusted.overlay.redirect", "trusted.overlay.metacopy")
_MAX_DEPTH: Final = 256


def problem() -> str:
    """Why this host cannot make checkpoints; "" when it can."""
    from oakum.oci.runtime import criu  # only checkpoints and verbose status ask

    if os.geteuid() != 0:
        return "CRIU needs root"
    with tempfile.TemporaryDirectory(prefix="oakum-criu-") as work:
        return criu.problem(_CRIU, work)


def write(
    context: Context, containers: Containers, container_id: str, location: str, *, timeout_s: int = 0
) -> None:
    """Write a container's checkpoint to the file `location`, at once or not at all; nobody but root can read it.

    Raises:
        NotFound, FailedPrecondition: there is no such container, or it does not run.
        InvalidArgument: no archive can be at `location`.
        Unimplemented: this host, or CRIU with this container, cannot do it; says why.
    """
    record = containers.running(container_id, "checkpoint container")
    check(context, record)
    folder = os.path.dirname(location)
    if not os.path.isabs(location) or location.endswith("/") or not os.path.isdir(folder):
        raise InvalidArgument(
            "checkpoint container", f"location {location[:64]!r}", "no file in a directory that is there"
        )
    dump(context, record, location, timeout_s=timeout_s)


def check(context: Context, record: ContainerRecord) -> None:
    """Raise Unimplemented for what no checkpoint can be made of here."""
    sandbox = context.store.sandbox(record.sandbox_id)
    if sandbox is not None and sandbox.runtime_path:
        raise Unimplemented(
            "checkpoint container", record.id[:12], f"it was made by {sandbox.runtime_path}, not by us"
        )
    if record.config.namespaces.pid != "container" or record.config.tty:
        what = "a terminal" if record.config.tty else "a process namespace of others"
        raise Unimplemented("checkpoint container", record.id[:12], f"it has {what}, which CRIU cannot carry")


def dump(context: Context, record: ContainerRecord, location: str, *, timeout_s: int = 0) -> str:
    """Have CRIU write a running or frozen container's checkpoint to `location`; why it cannot be restored, or "".

    Raises Unimplemented, FailedPrecondition.
    """
    from oakum.oci.runtime import criu  # as above

    with context.locks.holding(record.id):
        bundle = context.layout.bundle(record.id)
        remove_directory(bundle, DIRECTORY)  # of a try that was killed
        images = f"{bundle}/{DIRECTORY}"
        with storing("make checkpoint directory", images):
            os.mkdir(images, 0o700)
        try:
            criu.call(_CRIU, "dump", _arguments(context, record, images, timeout_s), images, record.id[:12])
            with storing("write checkpoint", location):
                return _write_archive(context, record, images, location)
        finally:
            remove_directory(bundle, DIRECTORY)


def _arguments(context: Context, record: ContainerRecord, images: str, timeout_s: int) -> list[str]:
    from oakum.oci.runtime import criu, external  # as above
    from oakum.oci.runtime.checkpoint import DESCRIPTORS

    arguments = ["-t", str(record.pid), "-D", images, "--leave-running", "--external", "mnt[]:ms"]
    arguments += [
        "--manage-cgroups=ignore",
        "--shell-job",
        "--tcp-established",
        "--file-locks",
        "--ext-unix-sk",
    ]
    streams = criu.stream_names(record.pid)
    arguments += criu.external(streams)
    spec = creation.config_of(context, record.id)
    with storing("write checkpoint", images):
        write_file_fast(f"{images}/{DESCRIPTORS}", json.dumps(streams).encode())
        for place, key in external.mounts_of(record.pid, cast("Spec", spec)).items():
            arguments += ["--external", f"mnt[{place}]:{key}"]
    if timeout_s > 0:
        arguments += ["--timeout", str(timeout_s)]
    freezer = Cgroup(context.cgroups, record.cgroup_path).freezer()
    if freezer:
        # CRIU would wait for ever for what others have frozen, unless it is told by what.
        arguments += ["--freeze-cgroup", freezer]
    for namespace in spec["linux"]["namespaces"]:
        if namespace["type"] == "network" and namespace.get("path"):
            inode = os.stat(namespace["path"]).st_ino
            arguments += ["--external", f"net[{inode}]:{external.NETWORK_KEY}"]
    return arguments


def _write_archive(context: Context, record: ContainerRecord, images: str, location: str) -> str:
    folder, name = os.path.split(location)
    fd, temporary = tempfile.mkstemp(prefix=f".{name[:64]}.", dir=folder)  # 0600: memory is in it
    try:
        with os.fdopen(fd, "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
            obstacle = _add_members(tar, context, record, images)
            tar.close()
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, location)
    except BaseException:  # whatever it is, half an archive is none; it goes on upwards
        os.unlink(temporary)
        raise
    return obstacle


def _add_members(tar: tarfile.TarFile, context: Context, record: ContainerRecord, images: str) -> str:
    """Add what is restored, behind its sizes and hashes and their seal, then what is for people; see `dump`."""
    from oakum.engine import sealed_archive  # as above

    with tempfile.TemporaryFile() as diff:
        # a copy: the container goes on to write to its layer
        changes = write_changes(cast("BinaryIO", diff), context.snapshotter.container_directory(record.id))
        diff.seek(0)
        obstacle = _obstacle(context, record, images) or changes.obstacle
        # names of files need not be text
        lists = {
            "deleted.files": json.dumps(changes.deleted).encode(),
            "opaque.dirs": json.dumps(changes.opaque).encode(),
        }
        files = [sealed.described_bytes(data, name) for name, data in lists.items()]
        files.append(sealed.described(diff, "rootfs-diff.tar"))
        names = sorted(os.listdir(images))
        for image in names:
            if image not in _NOT_RESTORED:
                with open(f"{images}/{image}", "rb") as file:
                    files.append(sealed.described(file, f"{DIRECTORY}/{image}"))
        facts = _archive_facts(context, record, tuple(files), obstacle)
        for name, data in (*sealed_archive.members(context.layout, facts), *lists.items()):
            _add(tar, name, data)
        for image in names:
            inside = image if image in _NOT_RESTORED else f"{DIRECTORY}/{image}"
            tar.add(f"{images}/{image}", inside, recursive=False)
        info = tarfile.TarInfo("rootfs-diff.tar")
        info.size, info.mode = diff.tell(), 0o600
        diff.seek(0)
        tar.addfile(info, diff)
    _add(tar, "spec.dump", msgspec.json.encode(_spec(context, record)))
    _add(tar, "config.dump", msgspec.json.encode(_facts(record)))
    return obstacle


def _archive_facts(
    context: Context, record: ContainerRecord, files: tuple[sealed.FileFacts, ...], obstacle: str
) -> ArchiveFacts:
    from oakum.engine.sealed_archive import ArchiveFacts  # as above

    sandbox = context.store.sandbox(record.sandbox_id)
    if sandbox is None:
        raise Internal("checkpoint container", record.sandbox_id[:12], "its container is there, it is not")
    if not obstacle and sandbox.config.namespaces.ipc == "pod":
        shm = f"{context.layout.pod(sandbox.id)}/shm"
        if os.listdir(shm):
            obstacle = "there was something in its pod's /dev/shm, which only a checkpoint of the pod has"
    return ArchiveFacts(
        version=sealed.VERSION,
        id=record.id,
        runtime=BUILT_IN,
        machine=host.machine(),
        snapshots=context.snapshotter.kind,
        container=container_facts(record, obstacle),
        sandbox=sandbox.config,
        pull_name=_pull_name(record),
        files=files,
    )


def container_facts(record: ContainerRecord, obstacle: str) -> sealed.ContainerFacts:
    """What is to be known of a container to have it go on; `obstacle` as `dump` said it."""
    return sealed.ContainerFacts(
        id=record.id,
        name=record.config.metadata.name,
        # limits may have been changed since
        config=msgspec.structs.replace(record.config, resources=record.resources),
        image_id=record.image_id,
        obstacle=obstacle,
    )


def _pull_name(record: ContainerRecord) -> str:
    """What brings exactly this image again; "" if that is not known."""
    from oakum.images.reference import parse_reference  # as above

    for name in (record.image_ref, record.config.image):
        try:
            return f"{parse_reference(name).repository}@{record.manifest_digest}"
        except InvalidArgument:
            continue  # an id
    return ""


def _obstacle(context: Context, record: ContainerRecord, images: str) -> str:
    """What of the container is in no archive; "" for nothing."""
    bundle = context.layout.bundle(record.id)
    config = record.config
    if config.privileged:
        return "it is privileged"
    if any(mount.propagation != "private" for mount in config.mounts):
        return "it shares mounts with the host"
    if any(mount.volume is not None or mount.tmpfs for mount in config.mounts) or os.path.isdir(
        f"{bundle}/volumes"
    ):
        return "it has volumes of its own"
    if not config.no_new_privs and _any_without_new_privileges(context, record):
        return "a process has no_new_privs that the configuration does not say, which CRIU drops"
    for image in os.listdir(images):
        kept = image.startswith(("ipcns-shm-", "ipcns-msg-", "ipcns-sem-"))
        if kept and os.path.getsize(f"{images}/{image}") > _EMPTY_IMAGE_BYTES:
            return "there is System V shared memory, a queue or a semaphore in its pod"
    return ""


def _any_without_new_privileges(context: Context, record: ContainerRecord) -> bool:
    for pid in Cgroup(context.cgroups, record.cgroup_path).processes():
        try:
            with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
                if any(line.startswith("NoNewPrivs:\t1") for line in file):
                    return True
        except (FileNotFoundError, ProcessLookupError):
            continue
    return False


def _facts(record: ContainerRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.config.metadata.name,
        "rootfsImage": record.config.image,
        "rootfsImageRef": record.image_id,
        "rootfsImageName": record.image_ref,
        "runtime": BUILT_IN,
        "createdTime": datetime.fromtimestamp(record.created_at_ns // 10**9, UTC).isoformat(),
        "checkpointedTime": datetime.now(UTC).isoformat(),
    }


def _spec(context: Context, record: ContainerRecord) -> dict[str, Any]:
    """Its config.json, with the names that tools look for there."""
    spec = creation.config_of(context, record.id)
    sandbox = context.store.sandbox(record.sandbox_id)
    names = {"container-name": record.config.metadata.name}
    if sandbox is not None:
        names["sandbox-name"] = sandbox.config.metadata.name
        names["sandbox-namespace"] = sandbox.config.metadata.namespace
    said = {f"io.kubernetes.cri.{key}": value for key, value in names.items()}
    return {**spec, "annotations": {**said, **spec.get("annotations", {})}}


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o600
    tar.addfile(info, io.BytesIO(data))


# ---- what it has changed in its image


def write_changes(file: BinaryIO, directory: str) -> Changes:
    """Write what is below a directory as an archive; what is not in there. Raises OSError, FailedPrecondition."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as inner:
        changes = Changes(inner)
        top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            changes.add_top(os.fstat(top))
            changes.add_all(top, "", 0)
        finally:
            os.close(top)
    return changes


class Changes:
    """A writable layer on its way into an archive; goes by descriptors, and what goes away meanwhile is left out."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self.deleted: list[str] = []
        self.opaque: list[str] = []
        # Why the archive does not say all there is; "" if it does.
        self.obstacle = ""

    def add_top(self, found: os.stat_result) -> None:
        """Add the directory that all is in."""
        info = tarfile.TarInfo(".")
        info.type, info.mode, info.mtime = tarfile.DIRTYPE, stat.S_IMODE(found.st_mode), found.st_mtime
        info.uid, info.gid = found.st_uid, found.st_gid
        self._tar.addfile(info)

    def add_all(self, directory_fd: int, path: str, depth: int) -> None:
        """Add what is in a directory, whose path ends in a slash unless it is the top."""
        if depth > _MAX_DEPTH:
            raise FailedPrecondition(
                "checkpoint container", path[:64], f"its files are nested over {_MAX_DEPTH} deep"
            )
        for name in sorted(os.listdir(directory_fd)):
            try:
                found = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
                self._add(directory_fd, name, f"{path}{name}", found)
                if stat.S_ISDIR(found.st_mode):
                    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                    inner = os.open(name, flags, dir_fd=directory_fd)
                    try:
                        self.add_all(inner, f"{path}{name}/", depth + 1)
                    finally:
                        os.close(inner)
            except (FileNotFoundError, NotADirectoryError):
                continue

    def _add(self, directory_fd: int, name: str, path: str, found: os.stat_result) -> None:
        mode = found.st_mode
        if name.startswith(".wh."):
            self.obstacle = f"a file is called {name[:64]!r}, as layers of images mark what is gone"
        info = tarfile.TarInfo(path)
        info.mode, info.mtime = stat.S_IMODE(mode), found.st_mtime
        info.uid, info.gid = found.st_uid, found.st_gid
        if stat.S_ISCHR(mode) and found.st_rdev == 0:
            # overlay's mark for what is gone. Source: Documentation/filesystems/overlayfs.rst
            self.deleted.append(path)
            return
        self._add_attributes(f"/proc/self/fd/{directory_fd}/{name}", info)
        if stat.S_ISREG(mode):
            self._add_file(directory_fd, name, info)
            return
        if stat.S_ISDIR(mode):
            info.type = tarfile.DIRTYPE
        elif stat.S_ISLNK(mode):
            info.type, info.linkname = tarfile.SYMTYPE, os.readlink(name, dir_fd=directory_fd)
        elif stat.S_ISFIFO(mode):
            info.type = tarfile.FIFOTYPE
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            info.type = tarfile.CHRTYPE if stat.S_ISCHR(mode) else tarfile.BLKTYPE
            info.devmajor, info.devminor = os.major(found.st_rdev), os.minor(found.st_rdev)
        else:
            return  # a socket: without its process it is nothing
        self._tar.addfile(info)

    def _add_attributes(self, place: str, info: tarfile.TarInfo) -> None:
        """Extended attributes as tar keeps them; overlay's own say what the archive says otherwise."""
        headers: dict[str, str] = {}
        for attribute in os.listxattr(place, follow_symlinks=False):
            try:
                value = os.getxattr(place, attribute, follow_symlinks=False)
            except OSError as failure:
                if failure.errno == errno.ENODATA:  # gone by now
                    continue
                raise
            if attribute == "trusted.overlay.opaque" and value == b"y":
                self.opaque.append(info.name)
            elif attribute in _REDIRECTS:
                self.obstacle = "directories of its image have been renamed"
            elif not attribute.startswith("trusted.overlay."):
                headers[f"SCHILY.xattr.{attribute}"] = value.decode("utf-8", "surrogateescape")
        info.pax_headers = headers

    def _add_file(self, directory_fd: int, name: str, info: tarfile.TarInfo) -> None:
        # it may be another thing by now: never waited for, never followed
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, dir_fd=directory_fd), "rb") as file:
            now = os.fstat(file.fileno())
            if stat.S_ISREG(now.st_mode):
                info.size = now.st_size
                self._tar.addfile(info, cast("BinaryIO", _Padded(file)))


class _Padded:
    """A file that may be cut short while it is read: what is missing is zeros, for its size is said already."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        """As many bytes as asked for."""
        data = self._file.read(size)
        return data + bytes(size - len(data))
