# SPDX-License-Identifier: Apache-2.0
"""The start of a runtime's command: its modules from one file.

Half of the time that imports take goes into sixty small files: so all modules that a command has used are kept together in one file beside
their own .pyc files, where Python may write there. It is of the same worth as those: each source's time and size
are compared before it is used.
"""

from __future__ import annotations

import gc
import marshal
import posix
import sys

TYPE_CHECKING = False  # `typing` costs as much as all else here
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType
    from typing import NoReturn

    # path relative to the packages' directory, whether it is a package, time in ns and size of the source
    Entry = tuple[str, bool, int, int]

_ROOT = __file__.rpartition("/oakum/")[0]
_LENGTH_BYTES = 8
_SMALL_BYTES = 256 << 10  # a program whose interpreter is in libpython
# Commands that make processes need twice as much as the others.
_MAKING = ("create", "run", "exec")


class Kept:
    """The modules that are kept together in a file, as a finder and loader of them. Holds no descriptor open.

    The file: length of the index, the index, the modules. What the first command needed is one value to `marshal`, in which
    every name is there once; what others needed besides is by itself, and only looked at by whoever needs it too.
    """

    def __init__(self, path: str) -> None:
        """Read it; without a whole one, or when one source has changed, there is nothing here."""
        self.missed = False
        self._path = path
        self._index: dict[str, Entry] = {}
        self._first: dict[str, CodeType] = {}
        self._others: dict[str, bytes] = {}
        try:
            fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
            try:
                data = memoryview(posix.read(fd, posix.fstat(fd).st_size))
            finally:
                posix.close(fd)
            end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "big")
            # as trusted as the .pyc files beside it
            index: dict[str, Entry] = marshal.loads(data[_LENGTH_BYTES:end])  # noqa: S302 - see above
            for entry in index.values():
                found = posix.stat(f"{_ROOT}/{entry[0]}")
                if (found.st_mtime_ns, found.st_size) != entry[2:]:
                    return
            self._first, self._others = marshal.loads(data[end:])  # noqa: S302 - see above
        except (OSError, ValueError, EOFError, TypeError):
            return  # none yet, or cut off: the usual way is there
        self._index = index

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:  # noqa: ARG002 - as importers have it
        """Where `name` is, if it is here."""
        entry = self._index.get(name)
        if entry is None:
            self.missed = self.missed or name.startswith("oakum")
            return None
        file = f"{_ROOT}/{entry[0]}"
        spec = type(sys.__spec__)(name, self, origin=file, is_package=entry[1])  # pyright: ignore[reportArgumentType] - a loader by its methods
        spec.has_location = True
        if entry[1]:
            spec.submodule_search_locations = [file.rpartition("/")[0]]
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """The usual kind."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code."""
        name = module.__name__
        code = self._first.get(name)
        exec(code or marshal.loads(self._others[name]), module.__dict__)  # noqa: S102, S302 - what the import system does

    def keep(self) -> None:
        """Keep what this process has loaded of ours, with what was kept before; where nobody may write, nothing."""
        if not posix.access(self._path.rpartition("/")[0], posix.W_OK):
            return
        found: dict[str, CodeType] = {}
        for name, module in list(sys.modules.items()):
            spec = getattr(module, "__spec__", None)
            file = getattr(spec, "origin", None) or ""
            if spec is None or name in self._index or not file.startswith(f"{_ROOT}/oakum/"):
                continue
            if code := spec.loader.get_code(name):
                status = posix.stat(file)
                package = bool(spec.submodule_search_locations)
                self._index[name] = (file[len(_ROOT) + 1 :], package, status.st_mtime_ns, status.st_size)
                found[name] = code
        if self._first:
            self._others.update({name: marshal.dumps(code) for name, code in found.items()})
        else:
            self._first = found
        index = marshal.dumps(self._index)
        self._write(
            len(index).to_bytes(_LENGTH_BYTES, "big") + index + marshal.dumps((self._first, self._others))
        )

    def _write(self, data: bytes) -> None:
        temporary = f"{self._path}.{posix.getpid()}"
        try:
            fd = posix.open(temporary, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o644)
            try:
                posix.write(fd, data)
            finally:
                posix.close(fd)
            posix.rename(temporary, self._path)
        except OSError:
            return  # it is only faster with it


def install(arguments: list[str], *, last: bool = False) -> None:
    """Have modules imported from where they are kept together, from now on; `last`: no other start will follow this one."""
    gc.disable()  # it would look through all code as it is read, for nothing: this process ends soon
    making = any(word in _MAKING for word in arguments)
    if making and not last and _starts_again():
        return
    kind = "making" if making else "asking"
    path = f"{_ROOT}/oakum/__pycache__/oci-{kind}.{sys.implementation.cache_tag}.bin"
    sys.meta_path.insert(0, Kept(path))  # pyright: ignore[reportArgumentType] - a finder by its methods


def _starts_again() -> bool:
    """Whether `linux.sealed` will most likely start the interpreter anew: then this process needs three modules only."""
    return posix.geteuid() != 0 or posix.stat("/proc/self/exe").st_size > _SMALL_BYTES


def main(arguments: list[str] | None = None, *, site: bool = False) -> NoReturn:
    """Run one command line of the runtime and end this process; with `site` other packages have to be found first."""
    arguments = sys.argv[1:] if arguments is None else arguments
    install(arguments)
    if site:
        prefix = sys.executable.rpartition("/bin/")[0]
        sys.path.append(f"{prefix}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages")
    from oakum.cli.oci.entry import main as entry  # through what was installed

    entry(arguments)
