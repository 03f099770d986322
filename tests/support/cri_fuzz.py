# SPDX-License-Identifier: Apache-2.0
"""Hostile CRI requests, made from the compiled descriptor: a new RPC or field is fuzzed by itself.

A request is a base (nothing, or one that the server would grant) with a few of its places set to what no honest
client sends. Owns no server and sends nothing. Values are chosen so that granting them harms nobody: paths lie
below a directory of the test's or cannot be made, cgroups below one of its own, and images are nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from oakum.api.cri._proto import cri_pb2 as pb

METHODS: dict[str, MethodDescriptor] = {
    method.name: method
    for service in pb.DESCRIPTOR.services_by_name.values()
    for method in cast("list[MethodDescriptor]", service.methods)
}


class World(NamedTuple):
    """Where requests may make things, and what is on the server for them to name.

    Objects come and go, so values name them by marks, which `encoded` replaces by their ids of the moment.
    """

    directory: str
    cgroup: str
    image: str


OBJECTS = ("pod", "stopped_pod", "running", "created", "exited")
"""What `ids` of `encoded` must hold."""


class Place(NamedTuple):
    """One field of a request, by the way to it; the last is set, those before are entered (first element if repeated)."""

    way: tuple[FieldDescriptor, ...]

    @property
    def field(self) -> FieldDescriptor:
        return self.way[-1]

    @property
    def name(self) -> str:
        return ".".join(field.name for field in self.way)


class Change(NamedTuple):
    """A value for a place."""

    place: Place
    value: Any

    def __repr__(self) -> str:
        text = repr(self.value)
        return f"{self.place.name} = {text if len(text) < 80 else f'{text[:60]}... ({len(text)})'}"


class Attempt(NamedTuple):
    """One request: `raw` bytes if they are given, else the base `granted` or empty with `changes`."""

    rpc: str
    granted: bool
    changes: tuple[Change, ...] = ()
    raw: bytes | None = None


@cache
def places(rpc: str) -> tuple[Place, ...]:
    """Every field of an RPC's request, messages and what is in them."""
    return tuple(_places(METHODS[rpc].input_type, ()))


def _places(message: Descriptor, before: tuple[FieldDescriptor, ...]) -> Iterator[Place]:
    for field in cast("list[FieldDescriptor]", message.fields):
        way = (*before, field)
        yield Place(way)
        inner = field.message_type
        if inner is not None and not inner.GetOptions().map_entry:
            yield from _places(inner, way)


# ---- values

_TEXTS = (
    "",
    "\0",
    "a\0b",
    "\n",
    "a\nb",
    " ",
    "-",
    "--help",
    "..",
    "../../../etc/passwd",
    "a/../../b",
    "%s%n%x",
    "$(id)",
    "\u202eabc\u0301",
    "\U0001f6a2",
    "x" * 300,
    "x" * 70_000,
    "0" * 64,
    "sha256:" + "0" * 64,
    "*",
    "[",
    "1",
    "-1",
    "null",
    "{}",
)
_INTEGERS = (
    0,
    1,
    -1,
    2,
    1000,
    4096,
    65535,
    65536,
    2**31 - 1,
    -(2**31),
    2**32 - 1,
    2**63 - 1,
    -(2**63),
    2**64 - 1,
)
_BITS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_ABSENT = "absent"
_EMPTY = "empty"


def _is_path(name: str) -> bool:
    return any(part in name for part in ("path", "directory", "location", "target", "localhost_ref"))


def _texts(field: FieldDescriptor, world: World) -> tuple[str, ...]:
    name = field.name.lower()
    if "image" in name:
        own = (
            "127.0.0.1:1/UPPER/case",
            "127.0.0.1:1/none:latest",
            "127.0.0.1:1/none@sha256:" + "0" * 64,
            "127.0.0.1:1/" + "x" * 300,
            "127.0.0.1:1/a:b:c",
            world.image,
            f"{world.image}@sha256:" + "0" * 64,
            f"{world.image}@sha256:zz",
        )
        # a bare word would be a name at a public registry
        return (
            *own,
            *(text for text in _TEXTS if not text.isalnum() and text not in ("null", "-", "--help")),
        )
    if name == "cgroup_parent":
        top = world.cgroup
        tail = ("", "/a", "/" + "x" * 300, "/a/../../b", "/\0", "/a b", "/\n", "/\u202e")
        return (*(f"{top}{text}" for text in tail), f"{top[1:]}.slice", f"{top[1:]}-.slice", "", "..", "\0")
    if _is_path(name):
        top = world.directory
        tail = (
            "",
            "/new",
            "/file",
            "/file/below",
            "/loop",
            "/fifo",
            "/a/../b",
            "/" + "x" * 300,
            "/new\n",
            "/\0",
            "/" + "y/" * 3000,
        )
        odd = (
            "/dev/null",
            "/dev/null/below",
            "/proc/self/fd/0/x",
            "/proc/self/mem",
            "relative/path",
            "./x",
            "//",
            "/.",
            "/..",
        )
        return (*(f"{top}{text}" for text in tail), *odd, *_TEXTS)
    if name.endswith(("id", "ids")):
        return (*(f"@{name}@" for name in OBJECTS), *(f"@{name}:8@" for name in OBJECTS), *_TEXTS)
    return _TEXTS


