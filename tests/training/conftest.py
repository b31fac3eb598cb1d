"""A small file of labelled light curves."""

import numpy as np
import pytest


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A file like the real one: sinusoids whose class is their period."""
    from fastdiff.training.crts import CLASSES

    rng = np.random.default_rng(3)
    folder = tmp_path_factory.mktemp("data")
    n = 20 * len(CLASSES)
    label = np.repeat(CLASSES, 20)
    length = rng.integers(40, 60, n)
    offsets = np.concatenate([[0], np.cumsum(length)])
    time, mag = [], []
    for i, k in enumerate(length):
        t = 54000 + rng.uniform(0, 300, k)
        t[0] = 123.0  # a fault as in the real file
        period = 0.31 * 2.3 ** CLASSES.index(label[i])
        time.append(t)
        mag.append(15 + 0.4 * np.cos(2 * np.pi * t / period) + rng.normal(0, 0.05, k))
    (folder / "crts").mkdir()
    np.savez(
        folder / "crts" / "crts_train.npz",
        t=np.concatenate(time),
        mag=np.concatenate(mag),
        magerr=np.full(offsets[-1], 0.05, np.float32),
        offsets=offsets,
        label=label,
        ids=np.arange(n) + 1000,
        ra=rng.uniform(0, 360, n),
        dec=rng.uniform(-80, 80, n),
    )
    return folder
