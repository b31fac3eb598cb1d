r"""Systems of equations that are parts of one matrix, solved as a tree.

Targets beside each other have most of their predictors in common. What all systems of a run share
is eliminated once (a partial Cholesky factor), both halves of the run go on from the Schur
complement, and so on to the single system. For runs of 16 pixels with the 400 closest pixels as
predictors this takes a quarter of the operations of a factor each.

Level 0 of the tree is the matrix of all series, and level d has nodes of 2^(depth + 1 - d) systems.
A node is a matrix of rows [eliminated, others, right-hand sides], which are taken from the rows of
the node above it. The systems below a node need only its others and its right-hand sides. The nodes
on the way from the root to one system are all that is kept.

Cost in operations: of each node k^2 r, for k rows that are eliminated and r rows.

Source: Golub & Van Loan 2013 (Matrix Computations), sections 3.2 and 4.2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import jit
from ..linalg.factor import eliminate, factorise, pad, solve_back, solve_forward
from .fits import BEGIN, END, FIRST, FROM, HIGH, LOW, STOP, TO

DEPTH = 4
RUN = 2**DEPTH
"""Systems that are solved as one tree."""


class Tree(NamedTuple):
    """The nodes on the way from the root to a system, one a level."""

    stack: Any
    """(depth + 1, m) float64, the matrices; m is that of `subsets`"""
    place: Any
    """(depth + 2, n_rows) int64, for each row of a node, the row of the node above it"""
    name: Any
    """(depth + 2, n_rows) int64, for each row of a node, the row of the matrix of all series"""
    n_gone: Any
    """(depth + 2,) int64, rows that the node eliminates"""
    n_rest: Any
    """(depth + 2,) int64, other predictors of its systems"""
    begin: Any
    """(depth + 2,) int64, its first system"""
    size: Any
    """(depth + 2,) int64, side of its matrix"""
    seen: Any
    """(n_series,) int64, systems that have a series among their predictors"""


@jit.item
def gather(gram, predictors, k, target, matrix, right):
    """The predictors' part of the Gram matrix, its lower half, and of the target's row."""
    wanted = gram[target]
    for i in range(k):
        source, row = gram[predictors[i]], matrix[i]
        for j in range(i + 1):
            row[j] = source[predictors[j]]
        right[i] = wanted[predictors[i]]


@jit.item
def union(lists, counts, seen, out):
    """Write what is in any list to `out`, ascending, and return how many these are.

    `seen` becomes the number of lists that each is in.
    """
    seen[:] = 0
    for i in range(len(lists)):
        for a in range(counts[i]):
            seen[lists[i, a]] += 1
    n = 0
    for p in range(len(seen)):
        if seen[p] > 0:
            out[n] = p
            n += 1
    return n


@jit.item
def level(stack, number, size):
    """Square matrix of one level of the tree."""
    return stack[number, : size * size].reshape((size, size))


@jit.item
def divide(tree, d, i, members, lists, counts):
    """Begin the node of `members` systems from the i-th on: choose what it eliminates.

    These are predictors of all of its systems, a multiple of 8 of them; what is left over stays
    for the nodes below. A node of one system, at the last level, takes all.
    """
    seen, place, name = tree.seen, tree.place[d], tree.name[d]
    begin, left = tree.n_gone[d - 1], tree.n_rest[d - 1]
    names = tree.name[d - 1, begin : begin + left]
    for a in range(left):
        seen[names[a]] = 0
    for m in range(i, i + members):
        for a in range(counts[m]):
            seen[lists[m, a]] += 1
    n = 0
    for a in range(left):
        n += seen[names[a]] == members
    if d < len(tree.size) - 1:
        n = n // 8 * 8
    gone, rest = 0, n
    for a in range(left):
        p = names[a]
        row = begin + a if d > 1 else p
        if seen[p] == members and gone < n:
            place[gone], name[gone] = row, p
            gone += 1
        elif seen[p] > 0:
            place[rest], name[rest] = row, p
            rest += 1
    tree.n_gone[d], tree.n_rest[d], tree.begin[d] = n, rest - n, i


@jit.item
def place_rights(tree, d, members, rights):
    """Say where the right-hand sides of a node come from; how many rows it has."""
    predictors = tree.n_gone[d] + tree.n_rest[d]
    rows = predictors + members
    first = tree.n_gone[d - 1] + tree.n_rest[d - 1] - tree.begin[d - 1]
    for m in range(members):
        i = tree.begin[d] + m
        tree.place[d, predictors + m] = first + i if d > 1 else rights[i]
    tree.size[d] = (rows + 7) // 8 * 8 + 8
    for a in range(rows, tree.size[d]):
        tree.place[d, a] = tree.place[d, 0]
    return rows


@jit.item
def copy_lower(source, place, size, matrix):
    """Take the rows of a node from those of the node above, the lower half in tiles of 8 x 8."""
    for a in range(size - 8):
        row_of, above = matrix[a], source[place[a]]
        for b in range(a // 8 * 8 + 8):
            row_of[b] = above[place[b]]


@jit.item
def penalise(matrix, names, n, penalty, n_penalised):
    """Add the penalty to the diagonal where the series has one."""
    for a in range(n):
        if names[a] < n_penalised:
            matrix[a, a] += penalty


@jit.item
def solve_rest(source, tree, right, full, out):
    """Solve what the nodes above left of the system."""
    d = len(tree.size) - 1
    matrix, n = level(tree.stack, d - 1, tree.size[d]), tree.n_gone[d]
    gather(source, tree.place[d], n, tree.place[d, n], matrix, right)
    n_padded = (n + 7) // 8 * 8
    pad(matrix, right, n, n_padded)
    factorise(matrix, n_padded, out)
    solve_forward(matrix, right, n_padded)
    solve_back(matrix, right, n_padded)
    for a in range(n):
        full[tree.name[d, a]] = right[a]


@jit.item
def solve_eliminated(tree, i, right, full):
    """Solve the i-th system for what the nodes above eliminated, from the last level to the first.

    `full` has the solution in the places of the series.
    """
    for d in range(len(tree.size) - 2, 0, -1):
        matrix, n = level(tree.stack, d - 1, tree.size[d]), tree.n_gone[d]
        known = matrix[n + tree.n_rest[d] + i - tree.begin[d]]
        for t in range(n):
            right[t] = known[t]
        for a in range(n, n + tree.n_rest[d]):
            value, row_of = full[tree.name[d, a]], matrix[a]
            if value != 0.0:
                for t in range(np.uintp(n)):
                    right[t] -= value * row_of[t]
        solve_back(matrix, right, n)
        for a in range(n):
            full[tree.name[d, a]] = right[a]


@jit.item
def subsets(base, rights, lists, counts, penalty, n_penalised, depth, stack, solution):
    """Solve ``(base[S, S] + penalty) x = base[S, right]`` for up to 2^depth subsets S.

    The penalty is that of rows below `n_penalised`. `stack` (depth + 1, m) is scratch: m is the
    square of a multiple of 8, larger by 16 or more than all subsets together and 2^depth.
    """
    n_base, n_lists = len(base), len(lists)
    right, full, out = np.zeros(n_base + 16), np.zeros(n_base), np.zeros((8, 2))
    place, name = np.zeros((2, depth + 2, n_base + 2**depth + 16), np.int64)
    n_gone, n_rest, begin, size = np.zeros((4, depth + 2), np.int64)
    tree = Tree(stack, place, name, n_gone, n_rest, begin, size, np.zeros(n_base, np.int64))
    n_rest[0] = union(lists, counts, tree.seen, name[0])
    for i in range(n_lists):
        for d in range(1, depth + 2):
            span = 2 ** (depth + 1 - d)
            if i % span > 0:
                continue
            members = min(i + span, n_lists) - i
            divide(tree, d, i, members, lists, counts)
            rows = place_rights(tree, d, members, rights)
            source = level(stack, d - 2, size[d - 1]) if d > 1 else base
            if d > depth:
                solve_rest(source, tree, right, full, out)
                continue
            matrix = level(stack, d - 1, size[d])
            copy_lower(source, place[d], size[d], matrix)
            if d == 1:
                penalise(matrix, name[d], n_gone[d] + n_rest[d], penalty, n_penalised)
            eliminate(matrix, n_gone[d], rows, n_gone[d] + n_rest[d], out)
        solve_eliminated(tree, i, right, full)
        for a in range(counts[i]):
            solution[i, a] = full[lists[i, a]]
            full[lists[i, a]] = 0.0


# ---------------------------------------------------------------- blocks of epochs


@jit.item
def extent(left_out):
    """Epochs of the longest block, and side of a square matrix for the longest run."""
    longest, widest = 0, 0
    for block in left_out.blocks:
        longest = max(longest, block[STOP] - block[FIRST])
    for run in left_out.runs:
        widest = max(widest, run[HIGH] - run[LOW])
    return longest, (widest + RUN + 7) // 8 * 8 + 16


@jit.item
def leave_out(base, row, low, blocks, longest, target, root, stack, predicted):
    """Predict the epochs of a run of blocks from the matrix of a fit that sees them.

    `base` has a row for each epoch, row 0 for epoch `low`, and in row `row` its residuals. A block
    misses (base_BB)^-1 base_B,row of the target.
    """
    n = len(blocks)
    rights, counts = np.full(n, row), np.zeros(n, np.int64)
    lists, missed = np.zeros((n, longest), np.int32), np.zeros((n, longest))
    depth = 0
    while 2**depth < n:
        depth += 1
    for b in range(n):
        counts[b] = blocks[b, STOP] - blocks[b, FIRST]
        for a in range(counts[b]):
            lists[b, a] = blocks[b, FIRST] - low + a
    subsets(base, rights, lists, counts, 0.0, 0, depth, stack, missed)
    for b in range(n):
        for t in range(blocks[b, FROM], blocks[b, TO]):
            if root[t] > 0.0:
                predicted[t] = target[t] - missed[b, t - blocks[b, FIRST]] / root[t]


@jit.item
def blocks_of(left_out, run):
    """Blocks of one run."""
    return left_out.blocks[run[BEGIN] : run[END]]
