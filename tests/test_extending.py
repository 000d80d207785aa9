"""Classes of one's own: blocks of layers, and update rules in Python. Layers of kernels: test_layers.py.

Pass criterion: a rule in Python trains as the compiled one with its formula, to RTOL; blocks train as their layers do.
"""

import copy
import pickle

import numpy as np
import pytest
from test_hooks import squared

import fastopt as fo
from fastopt.nn.files import arrays_of

RTOL = 1e-10


class Momentum(fo.optim.PythonRule):
    """SGD with momentum and decay, as `optim.SGD` has it."""

    moments = ("velocity",)

    def __init__(self, params, lr=0.1, momentum=0.9, weight_decay=0.0):
        super().__init__(params, locals())

    def update(self, param, grad, state, options):
        velocity = state["velocity"]
        velocity *= options["momentum"]
        velocity += grad + options["weight_decay"] * param
        param -= options["lr"] * velocity


class Corrected(fo.optim.PythonRule):
    """Adam."""

    moments = ("first", "second")

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
        super().__init__(params, locals())

    def update(self, param, grad, state, options):
        (b1, b2), t = options["betas"], state["step"]
        state["first"] += (1 - b1) * (grad - state["first"])
        state["second"] += (1 - b2) * (grad * grad - state["second"])
        scale = np.sqrt(state["second"] / (1 - b2**t)) + options["eps"]
        param -= options["lr"] / (1 - b1**t) * state["first"] / scale


class OwnBlock(fo.nn.Residual):
    def __init__(self, width, narrow):
        self.width, self.narrow = width, narrow
        super().__init__([fo.nn.Dense(width, narrow, "relu"), fo.nn.Dropout(0.1), fo.nn.Dense(narrow, width)])

    def config(self):
        return {"width": self.width, "narrow": self.narrow}


class TwoLayers(fo.nn.Concat):
    def __init__(self, width):
        self.width = width
        super().__init__([[fo.nn.Dense(width, width, "tanh"), fo.nn.BatchNorm(width)]])

    def config(self):
        return {"width": self.width}


PAIRS = {
    "sgd": (lambda p: Momentum(p), lambda p: fo.optim.SGD(p, lr=0.1, momentum=0.9)),
    "decay": (
        lambda p: Momentum(p, weight_decay=0.1),
        lambda p: fo.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    ),
    "schedule": (
        lambda p: Momentum(p, lr=fo.schedules.Power(0.1, 0.5)),
        lambda p: fo.optim.SGD(p, lr=fo.schedules.Power(0.1, 0.5), momentum=0.9),
    ),
    "groups": (
        lambda p: Momentum([{"params": p[:2], "lr": 0.01}, {"params": p[2:]}]),
        lambda p: fo.optim.SGD([{"params": p[:2], "lr": 0.01}, {"params": p[2:]}], lr=0.1, momentum=0.9),
    ),
    "adam": (lambda p: Corrected(p), lambda p: fo.optim.Adam(p)),
}


def net_of(dtype=np.float64):
    layers = [
        fo.nn.Dense(4, 8, "tanh", l2=0.1, max_norm=1.0),
        fo.nn.BatchNorm(8),
        fo.nn.Dropout(0.2),
        fo.nn.Dense(8, 2),
    ]
    return fo.nn.Sequential(layers, rng=0, dtype=dtype)


def data(n=40):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 4)), rng.normal(size=(n, 2))


