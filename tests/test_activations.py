"""Activations: accuracy in units in the last place, special values, softmax, derivatives.

Pass criterion: |result - exact| <= limit * ulp(exact). Below the normal range ulp is
the fixed spacing there. float32 is compared with float64 formulas, float64 with mpmath.
"""

import mpmath
import numpy as np
import pytest
from reference import ACTIVATIONS, DERIVATIVES, DTYPES, activation_backward

import fastopt as fo
from fastopt._kernels import core

activation = fo.functional.activation

PATTERNS = 2**13  # at a time: arrays that stay in the cache and that malloc need not map
ULP = {"identity": 0, "relu": 0, "leaky_relu": 1, "tanh": 2, "sigmoid": 2, "gelu": 5.1, "silu": 4}
EXP_ULP = 2
ORACLE_EPS = 40  # relative, where softmax subtracts a maximum and the oracle itself rounds
DERIVATIVE_EPS = 8  # derivatives lie within [-0.13, 1.13]: absolute error in units of eps
SPECIAL = {  # at -inf, inf; NaN gives NaN
    "identity": (-np.inf, np.inf),
    "relu": (0, np.inf),
    "leaky_relu": (-np.inf, np.inf),
    "tanh": (-1, 1),
    "sigmoid": (0, 1),
    "gelu": (0, np.inf),
    "silu": (0, np.inf),
}

elementwise = pytest.mark.parametrize("name", DERIVATIVES)
every = pytest.mark.parametrize("name", ACTIVATIONS)


def ulp(exact, dtype):
    """Spacing of dtype at |exact|; at least the spacing below the normal range."""
    info = np.finfo(dtype)
    _, exponent = np.frexp(exact)
    return np.ldexp(1.0, np.maximum(exponent - 1 - info.nmant, info.minexp - info.nmant))


def worst_float32(name, bits):
    """Largest error over these float32 bit patterns, in ULP; infinities and NaN are left out."""
    x = bits.view(np.float32)
    x = x[np.isfinite(x)]
    with np.errstate(over="ignore", under="ignore"):
        exact = ACTIVATIONS[name](x.astype(np.float64))
    return np.max(np.abs(activation(x, name).astype(np.float64) - exact) / ulp(exact, np.float32), initial=0)


def mpmath_value(name, x):
    x = mpmath.mpf(float(x))
    return {
        "identity": lambda: x,
        "relu": lambda: max(x, mpmath.mpf(0)),
        "leaky_relu": lambda: x if x > 0 else x * mpmath.mpf(0.01),
        "tanh": lambda: mpmath.tanh(x),
        "sigmoid": lambda: 1 / (1 + mpmath.exp(-x)),
        "gelu": lambda: x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2 if abs(x) < 100 else max(x, mpmath.mpf(0)),
        "silu": lambda: x / (1 + mpmath.exp(-x)),
    }[name]()


def float64_samples():
    """Both signs of every magnitude, and of the range where the functions bend."""
    rng = np.random.default_rng(5)
    wide = rng.integers(0, 0x7FEFFFFFFFFFFFFF, 150).view(np.float64)
    bend = np.concatenate([rng.uniform(0, s, 120) for s in (0.7, 3, 40, 750)])
    x = np.concatenate([wide, bend, [0.6, 0.625, 5e-324, 2.2e-308]])
    return np.concatenate([x, -x])


def test_the_oracle_knows_every_activation():
    assert tuple(ACTIVATIONS) == core.ACTIVATIONS


@elementwise
def test_float32_stays_within_its_ulp_limit_on_sampled_bit_patterns(name):
    # every 4099th of all patterns, and each pattern of a slice of the binades around 1
    bits = np.concatenate([np.arange(0, 2**32, 4099), np.arange(0x3F000000, 0x3F000000 + 200_000)]).astype(np.uint32)
    assert worst_float32(name, bits) <= ULP[name]
    assert worst_float32(name, bits | np.uint32(0x80000000)) <= ULP[name]


@pytest.mark.slow
@elementwise
def test_float32_stays_within_its_ulp_limit_on_all_bit_patterns(name):
    starts = range(0, 2**32, PATTERNS)
    worst = max(worst_float32(name, np.arange(i, i + PATTERNS, dtype=np.uint32)) for i in starts)
    print(f"{name}: {worst:.3f} ULP")
    assert worst <= ULP[name]


@elementwise
def test_float64_stays_within_its_ulp_limit_on_samples_against_mpmath(name):
    x = float64_samples()
    y = activation(x, name)
    with mpmath.workdps(40):
        for x_i, y_i in zip(x, y, strict=True):
            exact = mpmath_value(name, x_i)
            spacing = mpmath.mpf(float(ulp(float(exact), np.float64)))
            assert abs(mpmath.mpf(float(y_i)) - exact) <= ULP[name] * spacing, (x_i, y_i)


def worst_exp(bits):
    """Largest error of exp over these float32 bit patterns whose exponential is finite, in ULP."""
    x = bits.view(np.float32)
    x = x[np.isfinite(x) & (x < 88.72)]
    with np.errstate(under="ignore"):
        exact = np.exp(x.astype(np.float64))
    return np.max(np.abs(fo.functional.exp(x).astype(np.float64) - exact) / ulp(exact, np.float32), initial=0)


def test_exp_in_float32_stays_within_its_ulp_limit_on_sampled_bit_patterns():
    assert worst_exp(np.arange(0, 2**32, 4099).astype(np.uint32)) <= EXP_ULP


