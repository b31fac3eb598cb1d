"""What the networks learn from, made on the fly: pairs of images with the truth between them."""

from .pairs import PRESETS, Pairs, pairs

__all__ = ["PRESETS", "Pairs", "pairs"]
