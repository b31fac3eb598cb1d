"""The rules of the house: each yields what is wrong, where, and what to do."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.house import plan
from tests.house.plan import ARRAYS, KINDS, LIBRARY, NOT_LOOPS, NUMBA, REGISTRY, ROOF, ROOMS
from tests.house.sources import File, House, Import, name_of, place, room_of, used


def in_rooms(house: House) -> Iterator[str]:
    """Every file stands in a room, and every room has a file."""
    full = {file.room for file in house.files}
    for file in house.files:
        if not file.room and file.path not in (ROOF, "kernels/__init__.py"):
            yield f"{file.path}: stands in no room: move it, or give its room a line in ROOMS"
    for room in ROOMS:
        if room not in full:
            yield f"tests/house/plan.py: the room {room!r} has no file: take its line out of ROOMS"


def downward(house: House) -> Iterator[str]:
    """A file imports its own room and lower floors, in one way of writing."""
    for file in house.files:
        for arrow in house.inner(file):
            named = file.path == REGISTRY and arrow.by == "string"
            if file.path != ROOF and not named and (why := _refused(file, arrow)):
                yield f"{file.path}:{arrow.line}: {arrow.written}: {why}"


def _refused(file: File, arrow: Import) -> str | None:
    if arrow.target.split(".")[0] == "kernels":
        return "kernels/ is installed as fastdiff.kernels: import it from there"
    if arrow.by == "import" or arrow.target == "fastdiff":
        return "imports the package itself: write `from fastdiff.ROOM import MODULE`"
    top = ".".join(file.module.split(".")[:2])
    if arrow.by == "dots" and not f"{arrow.target}.".startswith(f"{top}."):
        return f"dots lead out of the room: write `from {arrow.target} import`"
    room = room_of(arrow.target)
    if room is None:
        return f"{arrow.target} is in no room: move it, or give its room a line in ROOMS"
    if room == file.room or ROOMS[room] < file.floor:
        return None
    here = f"{place(file)} on floor {file.floor}"
    if ROOMS[room] > file.floor:
        above = f"{room} on floor {ROOMS[room]} is above {here}"
        return f"{above}: move what is needed down, or pass it in"
    return f"{room} is beside {here}: move what both need to a lower floor, or pass it in"


def no_circles(house: House) -> Iterator[str]:
    """Modules of a room do not import each other in a circle."""
    for circle in house.circles():
        yield f"{' -> '.join(circle)}: a circle: move what both need to a file of its own"


def foreign(house: House) -> Iterator[str]:
    """Kernels need NumPy and the standard library; one file imports Numba."""
    free = {*sys.stdlib_module_names, "numpy", *LIBRARY}
    for file in house.files:
        for arrow in house.imports(file):
            top = arrow.target.split(".")[0]
            where = f"{file.path}:{arrow.line}: {arrow.written}"
            if top in ("numba", "llvmlite"):
                if file.path != NUMBA:
                    yield f"{where}: only {NUMBA} imports Numba: take what you need from there"
            elif file.path.startswith("kernels/") and top not in free:
                yield f"{where}: kernels import NumPy and the standard library only: do it above"


def loops_below(house: House) -> Iterator[str]:
    """Compiled loops are run and launched on floor 0; above it, wrappers are called."""
    for file in (f for f in house.files if f.floor >= 1):
        found = [(n.lineno, name_of(n), n.attr) for n in file.nodes if isinstance(n, ast.Attribute)]
        for arrow in house.imports(file):
            name = arrow.written.split()[-1]
            found.append((arrow.line, f"{arrow.target.rpartition('.')[2]}.{name}", name))
        for line, dotted, name in sorted(found):
            loop = name.endswith(("_cpu", "_cuda")) and name not in NOT_LOOPS
            if loop or dotted in ("jit.run", "jit.launch"):
                yield (
                    f"{file.path}:{line}: {dotted}: loops are called on floor 0 only: "
                    "write a wrapper beside the loop that takes arrays, and call that"
                )


def kinds_at_the_door(house: House) -> Iterator[str]:
    """One file above the kernels asks whether an array is NumPy's, CuPy's or torch's."""
    for file in (f for f in house.files if f.floor >= 1 and f.path not in (ARRAYS, ROOF)):
        asked = {a.line: a.written for a in house.imports(file) if a.target[:4] == "cupy"}
        for node in file.nodes:
            if isinstance(node, ast.Call) and name_of(node) == "isinstance":
                for part in (p for type_ in node.args[1:] for p in ast.walk(type_)):
                    if used(part) in KINDS:
                        asked[node.lineno] = f"isinstance(..., {used(part)})"
            elif isinstance(node, ast.Attribute) and name_of(node) == "sys.modules":
                asked[node.lineno] = "sys.modules"
            elif "__cuda_array_interface__" in (getattr(node, "value", 0), used(node)):
                asked[node.lineno] = "__cuda_array_interface__"
        for line, what in sorted(asked.items()):
            yield f"{file.path}:{line}: {what}: asks for the kind of an array: let {ARRAYS} do it"


