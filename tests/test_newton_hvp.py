"""Hessian-vector products of networks, and what is made of them: Gauss-Newton products, Hessians, spectra.

Pass criterion: float64 products within RTOL of central differences of the gradient, relative to the largest
element; identities (symmetry, equal matrices) to EXACT of it; float32 within FLOAT32 of float64.
"""

import numpy as np
import pytest
from pairs import pairwise
from reference import ACTIVATIONS, draw_targets, normal_density
from test_program import FORMS, LAYOUTS, inputs, refuses_logits, with_random_arrays

import fastopt as fo

RTOL = 2e-7
EXACT = 1e-12
FLOAT32 = 1e-4


def everywhere(activation):
    return [
        fo.nn.Dense(4, 6, activation),
        fo.nn.GroupedDense(6, 6, groups=2, activation=activation),
        fo.nn.Residual([fo.nn.Dense(6, 6, activation, bias=False)]),
        fo.nn.BatchNorm(6, activation=activation),
        fo.nn.Dense(6, 3, activation),
    ]


NETWORKS = {
    **LAYOUTS,
    **{f"{activation} everywhere": lambda activation=activation: everywhere(activation) for activation in ACTIVATIONS},
    "batch norm first": lambda: [fo.nn.BatchNorm(4), fo.nn.Dense(4, 3)],
    "batch norm inside": lambda: [fo.nn.Dense(4, 5), fo.nn.BatchNorm(5, activation="tanh"), fo.nn.Dense(5, 3)],
    "plain batch norm": lambda: [fo.nn.Dense(4, 5, "silu"), fo.nn.BatchNorm(5, affine=False), fo.nn.Dense(5, 3)],
    "batch norm last": lambda: [fo.nn.Dense(4, 3), fo.nn.BatchNorm(3, activation="softmax")],
    "batch norm in a shortcut": lambda: [
        fo.nn.Residual([fo.nn.BatchNorm(4, affine=False)]),
        fo.nn.Dense(4, 4),
        fo.nn.Residual([fo.nn.BatchNorm(4, activation="gelu"), fo.nn.Dense(4, 4)]),
    ],
    "dropout": lambda: [fo.nn.Dropout(0.3), fo.nn.Dense(4, 6, "tanh"), fo.nn.Dropout(0.5), fo.nn.Dense(6, 3)],
    "dropout in a shortcut": lambda: [
        fo.nn.Residual([fo.nn.Dropout(0.5), fo.nn.Dense(4, 4, "sigmoid"), fo.nn.Dropout(0.3)]),
        fo.nn.Dense(4, 3),
    ],
}
PLAIN = {  # networks that predict as they train
    **LAYOUTS,
    **{
        f"{activation} twice": lambda activation=activation: [
            fo.nn.Dense(4, 6, activation),
            fo.nn.Dense(6, 3, activation),
        ]
        for activation in ACTIVATIONS
    },
}
ROWS = (5, 29)  # of the two kinds of products


def network(name, dtype=np.float64):
    layers, rng = {**NETWORKS, **PLAIN}[name](), np.random.default_rng(5)
    net = with_random_arrays(fo.nn.Sequential(layers, rng=3, dtype=dtype))
    for layer in fo.nn.layers.walk(net.layers):
        if isinstance(layer, fo.nn.BatchNorm) and layer.affine:
            layer.gamma, layer.beta = rng.normal(size=(2, layer.in_features))
    return net


def problem(net, form, n):
    """Rows, targets and loss: mse on probabilities, where the loss is one on logits and the network has none."""
    loss, kind, _ = FORMS["mse" if refuses_logits(net, FORMS[form][0]) else form]
    if net.out_features != 3:  # of which the class weights are
        loss = fo.nn.losses.loss_name(loss)
    return inputs(n, net.dtype) / 3, draw_targets(kind, n, net.out_features), loss


def direction(net, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=p.shape) for p in net.parameters()]


def dot(a, b):
    return sum(np.vdot(x, y) for x, y in zip(a, b, strict=True))


def differenced(net, x, y, v, loss, weight=None, h=1e-5):
    """The product by central differences of the gradient, at the draws that come next."""
    home, draws, ends = [p.copy() for p in net.parameters()], net.draws, []
    for step in (h, -h):
        for p, at, along in zip(net.parameters(), home, v, strict=True):
            p[...] = at + step * along
        net.draws = draws
        ends.append(net.value_and_grad(x, y, loss, sample_weight=weight)[1])
    for p, at in zip(net.parameters(), home, strict=True):
        p[...] = at
    net.draws = draws
    return [(a - b) / (2 * h) for a, b in zip(*ends, strict=True)]


