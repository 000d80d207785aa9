"""Combinations of the values of several factors: every pair by default, the full product where all is asked for.

Faults that need three values at once are rare, those that need two are not: rows in which every two values of
different factors meet show nearly what the product shows, and are hardly more than the two longest factors ask for.
The other levels of instruction sets try every value once. `make test-all`, which sets FASTOPT_TEST_ALL, tries the
products, at every level; of a product of more than MOST rows it tries the pairs and MOST rows, always the same.
"""

import itertools
import math
import os
import random

import pytest

ALL = "FASTOPT_TEST_ALL" in os.environ
OTHER_LEVEL = "FASTOPT_TEST_LEVEL" in os.environ  # set by test_levels.py
MOST = 2000


def pairs(*factors):
    """Rows of one value a factor in which every two values of different factors meet; always the same rows.

    Each row starts from two values that have not met; every other factor adds the value that meets most of the row's
    values for the first time, among equals the one used least.
    """
    places = range(len(factors))
    unmet = {
        ((i, a), (j, b)): None  # value a of factor i, value b of factor j
        for i, j in itertools.combinations(places, 2)
        for a, b in itertools.product(range(len(factors[i])), range(len(factors[j])))
    }
    used = [[0] * len(factor) for factor in factors]
    rows = []
    while unmet:
        row = dict(next(iter(unmet)))

        def worth(i, a, row=row):
            return sum(tuple(sorted([(i, a), other])) in unmet for other in row.items()), -used[i][a]

        for i in places:
            if i not in row:
                row[i] = max(range(len(factors[i])), key=lambda a: worth(i, a))
            used[i][row[i]] += 1
        for two in itertools.combinations(sorted(row.items()), 2):
            unmet.pop(two, None)
        rows.append([row[i] for i in places])
    return [tuple(factor[a] for factor, a in zip(factors, row, strict=True)) for row in sorted(rows)]


def values(*factors):
    """As many rows as the longest factor has values, in which every value stands."""
    return [tuple(factor[i % len(factor)] for factor in factors) for i in range(max(map(len, factors)))]


def product(*factors):
    """All rows, or the pairs and MOST others of them."""
    total = math.prod(map(len, factors))
    if total <= MOST:
        return list(itertools.product(*factors))
    drawn = set(random.Random(0).sample(range(total), MOST))
    rows = (row for i, row in enumerate(itertools.product(*factors)) if i in drawn)
    return list(dict.fromkeys([*pairs(*factors), *rows]))


def pairwise(**factors):
    """Parametrizes a test over `pairs` of the factors, an argument each; their `values` or `product` as said above."""
    combine = product if ALL else values if OTHER_LEVEL else pairs
    rows = combine(*map(list, factors.values()))
    return pytest.mark.parametrize(tuple(factors), rows, ids=lambda value: getattr(value, "__name__", str(value)))
