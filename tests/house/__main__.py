"""``python -m tests.house [CHECKOUT]``: the house as its sources have it, and what to mend."""

from __future__ import annotations

import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests.house import plan
from tests.house.rules import RULES
from tests.house.sources import File, Function, House, name_of, place, used

LISTED = 35


def main() -> None:
    """Print the report of a checkout, by default of this one."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2]
    for line in report(House(root)):
        print(line)


def report(house: House) -> Iterator[str]:
    """Lines of the report."""
    yield from draw(house)
    every = [f for file in house.files for f in file.functions]
    long = sorted(every, key=lambda f: -f.lines)
    yield from listed("Longest functions, without docstrings", map(_length, long), LISTED)
    many = sorted(every, key=lambda f: -f.arguments)
    for title, compiled in (("Most positional arguments", False), ("The same, compiled", True)):
        chosen = [f"{f.arguments:5}  {f.key}" for f in many if f.compiled == compiled]
        yield from listed(title, chosen, LISTED)
    yield from arguments_of_kernels(every)
    big = sorted(house.files, key=lambda f: -f.lines)
    yield from listed("Longest files", (f"{f.lines:5}  {f.path}" for f in big), LISTED)
    yield from outside_the_library(house)
    counts = {f.path: len(constant_subscripts(f)) for f in house.files}
    worst = [f"{n:5}  {path}" for path, n in Counter(counts).most_common() if n]
    title = f"Subscripts with a constant of 2 or more, {sum(counts.values())} in all"
    yield from listed(title, worst, LISTED)
    yield from cuda_kernels(house)
    for title, found in helpers(house).items():
        places = ", ".join(f"{path} {n}" for path, n in Counter(found).most_common())
        yield from listed(f"Written by hand: {title}: {len(found)}", [places] if places else [])
    for rule in RULES:
        yield from listed(f"Rule {rule.__name__}: {rule.__doc__}", rule(house))


def draw(house: House) -> Iterator[str]:
    """Floors from the top down: their rooms, files and the arrows that leave each room."""
    rooms: dict[str, list[File]] = defaultdict(list)
    for file in house.files:
        rooms[place(file)].append(file)
    home = {file.module: place(file) for file in house.files}
    floor = None
    for room in sorted(rooms, key=lambda r: (-plan.ROOMS.get(r, 99), r)):
        here = plan.ROOMS.get(room)
        if here != floor or floor is None:
            floor = here
            yield ("" if here is None else f"── floor {here} ").ljust(100, "─")
        yield f"  {room}" + ("  (not in the table)" if here is None else "")
        for file in rooms[room]:
            yield f"      {file.path:<42}{file.lines:5}  {file.doc}"[:118]
        targets = [home.get(a.target, a.target) for f in rooms[room] for a in house.inner(f)]
        arrows = Counter(t for t in targets if t != room)
        if arrows:
            yield "      -> " + ", ".join(f"{t} {n}" for t, n in arrows.most_common())
    yield "─" * 100


def listed(title: str, rows: Iterable[str], most: int | None = None) -> Iterator[str]:
    """A title, its rows, and how many there are."""
    rows = list(rows)
    title = title.partition("\n")[0]
    yield f"\n{title}" + (f" [{len(rows)}]" if most is None else f" [first {most}]")
    yield from (f"  {row}" for row in rows[:most])


def _length(f: Function) -> str:
    return f"{f.lines:5}  {f.key}"


def arguments_of_kernels(functions: list[Function]) -> Iterator[str]:
    """How many positional arguments compiled functions have, by their decorator."""
    for mark in sorted({m for f in functions if f.compiled for m in f.marks}):
        counts = Counter(f.arguments for f in functions if mark in f.marks)
        above = sum(n for arguments, n in counts.items() if arguments > plan.MAX_KERNEL_ARGUMENTS)
        text = ", ".join(f"{arguments}: {n}" for arguments, n in sorted(counts.items()))
        yield f"  {mark} ({counts.total()}, {above} above the limit): {text}"


def outside_the_library(house: House) -> Iterator[str]:
    """Lengths in tests, benchmarks and examples."""
    yield "\nOutside the library"
    for folder in plan.AROUND:
        files = [f for f in house.around if f.path.startswith(f"{folder}/")]
        inside = [f for file in files for f in file.functions]
        long = sorted(f.lines for f in inside if f.lines > plan.MAX_LINES)
        wide = sum(f.arguments > plan.MAX_ARGUMENTS for f in inside)
        big = sum(file.lines > plan.MAX_FILE for file in files)
        text = f"long functions {long}, with many arguments {wide}, long files {big}"
        yield f"  {folder}: {len(files)} files, {len(inside)} functions: {text}"


def constant_subscripts(file: File) -> list[int]:
    """Lines of subscripts such as ``out[12]`` or ``stats[..., 2]``, which stand for names.

    ``shape[2]`` and slices are not counted.
    """
    found = []
    for node in file.nodes:
        if isinstance(node, ast.Subscript) and used(node.value) not in ("shape", "Literal"):
            parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            numbers = [p.value for p in parts if isinstance(p, ast.Constant)]
            if any(type(number) is int and number >= 2 for number in numbers):
                found.append(node.lineno)
    return found


def cuda_kernels(house: House) -> Iterator[str]:
    """CUDA kernels and who launches them outside tests."""
    rows = []
    for file in house.files:
        for f in file.functions:
            if f.marked(plan.CUDA_MARKS):
                name = f.name.partition(".")[0]  # of loops that a class declares: its name
                callers = ", ".join(house.callers(file, name)) or "NO CALLER OUTSIDE TESTS"
                rows.append(f"{file.path}::{name} <- {callers}")
    idle = sum("NO CALLER" in row for row in rows)
    yield from listed(f"CUDA kernels, {idle} without a caller", rows)


def _is_fwhm(node: ast.AST) -> bool:
    """2.3548 = sqrt(8 ln 2), as a number or as the product."""
    if isinstance(node, ast.BinOp) and isinstance(node.left, ast.Constant):
        log = isinstance(node.right, ast.Call) and name_of(node.right).endswith("log")
        return log and node.left.value in (2, 8) and ast.unparse(node.right.args[0]) == "2"
    return _is_number(node, 2.3548, 1e-3)


def _is_number(node: ast.AST, value: float, within: float) -> bool:
    number = getattr(node, "value", None)
    return isinstance(number, float) and abs(number - value) < within


def _is_cholesky(node: ast.AST) -> bool:
    """The root of a diagonal element ``a[j, j]``."""
    if not (isinstance(node, ast.Call) and name_of(node).endswith("sqrt")):
        return False
    for part in ast.walk(node):
        if isinstance(part, ast.Subscript) and isinstance(part.slice, ast.Tuple):
            *_, row, column = map(ast.unparse, part.slice.elts)
            if row == column and not row.isdigit():
                return True
    return False


def _calls(*names: str) -> Callable[[ast.AST], bool]:
    return lambda node: isinstance(node, ast.Call) and name_of(node).endswith(names)


# What should be written once -> (how to tell it, files where it may stand).
HELPERS = {
    "FWHM of a Gaussian over its sigma": (_is_fwhm, ()),
    "1.4826 (scaled MAD)": (lambda node: _is_number(node, 1.4826, 1e-4), ()),
    "os.replace (atomic writing)": (_calls("os.replace"), ()),
    "ThreadPoolExecutor": (_calls("ThreadPoolExecutor"), ("fastdiff/core/threads.py", plan.NUMBA)),
    "root of a diagonal element (Cholesky)": (_is_cholesky, ()),
    "whole numbers (np.integer)": (
        lambda node: _calls("isinstance")(node) and "np.integer" in ast.unparse(node),
        (),
    ),
}


def helpers(house: House) -> dict[str, list[str]]:
    """Paths of the files that have each of `HELPERS`, once for each time."""
    return {
        title: [f.path for f in house.files if f.path not in free for n in f.nodes if tells(n)]
        for title, (tells, free) in HELPERS.items()
    }


if __name__ == "__main__":
    main()
