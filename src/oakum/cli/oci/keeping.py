# SPDX-License-Identifier: Apache-2.0
"""Writing the file that `start` reads: the modules of a kind of commands, in the order in which their imports end.

Done by the first command after an installation or a change, and by one that needed a module which nobody had needed
before, when its work is done. `start` says what is in the file.
"""

from __future__ import annotations

import ast
import marshal
import os
import sys
from importlib.machinery import PathFinder

from oakum.cli.oci.start import LENGTH_BYTES, MAGIC, ROOT, ROOTS, Kept
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType
    from typing import Any, Final

_LIBRARIES: Final = "/lib-dynload"  # of the interpreter, those that are C


def keep(kept: Kept) -> None:
    """Keep what this process has loaded, with what was kept before.

    Imports our modules a second time: for a process that will do nothing else any more.
    """
    needed = [item for item in sorted(sys.modules.items()) if item[0] not in kept.before]
    if not kept.first:
        for name in _in_order(ROOTS[kept.kind]):
            kept.index[name] = _entry(sys.modules[name])
            kept.first[name] = _code(sys.modules[name])
    for name, module in needed:
        file = getattr(module, "__file__", None) or ""
        if name in kept.index:
            continue
        if file.startswith(f"{ROOT}/oakum/"):
            kept.index[name] = _entry(module)
            kept.others[name] = marshal.dumps(_code(module))
        elif os.path.dirname(file).endswith(_LIBRARIES):
            kept.index[name] = _entry(module)
    index = marshal.dumps(kept.index)
    _write(
        kept.path,
        MAGIC + len(index).to_bytes(LENGTH_BYTES, "big") + index + marshal.dumps((kept.first, kept.others)),
    )


class _Order:
    """A finder of our modules that notes whose import ends when."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def find_spec(self, name: str, path: Any = None, target: object = None) -> ModuleSpec | None:  # noqa: ARG002 - as importers have it
        """The usual one, with a loader that tells."""
        if name.partition(".")[0] != "oakum":
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None:
            loader: Any = spec.loader
            run = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                self.ended.append(name)

            loader.exec_module = exec_module
        return spec


def _in_order(roots: tuple[str, ...]) -> list[str]:
    for name in [name for name in sys.modules if name.partition(".")[0] == "oakum"]:
        del sys.modules[name]
    order = _Order()
    sys.meta_path.insert(0, order)
    for name in roots:
        __import__(name)
    return order.ended


def _entry(module: ModuleType) -> tuple[str, bool, int, int]:
    file = str(module.__file__)
    status = os.stat(file)
    return file.removeprefix(f"{ROOT}/"), hasattr(module, "__path__"), status.st_mtime_ns, status.st_size


def _code(module: ModuleType) -> CodeType:
    import __future__

    file = str(module.__file__)
    with open(file, "rb") as source:
        tree = bare(source.read())
    return compile(tree, file, "exec", flags=__future__.annotations.compiler_flag, dont_inherit=True)


def bare(text: str | bytes) -> ast.Module:
    """A module's source without what only readers and type checkers see. What `__future__` says is for `compile`."""
    return _Bare().visit(ast.parse(text))


class _Bare(ast.NodeTransformer):
    """Takes away what only readers and type checkers see, a fifth of the whole: docstrings, and annotations but for those of fields."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        """What `__future__` says is said to `compile`."""
        return None if node.module == "__future__" else node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """No annotations."""
        given = node.args
        for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg):
            if argument is not None:
                argument.annotation = None
        node.returns = None
        self.generic_visit(node)
        return _without_text(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """What is annotated here are fields; those of a plain dict nobody asks for."""
        if any(isinstance(base, ast.Name) and base.id == "TypedDict" for base in node.bases):
            name = ast.copy_location(ast.Name(node.name, ast.Store()), node)
            return ast.copy_location(ast.Assign([name], node.bases[0]), node)
        node.body = [m if isinstance(m, ast.AnnAssign) else self.visit(m) for m in node.body]
        return _without_text(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """An assignment, if it is one."""
        new = ast.Pass() if node.value is None else ast.Assign([node.target], node.value)
        return ast.copy_location(new, node)


def _without_text(node: ast.FunctionDef | ast.ClassDef) -> ast.AST:
    if ast.get_docstring(node, clean=False) is not None:
        node.body[:1] = [] if len(node.body) > 1 else [ast.copy_location(ast.Pass(), node.body[0])]
    return node


def _write(path: str, data: bytes) -> None:
    temporary = f"{path}.{os.getpid()}"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except OSError:
        return  # it is only faster with it
    try:
        try:
            whole = os.write(fd, data) == len(data)
        finally:
            os.close(fd)
        if whole:
            os.rename(temporary, path)
            return
    except OSError:
        pass
    os.unlink(temporary)  # the disk is full
