"""One layer as several of low rank: what they compute, how they divide the layer's options, what is refused.

Pass criterion: outputs in float64 agree with the layer's to 1e-10 of the largest. Weights are random, so nothing is
lost at full rank only; those for CP are sums of as many rank-one terms.
"""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastopt as fo
from fastopt.lowrank import factorize, rank_of
from fastopt.nn import BatchNorm, Conv2d, Dense, GroupedDense, Maxout, Sequential

ROUNDING = 1e-10


def network(layer, shape, seed=0, dtype=np.float64):
    return Sequential([layer], rng=seed, dtype=dtype, input_shape=shape)


def full_rank(layer, method):
    """The rank at which a method keeps every weight of a group."""
    weight = layer.weight
    n_out, *kernel, n_in = len(weight) // layer.groups, *weight.shape[1:]
    if method == "two_factor":
        return min(n_in * kernel[0], n_out * kernel[1])
    taps = int(np.prod(kernel, dtype=int))
    if method == "tucker2":
        return min(n_out, taps * n_in), min(n_in, taps * n_out)
    return min(n_out, taps * n_in)


def assert_same(net, layers, dtype=np.float64):
    net.layers[0].bias = np.random.default_rng(2).normal(size=net.out_features)
    x = np.random.default_rng(1).normal(size=(3, *net.input_shape))
    expected = net.predict(x)
    got = Sequential(layers, dtype=dtype, input_shape=net.input_shape).predict(x)
    np.testing.assert_allclose(got, expected, rtol=0, atol=ROUNDING * max(1, abs(expected).max()))


