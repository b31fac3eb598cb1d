"""Tables of a batch: they hold every draw, and lie where they are asked to."""

import numpy as np

from fastdiff.kernels.synth.tables import (
    CHANGE_COLUMNS,
    DEFECT_COLUMNS,
    FRAME_COLUMNS,
    SOURCE_COLUMNS,
    empty_tables,
    sample_of,
)
from tests import pretend_cupy
from tests.kernels.synth import scenes

CROWDED = {
    "star_density": (300.0, 300.1),
    "galaxy_density": (20.0, 20.1),
    "n_vanished": 5.0,
    "transient_density": 9.0,
    "cosmic_rays": 9.0,
    "hot_pixels": 9.0,
    "bad_columns": 9.0,
    "trails": 9.0,
}


def test_tables_are_never_full():
    made = scenes.drawn(20, 48, 64, **CROWDED)
    assert 0 < made["n_sources"].max() < made["sources"].shape[2]
    assert 0 < made["n_defects"].max() < made["defects"].shape[2]
    assert 0 < made["n_changes"].max() < made["changes"].shape[1]


def test_tables_have_the_columns_named_and_lie_beside_their_example(monkeypatch):
    pretend_cupy.install(monkeypatch)
    tables = empty_tables(scenes.scene(), 3, (16, 20), pretend_cupy.asarray(np.empty(0)))
    assert all(isinstance(table, pretend_cupy.ndarray) for table in tables)
    assert all(len(table) == 3 for table in tables)
    widths = {"sources": SOURCE_COLUMNS, "defects": DEFECT_COLUMNS, "changes": CHANGE_COLUMNS}
    for name, width in (widths | {"frame": FRAME_COLUMNS}).items():
        assert getattr(tables, name).shape[-1] == width
    for whole, own in zip(tables, sample_of(tables, 1), strict=True):
        assert own.shape == whole.shape[1:]
