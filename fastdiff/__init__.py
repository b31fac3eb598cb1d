"""Finding what changes in the sky: compiled kernels and small networks."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if importlib.util.find_spec("fastdiff.kernels") is None:
    raise ImportError(
        f"fastdiff was imported from a checkout that is not installed ({__path__[0]}): "
        "its compiled kernels are mapped in at installation. Run `pip install -e .` there, "
        "or start Python from another folder to use an installed fastdiff"
    )

if TYPE_CHECKING:
    from . import simulate
    from .cubes.cpm import CPMResult, cpm_subtract
    from .detect.find import find_transients
    from .difference.api import Difference, subtract_batch
    from .lightcurves.classify import classify_light_curves
    from .lightcurves.dmdt import Grid, dmdt_images
    from .lightcurves.features import light_curve_features
    from .lightcurves.robust_pca import robust_pca
    from .models.model import load_model

    __version__: str

__all__ = [
    "CPMResult",
    "Difference",
    "Grid",
    "__version__",
    "classify_light_curves",
    "cpm_subtract",
    "dmdt_images",
    "find_transients",
    "light_curve_features",
    "load_model",
    "robust_pca",
    "simulate",
    "subtract_batch",
]

# Public name -> the module that holds it; imported on first use, so that
# `import fastdiff` does not pay for Numba, ONNX Runtime or astropy.
_PUBLIC = {
    "CPMResult": "fastdiff.cubes.cpm",
    "Difference": "fastdiff.difference.api",
    "Grid": "fastdiff.lightcurves.dmdt",
    "classify_light_curves": "fastdiff.lightcurves.classify",
    "cpm_subtract": "fastdiff.cubes.cpm",
    "dmdt_images": "fastdiff.lightcurves.dmdt",
    "find_transients": "fastdiff.detect.find",
    "light_curve_features": "fastdiff.lightcurves.features",
    "load_model": "fastdiff.models.model",
    "robust_pca": "fastdiff.lightcurves.robust_pca",
    "subtract_batch": "fastdiff.difference.api",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from .core.version import version

        value: Any = version()
    elif name == "simulate":
        value = importlib.import_module("fastdiff.simulate")
    elif name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
    else:
        raise AttributeError(f"module 'fastdiff' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
