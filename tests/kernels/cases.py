"""The table of cases: one row for each declared kernel, read by tests and by benchmarks.

Each room has its part of the table, tests/kernels/ROOM/cases.py. A row is (kernel, twin, inputs,
sizes): `check_kernel.Case` says what each is.
"""

import importlib
from pathlib import Path

from tests.kernels.check_kernel import Case

ROOMS = sorted(path.parent.name for path in Path(__file__).parent.glob("*/cases.py"))
CASES: list[Case] = []
for room in ROOMS:
    CASES += importlib.import_module(f"tests.kernels.{room}.cases").CASES
