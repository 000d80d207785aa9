"""The compiled program: predict and value_and_grad of whole networks.

Pass criterion: outputs within rtol of the NumPy oracle; float64 gradients within 1e-7
of central differences, relative to the largest gradient.
"""

import copy
import threading

import numpy as np
import pytest
from reference import ACTIVATIONS, LOSSES, draw_targets, forward

import fastopt as fo

RTOL = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-13}
GRADIENT_RTOL = 1e-7
ROWS = 256  # predict works on so many rows at a time

WEIGHTED_SMOOTHED = {"label_smoothing": 0.1, "class_weight": (0.5, 2.0, 1.0)}
FORMS = {  # losses, kinds of targets, options of the oracle
    "cross_entropy": ("cross_entropy", "classes", {}),
    "cross_entropy on probabilities": ("cross_entropy", "probabilities", {}),
    "cross_entropy with options": (fo.nn.CrossEntropy(**WEIGHTED_SMOOTHED), "classes", WEIGHTED_SMOOTHED),
    "mse": ("mse", "values", {}),
    "mae": ("mae", "values", {}),
    "huber": (fo.nn.Huber(delta=2.0), "values", {"delta": 2.0}),
    "binary_cross_entropy": ("binary_cross_entropy", "probabilities", {}),
}
WEIGHTS = np.array([1.0, 0.5, 0.0, 2.0, 1.0])
MIXED = ("relu", "gelu", "softmax", "silu")  # of which backward keeps different values


def inputs(n, dtype=np.float64, width=4):
    return np.random.default_rng(n).normal(2, 3, (n, width)).astype(dtype)


def refuses_logits(net, loss):
    """Whether the outputs are probabilities already, to a loss that makes them of logits; it says so then."""
    last = getattr(net.layers[-1], "activation", None)
    if last not in ("softmax", "sigmoid") or "cross_entropy" not in fo.nn.losses.loss_name(loss):
        return False
    with pytest.raises(ValueError, match=rf"^loss: .* without {last}, .* takes logits, .* leave its activation out"):
        net.value_and_grad(inputs(5), np.zeros(5, int), loss)
    return True


