# SPDX-License-Identifier: Apache-2.0
"""The runtime's shortest way in: `python3 -IS .../start.py ARGUMENTS`, as the script `oakum-oci` calls it.

Without the `site` module there are no directories of packages: they are found from where this file is. And half of the time
that imports take goes into sixty small files: so all modules that a command has used are kept together in one file beside
their own .pyc files, where Python may write there. It is of the same worth as those: each source's time and size
are compared before it is used.
"""

from __future__ import annotations

import marshal
import posix
import sys

TYPE_CHECKING = False  # `typing` costs as much as all else here
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import NoReturn

    # path relative to the packages' directory, whether it is a package, time in ns and size of the source, place and size of
    # the code in the file
    Entry = tuple[str, bool, int, int, int, int]

_ROOT = __file__.rpartition("/oakum/")[0]
_KEPT = f"{_ROOT}/oakum/__pycache__/oci-modules.{sys.implementation.cache_tag}.bin"
_LENGTH_BYTES = 8
_ANY_PLACE = 1 << 30  # as long as every real one is in `marshal`


class Kept:
    """The modules that are kept together in a file, as a finder and loader of them. Holds no descriptor open."""

    def __init__(self, path: str = _KEPT) -> None:
        """Read the index; without a whole one, or when one source has changed, there is nothing here."""
        self.entries: dict[str, Entry] = {}
        self.missed = False
        self._path = path
        try:
            length = int.from_bytes(self._read(0, _LENGTH_BYTES), "big")
            entries: dict[str, Entry] = marshal.loads(self._read(_LENGTH_BYTES, length))  # noqa: S302 - as trusted as a .pyc file beside it
            for entry in entries.values():
                found = posix.stat(f"{_ROOT}/{entry[0]}")
                if (found.st_mtime_ns, found.st_size) != entry[2:4]:
                    return
        except (OSError, ValueError, EOFError, TypeError):
            return  # none yet, or cut off: the usual way is there
        self.entries = entries

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:  # noqa: ARG002 - as importers have it
        """Where `name` is, if it is here."""
        entry = self.entries.get(name)
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
        exec(marshal.loads(self.code_of(module.__name__)), module.__dict__)  # noqa: S102, S302 - what the import system does

    def code_of(self, name: str) -> bytes:
        """The code of a module, as `marshal` wrote it. Raises OSError."""
        return self._read(*self.entries[name][4:])

    def _read(self, place: int, size: int) -> bytes:
        fd = posix.open(self._path, posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            return posix.pread(fd, size, place)
        finally:
            posix.close(fd)

    def keep(self) -> None:
        """Keep what this process has loaded of ours, with what was kept before; where nobody may write, nothing."""
        if not posix.access(self._path.rpartition("/")[0], posix.W_OK):
            return
        kept = {name: (entry, self.code_of(name)) for name, entry in self.entries.items()}
        for name, module in list(sys.modules.items()):
            spec = getattr(module, "__spec__", None)
            file = getattr(spec, "origin", None) or ""
            if spec is None or name in kept or not file.startswith(f"{_ROOT}/oakum/"):
                continue
            found = posix.stat(file)
            if code := spec.loader.get_code(name):
                package = bool(spec.submodule_search_locations)
                entry = (file[len(_ROOT) + 1 :], package, found.st_mtime_ns, found.st_size, 0, 0)
                kept[name] = (entry, marshal.dumps(code))
        self._write(kept)

    def _write(self, kept: dict[str, tuple[Entry, bytes]]) -> None:
        # The index says where each code is, behind the index, whose length depends only on how many there are.
        index = {name: (*entry[:4], _ANY_PLACE, _ANY_PLACE) for name, (entry, _) in kept.items()}
        place = _LENGTH_BYTES + len(marshal.dumps(index, 2))
        for name, (entry, code) in kept.items():
            index[name] = (*entry[:4], place, len(code))
            place += len(code)
        head = marshal.dumps(index, 2)
        parts = [len(head).to_bytes(_LENGTH_BYTES, "big"), head, *(code for _, code in kept.values())]
        temporary = f"{self._path}.{posix.getpid()}"
        try:
            fd = posix.open(temporary, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o644)
            try:
                posix.write(fd, b"".join(parts))
            finally:
                posix.close(fd)
            posix.rename(temporary, self._path)
        except OSError:
            return  # it is only faster with it


def install() -> None:
    """Have modules imported from where they are kept together, from now on."""
    sys.meta_path.insert(0, Kept())  # pyright: ignore[reportArgumentType] - a finder by its methods


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run one command line of the runtime and end this process."""
    install()
    from oakum.cli.oci.entry import main as entry  # through the line above

    entry(sys.argv[1:] if arguments is None else arguments)


def _find_packages() -> None:
    """Put the directories of packages on the path, which nobody has without `site`: ours, and the environment's."""
    prefix = sys.executable.rpartition("/bin/")[0]
    packages = f"{prefix}/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    sys.path += [_ROOT] if packages == _ROOT else [_ROOT, packages]


if __name__ == "__main__":
    _find_packages()
    main()
