"""Sums of parts in their order: what ordered sums over ranks are made of."""

import numpy as np
import pytest

import fastopt as fo
from fastopt._kernels import core

SIZES = [0, 1, 7, 2047, 2048, 2049, 300_001]
FACTORS = {1: [[1.0], [0.3]], 2: [[1.0, 1.0], [0.3, 0.7], [0.0, 1.0]], 5: [[1.0] * 5, [0.1, 0.0, 0.3, 1.0, 0.2]]}


def added(parts, factors):
    total = np.zeros_like(parts[0])
    for k, (part, factor) in enumerate(zip(parts, factors, strict=True)):
        product = part * part.dtype.type(factor) if factor else np.zeros_like(part)
        total = product if k == 0 else total + product
    return total


@pytest.mark.parametrize("n_parts", FACTORS)
@pytest.mark.parametrize("size", SIZES)
def test_parts_are_added_in_their_order_whatever_the_threads(size, n_parts, dtype):
    everyones = [np.random.default_rng(k).normal(size=size).astype(dtype) for k in range(n_parts)]
    for factors in FACTORS[n_parts]:
        expected = added(everyones, factors)
        for threads in (1, 2, 7):
            parts, other = [part.copy() for part in everyones], np.full(size, np.nan, dtype)
            with fo.num_threads(threads):
                core.sum_parts(parts, factors, [*parts, other])
            assert all(out.tobytes() == expected.tobytes() for out in (*parts, other))


def test_a_part_that_does_not_count_may_hold_anything(dtype):
    parts = [np.array([np.nan, np.inf, 1], dtype), np.array([1, 2, 3], dtype)]
    core.sum_parts(parts, [0.0, 1.0], parts[:1])
    assert parts[0].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("parts", "factors", "outs", "error"),
    [
        ([np.zeros(3)], [1.0], [np.zeros(4)], r"outs\[0\]: expected shape \(3,\), got \(4,\)"),
        ([np.zeros(3), np.zeros(2)], [1.0, 1.0], [np.zeros(3)], r"parts\[1\]: expected shape \(3,\), got \(2,\)"),
        ([np.zeros(3)], [1.0, 1.0], [np.zeros(3)], r"factors: expected shape \(1,\), got \(2,\)"),
        ([np.zeros(3), np.zeros(3, np.float32)], [1.0, 1.0], [np.zeros(3)], r"parts\[1\]: "),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, factors, outs, error):
    with pytest.raises((TypeError, ValueError), match=error):
        core.sum_parts(parts, factors, outs)
    assert all((out == 0).all() for out in outs)
