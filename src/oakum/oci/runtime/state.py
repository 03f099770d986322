# SPDX-License-Identifier: Apache-2.0
"""The state directory: one directory a container, with what must be known of it after its maker has ended.

    ROOT/<id>/lock          flock of whoever changes the container
    ROOT/<id>/state.json    Record: written before anything else is made, and again with the process
    ROOT/<id>/config.json   the spec as it was at create (later changes of the bundle mean nothing)
    ROOT/<id>/seccomp.bpf   the compiled filter, for execs
    ROOT/<id>/*.fifo        where a created container waits (`oci.gate`)

A directory with neither state.json nor config.json is what a killed `create` left, and can be deleted. One whose files do
not make sense is damaged: it is not guessed at what they said. Whether a process lives is asked from the kernel each time.
"""

from __future__ import annotations

import os

from oakum.errors import AlreadyExists, DataLoss, InvalidArgument, NotFound, SystemFailure
from oakum.linux import control, pids
from oakum.linux.durable import read_file, write_file_fast
from oakum.linux.fd import Fd
from oakum.model import jsontext as json
from oakum.model.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any, Final

    from oakum.oci.spec import Spec

STATE: Final = "state.json"
CONFIG: Final = "config.json"
FILTER: Final = "seccomp.bpf"
_ID_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")
_ID_LIMIT: Final = 1024


class Record(NamedTuple):
    """What is known of a container. `pid` 0: no process yet; `start_ticks` tells it from a later one of the same id."""

    id: str
    bundle: str
    rootfs: str
    created: str
    oci_version: str
    owner_uid: int
    cgroup_path: str
    annotations: dict[str, str]
    pid: int = 0
    start_ticks: int = 0
    seccomp_flags: int = 0
    systemd: bool = False


def _wrong_members(record: Record, container_id: str) -> str:
    """The members whose values nobody here has written, "" when there are none."""
    numbers = ("pid", "start_ticks", "seccomp_flags", "owner_uid")
    wrong: list[str] = []
    for name, value in record._asdict().items():
        if name in numbers:
            fine = type(value) is int and value >= 0
        elif name == "systemd":
            fine = isinstance(value, bool)
        elif name == "annotations":
            fine = isinstance(value, dict)
        else:
            fine = isinstance(value, str)
        if not fine:
            wrong.append(name)
    if record.id != container_id:
        wrong.append("id")
    return ", ".join(wrong)


def check_id(text: str) -> str:
    """`text` if it may name a container. Raises InvalidArgument."""
    if not text or text in (".", "..") or len(text) > _ID_LIMIT or not _ID_LETTERS.issuperset(text):
        raise InvalidArgument("name container", repr(text[:80]), "invalid container ID format")
    return text


