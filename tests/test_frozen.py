"""Layers that are not trainable: what training leaves alone, and what it does around them.

Pass criterion: what is frozen keeps its bits; what is not moves as it would by gradients in which the frozen ones are
left out, to the bit where the same kernels run.
"""

import copy
import pickle

import numpy as np
import pytest
from test_hooks import RULES, assert_near, differences, image_net, images, inputs, squared
from test_newton_hvp import assert_close, differenced, direction

import fastopt as fo
from fastopt.nn.files import arrays_of

RTOL = 2e-7


def net_of(frozen=(), dtype=np.float64, rng=0, batch_norm=True):
    """Seven layers, of which those at some places are frozen."""
    layers = [
        fo.nn.Dense(4, 8, "tanh", l2=0.01, max_norm=0.5),
        *([fo.nn.BatchNorm(8, activation="gelu")] if batch_norm else [fo.nn.Dense(8, 8, "silu")]),
        fo.nn.Dense(8, 6, "relu"),
        fo.nn.Residual([fo.nn.Dense(6, 5, "tanh"), fo.nn.Dense(5, 6)]),
        fo.nn.Concat([[fo.nn.Dense(6, 3)], [fo.nn.GroupedDense(6, 4, 2, "tanh")]]),
        fo.nn.Maxout(7, 5),
        fo.nn.Dense(5, 3, l1=0.01),
    ]
    for place in frozen:
        layers[place].trainable = False
    net = fo.nn.Sequential(layers, rng=rng, dtype=dtype)
    if batch_norm:
        net.calibrate(inputs(50, dtype))
    return net


def data(dtype=np.float64, n=24):
    return inputs(n, dtype) / 3, np.arange(n) % 3


PLACES = [(0,), (1,), (0, 1, 2), (2, 4), (3,), (5, 6), (6,), (0, 6), tuple(range(7))]


def frozen_of(net):
    """By parameter: whether its layer is frozen."""
    inside = [layer for _, layer in fo.nn.layers.named(net.layers)]
    return [not layer.trainable for layer in inside for _ in layer.parameters()]


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("places", PLACES)
def test_gradients_of_the_others_are_as_they_were_and_the_frozen_have_none(places):
    x, y = data()
    free, net = net_of(batch_norm=False), net_of(places, batch_norm=False)
    got, want = net.value_and_grad(x, y)[1], free.value_and_grad(x, y)[1]
    assert len(got) == len(net.parameters())
    for grad, other, frozen in zip(got, want, frozen_of(net), strict=True):
        if frozen:
            assert grad is None
        else:
            np.testing.assert_array_equal(grad, other)


@pytest.mark.parametrize("places", PLACES)
def test_gradients_around_frozen_layers_equal_differences(places):
    net, (x, y) = net_of(places), data(n=7)
    net.layers[1].trainable = False  # so that evaluate goes by what training goes by
    penalties = [layer for _, layer in fo.nn.layers.named(net.layers) if layer.trainable and layer.parameters()]

    def value():
        return net.evaluate(x, y) + sum(
            layer.l1 * np.abs(layer.weight).sum() + layer.l2 / 2 * np.square(layer.weight).sum() for layer in penalties
        )

    loss, grads = net.value_and_grad(x, y)
    assert loss == pytest.approx(value(), rel=1e-12)
    for param, grad in zip(net.parameters(), grads, strict=True):
        if grad is not None:
            assert_near(grad, differences(value, param))


@pytest.mark.parametrize("gauss_newton", [False, True])
@pytest.mark.parametrize("places", PLACES[:-1])
def test_products_with_the_hessian_leave_the_frozen_out(places, gauss_newton):
    net, (x, y) = net_of(places), data()
    frozen = frozen_of(net)
    v = [np.zeros_like(a) if fixed else a for a, fixed in zip(direction(net), frozen, strict=True)]
    got = net.hvp(x, y, direction(net), gauss_newton=gauss_newton)
    for a, fixed in zip(got, frozen, strict=True):
        assert not (fixed and a.any())
    if not gauss_newton:
        assert_close(got, differenced_of(net, x, y, v), RTOL)


