"""The table of cases: one row for each declared kernel, read by tests and by benchmarks.

Each room has its parts of the table, tests/kernels/ROOM/cases.py or cases_NAME.py. A row is
(kernel, twin, inputs, sizes): `check_kernel.Case` says what each is.
"""

import importlib
from pathlib import Path

from tests.kernels.check_kernel import Case

PARTS = sorted(
    f"tests.kernels.{path.parent.name}.{path.stem}"
    for path in Path(__file__).parent.glob("*/cases*.py")
)
CASES: list[Case] = []
for part in PARTS:
    CASES += importlib.import_module(part).CASES