class Directory:
    """One container's directory below the runtime's root."""

    __slots__ = ("id", "path")

    def __init__(self, root: str, container_id: str) -> None:
        self.id = check_id(container_id)
        self.path = os.path.join(os.path.abspath(root), container_id)

    def make(self) -> None:
        """Take the id. Raises AlreadyExists, SystemFailure."""
        try:
            try:
                os.mkdir(self.path, 0o700)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(self.path), mode=0o711, exist_ok=True)
                os.mkdir(self.path, 0o700)
        except FileExistsError as failure:
            raise AlreadyExists(
                "create container", self.id, "container with given ID already exists"
            ) from failure
        except OSError as failure:
            raise SystemFailure.from_os_error(failure, "make state directory", self.path) from failure

    def lock(self, *, shared: bool = False) -> Fd:
        """Wait until nobody else changes the container; closing the result lets go. Raises NotFound."""
        try:
            fd = Fd(
                os.open(f"{self.path}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            )
        except (FileNotFoundError, NotADirectoryError) as failure:
            raise self._missing() from failure
        control.flock(fd.fileno(), control.LOCK_SHARED if shared else control.LOCK_EXCLUSIVE)
        if not os.path.exists(f"{self.path}/lock"):  # deleted while we waited
            fd.close()
            raise self._missing()
        return fd

    def is_locked(self) -> bool:
        """Whether somebody is changing the container right now."""
        try:
            fd = Fd(os.open(f"{self.path}/lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW))
        except FileNotFoundError:
            return False
        with fd:
            try:
                control.flock(fd.fileno(), control.LOCK_SHARED | control.LOCK_NO_WAIT)
            except BlockingIOError:
                return True
        return False

    def save(self, record: Record) -> None:
        """Replace the record. Raises OSError."""
        write_file_fast(f"{self.path}/{STATE}", json.dumps(record._asdict()).encode())

    def load(self) -> Record:
        """The record. Raises NotFound, DataLoss."""
        try:
            data: Any = json.loads(self._read(STATE))
            # A record of before there was a systemd driver does not have the last one.
            record = Record(
                **{name: data[name] for name in Record._fields if name != "systemd" or name in data}
            )
        except FileNotFoundError as failure:
            if os.path.isdir(self.path):
                raise self.damaged("it was never finished") from failure
            raise self._missing() from failure
        except (ValueError, KeyError, TypeError, RecursionError, OSError) as failure:
            raise self.damaged(f"{STATE}: {failure}") from failure
        if wrong := _wrong_members(record, self.id):
            raise self.damaged(f"{STATE}: {wrong} makes no sense")
        return record

    def save_spec(self, spec: Spec) -> None:
        """Keep the spec as it is now. Raises OSError."""
        write_file_fast(f"{self.path}/{CONFIG}", json.dumps(spec).encode())

    def load_spec(self) -> Spec:
        """The spec as it was at create. Raises DataLoss."""
        from oakum.oci.spec import parse  # most commands never look into it

        try:
            return parse(json.loads(self._read(CONFIG)))
        except (ValueError, RecursionError, InvalidArgument, OSError) as failure:
            raise self.damaged(f"{CONFIG}: {failure}") from failure

    def has_hooks(self) -> bool:
        """Whether the spec can have any: its text, which we have written, has the word. False where there is none."""
        try:
            return b'"hooks"' in self._read(CONFIG)
        except OSError:
            return False

    def has_new_namespace(self, kind: str) -> bool:
        """Whether the spec has a namespace of that kind made; False where its text, which we have written, is damaged."""
        try:
            namespaces = json.loads(self._read(CONFIG))["linux"]["namespaces"]
            return any(n["type"] == kind and not n.get("path") for n in namespaces)
        except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
            return False

    def is_empty(self) -> bool:
        """Whether nothing was kept yet, and so nothing was made."""
        return not any(os.path.lexists(f"{self.path}/{name}") for name in (STATE, CONFIG))

    def save_filter(self, program: bytes) -> None:
        """Keep the compiled system call filter. Raises OSError."""
        write_file_fast(f"{self.path}/{FILTER}", program)

    def load_filter(self) -> bytes:
        """The compiled system call filter, b"" when there is none. Raises OSError."""
        try:
            return self._read(FILTER)
        except FileNotFoundError:
            return b""

    def remove(self) -> None:
        """Forget the container; one that is gone is fine. Raises SystemFailure."""
        try:
            names = os.listdir(self.path)
            # The record goes last: a removal that is killed can be repeated.
            for name in sorted(names, key=lambda name: name == STATE):
                os.unlink(f"{self.path}/{name}")
            os.rmdir(self.path)
        except FileNotFoundError:
            return
        except OSError as failure:
            raise SystemFailure.from_os_error(failure, "remove state directory", self.path) from failure

    def damaged(self, why: str) -> DataLoss:
        """The error for a state that cannot be used."""
        return DataLoss("read state of container", self.id, why, hint="delete it with --force")

    def _missing(self) -> NotFound:
        return NotFound("find container", self.id, "container does not exist")

    def _read(self, name: str) -> bytes:
        return read_file(f"{self.path}/{name}")


def list_ids(root: str) -> list[str]:
    """The ids of all containers below `root`, sorted. Raises SystemFailure."""
    try:
        with os.scandir(root) as entries:
            return sorted(
                e.name
                for e in entries
                if e.is_dir(follow_symlinks=False) and _ID_LETTERS.issuperset(e.name) and e.name[0] != "."
            )
    except FileNotFoundError:
        return []
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "list", root) from failure


def start_ticks(pid: int) -> int | None:
    """When the process began, in clock ticks since boot; None when it has ended. Raises SystemFailure."""
    try:
        return pids.start_ticks(pid)
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "read", f"/proc/{pid}/stat") from failure
