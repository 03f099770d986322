# SPDX-License-Identifier: Apache-2.0
"""What `typing`, `collections.abc`, `signal` and `socket` give to type checkers, at next to no cost when a program runs.

`oakum oci` starts an interpreter for every command, and those four modules with all that they import cost it a quarter of
its time. A type checker sees the real ones here. At run time `NamedTuple` and `TypedDict` make the same classes in a tenth of the
time, `signal` and `socket` are the C modules below those of that name, whose constants are plain numbers. Names that only
annotations need are imported from `typing` below `if TYPE_CHECKING`: annotations are never evaluated.
Owns no types of its own. Whoever needs more of those modules imports them.
"""

from __future__ import annotations

__all__ = ("TYPE_CHECKING", "NamedTuple", "Protocol", "TypedDict", "cast", "once", "signal", "socket")

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    import socket
    from collections.abc import Callable
    from typing import NamedTuple, Protocol, TypedDict, TypeVar, cast

    _T = TypeVar("_T")
else:
    import _signal as signal
    from _collections import _tuplegetter

    def __getattr__(name: str) -> object:
        if name == "socket":
            import _socket  # a library to load, only for those who ask

            return _socket
        raise AttributeError(name)

    def cast(_kind: object, value: object) -> object:
        """`value`, which the caller knows to be of that kind."""
        return value

    class Protocol:
        """The base of what is known only by its methods."""

    def _complete(cls: type, values: tuple, named: dict[str, object]) -> list:
        """All values of a tuple in the order of its fields. Raises TypeError as for any call."""
        fields, defaults = cls._fields, cls._field_defaults
        if len(values) > len(fields):
            raise TypeError(f"{cls.__name__} takes {len(fields)} values but {len(values)} were given")
        every = list(values)
        for field in fields[len(values) :]:
            if field in named:
                every.append(named.pop(field))
            elif field in defaults:
                every.append(defaults[field])
            else:
                raise TypeError(f"{cls.__name__} is missing {field!r}")
        if named:
            raise TypeError(f"{cls.__name__} got unexpected or repeated values for {', '.join(named)}")
        return every

    class _Fields(type):
        """Makes the classes below NamedTuple; a class below one of those is a class like any other."""

        def __new__(meta, name: str, bases: tuple[type, ...], members: dict[str, object]) -> type:
            base = bases[0]
            if base is tuple or base._fields:
                return super().__new__(meta, name, bases, members)
            fields = tuple(members.get("__annotations__", ()))
            defaults = {field: members.pop(field) for field in fields if field in members}
            members.update(
                __slots__=(), _fields=fields, _field_defaults=defaults, __match_args__=fields,
            )  # fmt: skip
            for index, field in enumerate(fields):
                members[field] = _tuplegetter(index, None)
            return super().__new__(meta, name, bases, members)

    class NamedTuple(tuple, metaclass=_Fields):
        """A tuple whose values have names, as in `typing`."""

        __slots__ = ()
        _fields = ()
        _field_defaults = {}

        def __new__(cls, *values: object, **named: object) -> NamedTuple:  # noqa: D102 - as every class
            if named or len(values) != len(cls._fields):
                values = _complete(cls, values, named)
            return tuple.__new__(cls, values)

        @classmethod
        def _make(cls, values: object) -> NamedTuple:
            return cls(*values)

        def _replace(self, /, **changes: object) -> NamedTuple:
            if not changes.keys() <= set(self._fields):
                raise TypeError(f"{type(self).__name__} has not all of {', '.join(changes)}")
            return tuple.__new__(type(self), [*map(changes.pop, self._fields, self)])

        def _asdict(self) -> dict[str, object]:
            return dict(zip(self._fields, self, strict=True))

        def __getnewargs__(self) -> tuple:
            return tuple(self)

        def __repr__(self) -> str:
            return f"{type(self).__name__}({', '.join(f'{f}={v!r}' for f, v in zip(self._fields, self, strict=True))})"

    class _Documents(type):
        """Makes the classes below TypedDict, whose instances are plain dicts."""

        def __call__(cls, *values: object, **named: object) -> dict[str, object]:
            return dict(*values, **named)

    class TypedDict(dict, metaclass=_Documents):
        """A dict whose keys are known, as in `typing`."""

        def __init_subclass__(cls, *, total: bool = True) -> None:
            """Nothing is checked at run time."""


def once(function: Callable[[], _T]) -> Callable[[], _T]:
    """`function`, called at most once in a process; as functools.cache for one without arguments."""
    found: list[_T] = []

    def call() -> _T:
        if not found:
            found.append(function())
        return found[0]

    return call
