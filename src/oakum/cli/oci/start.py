# SPDX-License-Identifier: Apache-2.0
"""The start of a runtime's command: its modules from one file.

Half of the time that imports take goes into finding sixty small files, and much of the rest into the import system: so the modules
of a command are kept together in one file beside their own .pyc files, where Python may write there (see `keeping`), and run in the order
that imports would run them in. The file is of the same worth as those: each source's time and size are compared before it is used.
Runs before everything else, and so not even `__future__` is imported here.
"""

import gc
import marshal
import posix
import sys

TYPE_CHECKING = False  # `typing` costs as much as all else here
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType
    from typing import NoReturn

    # path, of ours relative to the packages' directory; whether it is a package; time in ns and size of the file
    Entry = tuple[str, bool, int, int]

ROOT = __file__.rpartition("/oakum/")[0]
LENGTH_BYTES = 8
# As in .pyc files: which code the interpreter understands, which of two with one cache tag need not be the same.
MAGIC = sys.modules["_frozen_importlib_external"].MAGIC_NUMBER
_SMALL_BYTES = 256 << 10  # a program whose interpreter is in libpython
_STARTING = ("oakum.cli.oci.light_os", "oakum.cli.oci.entry")
_COMMON = (*_STARTING, "oakum.cli.oci.commands", "oakum.cli.oci.systemd")
_PROCESSES = (
    *_COMMON,
    "oakum.linux.memory",
    "oakum.linux.process",
    "oakum.oci.runtime.container",
    "oakum.oci.runtime.units",
)
# What each kind of commands needs in any case; all that those import is kept as one, and more when it was needed.
ROOTS = {
    "starting": _STARTING,
    "asking": _COMMON,
    "making": (
        *_PROCESSES,
        "oakum.cli.oci.making",
        "oakum.oci.cgroups.values",
        "oakum.oci.runtime.create",
        "oakum.oci.runtime.foreground",
    ),
    "joining": (*_PROCESSES, "oakum.cli.oci.executing", "oakum.oci.runtime.execs"),
}
_KIND_OF = {"create": "making", "run": "making", "exec": "joining"}


class Kept:
    """The modules that are kept together in a file, and a finder and loader of them. Holds no descriptor open.

    The file: the interpreter's magic number, length of the index, the index, the modules. What all commands of the kind need is one value to `marshal`, in which
    every name is there once; what some needed besides is by itself, and only looked at by whoever needs it too.
    """

    def __init__(self, path: str, kind: str) -> None:
        """Read it; without a whole one, or when one source has changed, there is nothing here."""
        self.missed = False
        self.path = path
        self.kind = kind
        self.index: dict[str, Entry] = {}
        self.first: dict[str, CodeType] = {}
        self.others: dict[str, bytes] = {}
        self.before = frozenset(sys.modules)
        try:
            fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
            try:
                data = memoryview(posix.read(fd, posix.fstat(fd).st_size))
            finally:
                posix.close(fd)
            start = len(MAGIC) + LENGTH_BYTES
            if data[: len(MAGIC)] != MAGIC:
                return
            end = start + int.from_bytes(data[len(MAGIC) : start], "big")
            # as trusted as the .pyc files beside it
            index: dict[str, Entry] = marshal.loads(data[start:end])  # noqa: S302 - see above
            for entry in index.values():
                found = posix.stat(place(entry[0]))
                if (found.st_mtime_ns, found.st_size) != entry[2:]:
                    return
            self.first, self.others = marshal.loads(data[end:])  # noqa: S302 - see above
        except (OSError, ValueError, EOFError, TypeError):
            return  # none yet, or cut off: the usual way is there
        self.index = index

    def run(self) -> None:
        """Run what all commands of this kind need, but for what has run already."""
        waiting: list[ModuleType] = []
        for name in self.first:
            if name not in sys.modules:
                spec = self._spec(name)
                module = type(sys)(name)
                module.__spec__ = spec
                module.__loader__ = self  # pyright: ignore[reportAttributeAccessIssue] - a loader by its methods
                module.__file__ = spec.origin
                module.__package__ = spec.parent
                if spec.submodule_search_locations is not None:
                    module.__path__ = spec.submodule_search_locations
                sys.modules[name] = module
                waiting.append(module)
        # All are there before the first one runs: they stand in the order in which imports would have ended.
        for module in waiting:
            parent, _, child = module.__name__.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, module)
            self.exec_module(module)

    def find_spec(self, name: str, path: object = None, target: object = None) -> "ModuleSpec | None":  # noqa: ARG002 - as importers have it
        """Where `name` is, if it is here."""
        if name in self.index:
            return self._spec(name)
        self.missed = self.missed or name.startswith("oakum")
        return None

    def lacks(self) -> bool:
        """Whether something was not here that could be kept: not where Python may write no .pyc file, either."""
        directory = self.path.rpartition("/")[0]
        return self.missed and not sys.dont_write_bytecode and posix.access(directory, posix.W_OK)

    def _spec(self, name: str) -> "ModuleSpec":
        path, package, _, _ = self.index[name]
        file = place(path)
        if name not in self.first and name not in self.others:
            # a library
            loader = sys.modules["_frozen_importlib_external"].ExtensionFileLoader(name, file)
            return type(sys.__spec__)(name, loader, origin=file)
        spec = type(sys.__spec__)(name, self, origin=file, is_package=package)  # pyright: ignore[reportArgumentType] - a loader by its methods
        spec.has_location = True
        if package:
            spec.submodule_search_locations = [file.rpartition("/")[0]]
        return spec

    def create_module(self, spec: "ModuleSpec") -> None:
        """The usual kind."""

    def exec_module(self, module: "ModuleType") -> None:
        """Run the module's code."""
        name = module.__name__
        code = self.first.get(name)
        exec(code or marshal.loads(self.others[name]), module.__dict__)  # noqa: S102, S302 - what the import system does


def place(path: str) -> str:
    """The file of an entry."""
    return path if path[0] == "/" else f"{ROOT}/{path}"


def install(arguments: list[str], *, last: bool = False) -> None:
    """Have modules imported from where they are kept together, from now on; `last`: no other start will follow this one."""
    gc.disable()  # it would look through all code as it is read, for nothing: this process ends soon
    if "importtime" in vars(sys)["_xoptions"]:  # somebody wants to see what is imported
        return
    kind = next((_KIND_OF[word] for word in arguments if word in _KIND_OF), "asking")
    if kind != "asking" and not last and _starts_again():
        kind = "starting"
    # Libraries are of one interpreter, of which several may use the same packages.
    interpreter = f"{sys.implementation.cache_tag}{sys.base_prefix.replace('/', '-')}"
    kept = Kept(f"{ROOT}/oakum/__pycache__/oci-{kind}.{interpreter}.bin", kind)
    sys.meta_path.insert(0, kept)  # pyright: ignore[reportArgumentType] - a finder by its methods
    kept.run()


def _starts_again() -> bool:
    """Whether `linux.sealed` will most likely start the interpreter anew: then this process needs a few modules only."""
    return posix.geteuid() != 0 or posix.stat("/proc/self/exe").st_size > _SMALL_BYTES


def main(arguments: list[str] | None = None, *, site: bool = False) -> "NoReturn":
    """Run one command line of the runtime and end this process; with `site` other packages have to be found first."""
    arguments = sys.argv[1:] if arguments is None else arguments
    install(arguments)
    if site:
        prefix = sys.executable.rpartition("/bin/")[0]
        sys.path.append(f"{prefix}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages")
    from oakum.cli.oci.entry import main as entry  # through what was installed

    entry(arguments)
