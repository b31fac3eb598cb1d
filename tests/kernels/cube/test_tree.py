"""Systems that are parts of one matrix, in plain Python: against NumPy."""

import numpy as np
import pytest

from fastdiff.kernels.cube import tree
from fastdiff.kernels.cube.fits import LeftOut


def subsets(rng, n, n_lists):
    """Up to half of n series in each list, most of them in common; padded with zeros."""
    common = rng.choice(n, n // 4, replace=False)
    lists, counts = np.zeros((n_lists, n), np.int32), np.zeros(n_lists, np.int64)
    for i in range(n_lists):
        chosen = np.union1d(common, rng.choice(n, n // 4, replace=False))
        counts[i] = len(chosen)
        lists[i, : counts[i]] = chosen
    return lists, counts


@pytest.mark.parametrize("n_lists", [1, 2, 3, 4])
def test_subsets_are_solved_as_systems_of_their_own(rng, n_lists):
    n, depth, penalty, n_penalised = 44, 2, 0.7, 40
    columns = rng.normal(size=(n, 2 * n))
    base = columns @ columns.T
    lists, counts = subsets(rng, n, n_lists)
    rights = rng.integers(0, n, n_lists)
    side = (n + 2**depth + 7) // 8 * 8 + 16
    solution = np.zeros((n_lists, n))
    stack = np.full((depth + 1, side * side), np.nan)
    tree.subsets(base, rights, lists, counts, penalty, n_penalised, depth, stack, solution)
    for i in range(n_lists):
        chosen = lists[i, : counts[i]]
        matrix = base[np.ix_(chosen, chosen)] + np.diag(penalty * (chosen < n_penalised))
        expected = np.linalg.solve(matrix, base[chosen, rights[i]])
        np.testing.assert_allclose(solution[i, : counts[i]], expected, rtol=1e-8, atol=1e-10)
        assert not solution[i, counts[i] :].any()


def test_union_is_ascending_and_counted(rng):
    lists, counts = subsets(rng, 20, 3)
    seen, out = np.zeros(20, np.int64), np.zeros(20, np.int64)
    n = tree.union(lists, counts, seen, out)
    members = [set(row[:count]) for row, count in zip(lists, counts, strict=True)]
    np.testing.assert_array_equal(out[:n], sorted(set.union(*members)))
    np.testing.assert_array_equal(seen, [sum(p in each for each in members) for p in range(20)])


def test_left_out_blocks_are_what_the_matrix_of_epochs_leaves(rng):
    """A block misses (base_BB)^-1 base_B,row."""
    n, low = 16, 5
    columns = rng.normal(size=(n, 2 * n))
    base = np.zeros((n + 1, n + 1))
    base[:n, :n], base[n, :n] = columns @ columns.T, rng.normal(size=n)
    blocks = np.array([(5, 9, 6, 8), (7, 14, 9, 12), (14, 15, 14, 15)])
    target, root, predicted = rng.normal(size=30), rng.uniform(0.5, 2, 30), np.full(30, np.nan)
    root[10] = 0
    longest, side = tree.extent(LeftOut(blocks, np.array([(0, 3, 5, 15)])))
    assert longest == 7
    stack = np.empty((tree.DEPTH + 1, side * side))
    tree.leave_out(base, n, low, blocks, longest, target, root, stack, predicted)
    expected = np.full(30, np.nan)
    for first, stop, begin, end in blocks:
        part = slice(first - low, stop - low)
        missed = np.linalg.solve(base[part, part], base[n, part])
        for t in range(begin, end):
            if root[t] > 0:
                expected[t] = target[t] - missed[t - first] / root[t]
    np.testing.assert_allclose(predicted, expected, rtol=1e-9)