def _scalars(field: FieldDescriptor, world: World) -> tuple[Any, ...]:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return (b"", b"\0", b"\xff\xfe", b"x" * 70_000)
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return _texts(field, world)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return (False, True)
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return (
            *(value.number for value in cast("EnumDescriptor", field.enum_type).values),
            99,
            -1,
            2**31 - 1,
        )
    if kind in _BITS:
        lowest, highest = _BITS[kind]
        return tuple(value for value in _INTEGERS if lowest <= value <= highest)
    return (0.0, -1.5, float("inf"), float("nan"))


_KEYS = (
    "",
    "a",
    "kernel.shm_rmid_forced",
    "kernel.hostname",
    "net.core.somaxconn",
    "../x.y",
    "memory.max",
    "memory.high",
    "cgroup.procs",
    "cgroup.freeze",
    "x.\n",
    "\0",
    "y" * 300,
)


def _values(place: Place, world: World) -> st.SearchStrategy[Any]:
    field = place.field
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        entries = st.dictionaries(st.sampled_from(_KEYS), st.sampled_from(_TEXTS), max_size=3)
        return entries | st.just({f"k{n}": "v" for n in range(2000)})
    if inner is not None:
        return st.sampled_from((_ABSENT, _EMPTY))
    one = st.sampled_from(_scalars(field, world))
    if field.is_repeated:
        return st.lists(one, max_size=3) | one.map(lambda value: [value] * 500)
    return one


def attempts(world: World) -> st.SearchStrategy[Attempt]:
    """Requests to any RPC."""

    def of(rpc: str) -> st.SearchStrategy[Attempt]:
        known = places(rpc)
        if not known:
            return st.booleans().map(lambda granted: Attempt(rpc, granted))
        change = st.sampled_from(known).flatmap(
            lambda place: _values(place, world).map(lambda value: Change(place, value))
        )
        # nine of ten from what would be granted: the rest is refused for the first thing that is missing
        built = st.tuples(st.integers(0, 9), st.lists(change, max_size=3)).map(
            lambda drawn: Attempt(rpc, bool(drawn[0]), tuple(drawn[1]))
        )
        raw = st.binary(min_size=1, max_size=40).map(lambda data: Attempt(rpc, granted=False, raw=data))
        return st.integers(0, 14).flatmap(lambda n: built if n else raw)

    # RPCs with many fields come more often
    weighted = [rpc for rpc in sorted(METHODS) for _ in range(1 + len(places(rpc)) // 20)]
    return st.sampled_from(weighted).flatmap(of)


# ---- requests


def encoded(attempt: Attempt, base: Message, ids: Mapping[str, str]) -> bytes:
    """The bytes of an attempt; `base` is the request that would be granted."""
    if attempt.raw is not None:
        return attempt.raw
    message = GetMessageClass(METHODS[attempt.rpc].input_type)()
    if attempt.granted:
        message.CopyFrom(base)
    for change in attempt.changes:
        _put(message, change.place.way, _filled(change.value, ids))
    return message.SerializeToString()


def _filled(value: Any, ids: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_filled(one, ids) for one in cast("list[Any]", value)]
    if isinstance(value, str) and value.startswith("@") and value.endswith("@"):
        name, short, _ = value.strip("@").partition(":")
        return ids[name][:8] if short else ids[name]
    return value


def _put(message: Any, way: tuple[FieldDescriptor, ...], value: Any) -> None:
    for field in way[:-1]:
        inner = getattr(message, field.name)
        if field.is_repeated:
            message = inner[0] if len(inner) else inner.add()
        else:
            inner.SetInParent()
            message = inner
    field = way[-1]
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        getattr(message, field.name).update(value)
    elif field.message_type is not None:
        message.ClearField(field.name)
        if value == _EMPTY:
            inner = getattr(message, field.name)
            inner.add() if field.is_repeated else inner.SetInParent()
    elif field.is_repeated:
        message.ClearField(field.name)
        getattr(message, field.name).extend(value)
    else:
        setattr(message, field.name, value)