def differenced_of(net, x, y, v, h=1e-5):
    home, ends = [p.copy() for p in net.parameters()], []
    for step in (h, -h):
        for p, at, along in zip(net.parameters(), home, v, strict=True):
            p[...] = at + step * along
        grads = net.value_and_grad(x, y)[1]
        ends.append([np.zeros_like(p) if g is None else g for p, g in zip(home, grads, strict=True)])
    for p, at in zip(net.parameters(), home, strict=True):
        p[...] = at
    return [(a - b) / (2 * h) for a, b in zip(*ends, strict=True)]


def test_gauss_newton_products_around_a_frozen_layer_are_those_of_a_smaller_problem():
    net, (x, y) = net_of((0, 1)), data()
    free = net_of()
    free.layers[1].trainable = False  # in the same mode; its gamma and beta do not move in v either
    v = [np.zeros_like(a) if fixed else a for a, fixed in zip(direction(net), frozen_of(net), strict=True)]
    got, want = (one.hvp(x, y, v, gauss_newton=True) for one in (net, free))
    for a, b, fixed in zip(got, want, frozen_of(net), strict=True):
        if not fixed:
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(np.abs(b).max(), 1))


def test_hvp_of_batch_norm_by_averages_equals_differences():
    layers = [fo.nn.Dense(4, 5, "tanh"), fo.nn.BatchNorm(5, activation="softmax", trainable=False), fo.nn.Dense(5, 3)]
    net = fo.nn.Sequential(layers, rng=2, dtype=np.float64).calibrate(inputs(40))
    x, y = data()
    v = direction(net)
    v[2][:], v[3][:] = 0, 0
    assert_close(net.hvp(x, y, v), differenced_of(net, x, y, v), RTOL)


# ---------------------------------------------------------------- steps


@pytest.mark.parametrize("rule", [*RULES, "decayed", "clip_value"])
@pytest.mark.parametrize("places", PLACES)
def test_training_leaves_the_frozen_alone_and_steps_the_others_by_their_gradients(places, rule):
    rules = {
        **RULES,
        "decayed": lambda p: fo.optim.AdamW(p, lr=0.01, weight_decay=0.1),
        "clip_value": lambda p: fo.optim.SGD(p, lr=0.1, clip_value=1e-3, weight_decay=0.01),
    }
    x, y = data()
    one, other = net_of(places), net_of(places)
    before = [a.copy() for a in arrays_of(one).values()]
    trainer, optimizer = (
        fo.nn.Trainer(one, "cross_entropy", rules[rule](one.parameters())),
        rules[rule](other.parameters()),
    )
    for _ in range(4):
        trainer.step(x, y)
        if rule == "interim":
            with optimizer.interim_point():
                _, grads = other.value_and_grad(x, y)
        else:
            _, grads = other.value_and_grad(x, y)
        optimizer.step(grads)
        if not optimizer.accumulated:
            shorten(other)
    for name, a, old in zip(arrays_of(one), arrays_of(one).values(), before, strict=True):
        layer = dict(fo.nn.layers.named(one.layers))[name.rpartition(".")[0]]
        if not layer.trainable:
            np.testing.assert_array_equal(a, old)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def shorten(net):
    """What a Trainer does to rows longer than max_norm, for a step that is not its own."""
    for _, layer in fo.nn.layers.named(net.layers):
        limit = getattr(layer, "max_norm", None)
        if limit and layer.trainable:
            norms = np.linalg.norm(layer.weight, axis=1, keepdims=True)
            layer.weight = layer.weight * np.minimum(1, limit / norms)