def check_gradients(net, x, form, weight=None):
    loss, kind, options = FORMS[form]
    if refuses_logits(net, loss):
        return
    targets, oracle = draw_targets(kind, len(x), net.out_features), LOSSES[fo.nn.losses.loss_name(loss)]
    if net.out_features != 3:  # of which the class weights are
        loss, options = fo.nn.losses.loss_name(loss), {}
    value, grads = net.value_and_grad(x, targets, loss, sample_weight=weight)
    prediction = forward(net.layers, x)
    assert value == pytest.approx(oracle(prediction, targets, weight, **options)[0], rel=1e-12)
    largest = max(np.abs(g).max() for g in grads)
    for param, grad in zip(net.parameters(), grads, strict=True):
        assert grad.shape == param.shape
        for i in np.ndindex(param.shape):
            before, ends = param[i], []
            for h in (1e-5, -1e-5):
                param[i] = before + h
                ends.append(net.evaluate(x, targets, loss, sample_weight=weight))
            param[i] = before
            assert abs((ends[0] - ends[1]) / 2e-5 - grad[i]) <= GRADIENT_RTOL * largest


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_of_nested_shortcuts_equal_differences(activation, form, small_net):
    check_gradients(small_net(activation), inputs(6), form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_weighted_gradients_equal_differences(activation, form, small_net):
    check_gradients(small_net(activation), inputs(5), form, WEIGHTS)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_of_a_dense_layer_equal_differences_wherever_it_stands(activation, bias, form):
    def dense(n_in, n_out):
        return fo.nn.Dense(n_in, n_out, activation, bias)

    for layers in (
        [dense(4, 3)],
        [dense(4, 5), dense(5, 3)],
        [dense(4, 6), fo.nn.Residual([dense(6, 6)]), dense(6, 3)],
    ):
        net = with_random_arrays(fo.nn.Sequential(layers, rng=3, dtype=np.float64))
        check_gradients(net, inputs(5), form)
        check_gradients(net, inputs(5), form, WEIGHTS)


LAYOUTS = {
    "one layer": lambda: [fo.nn.Dense(4, 3)],
    "activation last": lambda: [fo.nn.Dense(4, 3, activation="gelu")],
    "mixed activations": lambda: [*(fo.nn.Dense(4, 4, activation=a) for a in MIXED), fo.nn.Dense(4, 3)],
    "shortcut first": lambda: [fo.nn.Residual([fo.nn.Dense(4, 4, activation="tanh")]), fo.nn.Dense(4, 3)],
    "shortcut last": lambda: [fo.nn.Dense(4, 3), fo.nn.Residual([fo.nn.Dense(3, 3, activation="silu")])],
    "shortcut alone": lambda: [fo.nn.Residual([fo.nn.Residual([fo.nn.Dense(4, 4)])])],
    "grouped": lambda: [fo.nn.GroupedDense(4, 6, groups=2, activation="gelu"), fo.nn.GroupedDense(6, 3, groups=3)],
    "grouped after another": lambda: [fo.nn.Dense(4, 4), fo.nn.GroupedDense(4, 2, groups=2, activation="softmax")],
    "grouped shortcut": lambda: [fo.nn.Residual([fo.nn.GroupedDense(4, 4, groups=4, activation="tanh", bias=False)])],
    "shortcut around a grouped one": lambda: [
        fo.nn.Dense(4, 4),
        fo.nn.Residual([fo.nn.GroupedDense(4, 4, groups=2, activation="relu")]),
    ],
    "maxout": lambda: [fo.nn.Maxout(4, 5), fo.nn.Maxout(5, 3, pieces=3, bias=False)],
    "maxout of one piece": lambda: [fo.nn.Maxout(4, 3, pieces=1)],
    "maxout shortcut": lambda: [fo.nn.Dense(4, 4), fo.nn.Residual([fo.nn.Maxout(4, 4, pieces=7)]), fo.nn.Dense(4, 3)],
    "standardize before a grouped one": lambda: [fo.nn.Standardize(4), fo.nn.GroupedDense(4, 4, groups=2)],
    "standardize inside": lambda: [fo.nn.Dense(4, 4), fo.nn.Standardize(4), fo.nn.Dense(4, 3)],
    "standardize last": lambda: [fo.nn.Dense(4, 3), fo.nn.Standardize(3)],
    "standardize before a shortcut": lambda: [
        fo.nn.Dense(4, 4),
        fo.nn.Standardize(4),
        fo.nn.Residual([fo.nn.Dense(4, 4, activation="sigmoid")]),
    ],
    "whiten first": lambda: [fo.nn.Whiten(4), fo.nn.Dense(4, 3)],
    "whiten inside": lambda: [fo.nn.Dense(4, 5), fo.nn.Whiten(5), fo.nn.Dense(5, 3)],
    "whiten last": lambda: [fo.nn.Dense(4, 3), fo.nn.Whiten(3)],
    "whiten before a shortcut": lambda: [
        fo.nn.Dense(4, 4),
        fo.nn.Whiten(4),
        fo.nn.Residual([fo.nn.Dense(4, 4, activation="silu")]),
    ],
    "standardize twice": lambda: [fo.nn.Standardize(4), fo.nn.Standardize(4), fo.nn.Dense(4, 3)],
}


def with_random_arrays(net):
    """The network with other statistics and biases than those it starts with."""
    rng = np.random.default_rng(4)
    for layer in fo.nn.layers.walk(net.layers):
        if isinstance(layer, fo.nn.Standardize):
            layer.mean, layer.scale, layer.calibrated = *rng.normal(size=(2, layer.in_features)), True
        elif isinstance(layer, fo.nn.Whiten):
            n = layer.in_features
            layer.mean, layer.weight, layer.calibrated = rng.normal(size=n), rng.normal(size=(n, n)), True
        elif getattr(layer, "bias", None) is not None:
            layer.bias = rng.normal(size=layer.bias.shape)
    return net


def build(layout):
    return with_random_arrays(fo.nn.Sequential(LAYOUTS[layout](), rng=3, dtype=np.float64))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_order_of_layers_has_right_outputs(layout):
    net = build(layout)
    x = inputs(5)
    np.testing.assert_allclose(net.predict(x), forward(net.layers, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_order_of_layers_has_right_gradients(layout, form):
    check_gradients(build(layout), inputs(5), form)
    check_gradients(build(layout), inputs(5), form, WEIGHTS)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("n", [1, 2, 17, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS, 2 * ROWS + 3])
def test_predict_equals_the_oracle_for_any_number_of_rows(activation, n, dtype, small_net):
    net = small_net(activation, dtype)
    x = inputs(n, dtype)
    want = forward(net.layers, x.astype(float))
    np.testing.assert_allclose(net.predict(x), want, rtol=RTOL[dtype], atol=RTOL[dtype] * np.abs(want).max())


@pytest.mark.parametrize(("n", "most"), [(1, 24), (25, 600)])
def test_a_row_has_the_same_bits_in_any_batch_of_its_kind(n, most, dtype, small_net):
    net = small_net("gelu", dtype)
    x = inputs(most, dtype)
    y = net.predict(x)
    for i in {0, 1, 240, 255, 256, most - n}:
        if i + n <= most:
            np.testing.assert_array_equal(net.predict(x[i : i + n]), y[i : i + n])


def test_no_rows_give_no_rows(dtype, small_net):
    y = small_net(dtype=dtype).predict(np.empty((0, 4)))
    assert y.shape == (0, 3)
    assert y.dtype == dtype


def test_predict_takes_what_can_be_converted(small_net):
    net = small_net(dtype=np.float32)
    x = np.arange(8).reshape(2, 4)
    want = net.predict(x.astype(np.float64))
    for same in (x, x.tolist(), np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], x.astype(">f8")):
        np.testing.assert_array_equal(net.predict(same), want)
    narrow = net.predict(x.astype(np.float32))
    np.testing.assert_allclose(narrow, want, rtol=1e-6)
    for same in (x.astype(np.uint8), x.astype(np.int16), x.astype(np.float16), x.astype(">f4")):
        np.testing.assert_array_equal(net.predict(same), narrow)
    plain = fo.nn.Sequential(net.layers[1:], dtype=np.float32)  # no first Standardize: in the network's dtype
    for same in (x, x.astype(np.float64)):
        np.testing.assert_array_equal(plain.predict(same), plain.predict(x.astype(np.float32)))


def test_predict_writes_to_the_array_given(dtype, small_net):
    net, x = small_net(dtype=dtype), inputs(300, dtype)
    out = np.full((300, 3), np.nan, dtype)
    assert net.predict(x, out) is out
    np.testing.assert_array_equal(out, net.predict(x))


def test_check_finite_finds_what_is_not(small_net):
    net, x = small_net(), inputs(5)
    x[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"x: .*\(3, 1\)"):
        net.predict(x, check_finite=True)
    assert np.isnan(net.predict(x)[3]).all()


def test_probabilities_sum_to_one_and_a_softmax_is_not_applied_twice(small_net):
    net, x = small_net(), inputs(9)
    np.testing.assert_allclose(net.predict_proba(x), ACTIVATIONS["softmax"](net.predict(x)), rtol=1e-14)
    for end in ([fo.nn.Dense(4, 3, "softmax")], [fo.nn.Dense(4, 3), fo.nn.BatchNorm(3, activation="softmax")]):
        soft = fo.nn.Sequential([*end, fo.nn.Dropout(0.5)], rng=0)
        np.testing.assert_array_equal(soft.predict_proba(x), soft.predict(x))


ENDS = {
    "dense": lambda activation: [fo.nn.Dense(4, 2, activation)],
    "grouped": lambda activation: [fo.nn.GroupedDense(4, 2, 2, activation)],
    "batch norm": lambda activation: [fo.nn.Dense(4, 2), fo.nn.BatchNorm(2, activation=activation)],
    "before dropout": lambda activation: [fo.nn.Dense(4, 2, activation), fo.nn.Dropout(0.5), fo.nn.Dropout(0)],
}
TRAINING = {
    "a Trainer": lambda net, x, y, loss: fo.nn.Trainer(net, loss, "sgd"),
    "value_and_grad": lambda net, x, y, loss: net.value_and_grad(x, y, loss),
    "hvp": lambda net, x, y, loss: net.hvp(x, y, net.parameters(), loss),
    "hessian": lambda net, x, y, loss: fo.newton.hessian(net, x, y, loss),
    "spectrum": lambda net, x, y, loss: fo.newton.spectrum(net, x, y, loss, k=1),
    "evaluate": lambda net, x, y, loss: net.evaluate(x, y, loss),
}


@pytest.mark.parametrize("call", TRAINING)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("end", ENDS)
def test_probabilities_are_no_logits_for_any_loss_on_logits(end, activation, call):
    net, x = fo.nn.Sequential(ENDS[end](activation), rng=0), inputs(9, np.float32)
    for loss, y in (
        ("cross_entropy", np.zeros(9, int)),
        (fo.nn.CrossEntropy(0.1), np.zeros(9, int)),
        ("binary_cross_entropy", np.zeros((9, 2))),
    ):
        message = rf"^loss: expected a last layer without {activation}, .* predict_proba gives the probabilities"
        with pytest.raises(ValueError, match=message):
            TRAINING[call](net, x, y, loss)
    TRAINING[call](net, x, np.zeros((9, 2)), "mse")  # Brier's score


@pytest.mark.parametrize("end", ENDS)
def test_a_saved_network_of_probabilities_still_predicts(end, tmp_path):
    net, x = fo.nn.Sequential(ENDS[end]("softmax"), rng=0), inputs(9, np.float32)
    net.save(tmp_path / "m.safetensors")
    again = fo.nn.load(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(again.predict_proba(x), net.predict(x))


# ---------------------------------------------------------------- one output, several outputs


def scored(net, x, y, loss):
    """Everything that takes targets, by name: numbers that (n,) and (n, 1) must agree in."""

    def trained(call):
        trainer = fo.nn.Trainer(copy.deepcopy(net), loss, "sgd")
        return call(trainer), trainer.net.parameters()

    return {
        "step": lambda: trained(lambda trainer: trainer.step(x, y)),
        "fit": lambda: trained(lambda trainer: trainer.fit(x, y, validation=(x, y))),
        "fit of batches": lambda: trained(lambda trainer: trainer.fit([(x, y)])),
        "evaluate": lambda: net.evaluate(x, y, loss),
        "value_and_grad": lambda: net.value_and_grad(x, y, loss),
        "hvp": lambda: net.hvp(x, y, net.parameters(), loss),
        "hessian": lambda: fo.newton.hessian(net, x, y, loss),
        "functional": lambda: getattr(fo.functional, loss)(net.predict(x), y),
    }


ON_VALUES = ["mse", "mae", "huber", "binary_cross_entropy"]


@pytest.mark.parametrize("loss", ON_VALUES)
@pytest.mark.parametrize("call", scored(None, None, None, None))
def test_flat_targets_are_a_column_where_there_is_one_output(call, loss):
    net, x = fo.nn.Sequential([fo.nn.Dense(4, 1)], rng=0, dtype=np.float64), inputs(7)
    y = np.linspace(0, 1, 7)
    want = scored(net, x, y[:, None], loss)[call]()
    for flat in (y, y.tolist()):
        np.testing.assert_equal(scored(net, x, flat, loss)[call](), want)
    assert net.predict(x).shape == (7, 1)
    assert fo.metrics.r2_score(y, net.predict(x)) == fo.metrics.r2_score(y[:, None], net.predict(x)[:, 0])


@pytest.mark.parametrize("loss", ON_VALUES)
@pytest.mark.parametrize("call", scored(None, None, None, None))
def test_flat_targets_of_two_outputs_are_refused_with_both_ways_out(call, loss):
    net, x = fo.nn.Sequential([fo.nn.Dense(4, 2)], rng=0, dtype=np.float64), inputs(7)
    message = (
        r"targets: expected shape \(7, 2\), got \(7,\); pass a column for each of the 2 outputs; "
        "classes take the loss cross_entropy, one value a row a network of one output"
    )
    with pytest.raises(ValueError, match=message):
        scored(net, x, np.zeros(7), loss)[call]()


# ---------------------------------------------------------------- a long call in several regions


def test_rows_of_a_long_call_have_the_bits_of_short_ones(dtype):
    net = fo.nn.Sequential([fo.nn.Dense(8, 256, "gelu"), fo.nn.Dense(256, 130, "tanh")], rng=0, dtype=dtype)
    x = inputs(9000, dtype, 8)  # 300 million multiply-adds
    short = np.concatenate([net.predict(x[i : i + 250]) for i in range(0, 9000, 250)])
    for threads in (1, 2, 3):
        with fo.num_threads(threads):
            np.testing.assert_array_equal(net.predict(x), short)


def test_one_row_predicts_from_many_threads_agree(small_net):
    net, x = small_net(dtype=np.float32), inputs(400, np.float32)
    whole, want = net.predict(x), np.concatenate([net.predict(row[None]) for row in x])
    wrong, start = [], threading.Barrier(8)

    def work(first):
        start.wait()
        for _ in range(5):
            for i in range(first, 400, 8):
                if not np.array_equal(net.predict(x[i : i + 1])[0], want[i]):
                    wrong.append(i)
        if not np.array_equal(net.predict(x), whole):
            wrong.append(-1)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_weights_assigned_are_the_weights_used(small_net):
    net = small_net()
    net.layers[-1].weight = np.zeros((3, 4))
    net.layers[-1].bias = [1.0, 2.0, 3.0]
    np.testing.assert_array_equal(net.predict(inputs(2)), [[1, 2, 3]] * 2)


def test_arrays_of_a_network_start_on_a_cache_line(small_net):
    assert all(a.ctypes.data % 64 == 0 for a in small_net().parameters())