def broken_limits(house: House) -> Iterator[tuple[str, str]]:
    """(key of `EXCEPTIONS`, what is wrong) of all that is too long."""
    for file in [*house.files, *house.around]:
        inside = file.path.startswith(LIBRARY)
        if inside and file.lines > plan.MAX_FILE:
            text = f"{file.lines} lines, more than {plan.MAX_FILE}: make two files"
            yield file.path, f"{file.path}: {text}"
        for f in file.functions:
            most = plan.MAX_KERNEL_ARGUMENTS if f.compiled else plan.MAX_ARGUMENTS
            where = f"{f.path}:{f.line}: {f.name}"
            if f.lines > plan.MAX_LINES:
                text = f"{f.lines} lines without its docstring, more than {plan.MAX_LINES}"
                yield f.key, f"{where}: {text}: name its parts"
            if inside and f.arguments > most:
                text = f"{f.arguments} positional arguments, more than {most}"
                yield f.key, f"{where}: {text}: make some keyword-only, or one object of them"


def within_limits(house: House) -> Iterator[str]:
    """Functions, files and lists of arguments are short, but for the exceptions."""
    yield from (text for key, text in broken_limits(house) if key not in plan.EXCEPTIONS)


def exceptions_needed(house: House) -> Iterator[str]:
    """Every exception is still one, and says why."""
    broken = {key for key, _ in broken_limits(house)}
    for key, reason in plan.EXCEPTIONS.items():
        if key not in broken:
            yield f"tests/house/plan.py: {key}: within the limits: take it out of EXCEPTIONS"
        elif not reason.strip():
            yield f"tests/house/plan.py: {key}: say in EXCEPTIONS why it breaks a limit"


def one_name_one_class(house: House) -> Iterator[str]:
    """No two classes of the library have one name."""
    places = defaultdict(list)
    for file in house.files:
        for node in file.nodes:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{file.path}:{node.lineno}")
    for name, found in places.items():
        if len(found) > 1:
            yield f"{', '.join(found)}: two classes {name}: rename one, or make them one"


def documented(house: House) -> Iterator[str]:
    """Every module says in its first line what it is."""
    for file in house.files:
        if not file.doc:
            yield f"{file.path}:1: has no docstring: say in one line what it is"


def tested(house: House) -> Iterator[str]:
    """A module of more than a few lines has a test file at its place, or its folder has one.

    fastdiff/a/b/c.py: tests/a/b/test_c.py (or test_c_*.py), or tests/a/test_b.py, or what
    `TESTED_THROUGH` names.
    """
    for file in house.files:
        parts = Path(file.path.removeprefix("fastdiff/").removesuffix("/__init__.py")).parts
        if file.path == ROOF or file.code_lines < plan.MIN_TESTED:
            continue
        stem = parts[-1].removesuffix(".py").strip("_")
        own = "/".join(["tests", *parts[:-1], f"test_{stem}"])
        names = [f"{own}.py", f"{own}_*.py"]
        names += ["/".join(["tests", *parts[:-2], f"test_{p}.py"]) for p in parts[-2:-1]]
        through = (
            plan.TESTED_THROUGH.get(place) for place in (file.path, str(Path(file.path).parent))
        )
        names += [name for name in through if name]
        if not any(any(house.root.glob(name)) for name in names):
            also = f" (or {names[2]} for its folder)" if len(names) > 2 else ""
            yield f"{file.path}: has no test file: write {own}.py{also}"


RULES = (
    in_rooms, downward, no_circles, foreign, loops_below, kinds_at_the_door, within_limits,
    exceptions_needed, one_name_one_class, documented, tested,
)  # fmt: skip
