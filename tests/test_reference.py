"""The oracle itself: convolutions of reference.py equal torch's, from a recorded table that runs without torch.

Pass criterion: all bits; the table holds whole numbers, whose sums are exact (data/convolutions.py).
"""

import os

import numpy as np
import pytest
import reference
from data import convolutions


def oracle(case):
    """(y, dx, dweight, dbias)"""
    x, weight, bias = convolutions.arrays(case)
    y = reference.conv2d(x, weight, bias, **case.options)
    return y, *reference.conv2d_backward(convolutions.output_gradient(y.shape), x, weight, y, **case.options)


def assert_equal(case, results, others):
    for name, ours, theirs in zip(convolutions.RESULTS, results, others, strict=True):
        np.testing.assert_array_equal(ours, theirs, f"{name} of {case}")


def test_convolutions_and_their_gradients_equal_those_recorded_from_torch():
    for case, *results in convolutions.recorded():
        assert_equal(case, oracle(case), results)


def test_the_table_meets_every_option_and_every_size_it_promises():
    kernels, strides, paddings, dilations, sizes, channels = map(set, zip(*convolutions.cases(), strict=True))
    assert kernels == set(convolutions.KERNELS)
    assert strides == set(convolutions.STRIDES)
    assert paddings == set(convolutions.PADDINGS)
    assert dilations == set(convolutions.DILATIONS)
    assert channels == set(convolutions.CHANNELS)
    assert sizes >= set(convolutions.SIZES)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_torch_still_computes_what_was_recorded():
    if "FASTOPT_SANITIZE" in os.environ:
        pytest.skip("a sanitizer run: torch is not built for it")
    pytest.importorskip("torch", reason="torch is not installed")
    for case, *results in convolutions.recorded():
        assert_equal(case, convolutions.computed(case), results)


def test_gradients_with_an_activation_are_those_of_differences(rng):
    options = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2, "activation": "tanh"}
    x, weight, bias = rng.normal(size=(2, 5, 6, 4)), rng.normal(size=(6, 3, 2, 2)), rng.normal(size=6)
    z = reference.conv2d(x, weight, bias, **options | {"activation": "identity"})
    dy = rng.normal(size=z.shape)
    grads = reference.conv2d_backward(dy, x, weight, z, **options)

    def change(array, direction, step):
        arrays = [a + step * direction if a is array else a for a in (x, weight, bias)]
        return (dy * reference.conv2d(*arrays, **options)).sum()

    for array, grad in zip((x, weight, bias), grads, strict=True):
        direction = rng.normal(size=array.shape)
        difference = (change(array, direction, 1e-6) - change(array, direction, -1e-6)) / 2e-6
        np.testing.assert_allclose((grad * direction).sum(), difference, rtol=1e-7)