@pytest.mark.parametrize("name", PAIRS)
def test_a_rule_in_python_trains_as_the_compiled_one(name):
    x, y = data()
    nets = [net_of() for _ in range(2)]
    histories = [
        fo.nn.Trainer(net, "mse", rule(net.parameters())).fit(
            x, y, epochs=4, batch_size=9, validation=(x, y), patience=3
        )
        for net, rule in zip(nets, PAIRS[name], strict=True)
    ]
    np.testing.assert_allclose(histories[0]["loss"], histories[1]["loss"], rtol=RTOL)
    for a, b in zip(*(arrays_of(net).values() for net in nets), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("name", PAIRS)
def test_it_steps_by_gradients_too_and_none_skips(name):
    rng = np.random.default_rng(0)
    ours, theirs = ([rng.normal(size=s) for s in ((3, 2), (2,), (4,))] for _ in range(2))
    for a, b in zip(ours, theirs, strict=True):
        b[...] = a
    mine, other = (rule(p) for rule, p in zip(PAIRS[name], (ours, theirs), strict=True))
    for k in range(4):
        grads = [rng.normal(size=p.shape) for p in ours]
        grads[k % 3] = None
        mine.step(grads)
        other.step(grads)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    assert mine.steps == other.steps == 4


def test_a_run_is_saved_and_goes_on_with_the_arrays_that_the_rule_keeps(tmp_path):
    x, y = data()
    whole, part, again = (
        fo.nn.Trainer(net, "mse", Corrected(net.parameters())) for net in (net_of() for _ in range(3))
    )
    whole.fit(x, y, epochs=3, batch_size=9)
    part.fit(x, y, epochs=1, batch_size=9)
    part.save(tmp_path / "run.safetensors")
    again.resume(tmp_path / "run.safetensors")
    twins = [again, copy.deepcopy(part), pickle.loads(pickle.dumps(part))]
    for trainer in twins:
        trainer.fit(x, y, epochs=2, batch_size=9)
        for a, b in zip(arrays_of(trainer.net).values(), arrays_of(whole.net).values(), strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"expected rule Momentum, got Corrected"):
        fo.nn.Trainer(net := net_of(), "mse", Momentum(net.parameters())).resume(tmp_path / "run.safetensors")


def test_a_rule_that_raises_leaves_everything_as_it_was():
    class Fails(Momentum):
        def update(self, param, grad, state, options):
            super().update(param, grad, state, options)
            if state["step"] == 2 and param.ndim == 1:
                raise ZeroDivisionError

    x, y = data()
    net = net_of()
    trainer = fo.nn.Trainer(net, "mse", Fails(net.parameters()))
    trainer.step(x, y)
    before = [a.copy() for a in arrays_of(net).values()]
    state = {k: e["velocity"].copy() for k, e in trainer.optimizer.state_dict()["state"].items()}
    with pytest.raises(ZeroDivisionError):
        trainer.step(x, y)
    for a, b in zip(arrays_of(net).values(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    for k, entry in trainer.optimizer.state_dict()["state"].items():
        np.testing.assert_array_equal(entry["velocity"], state[k])
    assert (trainer.optimizer.steps, trainer.compiled_training.batches) == (1, 1)
    with pytest.raises(FloatingPointError, match=r"^Fails: expected a finite loss and gradient"):
        trainer.step(x * np.nan, y)


def test_a_rule_in_python_leaves_frozen_layers_alone():
    x, y = data()
    nets = [net_of() for _ in range(2)]
    for net, rule in zip(nets, PAIRS["decay"], strict=True):
        net.layers[0].trainable = False
        before = net.layers[0].weight.copy()
        fo.nn.Trainer(net, "mse", rule(net.parameters())).fit(x, y, epochs=2, batch_size=9)
        np.testing.assert_array_equal(net.layers[0].weight, before)
    for a, b in zip(*(arrays_of(net).values() for net in nets), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-11)


def test_what_a_rule_in_python_cannot_do_is_refused():
    net, w = net_of(), np.ones(2)

    class Plain(fo.optim.Optimizer):
        def __init__(self, params, lr=0.1):
            super().__init__(params, locals())

    with pytest.raises(TypeError, match=r"^Plain: expected a rule that has a kernel, .* or from optim.PythonRule"):
        Plain([w])

    class Lacking(fo.optim.PythonRule):
        def __init__(self, params, lr=0.1):
            super().__init__(params, locals())

    class Named(Lacking):
        moments = "average"

    with pytest.raises(TypeError, match=r"^Named: expected moments as a tuple of names, got 'average'"):
        Named([w])
    with pytest.raises(NotImplementedError, match=r"^Lacking: expected a method update\(param, grad, state, options\)"):
        Lacking([w]).step([w.copy()])
    with pytest.raises(ValueError, match=r"^loss: expected one that is compiled, for the steps of Momentum"):
        fo.nn.Trainer(net, squared, Momentum(net.parameters()))
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'max_norm'"):
        Momentum([w], max_norm=1.0)
    with pytest.raises(ValueError, match=r"^grads: expected arrays, got none"):
        Momentum([w]).step()
    with pytest.raises(ValueError, match=r"^grads\[0\]: expected shape \(2,\)"):
        Momentum([w]).step([np.ones(3)])
    with pytest.raises(TypeError, match=r"^optimizer: expected one of fastopt.optim"):
        fo.nn.Trainer(net, "mse", "pythonrule")


@pytest.mark.parametrize("name", ["returned", "put into state"])
def test_a_rule_that_does_not_write_in_place_is_refused(name):
    class Elsewhere(fo.optim.PythonRule):
        moments = ("velocity",)

        def __init__(self, params, lr=0.1):
            super().__init__(params, locals())

        def update(self, param, grad, state, options):
            if name == "returned":
                return param - options["lr"] * grad
            state["velocity"] = 0.9 * state["velocity"] + grad
            param -= options["lr"] * state["velocity"]

    w = np.ones(2)
    with pytest.raises(TypeError, match=r"^Elsewhere: expected an update that writes to the arrays it is given"):
        Elsewhere([w]).step([np.ones(2)])
    assert (w == 1).all()


def test_gradients_are_bound_once():
    w, grad = np.ones(2), np.ones(2)
    rule = Momentum([w], lr=1.0, momentum=0.0)
    rule.bind([grad])
    rule.step()
    grad[:] = 2
    rule.step()
    np.testing.assert_array_equal(w, [-2, -2])


@pytest.mark.parametrize("make", [lambda: OwnBlock(4, 3), lambda: TwoLayers(4)], ids=["residual", "chain"])
def test_a_block_is_trained_saved_loaded_and_frozen_as_its_layers_are(make, tmp_path):
    x, y = data()
    net = fo.nn.Sequential([make(), fo.nn.Dense(4, 2)], rng=0, dtype=np.float64)
    fo.nn.Trainer(net, "mse", "adam").fit(x, y, epochs=2)
    net.layers[0].trainable = False
    net.save(tmp_path / "net.safetensors")
    twin = fo.nn.load(tmp_path / "net.safetensors")
    assert type(twin.layers[0]) is type(net.layers[0])
    assert not twin.layers[0].trainable
    for one in (twin, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        np.testing.assert_array_equal(one.predict(x), net.predict(x))
    np.testing.assert_allclose(net.fold().predict(x), net.predict(x), rtol=1e-9, atol=1e-12)


class WithoutConfig(fo.nn.Residual):
    def __init__(self, width):
        super().__init__([fo.nn.Dense(width, width)])


def test_a_block_that_no_file_could_make_again_is_not_written(tmp_path):
    net = fo.nn.Sequential([WithoutConfig(4)], rng=0)
    with pytest.raises(ValueError, match=r"^layers: expected WithoutConfig.config to return the arguments of its"):
        net.save(tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_block_that_is_frozen_in_part_cannot_be_written(tmp_path):
    net = fo.nn.Sequential([OwnBlock(4, 3)], rng=0)
    net.layers[0].layers[0].trainable = False
    with pytest.raises(ValueError, match=r"^layers: expected a OwnBlock that is trainable as a whole, or frozen"):
        net.save(tmp_path / "net.safetensors")
