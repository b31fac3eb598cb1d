"""Rows of `gram` in the table of cases: the steps of a GPU."""

import numpy as np

from fastdiff.kernels.image import gram
from tests.kernels.check_kernel import Case
from tests.kernels.image.reference import gram as twin

N_TAPS, SIZE = 3, 8


def stamps(rng, side):
    """Three stamps of side x (side + 2) pixels; the last one reaches the end of the image."""
    image = rng.normal(1, 1, (side + 9 + SIZE, side + 12 + SIZE)).astype(np.float32)
    origins = np.array([(0, 0), (4, 7), (image.shape[0] - side - SIZE + 3, 10)])
    taps = rng.normal(size=(N_TAPS, SIZE)).astype(np.float32)
    down, across = np.meshgrid(range(N_TAPS), range(N_TAPS))
    return image, origins, taps, np.stack([down.ravel(), across.ravel()], axis=1)


def across_inputs(rng, side):
    image, origins, taps, _ = stamps(rng, side)
    return {"image": image, "origins": origins, "taps": taps, "rows": side + SIZE - 1,
            "w": side + 2}  # fmt: skip


def down_inputs(rng, side):
    *_, taps, products = stamps(rng, side)
    pixels = side * (side + 2)
    across = rng.normal(size=(3, N_TAPS, pixels + (SIZE - 1) * (side + 2))).astype(np.float32)
    return {"across": across, "taps": taps, "products": products, "w": side + 2,
            "m": len(products) + 1, "pixels": pixels}  # fmt: skip


def carrier_inputs(rng, side):
    planes = rng.normal(size=(3, 5, side * side)).astype(np.float32)
    shares = np.array([0.5, 0, -0.3, 2], np.float32)
    return {"planes": planes, "shares": shares, "carrier": 1}


def products_inputs(rng, side):
    h, w = side, side + 2
    return {
        "planes": rng.normal(1, 1, (3, 4, h * w)).astype(np.float32),
        "target": rng.normal(1, 1, (h + 9, w + 11)).astype(np.float32),
        "weight": rng.random((3, h, w)).astype(np.float32),
        "origins": np.array([(0, 0), (4, 7), (9, 11)]),
    }


CASES = [
    Case(gram.filter_across, twin.filter_across, across_inputs, (5, 20, 200)),
    Case(gram.filter_down, twin.filter_down, down_inputs, (5, 20, 200)),
    Case(gram.take_off_carrier, twin.take_off_carrier, carrier_inputs, (5, 20, 200)),
    Case(gram.sum_products, twin.sum_products, products_inputs, (5, 20, 200)),
]