def assert_close(got, want, rtol, floor=1e-3):
    largest = max(np.abs(a).max() for a in want)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(largest, floor))


# ---------------------------------------------------------------- exact products


@pairwise(name=NETWORKS, form=FORMS)
def test_hvp_equals_the_differenced_gradient_for_every_layer_activation_and_loss(name, form):
    net = network(name)
    for n in ROWS:
        x, y, loss = problem(net, form, n)
        v = direction(net)
        for weight in (None, np.linspace(0, 1, n)):
            got = net.hvp(x, y, v, loss, sample_weight=weight)
            assert_close(got, differenced(net, x, y, v, loss, weight), RTOL)


@pairwise(name=NETWORKS, form=FORMS, gauss_newton=[False, True])
def test_hvp_is_symmetric(name, gauss_newton, form):
    net = network(name)
    x, y, loss = problem(net, form, 29)
    u, v = direction(net, 1), direction(net, 2)
    hu, hv = (net.hvp(x, y, a, loss, gauss_newton=gauss_newton) for a in (u, v))
    scale = np.sqrt(max(dot(u, u) * dot(hv, hv), dot(v, v) * dot(hu, hu)))
    assert abs(dot(u, hv) - dot(v, hu)) <= EXACT * scale


def test_products_of_large_layers_equal_the_differenced_gradient():
    layers = [fo.nn.Dense(300, 270, "tanh"), fo.nn.Dense(270, 290, "gelu"), fo.nn.Dense(290, 40)]
    net = fo.nn.Sequential(layers, rng=0, dtype=np.float64)
    x, y = inputs(67, width=300) / 3, np.arange(67) % 40
    v = direction(net)
    assert_close(net.hvp(x, y, v), differenced(net, x, y, v, "cross_entropy"), RTOL, 0)


def test_more_classes_than_a_vector_has_lanes_and_columns_than_a_block(dtype):
    layers = [fo.nn.Dense(9, 530), fo.nn.BatchNorm(530, activation="softmax"), fo.nn.Dense(530, 70)]
    net = fo.nn.Sequential(layers, rng=0, dtype=dtype)
    x, y, v = inputs(31, dtype, width=9), np.arange(31) % 70, direction(net)
    exact = fo.nn.Sequential([*layers_like(net)], rng=0, dtype=np.float64)
    want = differenced(exact, x, y, v, "cross_entropy")
    assert_close(net.hvp(x, y, v), want, RTOL if dtype == np.float64 else FLOAT32, 0)


def layers_like(net):
    """Layers of float64 with the arrays of a network."""
    import copy

    for layer in copy.deepcopy(net.layers):
        layer._arrays = {name: a.astype(np.float64) for name, a in layer._arrays.items() if a is not None}
        yield layer


@pytest.mark.parametrize("name", NETWORKS)
def test_float32_products_are_near_those_of_float64(name):
    single, double = network(name, np.float32), network(name)
    x, y, loss = problem(double, "cross_entropy", 29)
    x = x.astype(np.float32)
    for a, b in zip(double.parameters(), single.parameters(), strict=True):
        a[...] = b
    for gauss_newton in (False, True):
        got, want = (net.hvp(x, y, direction(net), loss, gauss_newton=gauss_newton) for net in (single, double))
        assert {a.dtype for a in got} == {np.dtype(np.float32)}
        assert_close(got, want, FLOAT32)


SECOND_DERIVATIVES = {  # second derivatives
    "tanh": lambda z: -2 * np.tanh(z) / np.cosh(z) ** 2,
    "sigmoid": lambda z: -np.tanh(z / 2) / (4 * np.cosh(z / 2) ** 2),
    "gelu": lambda z: (2 - z * z) * normal_density(z),
    "silu": lambda z: (2 - z * np.tanh(z / 2)) / (4 * np.cosh(z / 2) ** 2),
}


