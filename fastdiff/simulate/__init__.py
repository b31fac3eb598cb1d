"""What the networks learn from and methods are tested on, made on the fly, with the truth."""

from .cubes import CUBE_PRESETS, Cubes, cubes
from .pairs import Pairs, pairs
from .presets import PRESETS

__all__ = ["CUBE_PRESETS", "PRESETS", "Cubes", "Pairs", "cubes", "pairs"]