@pytest.mark.slow
def test_exp_in_float32_stays_within_its_ulp_limit_on_all_bit_patterns():
    starts = range(0, 2**32, PATTERNS)
    assert max(worst_exp(np.arange(i, i + PATTERNS, dtype=np.uint32)) for i in starts) <= EXP_ULP


def test_exp_in_float64_stays_within_its_ulp_limit_against_mpmath():
    x = np.random.default_rng(3).uniform(-750, 709, 500)
    with mpmath.workdps(40):
        for x_i, y_i in zip(x, fo.functional.exp(x), strict=True):
            exact = mpmath.exp(mpmath.mpf(float(x_i)))
            spacing = mpmath.mpf(float(ulp(float(exact), np.float64)))
            assert abs(mpmath.mpf(float(y_i)) - exact) <= EXP_ULP * spacing, x_i


def test_exp_reaches_its_limits_and_overflows_to_infinity():
    x = np.array([-np.inf, np.inf, np.nan, -0.0, 1000.0])
    np.testing.assert_array_equal(fo.functional.exp(x), [0, np.inf, np.nan, 1, np.inf])
    y = fo.functional.exp(x.astype(np.float32), out=(out := np.empty(5, np.float32)))
    assert y is out
    np.testing.assert_array_equal(y, np.array([0, np.inf, np.nan, 1, np.inf], np.float32))


@elementwise
def test_infinities_and_nan_give_their_limits(name, dtype):
    x = np.array([-np.inf, np.inf, np.nan], dtype)
    np.testing.assert_array_equal(activation(x, name), np.array([*SPECIAL[name], np.nan], dtype))


@elementwise
def test_zeros_and_denormals_are_exact_to_one_rounding(name, dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.array([0.0, -0.0, tiny, -tiny, 3 * tiny, -3 * tiny, np.finfo(dtype).smallest_normal], dtype)
    y = activation(x, name).astype(np.float64)
    exact = ACTIVATIONS[name](x.astype(np.float64))
    scale = np.maximum(np.abs(exact) * np.finfo(dtype).eps, float(tiny))
    assert (np.abs(y - exact) <= scale).all()
    if name != "sigmoid":
        np.testing.assert_array_equal(y[:2], [0, 0])


@pytest.mark.parametrize("name", ["identity", "leaky_relu", "tanh"])
def test_odd_functions_keep_the_sign_of_zero(name, dtype):
    y = activation(np.array([0.0, -0.0], dtype), name)
    np.testing.assert_array_equal(np.signbit(y), [False, True])


@every
@pytest.mark.parametrize("n", [0, 1, 7, 15, 16, 17, 33, 70])
def test_every_length_equals_the_oracle_and_in_place_gives_the_same_bits(name, n, dtype, rng):
    x = rng.normal(0, 4, (3, n)).astype(dtype)
    y = activation(x, name)
    exact = ACTIVATIONS[name](x.astype(np.float64))
    np.testing.assert_allclose(y, exact, rtol=ORACLE_EPS * np.finfo(dtype).eps, atol=np.finfo(dtype).eps)
    out = x.copy()
    assert activation(out, name, out) is out
    np.testing.assert_array_equal(out, y)


@every
def test_an_element_has_the_same_bits_wherever_it_stands(name, dtype, rng):
    row = rng.normal(0, 4, 16 if name == "softmax" else 1).astype(dtype)
    x = np.tile(row, (53, 1))
    y = activation(x, name)
    assert (y == y[0]).all()
    assert (activation(row, name) == y[0]).all()


def test_softmax_rows_sum_to_one_for_extreme_logits(dtype):
    top = np.finfo(dtype).max
    x = np.array([[top, 0, -top], [-top, -top, -top], [1e4, 1e4, -1e4], [-np.inf, 0, 0]], dtype)
    y = activation(x, "softmax")
    third, half = 1 / 3, 0.5
    expected = [[1, 0, 0], [third, third, third], [half, half, 0], [0, half, half]]
    np.testing.assert_allclose(y, expected, rtol=4 * np.finfo(dtype).eps)


def test_softmax_of_nan_or_infinite_logits_is_nan(dtype):
    x = np.array([[np.nan, 0], [np.inf, 0], [0, 1]], dtype)
    y = activation(x, "softmax")
    assert np.isnan(y[:2]).all()
    assert np.isfinite(y[2]).all()


def test_softmax_runs_along_the_last_axis_of_any_array(dtype, rng):
    x = rng.normal(size=(2, 3, 4, 5)).astype(dtype)
    np.testing.assert_allclose(activation(x, "softmax").sum(axis=-1), 1, rtol=4 * np.finfo(dtype).eps)


@every
def test_strided_inputs_give_the_bits_of_contiguous_ones(name, dtype, rng):
    x = rng.normal(size=(6, 40)).astype(dtype)
    np.testing.assert_array_equal(activation(x[::2, ::3], name), activation(x[::2, ::3].copy(), name))
    np.testing.assert_array_equal(activation(x.T, name), activation(x.T.copy(), name))


@every
@pytest.mark.parametrize("dtype", DTYPES)
def test_slopes_equal_the_oracle(name, dtype):
    # by a dense layer of identity weights, whose dx is dZ itself
    z = np.linspace(-30, 30, 4 * 33 * 8).reshape(-1, 8).astype(dtype)
    dy = np.random.default_rng(1).normal(size=z.shape).astype(dtype)
    eye = np.eye(8, dtype=dtype)
    dx = fo.functional.dense_backward(dy, z, eye, z, activation=name)
    exact = activation_backward(dy.astype(float), z.astype(float), name)
    assert (np.abs(dx - exact) <= DERIVATIVE_EPS * np.finfo(dtype).eps * np.abs(dy).max(axis=1, keepdims=True)).all()
