"""The sources of a checkout, read by `ast`: nothing of the package is imported."""

from __future__ import annotations

import ast
import graphlib
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.house.plan import AROUND, KERNEL_MARKS, LIBRARY, REGISTRY, ROOMS


@dataclass(frozen=True)
class Import:
    """One arrow: `target` is a dotted module; `written` says how the source has it."""

    line: int
    target: str
    written: str
    by: str = "from"  # "from", "dots" (relative), "import" or "string"


@dataclass(frozen=True)
class Function:
    """A function with the lines that are not docstring, and its positional arguments."""

    path: str
    name: str
    line: int
    lines: int
    arguments: int
    marks: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"{self.path}::{self.name}"

    @property
    def compiled(self) -> bool:
        return self.marked(KERNEL_MARKS)

    def marked(self, names: set[str]) -> bool:
        """Whether it has one of these decorators, however they were imported."""
        return any(mark.rpartition(".")[2] in names for mark in self.marks)


@dataclass(frozen=True)
class File:
    """One source file; `path` is relative to the checkout."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @property
    def module(self) -> str:
        name = self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        return re.sub(r"^kernels\b", "fastdiff.kernels", name)

    @property
    def package(self) -> str:
        return self.module if self.path.endswith("__init__.py") else self.module.rpartition(".")[0]

    @property
    def room(self) -> str | None:
        return room_of(self.module)

    @property
    def floor(self) -> float:
        """Its floor; a file without a room may import what its folder may."""
        if self.room:
            return ROOMS[self.room]
        if self.path.startswith("kernels/"):
            return 0 if self.path == "kernels/__init__.py" else 0.9
        return 9

    @property
    def lines(self) -> int:
        return len(self.text.splitlines())

    @property
    def doc(self) -> str:
        return (ast.get_docstring(self.tree) or "").partition("\n")[0]

    @cached_property
    def code_lines(self) -> int:
        """Lines that are neither blank, nor comments, nor docstrings."""
        docs = sum(_doc_lines(node) for node in self.nodes)
        kept = (line.strip() for line in self.text.splitlines())
        return sum(bool(line) and not line.startswith("#") for line in kept) - docs

    @cached_property
    def functions(self) -> list[Function]:
        return list(_functions(self.tree, self.path, ""))


class House:
    """The sources of a checkout."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = [File(*found) for folder in LIBRARY for found in _sources(root, folder)]
        self.around = [File(*found) for folder in AROUND for found in _sources(root, folder)]
        self.modules = {file.module for file in self.files} | {f.package for f in self.files}
        self._imports: dict[str, list[Import]] = {}

    def holds(self, module: str) -> bool:
        return module in self.modules or module.removeprefix("fastdiff.") in ROOMS

    def imports(self, file: File) -> list[Import]:
        """Every import of a file, wherever it stands, and modules of the house in strings."""
        if file.path not in self._imports:
            self._imports[file.path] = sorted(self._read_imports(file), key=lambda i: i.line)
        return self._imports[file.path]

    def _read_imports(self, file: File) -> Iterator[Import]:
        for node in file.nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(node.lineno, alias.name, f"import {alias.name}", "import")
            elif isinstance(node, ast.ImportFrom):
                parts = file.package.split(".")
                above = parts[: len(parts) - node.level + 1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                for alias in node.names:
                    full = f"{base}.{alias.name}"
                    written = f"from {'.' * node.level}{node.module or ''} import {alias.name}"
                    target = full if self.holds(full) else base
                    yield Import(node.lineno, target, written, "dots" if node.level else "from")
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found = re.fullmatch(r"(fastdiff(?:\.\w+)+)\.?", node.value)
                if found and (room_of(found[1]) or self.holds(found[1])):
                    yield Import(node.lineno, found[1], repr(node.value), "string")
            elif isinstance(node, ast.Call) and name_of(node.func).endswith(
                ("import_module", "__import__")
            ):
                yield from _import_call(node, file)

    def inner(self, file: File) -> list[Import]:
        """The arrows of a file that end in the house."""
        return [i for i in self.imports(file) if i.target.split(".")[0] in LIBRARY]

    def circles(self) -> list[list[str]]:
        """One circle of modules in each room that has any."""
        graphs: dict[str, dict[str, set[str]]] = defaultdict(dict)
        for file in self.files:
            graphs[place(file)][file.module] = {
                arrow.target
                for arrow in self.inner(file)
                # The registry's strings, and the name of a logger, make no circle.
                if arrow.by != "string" or (file.path != REGISTRY and arrow.target != file.package)
            } - {file.module}
        found = []
        for graph in graphs.values():
            own = {module: targets & set(graph) for module, targets in graph.items()}
            try:
                graphlib.TopologicalSorter(own).prepare()
            except graphlib.CycleError as error:
                found.append(error.args[1][::-1])
        return found

    @cached_property
    def users(self) -> dict[str, list[tuple[File, str]]]:
        """Name -> (file, function) of every use outside tests."""
        found = defaultdict(list)
        for file in [*self.files, *self.around]:
            if not file.path.startswith("tests/"):
                starts = [(f.line, f.name) for f in file.functions]
                for node in file.nodes:
                    if name := used(node):
                        inside = [s for s in starts if s[0] <= node.lineno]
                        found[name].append((file, max(inside)[1] if inside else "module"))
        return found

    def callers(self, file: File, name: str) -> list[str]:
        """Functions outside tests that use a function of a file."""
        found = set()
        for other, function in self.users[name]:
            if other.path == file.path:
                found.add(function)
            elif any(arrow.target == file.module for arrow in self.imports(other)):
                found.add(f"{other.path}::{function}")
        return sorted(found)


def room_of(module: str) -> str | None:
    """The room of ``fastdiff.some.module``; None if the table has none."""
    parts = module.split(".")[1:]
    names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((name for name in names if name in ROOMS), None)


def place(file: File) -> str:
    """The room of a file, or its folder if it has none."""
    return file.room or file.package


def _sources(root: Path, folder: str) -> Iterator[tuple[str, str]]:
    for path in sorted((root / folder).rglob("*.py")):
        yield path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")


def name_of(node: ast.AST) -> str:
    """``a.b.c`` of an expression; a call is named after what it calls."""
    if isinstance(node, ast.Call):
        return name_of(node.func)
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def used(node: ast.AST) -> str | None:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else None


def _import_call(node: ast.Call, file: File) -> Iterator[Import]:
    """What the strings of other nodes do not tell: ``import_module(".x", ...)``, or "fastdiff"."""
    first = node.args[0] if node.args else None
    if isinstance(first, ast.JoinedStr) and first.values:
        first = first.values[0]
    if isinstance(first, ast.BinOp):
        first = first.left
    text = first.value if isinstance(first, ast.Constant) else None
    if not isinstance(text, str):
        return
    if text.startswith("."):
        dots = len(text) - len(text.lstrip("."))
        parts = file.package.split(".")
        target = ".".join([*parts[: len(parts) - dots + 1], text.strip(".")]).strip(".")
        yield Import(node.lineno, target, f"import_module({text!r})", "string")
    elif text.strip(".") == "fastdiff" or text.split(".")[0] != "fastdiff":
        yield Import(node.lineno, text.strip("."), f"import_module({text!r})", "import")


def _doc_lines(node: ast.AST) -> int:
    body = getattr(node, "body", None)
    if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return 0
    first = body[0] if body else None
    if not (isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)):
        return 0
    return first.end_lineno - first.lineno + 1 if isinstance(first.value.value, str) else 0


def _functions(parent: ast.AST, path: str, prefix: str) -> Iterator[Function]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.expr):
            continue
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            arguments = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
            if isinstance(parent, ast.ClassDef) and arguments[:1] in (["self"], ["cls"]):
                del arguments[0]
            lines = node.end_lineno - node.lineno + 1 - _doc_lines(node)
            # The loops of a declared kernel are methods of a class that has the mark.
            around = parent.decorator_list if isinstance(parent, ast.ClassDef) else []
            marks = tuple(name_of(mark) for mark in (*node.decorator_list, *around))
            yield Function(path, prefix + node.name, node.lineno, lines, len(arguments), marks)
        named = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        yield from _functions(node, path, f"{prefix}{node.name}." if named else prefix)