@pytest.mark.parametrize("activation", SECOND_DERIVATIVES)
def test_second_derivatives_of_activations_equal_their_formulas(activation, dtype):
    z = np.linspace(-40, 40, 1001)[np.r_[:500, 501:1001]].astype(dtype)
    net = fo.nn.Sequential([fo.nn.GroupedDense(1000, 1000, 1000, activation, bias=False)], dtype=dtype)
    net.parameters()[0][...] = 1
    targets = net.predict(z[None]) - 500  # the loss's slope is 1 in every output
    ones = [np.ones((1000, 1))]
    hvp, linear = (net.hvp(z[None], targets, ones, "mse", gauss_newton=g)[0].ravel() for g in (False, True))
    second_derivative = (hvp.astype(float) - linear) / z.astype(float) ** 2
    exact = 1e-13 if dtype == np.float64 else 1e-5  # the slope, a difference, is rounded
    np.testing.assert_allclose(
        second_derivative, SECOND_DERIVATIVES[activation](z.astype(float)), rtol=exact, atol=exact
    )


def test_hvp_drops_what_the_next_value_and_grad_drops():
    net = network("dropout")
    x, y, loss = problem(net, "mse", 29)
    v, first = direction(net), None
    for _ in range(3):
        got = net.hvp(x, y, v, loss)
        assert_close(got, differenced(net, x, y, v, loss), RTOL)
        assert not any(np.array_equal(a, b) for a, b in zip(got, first or (), strict=False))
        draws = net.draws
        net.value_and_grad(x, y, loss)
        first = got
        assert net.draws == draws + 1


def test_hvp_changes_nothing():
    net = network("batch norm inside")
    x, y, loss = problem(net, "mse", 29)
    before = [a.copy() for layer in net.layers for a in layer.arrays().values()]
    v = direction(net)
    kept = [a.copy() for a in v]
    net.hvp(x, y, v, loss)
    after = [a for layer in net.layers for a in layer.arrays().values()]
    for a, b in zip([*before, *kept], [*after, *v], strict=True):
        np.testing.assert_array_equal(a, b)


def test_rows_of_weight_zero_do_not_count():
    net = network("mixed activations")
    x, y, loss = problem(net, "mse", 8)
    weight = np.array([1.0] * 7 + [0.0])
    x[-1] = 1e3
    got = net.hvp(x, y, direction(net), loss, sample_weight=weight)
    assert_close(got, net.hvp(x[:7], y[:7], direction(net), loss), EXACT)
    assert not any(a.any() for a in net.hvp(x, y, direction(net), loss, sample_weight=np.zeros(8)))


def test_a_network_without_parameters_has_no_products():
    net = fo.nn.Sequential([fo.nn.BatchNorm(3, affine=False)], dtype=np.float64)
    assert net.hvp(inputs(5, width=3), np.zeros((5, 3)), [], "mse") == []


# ---------------------------------------------------------------- Gauss-Newton products


def pulled_back(net, x, u):
    """J.T @ u by the gradient of a squared error whose residuals are u."""
    targets = net.predict(x) - u * (u.size / 2)
    return net.value_and_grad(x, targets, "mse")[1]


@pairwise(name=PLAIN, form=FORMS)
def test_gauss_newton_equals_its_definition_by_differences(name, form):
    net, h = network(name), 1e-5
    x, y, loss = problem(net, form, 29)
    v, home, ends = direction(net), [p.copy() for p in net.parameters()], []
    for step in (h, -h):
        for p, at, along in zip(net.parameters(), home, v, strict=True):
            p[...] = at + step * along
        ends.append(net.predict(x))
    for p, at in zip(net.parameters(), home, strict=True):
        p[...] = at
    jv, output = (ends[0] - ends[1]) / (2 * h), net.predict(x)
    measure = getattr(fo.functional, fo.nn.losses.loss_name(loss))
    grads = [measure(output + step * jv, y, **fo.nn.losses.loss_options(loss))[1] for step in (h, -h)]
    want = pulled_back(net, x, (grads[0] - grads[1]) / (2 * h))
    assert_close(net.hvp(x, y, v, loss, gauss_newton=True), want, 2e-6)


@pairwise(name=NETWORKS, form=FORMS)
def test_gauss_newton_is_positive_semidefinite(name, form):
    net = network(name)
    x, y, loss = problem(net, form, 29)
    for seed in range(5):
        v = direction(net, seed)
        gv = net.hvp(x, y, v, loss, gauss_newton=True)
        assert dot(v, gv) >= -EXACT * np.sqrt(dot(v, v) * dot(gv, gv))


