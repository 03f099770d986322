# SPDX-License-Identifier: Apache-2.0
"""Docker's images as CRI sees them: names in full, users, layers, and what they use of the disk.

An image's id is the digest of its configuration, the same as in the native store.
"""

from __future__ import annotations

import base64
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from oakum.backend.config import AuthConfig
from oakum.backend.protocols import PullProgress
from oakum.backend.status import FilesystemUsage, Image
from oakum.docker.client import DockerClient
from oakum.docker.objects import nanoseconds
from oakum.engine.flights import Flight, Flights
from oakum.engine.registry_auth import credentials_of
from oakum.errors import (
    Cancelled,
    DataLoss,
    FailedPrecondition,
    ImageNotFound,
    InvalidArgument,
    NotFound,
    OakumError,
    PermissionDenied,
    ResourceExhausted,
    SystemFailure,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from oakum.images.reference import Reference, is_image_id, parse_reference

_NONE: Final = "<none>"
_POLL_S: Final = 0.1
_IDLE_S: Final = 600.0
_LOAD_S: Final = 600.0
_STAGES: Final = {
    "Pulling fs layer": "waiting",
    "Waiting": "waiting",
    "Downloading": "downloading",
    "Verifying Checksum": "downloading",
    "Download complete": "unpacking",
    "Extracting": "unpacking",
    "Pull complete": "done",
    "Already exists": "exists",
}
# What Docker's words say that its one status (500, or none within a stream) does not; the first that fits counts.
_FAILURES: Final[tuple[tuple[str, type[OakumError]], ...]] = (
    ("no space left", ResourceExhausted),
    ("toomanyrequests", ResourceExhausted),
    ("manifest unknown", NotFound),
    ("not found", NotFound),
    ("no matching manifest", NotFound),
    ("unauthorized", Unauthenticated),
    ("no basic auth credentials", Unauthenticated),
    ("authentication required", Unauthenticated),
    ("denied", PermissionDenied),
    ("filesystem layer verification failed", DataLoss),
    ("unexpected eof", Unavailable),
)


class Images:
    """The images of one Docker Engine. Thread-safe."""

    def __init__(self, client: DockerClient, *, pinned: Callable[[], str]) -> None:
        """`pinned` names the image that sandboxes need."""
        self._client = client
        self._pinned = pinned
        self._pulls: Flights[str] = Flights()
        self._guard = threading.Lock()
        self._details: dict[str, dict[str, Any]] = {}
        self._layer_use: dict[str, tuple[int, int]] = {}

    # asking

    def need(self, image: str) -> dict[str, Any]:
        """What Docker says about the image that a reference, digest or id names. Raises ImageNotFound."""
        found = self._inspect(image)
        if found is None:
            raise ImageNotFound("find image", repr(image[:200]), "it is not there", hint="pull it first")
        return found

    def _inspect(self, image: str) -> dict[str, Any] | None:
        if not image:
            raise InvalidArgument("find image", "''", "no image named")
        try:
            name = image if is_image_id(image) else parse_reference(image).familiar
        except InvalidArgument:
            # the beginning of an id, or nothing that Docker could know
            if not image.isascii() or not image.isalnum():
                return None
            name = image
        try:
            return self._client.get(f"/images/{name}/json")
        except NotFound:
            return None

    def list(self, wanted: str = "") -> Sequence[Image]:
        """All images, or the one that `wanted` names."""
        if wanted:
            found = self.status(wanted)
            return [found] if found is not None else []
        rows: list[dict[str, Any]] = self._client.get("/images/json", query={"digests": 1})
        ids = {row["Id"] for row in rows}
        images = [self._image({**self._detail(row["Id"]), **_names(row)}) for row in rows]
        with self._guard:
            for gone in self._details.keys() - ids:
                del self._details[gone]
        return images

    def _detail(self, image_id: str) -> dict[str, Any]:
        """What never changes about an image."""
        with self._guard:
            known = self._details.get(image_id)
        if known is None:
            found = self._inspect(image_id) or {"Id": image_id}
            known = {key: found.get(key) for key in ("Id", "Size", "Created", "Architecture", "Os")}
            known["Config"] = {"User": _part(found, "Config").get("User", "")}
            with self._guard:
                self._details[image_id] = known
        return known

    def status(self, image: str) -> Image | None:
        """One image; None when there is none."""
        found = self._inspect(image)
        return self._image(found) if found is not None else None

    def _image(self, found: Mapping[str, Any]) -> Image:
        user = str(_part(found, "Config").get("User") or "").partition(":")[0]
        numeric = user.isascii() and user.isdecimal() and len(user) < 11
        tags = tuple(_full(name) for name in found.get("RepoTags") or () if _NONE not in name)
        return Image(
            id=found["Id"],
            repo_tags=tags,
            repo_digests=tuple(_full(name) for name in found.get("RepoDigests") or () if _NONE not in name),
            size_bytes=int(found.get("Size") or 0),
            uid=int(user) if numeric else None,
            username="" if numeric else user,
            pinned=self._pinned() in tags,
            created_at_ns=nanoseconds(str(found.get("Created") or "")),
            architecture=str(found.get("Architecture") or ""),
            os=str(found.get("Os") or ""),
        )

    def document(self, image: str) -> Mapping[str, Any]:
        """The image's configuration: its author's own text where Docker keeps it where we can read it."""
        found = self.need(image)
        info = self._client.get("/info")
        digest = found["Id"].removeprefix("sha256:")
        path = f"{info['DockerRootDir']}/image/{info['Driver']}/imagedb/content/sha256/{digest}"
        try:
            with open(path, "rb") as file:
                return msgspec.json.decode(file.read(), type=dict[str, Any])
        except (OSError, msgspec.DecodeError):
            # another image store, or another machine's: then what Docker makes of it
            return {
                "created": found.get("Created"),
                "architecture": found.get("Architecture"),
                "os": found.get("Os"),
                "config": found.get("Config"),
                "rootfs": {"type": "layers", "diff_ids": _part(found, "RootFS").get("Layers") or []},
            }

    def layers(self, image: str) -> tuple[str, Sequence[str]]:
        """An image's id and its layers' directories on this host, topmost first. Raises Unimplemented, ImageNotFound."""
        found = self.need(image)
        directories = _directories(found)
        if not directories:
            driver = _part(found, "GraphDriver").get("Name", "another image store")
            raise Unimplemented(
                "mount image", image, f"Docker keeps its images by {driver}", hint="overlay2 can be mounted"
            )
        return found["Id"], directories

    def filesystems(self) -> Sequence[FilesystemUsage]:
        """What the layers of all images use, each counted once."""
        info = self._client.get("/info")
        rows: list[dict[str, Any]] = self._client.get("/images/json", query={"all": 1})
        directories: set[str] = set()
        unknown = 0
        for row in rows:
            found = _directories(self._inspect(row["Id"]) or {})
            directories.update(found)
            unknown += 0 if found else int(row["Size"])
        uses = {directory: self._layer_use.get(directory) or _usage(directory) for directory in directories}
        self._layer_use = uses
        return (
            FilesystemUsage(
                timestamp_ns=time.time_ns(),
                mountpoint=info["DockerRootDir"],
                used_bytes=sum(used for used, _ in uses.values()) + unknown,
                inodes_used=sum(inodes for _, inodes in uses.values()),
            ),
        )

    # changing

    def pull(
        self,
        image: str,
        *,
        auth: AuthConfig | None = None,
        progress: PullProgress | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> str:
        """Have Docker bring an image; its id. The same pull asked for twice at once is done once."""
        if is_image_id(image):
            raise InvalidArgument("pull image", repr(image), "an id does not say which registry has it")
        reference = parse_reference(image)

        def work(flight: Flight[str]) -> str:
            self._pull(reference, auth, flight)
            return str(self.need(reference.canonical)["Id"])

        return self._pulls.fly((reference.canonical, auth), work, progress=progress, cancelled=cancelled)

    def _pull(self, reference: Reference, auth: AuthConfig | None, flight: Flight[str]) -> None:
        query = {"fromImage": reference.repository, "tag": reference.target}
        headers = _auth_header(auth, reference.domain)
        with (
            _ended_when(flight.cancelled, reference.canonical) as opening,
            _explained(reference.canonical),
            self._client.stream(
                "POST", "/images/create", query=query, headers=headers, idle_s=_IDLE_S, opening=opening
            ) as answer,
        ):
            for said in answer.objects():
                if "error" in said:
                    raise _failure(str(said["error"]), reference.canonical)
                stage = _STAGES.get(str(said.get("status")))
                if stage and "id" in said:
                    detail = _part(said, "progressDetail")
                    flight.progress(
                        str(said["id"]), stage, int(detail.get("current") or 0), int(detail.get("total") or 0)
                    )

    def load(self, archive: bytes | Iterator[bytes]) -> None:
        """Have Docker read an archive of images. Raises OakumError."""
        headers = {"Content-Type": "application/x-tar"}
        body = iter((archive,)) if isinstance(archive, bytes) else archive
        with self._client.stream(
            "POST", "/images/load", body=body, query={"quiet": 1}, headers=headers, idle_s=_LOAD_S
        ) as answer:
            for said in answer.objects():
                if "error" in said:
                    raise _failure(str(said["error"]), "archive", operation="load image")

    def save(self, image: str, write: Callable[[bytes], object]) -> None:
        """Have `write` called with an archive of an image, piece by piece. Raises OakumError."""
        with self._client.stream("GET", f"/images/{image}/get", idle_s=_LOAD_S) as answer:
            while piece := answer.read():
                write(piece)

    def tag(self, image: str, name: str) -> None:
        """Give an image a further name. Raises OakumError."""
        reference = parse_reference(name)
        query = {"repo": reference.repository, "tag": reference.tag}
        self._client.post(f"/images/{image}/tag", query=query)

    def remove(self, image: str) -> None:
        """Forget every name of the image, and the image unless a container needs it; succeeds for what is gone."""
        found = self._inspect(image)
        if found is None:
            return
        try:
            self._delete(found["Id"])
            return
        except FailedPrecondition:
            pass  # a container uses it: its names go all the same, as in the native store
        for name in (*(found.get("RepoTags") or ()), *(found.get("RepoDigests") or ())):
            if _NONE not in name:
                self._delete(name)

    def _delete(self, name: str) -> None:
        try:
            self._client.delete(f"/images/{name}", query={"force": 1}, deadline_s=_LOAD_S)
        except NotFound:
            return


@contextmanager
def _ended_when(
    cancelled: Callable[[], bool], subject: str
) -> Generator[Callable[[Callable[[], None]], None]]:
    """End a stream once its caller gives up: Docker then stops pulling. Raises Cancelled."""
    done = threading.Event()
    ends: list[Callable[[], None]] = []

    def watch() -> None:
        while not done.wait(_POLL_S):
            if cancelled():
                for end in ends:
                    end()

    watcher = threading.Thread(target=watch, name="docker-pull", daemon=True)
    watcher.start()
    try:
        yield ends.append
    except OakumError as error:
        if cancelled():
            raise Cancelled("pull image", subject, "its caller gave up") from error
        raise
    finally:
        done.set()
        watcher.join()
    if cancelled():
        raise Cancelled("pull image", subject, "its caller gave up")


@contextmanager
def _explained(subject: str) -> Generator[None]:
    """Before the first word of its stream, Docker says status 500 to whatever a registry did."""
    try:
        yield
    except SystemFailure as error:
        raise _failure(error.cause, subject) from error


def _failure(text: str, subject: str, *, operation: str = "pull image") -> OakumError:
    lowered = text.lower()
    for words, kind in _FAILURES:
        if words in lowered:
            return kind(operation, subject, text)
    return Unavailable(operation, subject, text)


def _auth_header(auth: AuthConfig | None, domain: str) -> dict[str, str]:
    found = credentials_of(auth)
    if found is None:
        return {}
    said = {
        "username": found.username,
        "password": found.password,
        "identitytoken": found.identity_token,
        "registrytoken": found.registry_token,
        "serveraddress": domain,
    }
    text = msgspec.json.encode({name: value for name, value in said.items() if value})
    return {"X-Registry-Auth": base64.urlsafe_b64encode(text).decode()}


def _part(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object within an object; Docker leaves it out or says null where there is none."""
    part: Mapping[str, Any] | None = found.get(name)
    return part if part is not None else {}


def _names(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"Id": row["Id"], "RepoTags": row.get("RepoTags"), "RepoDigests": row.get("RepoDigests")}


def _full(name: str) -> str:
    try:
        return parse_reference(name).canonical
    except InvalidArgument:
        return name


def _directories(found: Mapping[str, Any]) -> list[str]:
    data = _part(_part(found, "GraphDriver"), "Data")
    if not data.get("UpperDir"):
        return []
    return [str(data["UpperDir"]), *filter(None, str(data.get("LowerDir", "")).split(":"))]


def _usage(directory: str) -> tuple[int, int]:
    """Bytes and inodes of a layer; links to one file count once."""
    used = 0
    seen: set[tuple[int, int]] = set()
    for place, names, files in os.walk(directory):
        for name in (*names, *files):
            try:
                status = os.lstat(f"{place}/{name}")
            except FileNotFoundError:
                continue  # the image is being removed
            key = (status.st_dev, status.st_ino)
            if key not in seen:
                seen.add(key)
                used += status.st_blocks * 512
    return used, len(seen)
