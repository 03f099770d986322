# SPDX-License-Identifier: Apache-2.0
"""A stand-in for `os`, which costs every command a millisecond: a tenth of what asking for a state takes.

`os` is `posix` with names and paths around it. The stand-in has all of `posix` and those of the others that our modules
use; whoever asks it for another name gets it from the real one, which is loaded then and takes its place.
That one is in the interpreter itself (frozen): nothing is looked up in a file system, which could be a container's by then.
Owns no behaviour of its own: `tests/unit/cli/test_oci_light_os.py` compares the two.
"""

from __future__ import annotations

import _imp
import posix
import sys

from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, Final
else:
    ModuleType = type(sys)

_KIND: Final = 0o170000
_DIRECTORY: Final = 0o040000
_FILE: Final = 0o100000
_ENCODING: Final = sys.getfilesystemencoding()
_ERRORS: Final = sys.getfilesystemencodeerrors()


def _real(name: str) -> ModuleType:
    for own in ("os", "os.path"):
        if isinstance(sys.modules.get(own), _StandIn):
            del sys.modules[own]
    __import__("os")
    return sys.modules[name]


class _StandIn(ModuleType):
    """A module that knows where the rest is."""

    def __getattr__(self, name: str) -> Any:
        if name == "__path__":
            raise AttributeError(name)  # no package, as whoever imports a name from it asks first
        value = getattr(_real(self.__name__), name)
        setattr(self, name, value)
        return value


def _path(name: str, *arguments: Any) -> Any:
    return getattr(_real("os.path"), name)(*arguments)


def fsencode(name: Any) -> bytes:
    """The bytes of a path."""
    if type(name) is str:
        return name.encode(_ENCODING, _ERRORS)
    return name if type(name) is bytes else _real("os").fsencode(name)


def fsdecode(name: Any) -> str:
    """The text of a path."""
    if type(name) is bytes:
        return name.decode(_ENCODING, _ERRORS)
    return name if type(name) is str else _real("os").fsdecode(name)


def makedirs(name: Any, mode: int = 0o777, exist_ok: bool = False) -> None:
    """A directory and what it needs above it."""
    if type(name) is not str:
        _real("os").makedirs(name, mode, exist_ok)
        return
    above = dirname(name.rstrip("/"))
    if above and above != name and not exists(above):
        makedirs(above, exist_ok=True)
    try:
        posix.mkdir(name, mode)
    except OSError:
        if not exist_ok or not isdir(name):
            raise


def join(first: Any, *others: Any) -> Any:
    """Paths after each other; an absolute one begins anew."""
    if type(first) is not str or any(type(other) is not str for other in others):
        return _path("join", first, *others)
    for other in others:
        if other.startswith("/"):
            first = other
        else:
            first += other if not first or first.endswith("/") else f"/{other}"
    return first


def split(path: Any) -> Any:
    """Directory and name."""
    if type(path) is not str:
        return _path("split", path)
    place = path.rfind("/") + 1
    head, tail = path[:place], path[place:]
    return head.rstrip("/") or head, tail


def dirname(path: Any) -> Any:
    """The first of `split`."""
    return split(path)[0]


def basename(path: Any) -> Any:
    """The second of `split`."""
    return split(path)[1]


def isabs(path: Any) -> bool:
    """Whether it begins at the root."""
    return path.startswith("/") if type(path) is str else _path("isabs", path)


def normpath(path: Any) -> Any:
    """Without ".", ".." and what is twice."""
    if type(path) is not str or "\0" in path:  # what becomes of a NUL differs from version to version
        return _path("normpath", path)
    root = "" if not path.startswith("/") else "//" if path.startswith("//") and path[2:3] != "/" else "/"
    names: list[str] = []
    for name in path.split("/"):
        if name == ".." and names and names[-1] != "..":
            names.pop()
        elif name not in ("", ".") and (name != ".." or not root):
            names.append(name)
    return root + "/".join(names) or "."


def abspath(path: Any) -> Any:
    """`normpath`, from the root."""
    if type(path) is not str:
        return _path("abspath", path)
    return normpath(path if path.startswith("/") else join(posix.getcwd(), path))


def _mode(path: Any) -> int:
    try:
        return posix.stat(path).st_mode
    except (OSError, ValueError):
        return 0


def exists(path: Any) -> bool:
    """Whether something is there, or behind a link that is there."""
    return _mode(path) != 0


def lexists(path: Any) -> bool:
    """Whether something is there."""
    try:
        posix.lstat(path)
    except (OSError, ValueError):
        return False
    return True


def isdir(path: Any) -> bool:
    """Whether it is a directory."""
    return _mode(path) & _KIND == _DIRECTORY


def isfile(path: Any) -> bool:
    """Whether it is a file."""
    return _mode(path) & _KIND == _FILE


NAMES = (fsencode, fsdecode, makedirs)
PATHS = (join, split, dirname, basename, isabs, normpath, abspath, exists, lexists, isdir, isfile)


def stand_in() -> tuple[ModuleType, ModuleType]:
    """Stand-ins for `os` and `os.path`."""
    system, path = _StandIn("os"), _StandIn("os.path")
    system.__dict__.update(vars(posix), __name__="os", __spec__=None, path=path, name="posix")
    # there it is of bytes
    del system.__dict__["environ"]
    for module, functions in ((system, NAMES), (path, PATHS)):
        for function in functions:
            setattr(module, function.__name__, function)
    return system, path


if "os" not in sys.modules and all(map(_imp.is_frozen, ("os", "posixpath", "genericpath", "stat"))):
    sys.modules["os"], sys.modules["os.path"] = stand_in()