LINEAR = {  # in their parameters
    "dense": lambda: [fo.nn.Dense(4, 3)],
    "grouped": lambda: [fo.nn.GroupedDense(4, 2, groups=2)],
    "after batch norm": lambda: [fo.nn.BatchNorm(4, affine=False), fo.nn.Dense(4, 3)],
    "after dropout": lambda: [fo.nn.Dropout(0.5), fo.nn.Dense(4, 3)],
    "maxout of one piece": lambda: [fo.nn.Maxout(4, 3, pieces=1)],
    "scale and shift": lambda: [fo.nn.BatchNorm(4)],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LINEAR)
def test_gauss_newton_is_the_hessian_of_a_model_linear_in_its_parameters(name, form):
    net = fo.nn.Sequential(LINEAR[name](), rng=1, dtype=np.float64)
    x, y, loss = problem(net, form, 29)
    got = net.hvp(x, y, direction(net), loss, gauss_newton=True)
    assert_close(got, net.hvp(x, y, direction(net), loss), EXACT)


# ---------------------------------------------------------------- Hessians and spectra


@pytest.mark.parametrize("form", FORMS)
def test_the_hessian_holds_every_product(form):
    net = network("batch norm inside")
    x, y, loss = problem(net, form, 29)
    weight = np.linspace(0, 1, 29)
    for gauss_newton in (False, True):
        options = {"sample_weight": weight, "gauss_newton": gauss_newton}
        matrix = fo.newton.hessian(net, x, y, loss, **options)
        np.testing.assert_array_equal(matrix, matrix.T)
        v = direction(net)
        want = np.concatenate([a.ravel() for a in net.hvp(x, y, v, loss, **options)])
        got = matrix @ np.concatenate([a.ravel() for a in v])
        np.testing.assert_allclose(got, want, rtol=0, atol=EXACT * max(1, np.abs(want).max()))


def test_the_hessian_of_a_regression_is_its_normal_matrix():
    x = inputs(29)
    net = fo.nn.Sequential([fo.nn.Dense(4, 1)], rng=0, dtype=np.float64)
    rows = np.c_[x, np.ones(29)]
    np.testing.assert_allclose(fo.newton.hessian(net, x, np.zeros(29), "mse"), 2 * rows.T @ rows / 29, rtol=EXACT)


def trained(n_hidden, dtype=np.float64):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 8)).astype(dtype), rng.integers(0, 3, 200)
    layers = [fo.nn.Dense(8, n_hidden, "tanh"), fo.nn.Dropout(0.1), fo.nn.Dense(n_hidden, 3)]
    net = fo.nn.Sequential(layers, rng=0, dtype=dtype)
    fo.nn.Trainer(net, "cross_entropy", fo.optim.Adam(net.parameters(), lr=1e-2)).fit(x, y, epochs=3)
    return net, x, y


