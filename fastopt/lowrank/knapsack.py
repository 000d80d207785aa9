"""A choice for each layer: the least error within a cost. Dynamic programming over the sums of the layers so far.

Of all sums only those matter that no other beats in both cost and error. While they are few, all are kept and the
result is exact; of more than BINS, the best in each of as many steps of cost. Costs are never rounded.
"""

from typing import NamedTuple

import numpy as np

BINS = 4096


class Frontier(NamedTuple):
    """The best choices, by rising cost and falling error.

    Attributes
    ----------
    costs, errors : ndarray, shape (points,)
        Their sums over the layers; costs in the dtype in which they came.
    picks : ndarray of int, shape (points, layers)
        The option of each layer.
    """

    costs: np.ndarray
    errors: np.ndarray
    picks: np.ndarray

    def within(self, limit) -> int | None:
        """The point of least error whose cost is at most the limit; None if all cost more."""
        n = int(np.searchsorted(self.costs, limit, side="right"))
        return n - 1 if n else None


def frontier(options, bins=BINS) -> Frontier:
    """The best choices of one option for each layer.

    Parameters
    ----------
    options : list of (costs, errors)
        For each layer, an array of each, of its options. Whole numbers are added exactly.
    bins : int
        Points that are kept at most, about.

    Returns
    -------
    Frontier
    """
    costs, errors, picks = np.zeros(1, int), np.zeros(1), np.zeros((1, 0), int)
    for option_costs, option_errors in options:
        sums = (costs[:, None] + np.asarray(option_costs)).ravel()
        missed = (errors[:, None] + np.asarray(option_errors)).ravel()
        order = np.lexsort((missed, sums))
        least = np.minimum.accumulate(missed[order])
        better = np.concatenate([[True], least[1:] < least[:-1]])  # than all that cost less or as much
        kept = _thinned(order[better], sums, bins)
        before, option = np.divmod(kept, len(option_costs))
        costs, errors, picks = sums[kept], missed[kept], np.column_stack([picks[before], option])
    return Frontier(costs, errors, picks)


def _thinned(kept, sums, bins):
    """The cheapest point, and the last, so the best, of each step of cost."""
    if len(kept) <= bins:
        return kept
    costs = sums[kept]
    step = (costs - costs[0]) * float(bins) // float(costs[-1] - costs[0])
    last = np.concatenate([step[1:] != step[:-1], [True]])
    last[0] = True
    return kept[last]