@st.composite
def convolutions(draw):
    """A convolution and an image that fits it."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    pairs = st.tuples(st.integers(0, 2), st.integers(0, 2))
    padding = draw(st.one_of(pairs, st.just("same"), st.just("valid")))
    stride = (1, 1) if padding == "same" else draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    widths = [groups * draw(st.integers(1, 3)) for _ in range(2)]
    activation = draw(st.sampled_from(["identity", "relu", "softmax"]))
    conv = Conv2d(*widths, kernel, stride, padding, dilation, groups, activation=activation)
    image = [d * (k - 1) + 1 + draw(st.integers(0, 3)) for k, d in zip(kernel, dilation, strict=True)]
    return conv, (*image, widths[0])


@pytest.mark.parametrize("method", ["svd", "two_factor", "tucker2"])
@given(case=convolutions())
def test_a_convolution_at_full_rank_is_reproduced(method, case):
    conv, shape = case
    net = network(conv, shape)
    conv.bias = np.random.default_rng(2).normal(size=conv.out_features)
    assert_same(net, factorize(conv, method, full_rank(conv, method)))


@given(case=convolutions())
def test_a_convolution_of_rank_one_terms_is_reproduced_by_cp(case):
    conv, shape = case
    net, rng = network(conv, shape), np.random.default_rng(3)
    conv.bias = np.random.default_rng(2).normal(size=conv.out_features)
    sizes, parts = conv.weight.shape[1:], []
    for _ in range(conv.groups):
        vectors = [rng.normal(size=n) for n in (len(conv.weight) // conv.groups, *sizes)]
        parts.append(np.einsum("i,j,k,l->ijkl", *vectors))
    conv.weight = np.concatenate(parts)
    assert_same(net, factorize(conv, "cp", 1))


@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.booleans())
def test_a_dense_layer_at_full_rank_is_reproduced(groups, n_in, n_out, grouped):
    sizes = (groups * n_in, groups * n_out)
    layer = GroupedDense(*sizes, groups, activation="tanh") if grouped else Dense(*sizes, activation="tanh")
    net = network(layer, (sizes[0],))
    layer.bias = np.random.default_rng(2).normal(size=layer.out_features)
    made = factorize(layer, "svd", full_rank(layer, "svd"))
    assert [type(one) for one in made] == [type(layer)] * 2
    assert_same(net, made)


SHAPES = {
    "svd": [("5x3/2x1", 1, (2, 1), (2, 0), (1, 2)), ("1x1", 1, (1, 1), (0, 0), (1, 1))],
    "two_factor": [("5x1/2x1", 1, (2, 1), (2, 0), (1, 1)), ("1x3", 1, (1, 1), (0, 0), (1, 2))],
    "tucker2": [
        ("1x1", 1, (1, 1), (0, 0), (1, 1)),
        ("5x3/2x1", 1, (2, 1), (2, 0), (1, 2)),
        ("1x1", 1, (1, 1), (0, 0), (1, 1)),
    ],
    "cp": [
        ("1x1", 1, (1, 1), (0, 0), (1, 1)),
        ("5x1/2x1", 2, (2, 1), (2, 0), (1, 1)),
        ("1x3", 2, (1, 1), (0, 0), (1, 2)),
        ("1x1", 1, (1, 1), (0, 0), (1, 1)),
    ],
}


@pytest.mark.parametrize("method", SHAPES)
@pytest.mark.parametrize("groups", [1, 2])
def test_each_layer_takes_its_part_of_the_options(method, groups):
    conv = Conv2d(8, 6, (5, 3), (2, 1), (2, 0), (1, 2), groups, activation="relu", l2=0.1, init="he")
    network(conv, (12, 12, 8))
    made = factorize(conv, method, 2)
    found = [(one.marks()[0], one.groups, one.stride, one.padding, one.dilation) for one in made]
    assert found == [(mark, n * groups, *rest) for mark, n, *rest in SHAPES[method]]
    assert [one.config()["bias"] for one in made] == [False] * (len(made) - 1) + [True]
    assert [one.activation for one in made] == ["identity"] * (len(made) - 1) + ["relu"]
    assert [(one.l2, one.init) for one in made] == [(0.1, None)] * len(made)
    assert [one.in_features for one in made] == [8] + [2 * groups] * (len(made) - 1)


def test_a_layer_without_bias_becomes_layers_without():
    dense = Dense(6, 5, bias=False)
    network(dense, (6,))
    assert [one.config()["bias"] for one in factorize(dense, "svd", 2)] == [False, False]


def test_tucker_takes_a_rank_for_outputs_and_one_for_inputs():
    conv = Conv2d(6, 8, 3)
    network(conv, (5, 5, 6))
    assert [one.out_features for one in factorize(conv, "tucker2", (4, 2))] == [2, 4, 8]


def test_factors_of_a_truncated_svd_share_the_singular_values():
    dense = Dense(9, 7)
    network(dense, (9,))
    made = factorize(dense, "svd", 3)
    Sequential(made, dtype=np.float64)
    S = np.linalg.svd(dense.weight, compute_uv=False)[:3]
    first, last = (one.weight for one in made)
    np.testing.assert_allclose(first @ first.T, np.diag(S), atol=1e-12)
    np.testing.assert_allclose(last.T @ last, np.diag(S), atol=1e-12)


@pytest.mark.parametrize("method", ["svd", "two_factor", "tucker2", "cp"])
def test_batch_norm_between_the_layers_starts_as_the_identity_and_folds_away(method, dtype, rng):
    conv = Conv2d(4, 6, 3, padding=1, activation="relu")
    net = network(conv, (6, 6, 4), dtype=dtype)
    vectors = [rng.normal(size=(n, 2)) for n in conv.weight.shape]
    conv.weight = np.einsum("ir,jr,kr,lr->ijkl", *vectors)
    plain, normalized = (factorize(conv, method, 2, batch_norm=norm) for norm in (False, True))
    assert [type(one) for one in normalized[1::2]] == [BatchNorm] * (len(plain) - 1)
    x = rng.normal(size=(2, 6, 6, 4))
    plain, normalized = (Sequential(some, dtype=dtype, input_shape=net.input_shape) for some in (plain, normalized))
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    expected = plain.predict(x)
    np.testing.assert_allclose(normalized.predict(x), expected, atol=tolerance * abs(expected).max())
    folded = normalized.fold()
    assert [type(one) for one in folded.layers] == [Conv2d] * len(plain.layers)
    np.testing.assert_allclose(folded.predict(x), expected, atol=tolerance * abs(expected).max())


def test_a_trained_batch_norm_between_the_layers_folds_away_to_rounding(rng):
    conv = Conv2d(3, 5, 3, padding=1)
    network(conv, (6, 6, 3))
    net = Sequential(factorize(conv, "tucker2", 2, batch_norm=True), dtype=np.float64, input_shape=(6, 6, 3))
    x, y = rng.normal(1, 2, size=(8, 6, 6, 3)), rng.normal(size=(8, 6, 6, 5))
    fo.nn.Trainer(net, "mse", fo.optim.SGD(net.parameters(), lr=0.01)).fit(x, y, epochs=3, batch_size=4)
    np.testing.assert_allclose(net.fold().predict(x), net.predict(x), atol=1e-10)


def test_gradients_of_factors_are_those_of_differences(rng):
    conv = Conv2d(4, 6, (3, 2), stride=(2, 1), padding=1, groups=2, activation="tanh", l2=0.1)
    network(conv, (5, 4, 4))
    net = Sequential(factorize(conv, "two_factor", 2), dtype=np.float64, input_shape=(5, 4, 4))
    x, y = rng.normal(size=(2, 5, 4, 4)), rng.normal(size=(2, *net.output_shape))
    _, grads = net.value_and_grad(x, y, "mse")
    for a, grad in zip(net.parameters(), grads, strict=True):
        direction, step = rng.normal(size=a.shape), 1e-6
        values = []
        for sign in (1, -1):
            a += sign * step * direction
            values.append(net.value_and_grad(x, y, "mse")[0])
            a -= sign * step * direction
        assert (values[0] - values[1]) / (2 * step) == pytest.approx((grad * direction).sum(), rel=1e-5)


def test_the_layer_stays_as_it_is_and_the_new_ones_hold_copies():
    dense = Dense(6, 5)
    net = network(dense, (6,))
    before = copy.deepcopy(dense)
    made = Sequential(factorize(dense, "svd", 5), dtype=np.float64)
    made.layers[1].bias[:] = 7
    np.testing.assert_array_equal(dense.weight, before.weight)
    np.testing.assert_array_equal(dense.bias, before.bias)
    assert net.layers == (dense,)


def test_new_layers_may_be_copied_and_pickled_before_a_network_has_them():
    dense = Dense(6, 5)
    network(dense, (6,))
    made = factorize(dense, "svd", 2)
    one, other = (Sequential(some, rng=seed, dtype=np.float64) for seed, some in ((0, copy.deepcopy(made)), (1, made)))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_folded_layer_is_factorized_too():
    net = network(Conv2d(4, 6, 3), (6, 6, 4))
    folded = net.fold()
    for a, b in zip(factorize(net.layers[0], "svd", 6), factorize(folded.layers[0], "svd", 6), strict=True):
        np.testing.assert_array_equal(a.known_arrays()["weight"], b.known_arrays()["weight"])


def test_factors_have_the_same_bits_for_the_same_seed_at_any_thread_count():
    conv = Conv2d(32, 48, 3)
    network(conv, (6, 6, 32))
    for method, rank in (("svd", 9), ("two_factor", 9), ("tucker2", 9)):
        found = []
        for threads in (1, 2):
            with fo.num_threads(threads):
                found.append([one.known_arrays()["weight"].tobytes() for one in factorize(conv, method, rank)])
        assert found[0] == found[1]


def built(layer, shape):
    network(layer, shape)
    return layer


IMAGE = (5, 5, 4)
REFUSED = {
    "another kind": (
        lambda: (built(Maxout(4, 3), (4,)), "svd", 2),
        TypeError,
        "^layer: expected one of Dense, Gr.*Max",
    ),
    "no arrays": (
        lambda: (Dense(4, 3), "svd", 2),
        ValueError,
        "^layer: expected one with arrays, .* into a Sequential",
    ),
    "no method": (lambda: (built(Conv2d(4, 3, 3), IMAGE), "qr", 2), ValueError, "^method: .*'svd' or 'two_f.*got 'qr'"),
    "a convolution's method": (
        lambda: (built(Dense(4, 3), (4,)), "cp", 2),
        ValueError,
        "^method: expected 'svd' for a Dense, got 'cp'",
    ),
    "rank 0": (lambda: (built(Dense(4, 3), (4,)), "svd", 0), ValueError, "^rank: "),
    "rank above full": (lambda: (built(Conv2d(4, 3, 3), IMAGE), "two_factor", 13), ValueError, "^rank: "),
    "l1": (lambda: (built(Dense(4, 3, l1=0.1), (4,)), "svd", 2), ValueError, "^layer: expected no l1, .*anew without"),
    "max_norm": (lambda: (built(Dense(4, 3, max_norm=1), (4,)), "svd", 2), ValueError, "^layer: expected no max_norm"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case):
    make, error, match = REFUSED[case]
    with pytest.raises(error, match=match):
        factorize(*make())


def test_options_of_another_method_are_refused():
    conv = built(Conv2d(4, 3, 3), IMAGE)
    with pytest.raises(TypeError, match=r"two_factor\(\) got an unexpected keyword argument 'ridge'"):
        factorize(conv, "two_factor", 2, ridge=0.1)
    with pytest.raises(ValueError, match="batch_norm: expected True or False"):
        factorize(conv, "two_factor", 2, batch_norm="no")


def test_weights_that_are_not_finite_are_refused():
    layer = built(Dense(4, 3), (4,))
    layer.weight[1, 2] = np.nan
    with pytest.raises(ValueError, match="expected finite values, got nan"):
        factorize(layer, "svd", 2)


def test_a_layer_starts_with_arrays_of_its_names_and_shapes_only():
    with pytest.raises(ValueError, match=r"weight: expected shape \(3, 4\), got \(4, 3\)"):
        Dense(4, 3).start_with(weight=np.ones((4, 3)))
    with pytest.raises(ValueError, match="bias: expected one of weight of Dense"):
        Dense(4, 3, bias=False).start_with(bias=np.ones(3))
    with pytest.raises(ValueError, match="weight: made already; assign to the layer's attribute"):
        built(Dense(4, 3), (4,)).start_with(weight=np.ones((3, 4)))


# ---------------------------------------------------------------- the rank of a compression


def weights(layers):
    return sum(layer.arrays()["weight"].size for layer in layers)


def fresh(layers, net):
    return Sequential(layers, rng=0, input_shape=net.input_shape).layers


def factorize_fresh(net, method, rank, **options):
    return fresh(factorize(net.layers[0], method, rank, **options), net)


@pytest.mark.parametrize("compression", [1.5, 3.0, 8.0])
@pytest.mark.parametrize(
    ("layer", "shape", "method"),
    [
        (Dense(40, 24), None, "svd"),
        (GroupedDense(40, 24, 4), None, "svd"),
        (Conv2d(12, 24, 3), (5, 5, 12), "svd"),
        (Conv2d(12, 24, (3, 5), groups=2), (5, 5, 12), "two_factor"),
        (Conv2d(12, 24, 3), (5, 5, 12), "tucker2"),
        (Conv2d(12, 24, 3, groups=2), (5, 5, 12), "cp"),
    ],
)
def test_the_rank_of_a_compression_is_the_largest_that_reaches_it(layer, shape, method, compression):
    net = Sequential([copy.deepcopy(layer)], rng=0, input_shape=shape)
    one = {"max_sweeps": 1, "restarts": 1, "tol": 0} if method == "cp" else {}
    rank, limit = rank_of(layer, method, compression), net.layers[0].weight.size / compression
    least = rank in (1, (1, 1))
    assert least or weights(factorize_fresh(net, method, rank, **one)) <= limit
    larger = tuple(r + 1 for r in rank) if method == "tucker2" else rank + 1
    assert weights(factorize_fresh(net, method, larger, **one)) > limit


def test_ranks_of_a_compression_are_ranks_that_the_kernel_can_tell_apart():
    net = network(Conv2d(3, 64, 3), (5, 5, 3))
    assert rank_of(net.layers[0], "tucker2", 2.5) == (9, 1)  # not (21, 1): nine taps of one channel
    assert weights(factorize_fresh(net, "tucker2", (9, 1))) <= net.layers[0].weight.size / 2.5


def test_a_rank_of_a_compression_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="compression: expected a finite number above 0"):
        rank_of(Dense(4, 4), "svd", 0)
    with pytest.raises(ValueError, match="method: expected 'svd' for a Dense, got 'cp'"):
        rank_of(Dense(4, 4), "cp", 2)
    with pytest.raises(TypeError, match="layer: expected one of Dense, GroupedDense, Conv2d, got BatchNorm"):
        rank_of(BatchNorm(4), "svd", 2)


def test_a_rank_that_is_not_given_is_refused():
    net = Sequential([Dense(4, 4)], rng=0)
    with pytest.raises(ValueError, match=r"rank: expected a whole number from 1, got None; truncated_svd finds that"):
        factorize(net.layers[0], "svd", None, energy=0.5)