@pytest.mark.parametrize("k", [1, 2, 5, 6])
@pytest.mark.parametrize("n_hidden", [6, 40], ids=["whole", "lanczos"])
def test_a_spectrum_has_the_ends_of_the_hessians(n_hidden, k, dtype):
    net, x, y = trained(n_hidden, dtype)
    for gauss_newton in (False, True):
        want = np.linalg.eigvalsh(fo.newton.hessian(net, x, y, gauss_newton=gauss_newton))
        found = fo.newton.spectrum(net, x, y, k=k, gauss_newton=gauss_newton)
        ends = np.concatenate([want[: k // 2], want[len(want) - (k - k // 2) :]])
        np.testing.assert_allclose(found.eigenvalues, ends, rtol=0, atol=1e-5 * want[-1])


def test_a_spectrum_is_the_same_every_time():
    net, x, y = trained(40)
    one, other = (fo.newton.spectrum(net, x, y) for _ in range(2))
    np.testing.assert_array_equal(one.eigenvalues, other.eigenvalues)
    assert one.products == other.products


def test_condition_numbers():
    def of(scales, **options):
        n = len(scales)
        net = fo.nn.Sequential([fo.nn.Dense(n, 1, bias=False)], rng=0, dtype=np.float64)
        return fo.newton.spectrum(net, np.diag(np.sqrt(scales)), np.zeros(n), "mse", **options).condition_number

    assert of([4.0, 1.0, 2.0], k=2) == pytest.approx(4, rel=EXACT)
    assert of([4.0, 1.0, 0.0], k=2) == np.inf
    assert of(np.linspace(1, 50, 300)) == pytest.approx(50, rel=1e-6)  # by Lanczos
    assert of(np.linspace(0, 50, 300)) == np.inf
    assert of(np.linspace(1, 50, 300), k=1) == pytest.approx(50, rel=1e-6)


def test_of_an_indefinite_hessian_the_condition_number_needs_all_eigenvalues():
    net, x, y = trained(6)
    values = np.linalg.eigvalsh(fo.newton.hessian(net, x, y))
    assert values[0] < 0
    found = fo.newton.spectrum(net, x, y, k=3)
    assert found.condition_number == pytest.approx(np.abs(values).max() / np.abs(values).min(), rel=1e-3)
    net, x, y = trained(40)
    assert np.isnan(fo.newton.spectrum(net, x, y).condition_number)


def test_curvature_without_any_is_zero():
    net = fo.nn.Sequential([fo.nn.Dense(300, 1)], rng=0, dtype=np.float64)
    found = fo.newton.spectrum(net, np.ones((4, 300)), np.zeros(4), "mae", k=3)
    np.testing.assert_array_equal(found.eigenvalues, np.zeros(3))
    assert found.condition_number == np.inf


# ---------------------------------------------------------------- what is refused


def test_hessians_and_spectra_that_cannot_be_are_refused(small_net):
    wide = fo.nn.Sequential([fo.nn.Dense(100, 60)], rng=0)
    rows = np.zeros((3, 100))
    with pytest.raises(ValueError, match=r"net: expected at most 5000 parameters, got 6060, a matrix of 0.3 GB; use"):
        fo.newton.hessian(wide, rows, [0, 1, 2])
    net, x, y = small_net(), inputs(5), np.arange(5) % 3
    for k in (0, 101, 1.5):
        with pytest.raises(ValueError, match=rf"k: expected a whole number from 1 to 89, got {k}"):
            fo.newton.spectrum(net, x, y, k=k)
    with pytest.raises(ValueError, match=r"tol: expected a finite number above 0 and below 1, got 0"):
        fo.newton.spectrum(net, x, y, tol=0)
    with pytest.raises(ValueError, match=r"loss: expected one of"):
        fo.newton.hessian(net, x, y, "hinge")
    empty = fo.nn.Sequential([fo.nn.BatchNorm(4, affine=False)], dtype=np.float64)
    with pytest.raises(ValueError, match=r"net: expected parameters, got a network without any"):
        fo.newton.hessian(empty, x, x, "mse")
    x[2, 1] = np.nan
    with pytest.raises(FloatingPointError, match=r"hessian: expected finite second derivatives"):
        fo.newton.hessian(net, x, y)
    with pytest.raises(FloatingPointError, match=r"expected finite second derivatives"):
        fo.newton.spectrum(wide, np.full((3, 100), np.inf), [0, 1, 2])
    many = inputs(200, width=40)
    with pytest.raises(RuntimeError, match=r"expected convergence to tol=1e-12, got \d of 6 eigenvalues .*; raise tol"):
        fo.newton.spectrum(
            fo.nn.Sequential([fo.nn.Dense(40, 30, "relu"), fo.nn.Dense(30, 3)], rng=0, dtype=np.float64),
            many,
            np.arange(200) % 3,
            gauss_newton=True,
            tol=1e-12,
            max_iter=2,
        )


def test_a_direction_that_does_not_fit_is_refused(small_net):
    net, x, y = small_net(), inputs(5), np.arange(5) % 3
    v = direction(net)
    with pytest.raises(ValueError, match=rf"v: expected {len(v)} arrays, one a parameter, got 1"):
        net.hvp(x, y, v[:1])
    with pytest.raises(ValueError, match=r"v\[0\]: expected shape \(5, 4\), got \(4, 5\)"):
        net.hvp(x, y, [v[0].T, *v[1:]])
    with pytest.raises(TypeError, match=r"v\[1\]: expected real numbers, got dtype complex128"):
        net.hvp(x, y, [v[0], v[1] + 0j, *v[2:]])
    with pytest.raises(ValueError, match=r"loss: expected one of"):
        net.hvp(x, y, v, "hinge")
    with pytest.raises(ValueError, match=r"x: expected at least one row"):
        net.hvp(x[:0], y[:0], v)
    net = network("batch norm first")
    with pytest.raises(ValueError, match=r"x: expected at least two rows"):
        net.hvp(x[:1], y[:1], direction(net))