def test_clipping_by_the_norm_measures_the_trained_only(dtype):
    x, y = data(dtype, 64)
    net = net_of((0, 2), dtype, batch_norm=False)
    _, grads = net.value_and_grad(x, y)
    trainer = fo.nn.Trainer(net, "cross_entropy", fo.optim.SGD(net.parameters(), lr=0.1, max_norm=1e-3))
    trainer.step(x, y)
    want = np.sqrt(sum(float(np.square(g, dtype=np.float64).sum()) for g in grads if g is not None))
    assert trainer.optimizer.grad_norm == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("threads", [2, 3])
def test_training_around_frozen_layers_has_the_same_bits_on_any_threads(threads, dtype):
    nets = [net_of((0, 4), dtype) for _ in range(2)]
    x, y = data(dtype, 300)
    for net, n in zip(nets, (1, threads), strict=True):
        with fo.num_threads(n):
            fo.nn.Trainer(net, "cross_entropy", "adam").fit(x, y, batch_size=100, epochs=2)
    for a, b in zip(arrays_of(nets[0]).values(), arrays_of(nets[1]).values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_frozen_batch_norm_goes_by_its_averages_and_keeps_them():
    net = fo.nn.Sequential([fo.nn.BatchNorm(4, trainable=False), fo.nn.Dense(4, 3)], rng=0, dtype=np.float64)
    net.calibrate(inputs(50))
    x, y = data()
    before = [a.copy() for a in net.layers[0].arrays().values()]
    assert fo.nn.Trainer(net, "cross_entropy", "sgd").step(x, y) == net_value(before, net, x, y)
    for a, b in zip(net.layers[0].arrays().values(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert net.least_rows == 1
    fo.nn.Trainer(net, "cross_entropy", "sgd").step(x[:1], y[:1])


def net_value(arrays, net, x, y):
    twin = copy.deepcopy(net)
    fresh = fo.nn.Sequential([fo.nn.BatchNorm(4), fo.nn.Dense(4, 3)], rng=0, dtype=np.float64)
    for a, b in zip(fresh.layers[0].arrays().values(), arrays, strict=True):
        a[...] = b
    assert len(twin.layers) == 2
    return pytest.approx(fresh.evaluate(x, y), rel=1e-12)


def test_training_mode_and_inference_are_the_same_where_batch_norm_is_frozen():
    net, x = image_net(), images()
    for layer in fo.nn.layers.walk(net.layers):
        layer.trainable = not isinstance(layer, fo.nn.BatchNorm)
    net.replace(net.layers[2].branches[0][1], [fo.nn.Dropout(0.0)])
    dy = np.ones((3, 4))
    for a, b in zip(net.backward(x, dy)[1], net.backward(x, dy, training=False)[1], strict=True):
        np.testing.assert_equal(a, b)


# ---------------------------------------------------------------- freezing and thawing


def test_a_trainer_takes_up_at_the_next_step_what_is_frozen_and_thawed():
    x, y = data()
    net = net_of()
    trainer = fo.nn.Trainer(net, "cross_entropy", "adam")
    trainer.step(x, y)
    head, before = net.layers[-1], [p.copy() for p in net.parameters()]
    moments = [e["exp_avg"].copy() for e in trainer.optimizer.state_dict()["state"].values()]
    for layer in net.layers[:-1]:
        layer.trainable = False
    trainer.step(x, y)
    for a, b, frozen in zip(net.parameters(), before, frozen_of(net), strict=True):
        assert np.array_equal(a, b) == frozen
    entries = trainer.optimizer.state_dict()["state"].values()
    for entry, old, frozen in zip(entries, moments, frozen_of(net), strict=True):
        assert np.array_equal(entry["exp_avg"], old) == frozen
        assert entry["step"] == 2 - frozen
    for layer in net.layers[:-1]:
        layer.trainable = True
    head.trainable = False
    trainer.step(x, y)
    assert [not np.array_equal(a, b) for a, b in zip(net.parameters(), before, strict=True)] == [True] * len(before)
    assert trainer.compiled_training.batches == 3


def test_momentum_of_before_does_not_move_the_frozen_to_an_interim_point():
    x, y = data()
    net = net_of()
    net.layers[1].trainable = False
    trainer = fo.nn.Trainer(net, "cross_entropy", fo.optim.SGD(net.parameters(), 0.1, 0.9, nesterov="interim"))
    trainer.step(x, y)
    for layer in net.layers[:-1]:
        layer.trainable = False
    last, velocity = net.layers[-1], list(trainer.optimizer.state_dict()["state"].values())[-2]["momentum_buffer"]
    twin = copy.deepcopy(net)
    twin.layers[-1].weight += 0.9 * velocity
    twin.layers[-1].bias += 0.9 * list(trainer.optimizer.state_dict()["state"].values())[-1]["momentum_buffer"]
    loss = trainer.step(x, y)
    assert loss == pytest.approx(twin.value_and_grad(x, y)[0], rel=1e-12)
    assert last.trainable


def test_what_is_thawed_again_moves_to_an_interim_point_of_ones_own():
    x, y = data()
    net = net_of()
    rule = fo.optim.SGD(net.parameters(), 0.1, 0.9, nesterov="interim")
    trainer = fo.nn.Trainer(net, "cross_entropy", rule)
    trainer.step(x, y)
    net.layers[0].trainable = False
    trainer.step(x, y)
    net.layers[0].trainable = True
    before = net.layers[0].weight.copy()
    with rule.interim_point():
        assert (net.layers[0].weight != before).any()
    np.testing.assert_array_equal(net.layers[0].weight, before)
    rule.bind([None, *net.value_and_grad(x, y)[1][1:]])
    with rule.interim_point():
        np.testing.assert_array_equal(net.layers[0].weight, before)
        assert net.layers[0].bias.any()


def test_gradients_that_wait_for_their_update_are_dropped_where_a_layer_is_frozen():
    x, y = data()
    net = net_of()
    trainer = fo.nn.Trainer(net, "cross_entropy", fo.optim.SGD(net.parameters(), 0.1, accumulate=2))
    trainer.step(x, y)
    before = net.layers[0].weight.copy()
    net.layers[0].trainable = False
    trainer.step(x, y)
    np.testing.assert_array_equal(net.layers[0].weight, before)
    assert trainer.optimizer.steps == 1


def test_a_callback_may_freeze_between_epochs_and_training_goes_on_as_one():
    x, y = data()

    def freeze(trainer, history):
        if trainer.epoch == 2:
            trainer.net.layers[0].trainable = trainer.net.layers[1].trainable = False

    one, other = net_of(), net_of()
    fo.nn.Trainer(one, "cross_entropy", "adam").fit(x, y, epochs=4, batch_size=7, callbacks=freeze)
    trainer = fo.nn.Trainer(other, "cross_entropy", "adam")
    trainer.fit(x, y, epochs=2, batch_size=7)
    other.layers[0].trainable = other.layers[1].trainable = False
    trainer.fit(x, y, epochs=2, batch_size=7)
    assert trainer.epoch == 4
    for a, b in zip(arrays_of(one).values(), arrays_of(other).values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_step_of_a_callback_after_freezing_parts_no_epoch():
    x, y = data()

    class Steps:
        def __init__(self, freezes):
            self.freezes = freezes

        def on_batch_end(self, trainer, epoch, batch, loss):
            if batch == 2:
                trainer.net.layers[0].trainable = not self.freezes
                trainer.step(x, y)

    nets, histories = (net_of(), net_of()), []
    for net, freezes in zip(nets, (False, True), strict=True):
        trainer = fo.nn.Trainer(net, "cross_entropy", "adam")
        histories.append(trainer.fit(x, y, batch_size=6, callbacks=Steps(freezes)))
        assert (trainer.epoch, trainer.compiled_training.batches) == (1, 5)
    assert histories[0] == histories[1]
    before = nets[1].layers[0].weight.copy()
    trainer.fit(x, y)
    np.testing.assert_array_equal(nets[1].layers[0].weight, before)


def test_batch_norm_that_a_callback_thaws_wants_two_rows_at_least():
    x, y = data()
    net = net_of()
    net.layers[1].trainable = False
    trainer = fo.nn.Trainer(net, "cross_entropy", "adam")

    def thaw(trainer, history):
        net.layers[1].trainable = True

    with pytest.raises(ValueError, match=r"^batch_size: expected at least 2 rows for BatchNorm, got 1"):
        trainer.fit(x, y, epochs=2, batch_size=1, callbacks=thaw)
    assert trainer.epoch == 1


def test_another_network_that_is_frozen_changes_no_trainer():
    net = net_of()
    trainer = fo.nn.Trainer(net, "cross_entropy", "adam")
    training = trainer.compiled_training
    net_of().layers[0].trainable = False
    trainer.step(*data())
    assert trainer.compiled_training is training


def test_a_network_freezes_all_its_layers():
    net = net_of()
    net.trainable = False
    assert not net.trainable
    assert not any(layer.trainable for layer in net.layers)
    net.layers[0].trainable = True
    assert not net.trainable
    net.trainable = True
    assert net.trainable
    with pytest.raises(ValueError, match=r"^trainable: expected True or False"):
        net.trainable = "no"


def test_a_layer_with_others_freezes_all_of_them():
    shortcut = net_of((3,)).layers[3]
    assert not shortcut.trainable
    assert not any(layer.trainable for layer in shortcut.layers)
    shortcut.layers[0].trainable = True
    assert not shortcut.trainable
    shortcut.trainable = True
    assert all(layer.trainable for layer in shortcut.layers)


@pytest.mark.parametrize("value", ["no", None, 2])
def test_trainable_is_true_or_false(value):
    with pytest.raises(ValueError, match=r"^trainable: expected True or False, got"):
        fo.nn.Dense(2, 2, trainable=value)
    layer = fo.nn.Dense(2, 2)
    with pytest.raises(ValueError, match=r"^trainable: expected True or False, got"):
        layer.trainable = value


def test_files_copies_and_pickles_keep_what_is_frozen(tmp_path):
    net = net_of((0, 1, 3))
    net.layers[4].branches[0][0].trainable = False
    net.save(tmp_path / "net.safetensors")
    for twin in (fo.nn.load(tmp_path / "net.safetensors"), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert frozen_of(twin) == frozen_of(net)
        assert [layer.trainable for layer in twin.layers] == [False, False, True, False, False, True, True]
        x, y = data()
        assert twin.value_and_grad(x, y)[0] == net.value_and_grad(x, y)[0]


def test_a_run_goes_on_with_what_is_frozen_and_not_with_another_choice(tmp_path):
    x, y = data()
    whole, part = (fo.nn.Trainer(net_of((0,)), "cross_entropy", "adam") for _ in range(2))
    whole.fit(x, y, epochs=3, batch_size=8)
    part.fit(x, y, epochs=1, batch_size=8)
    part.save(tmp_path / "run.safetensors")
    again = fo.nn.Trainer(net_of((0,), rng=3), "cross_entropy", "adam")
    again.resume(tmp_path / "run.safetensors")
    again.fit(x, y, epochs=2, batch_size=8)
    for a, b in zip(arrays_of(again.net).values(), arrays_of(whole.net).values(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="expected layers"):
        fo.nn.Trainer(net_of(), "cross_entropy", "adam").resume(tmp_path / "run.safetensors")


def test_a_table_counts_what_is_frozen():
    layers = [
        fo.nn.Dense(4, 8, trainable=False),
        fo.nn.Residual([fo.nn.Dense(8, 8, trainable=False)]),
        fo.nn.Dense(8, 2),
    ]
    lines = fo.nn.summary(layers).splitlines()
    assert lines[1].startswith("Dense frozen")
    assert lines[-1] == "trainable parameters: 18, frozen: 112"
    assert fo.nn.summary(fo.nn.Sequential(layers, rng=0)).splitlines()[-1] == lines[-1]


def test_a_layer_says_that_it_is_frozen():
    layer = fo.nn.Dense(2, 3, trainable=False)
    assert repr(layer).endswith("bias=True, trainable=False)")
    assert repr(eval(repr(layer), {"Dense": fo.nn.Dense})) == repr(layer)


def test_frozen_networks_are_folded_and_predict_as_before(dtype):
    net = net_of((0, 1, 2), dtype)
    x, _ = data(dtype)
    np.testing.assert_array_equal(net.predict(x), net_of((), dtype).predict(x))
    np.testing.assert_allclose(net.fold().predict(x), net.predict(x), rtol=1e-4, atol=1e-5)


def test_replaced_layers_bring_their_own_choice():
    x, y = data()
    net = net_of((2,))
    trainer = fo.nn.Trainer(net, "cross_entropy", "adam")
    trainer.step(x, y)
    new = fo.nn.Dense(8, 6, "relu")
    trainer.replace(net.layers[2], [new])
    before, frozen = new.weight.copy(), net.layers[0].weight.copy()
    trainer.step(x, y)
    assert not np.array_equal(new.weight, before)
    net.layers[0].trainable = False
    frozen = net.layers[0].weight.copy()
    trainer.replace(new, fo.lowrank.factorize(new, "svd", rank=2))
    trainer.step(x, y)
    np.testing.assert_array_equal(net.layers[0].weight, frozen)


def test_a_callable_trains_around_frozen_layers():
    x = data()[0]
    y = np.stack([x[:, 0], x[:, 1], x[:, 2]], axis=1)
    nets = [net_of((0, 4)) for _ in range(2)]
    for net, loss in zip(nets, (squared, "mse"), strict=True):
        fo.nn.Trainer(net, loss, "adam").fit(x, y, epochs=2, batch_size=8)
    for a, b in zip(arrays_of(nets[0]).values(), arrays_of(nets[1]).values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


def test_newton_cg_moves_all_parameters_or_none():
    net = net_of((0,))
    with pytest.raises(ValueError, match=r"^NewtonCG: expected layers that are all trainable"):
        fo.nn.Trainer(net, "cross_entropy", fo.optim.NewtonCG(net.parameters()))


def test_differences_of_gradients_are_found_where_nothing_is_frozen():
    net, (x, y) = net_of(), data()
    v = direction(net)
    assert_close(net.hvp(x, y, v), differenced(net, x, y, v, "cross_entropy"), RTOL)


def test_ranks_refuse_frozen_layers_and_losses_that_are_callables():
    pytest.importorskip("mpi4py", reason="ranks need mpi4py, which is not installed")
    from fastopt.parallel.data_parallel import require_whole_steps

    net = net_of((0,))
    with pytest.raises(ValueError, match=r"^trainer: expected layers that are all trainable, .* got Dense\("):
        require_whole_steps(fo.nn.Trainer(net, "mse", "sgd"))
    net.layers[0].trainable = True
    require_whole_steps(fo.nn.Trainer(net, "mse", "sgd"))
    with pytest.raises(ValueError, match=r"^loss: expected one that is compiled, for ranks step together"):
        require_whole_steps(fo.nn.Trainer(net, squared, "sgd"))


def test_what_is_frozen_while_ranks_train_together_is_refused():
    x, y = data()
    net = net_of()
    trainer = fo.nn.Trainer(net, "cross_entropy", "sgd")
    with trainer.stepping(trainer.compiled_training, net.predict):
        net.layers[0].trainable = False
        with pytest.raises(RuntimeError, match=r"^trainable: expected to stay while ranks train together"):
            trainer.fit(x, y)
    trainer.fit(x, y)
