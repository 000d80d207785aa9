"""Layers in the place of one, in a network and in the Trainer that goes on with it.

Pass criterion: bits equal those of a run to which the state was carried by hand. What is refused changes no bit.
"""

import copy
import pathlib
import pickle
import sys
import threading

import numpy as np
import pytest

import fastopt as fo
from fastopt import nn, optim, schedules
from fastopt.lowrank import factorize
from fastopt.optim import named

N_IN, N_OUT = 6, 3


def data(n=40, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, N_IN)), rng.integers(0, N_OUT, n)


def network(dtype=np.float64, last="identity"):
    inside = [nn.Dense(7, 5, activation="tanh"), nn.Dense(5, 7)]
    layers = [
        nn.Dense(N_IN, 7, activation="tanh"),
        nn.Residual([nn.Concat([inside, []]), nn.Dense(14, 7)]),
        nn.Dropout(0.2),
        nn.Dense(7, N_OUT, activation=last),
    ]
    return nn.Sequential(layers, rng=0, dtype=dtype)


def made(rule=optim.Adam, net=None, **options):
    net = network() if net is None else net
    return nn.Trainer(net, "cross_entropy", rule(net.parameters(), **options), seed=2)


def bits(net):
    return [a.tobytes() for a in net.parameters()]


def state_bits(optimizer):
    """The state of an optimizer, parameter by parameter, in bits."""
    state = optimizer.state_dict()["state"]
    return [{name: np.asarray(value).tobytes() for name, value in state[k].items()} for k in range(len(state))]


def everything(trainer):
    """What a Trainer stands at, in bits."""
    optimizer = trainer.optimizer
    options = repr([{**group, "params": len(group["params"])} for group in optimizer.param_groups])
    counts = optimizer.steps, optimizer.accumulated, trainer.epoch, trainer.compiled_training.batches
    return repr(trainer.net), bits(trainer.net), state_bits(optimizer), options, counts


PLACES = {
    "in the network": lambda net: net.layers[0],
    "in a branch of a Concat in a Residual": lambda net: net.layers[1].layers[0].branches[0][1],
    "in a Residual": lambda net: net.layers[1].layers[1],
    "the last": lambda net: net.layers[3],
}


def full(layer):
    return factorize(layer, "svd", min(layer.weight.shape))


# ---------------------------------------------------------------- the network


@pytest.mark.parametrize("place", PLACES)
def test_layers_take_the_place_of_one_wherever_it_stands(place):
    net, (x, y) = network(), data()
    layer = PLACES[place](net)
    copied = copy.deepcopy(net)
    new = full(layer)
    net.replace(layer, new)
    everyone = list(nn.layers.chain.walk(net.layers))
    assert layer not in everyone
    assert all(one in everyone for one in new)
    np.testing.assert_allclose(net.predict(x), copied.predict(x), atol=1e-12)
    assert net.evaluate(x, y) == pytest.approx(copied.evaluate(x, y), abs=1e-12)
    loss, grads = net.value_and_grad(x, y)
    assert loss == pytest.approx(copied.value_and_grad(x, y)[0], abs=1e-12)
    assert [g.shape for g in grads] == [a.shape for a in net.parameters()]
    assert len(net.hvp(x, y, grads)) == len(grads)
    assert net.output_shape == copied.output_shape
    assert all(a.flags.writeable for a in net.parameters())


def test_a_replaced_network_is_saved_pickled_copied_and_folded(tmp_path):
    net, (x, _) = network(), data()
    net.replace(net.layers[1].layers[1], full(net.layers[1].layers[1]))
    net.save(tmp_path / "net.safetensors")
    for twin in (nn.load(tmp_path / "net.safetensors"), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert bits(twin) == bits(net)
        np.testing.assert_array_equal(twin.predict(x), net.predict(x))
        twin.replace(twin.layers[0], full(twin.layers[0]))
    np.testing.assert_allclose(net.fold().predict(x), net.predict(x), atol=1e-12)


def test_copies_made_before_stay_usable_and_share_nothing():
    net, (x, y) = network(), data()
    copied, folded, trained = copy.deepcopy(net), net.fold(), made(net=copy.deepcopy(net))
    layer = net.layers[0]
    lone, expected = copy.deepcopy(layer), net.predict(x)
    net.replace(layer, full(layer))
    net.layers[0].weight[:] = 0
    np.testing.assert_array_equal(copied.predict(x), expected)
    np.testing.assert_allclose(folded.predict(x), expected, atol=1e-12)
    trained.step(x, y)
    lone.weight = 2 * lone.weight
    for twin in (lone, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        again = nn.Sequential([twin], dtype=np.float64)
        made(net=again).step(x, np.zeros(len(x), int))


def test_a_layer_may_be_among_those_that_replace_it():
    net, (x, y) = network(), data()
    trainer = made(net=net)
    trainer.fit(x, y, epochs=2)
    layer, state = net.layers[0], state_bits(trainer.optimizer)
    trainer.replace(layer, [layer, nn.BatchNorm(7)])
    assert layer.weight.flags.writeable
    after = state_bits(trainer.optimizer)
    assert after[:2] + after[4:] == state
    assert [trainer.optimizer.state_dict()["state"][k]["step"] for k in range(5)] == [4, 4, 0, 0, 4]
    trainer.fit(x, y)


def test_a_layer_may_go_on_inside_the_one_that_replaces_it():
    net = nn.Sequential([nn.Dense(6, 6), nn.Dense(6, 3)], rng=0, dtype=np.float64)
    trainer, (x, y) = made(net=net), data()
    trainer.fit(x, y)
    state, (layer, last) = state_bits(trainer.optimizer), net.layers
    trainer.replace(layer, [nn.Residual([layer])])
    assert state_bits(trainer.optimizer) == state
    trainer.fit(x, y)
    assert layer.weight.flags.writeable
    expected = (x + x @ layer.weight.T + layer.bias) @ last.weight.T + last.bias
    np.testing.assert_allclose(net.predict(x), expected, atol=1e-12)


def test_what_a_residual_holds_may_replace_it():
    net = nn.Sequential([nn.Residual([nn.Dense(6, 4), nn.Dense(4, 6)]), nn.Dense(6, 3)], rng=0, dtype=np.float64)
    trainer, (x, y) = made(net=net), data()
    trainer.fit(x, y)
    state, residual = state_bits(trainer.optimizer), net.layers[0]
    trainer.replace(residual, list(residual.layers))
    assert [type(layer) for layer in net.layers] == [nn.Dense] * 3
    assert state_bits(trainer.optimizer) == state
    trainer.fit(x, y)


def test_a_layer_that_waits_for_statistics_gets_them():
    net, (x, y) = network(), data()
    trainer = made(net=net)
    trainer.replace(net.layers[0], [nn.Standardize(N_IN), nn.Dense(N_IN, 7)], rng=0)
    with pytest.raises(ValueError, match="Standardize has no statistics yet"):
        trainer.step(x, y)
    trainer.fit(x, y)
    np.testing.assert_allclose(net.layers[0].mean, x.mean(axis=0), atol=1e-12)


def test_the_seed_gives_layers_without_arrays_their_weights():
    one, same, other = network(), network(), network()
    for net, seed in ((one, 3), (same, 3), (other, 4)):
        net.replace(net.layers[0], [nn.Dense(N_IN, 7)], rng=seed)
    assert bits(one) == bits(same) != bits(other)


def test_an_image_network_keeps_its_shapes_and_borders(rng):
    layers = [
        nn.Conv2d(3, 8, 3, padding=1, activation="relu"),
        nn.Concat([[nn.Conv2d(8, 4, 3, padding=1)], [nn.Conv2d(8, 6, (1, 5), padding=(0, 2))]]),
        nn.Flatten(),
        nn.Dense(360, N_OUT),
    ]
    net = nn.Sequential(layers, rng=0, dtype=np.float64, input_shape=(6, 6, 3))
    x, y = rng.normal(size=(5, 6, 6, 3)), rng.integers(0, N_OUT, 5)
    expected, trainer = net.predict(x), made(net=net)
    trainer.replace(layers[0], factorize(layers[0], "two_factor", 9))
    trainer.replace(layers[1].branches[0][0], factorize(layers[1].branches[0][0], "tucker2", (4, 8)))
    trainer.replace(layers[1].branches[1][0], factorize(layers[1].branches[1][0], "svd", 6))
    np.testing.assert_allclose(net.predict(x), expected, atol=1e-12)
    before = trainer.step(x, y)
    assert trainer.step(x, y) < before


# ---------------------------------------------------------------- the Trainer goes on


def by_hand(trainer, place, new):
    """A new Trainer of a copy of the network with other layers, and the state of all other parameters carried over."""
    twin = copy.deepcopy(trainer)
    old, net, rule = place(twin.net), twin.net, type(twin.optimizer)
    options, state = twin.optimizer.__getstate__(), twin.optimizer.state_dict()
    entries = {id(a): state["state"][k] for k, a in enumerate(net.parameters())}
    net.replace(old, copy.deepcopy(new))
    params = net.parameters()
    carried = {k: entries[id(a)] for k, a in enumerate(params) if id(a) in entries}
    numbered = [{**state["param_groups"][0], "params": list(range(len(params)))}]
    groups = [{**options["param_groups"][0], "params": params}]
    optimizer = rule.__new__(rule)
    state = {**state, "state": carried, "param_groups": numbered}
    optimizer.__setstate__({**options, "param_groups": groups, "state": state})
    again = nn.Trainer(net, trainer.loss, optimizer, seed=trainer.seed)
    again.epoch, again.compiled_training.batches = trainer.epoch, trainer.compiled_training.batches
    return again


RULES = {name: (rule, {}) for name, rule in named.RULES.items()}
RULES |= {
    "momentum": (optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "the interim point": (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": "interim"}),
    "AMSGrad": (optim.Adam, {"amsgrad": True, "weight_decay": 0.1}),
    "a start of Adagrad": (optim.Adagrad, {"initial_accumulator_value": 0.5}),
    "averages": (optim.Adam, {"ema_decay": 0.9}),
    "accumulated gradients": (optim.Adam, {"accumulate": 3}),
    "a limit of the norm": (optim.Adam, {"max_norm": 0.1}),
    "a limit of values": (optim.Adam, {"clip_value": 0.01}),
    "a check": (optim.Adam, {"check_finite": "skip"}),
    "a schedule": (optim.Adam, {"lr": schedules.Power(0.02, 0.1)}),
    "a plateau": (optim.Adam, {"lr": schedules.ReduceOnPlateau(0.1, patience=0)}),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("how", RULES)
@pytest.mark.filterwarnings("ignore:accumulate. expected a multiple")
def test_training_goes_on_as_if_all_other_state_had_been_carried_over_by_hand(how, place):
    rule, options = RULES[how]
    trainer, (x, y) = made(rule, **options), data()
    trainer.fit(x, y, epochs=2, batch_size=10)
    layer = PLACES[place](trainer.net)
    new = factorize(layer, "svd", 2)
    expected = by_hand(trainer, PLACES[place], new)
    trainer.replace(layer, new)
    assert bits(trainer.net) == bits(expected.net)
    steps = trainer.optimizer.steps
    histories = [one.fit(x, y, epochs=3, batch_size=7, validation=(x, y)) for one in (trainer, expected)]
    assert histories[0] == histories[1]
    assert everything(trainer) == everything(expected)
    assert trainer.optimizer.steps > steps >= 2
    if options.get("ema_decay"):
        with trainer.optimizer.averaged(), expected.optimizer.averaged():
            assert bits(trainer.net) == bits(expected.net)


def test_all_objects_stay_the_same_and_so_do_counts():
    plateau = schedules.ReduceOnPlateau(0.1, patience=0)
    trainer, (x, y) = made(lr=plateau, check_finite="skip"), data()
    net, optimizer, groups = trainer.net, trainer.optimizer, trainer.optimizer.param_groups
    group = groups[0]
    trainer.fit(x, y, epochs=2)
    net.layers[0].weight[0, 0] = np.nan
    trainer.step(x, y)
    net.layers[0].weight[0, 0] = 0.0
    counts = optimizer.steps, optimizer.skipped, trainer.epoch, trainer.compiled_training.batches
    assert counts[1] == 1
    trainer.replace(net.layers[0], full(net.layers[0]))
    assert (trainer.net, trainer.optimizer) == (net, optimizer)
    assert optimizer.param_groups is groups
    assert groups[0] is group
    assert group["lr"] is plateau
    assert [id(a) for a in group["params"]] == [id(a) for a in net.parameters()]
    assert (optimizer.steps, optimizer.skipped, trainer.epoch, trainer.compiled_training.batches) == counts
    group["lr"] = 0.0  # an option that is changed in a group held before is heeded
    before = bits(net)
    trainer.step(x, y)
    assert bits(net) == before


def test_a_run_with_batch_norm_between_the_factors_trains_them():
    trainer, (x, y) = made(), data(200)
    x[:, 0] *= 5
    y = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0)
    trainer.fit(x, y, epochs=3)
    layer = trainer.net.layers[1].layers[1]
    trainer.replace(layer, factorize(layer, "svd", 3, batch_norm=True))
    before = trainer.net.evaluate(x, y)
    trainer.fit(x, y, epochs=20)
    norm = trainer.net.layers[1].layers[2]
    assert norm.running_mean.any()
    assert trainer.net.evaluate(x, y) < before


# ---------------------------------------------------------------- groups


def grouped(net, *sizes):
    params = iter(net.parameters())
    return [{"params": [next(params) for _ in range(n)], "lr": 0.1 * (i + 1)} for i, n in enumerate(sizes)]


def sizes(optimizer):
    return [len(group["params"]) for group in optimizer.param_groups]


def two_layers(rule=optim.SGD, groups=(1, 1, 1, 1), hidden=()):
    net = nn.Sequential([nn.Dense(N_IN, 8), *hidden, nn.Dense(8, N_OUT)], rng=0, dtype=np.float64)
    return nn.Trainer(net, "cross_entropy", rule(grouped(net, *groups)))


@pytest.mark.parametrize(
    ("groups", "after"),
    [((4,), [5]), ((2, 2), [3, 2]), ((1, 1, 1, 1), [2, 1, 1, 1]), ((1, 3), [2, 3]), ((3, 1), [4, 1])],
)
def test_new_parameters_join_the_group_of_the_old_and_the_bias_that_of_the_bias(groups, after):
    trainer, (x, y) = two_layers(groups=groups), data()
    bias, rates = trainer.net.layers[0].bias.copy(), [group["lr"] for group in trainer.optimizer.param_groups]
    trainer.replace(trainer.net.layers[0], factorize(trainer.net.layers[0], "svd", 4))
    assert sizes(trainer.optimizer) == after
    assert [group["lr"] for group in trainer.optimizer.param_groups] == rates
    np.testing.assert_array_equal(trainer.optimizer.parameters()[2], bias)
    trainer.fit(x, y)


def test_parameters_of_a_layer_in_place_of_one_without_join_their_neighbors():
    trainer, (x, y) = two_layers(groups=(4,), hidden=[nn.Dropout(0.5)]), data()
    trainer.replace(trainer.net.layers[1], [nn.BatchNorm(8)])
    assert sizes(trainer.optimizer) == [6]
    trainer.fit(x, y)


def test_old_parameters_stay_in_their_groups():
    trainer, (x, y) = two_layers(), data()
    layer, rates = trainer.net.layers[0], [group["lr"] for group in trainer.optimizer.param_groups]
    trainer.replace(layer, [layer, nn.Dropout(0.5)])
    assert sizes(trainer.optimizer) == [1, 1, 1, 1]
    assert [group["lr"] for group in trainer.optimizer.param_groups] == rates
    trainer.fit(x, y)


GROUPS = {
    "a layer without parameters between two groups": (
        lambda: two_layers(groups=(2, 2), hidden=[nn.Dropout(0.5)]),
        lambda net: (net.layers[1], [nn.BatchNorm(8)]),
        "^layers: expected the parameters of Dropout",
    ),
    "gamma and beta in two groups": (
        lambda: two_layers(groups=(3, 3), hidden=[nn.BatchNorm(8)]),
        lambda net: (net.layers[1], [nn.BatchNorm(8)]),
        "^layers: expected the parameters of BatchNorm",
    ),
    "no bias for the group of the bias": (
        lambda: two_layers(groups=(1, 3)),
        lambda net: (net.layers[0], [nn.Dense(N_IN, 8, bias=False)]),
        "^layers: expected the parameters of Dense.* in one group .* layers that end in a bias, got others",
    ),
    "a group that would be empty": (
        lambda: two_layers(groups=(2, 2, 2), hidden=[nn.BatchNorm(8)]),
        lambda net: (net.layers[1], [nn.Dropout(0.5), nn.Residual([nn.BatchNorm(8, affine=False)])]),
        "^layers: expected parameters for group 1 of the optimizer, which has no others",
    ),
}


@pytest.mark.parametrize("case", GROUPS)
def test_parameters_that_fit_no_group_are_refused_and_nothing_changes(case):
    make, how, match = GROUPS[case]
    trainer, (x, y) = make(), data()
    trainer.fit(x, y)
    layer, new = how(trainer.net)
    before = everything(trainer)
    with pytest.raises(ValueError, match=match):
        trainer.replace(layer, new)
    assert everything(trainer) == before
    trainer.fit(x, y)


# ---------------------------------------------------------------- what does not fit


def elsewhere(layer):
    nn.Sequential([layer], rng=0)
    return layer


REFUSED = {
    "a layer of another network": (
        lambda net: (nn.Dense(2, 2), [nn.Dense(2, 2)]),
        ValueError,
        "^layer: expected one of",
    ),
    "no layer at all": (lambda net: ("weights", [nn.Dense(2, 2)]), ValueError, "^layer: expected one of the network"),
    "nothing": (lambda net: (net.layers[0], []), ValueError, "^layers: expected at least one layer, got none"),
    "no layers": (lambda net: (net.layers[0], ["relu"]), TypeError, r"^layers\[0\]: expected a layer, got str"),
    "layers that inference leaves out": (
        lambda net: (net.layers[1], [nn.Dropout(0.5)]),
        ValueError,
        "^layers: expected a layer besides Dropout",
    ),
    "another start": (
        lambda net: (net.layers[0], [nn.Dense(5, 7)]),
        ValueError,
        r"^layers\[0\] \(Dense\): expected 5 columns, got 6",
    ),
    "another end": (
        lambda net: (net.layers[0], [nn.Dense(6, 4), nn.Dense(4, 8)]),
        ValueError,
        r"^layers: expected to end in the shape \(7,\), as Dense.* does, got \(8,\)",
    ),
    "another end, inside": (
        lambda net: (net.layers[1].layers[1], [nn.Dense(14, 8)]),
        ValueError,
        r"^layers: expected to end in the shape \(7,\)",
    ),
    "a layer twice": (
        lambda net: (net.layers[0], [nn.Dense(6, 7), *[nn.Dense(7, 7)] * 2]),
        ValueError,
        "each layer once",
    ),
    "a layer that stands elsewhere": (
        lambda net: (net.layers[0], [nn.Dense(6, 7), net.layers[1]]),
        ValueError,
        "^layers: expected each layer once",
    ),
    "a layer of another dtype": (
        lambda net: (net.layers[0], [elsewhere(nn.Dense(6, 7))]),
        (TypeError, ValueError),
        "float64",
    ),
    "statistics inside": (
        lambda net: (net.layers[1].layers[1], [nn.Dense(14, 7), nn.Standardize(7)]),
        ValueError,
        "^layers: expected no Standardize inside another layer",
    ),
    "an end that takes no logits": (
        lambda net: (net.layers[3], [nn.Dense(7, 3, activation="softmax")]),
        ValueError,
        "^loss: expected a last layer without softmax",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_layers_that_do_not_fit_are_refused_and_nothing_changes(case):
    how, error, match = REFUSED[case]
    trainer, (x, y) = made(), data()
    trainer.fit(x, y)
    layer, new = how(trainer.net)
    before, unchanged = everything(trainer), copy.deepcopy(trainer)
    with pytest.raises(error, match=match):
        trainer.replace(layer, new)
    if case != "an end that takes no logits":
        with pytest.raises(error, match=match):
            trainer.net.replace(layer, new)
    assert everything(trainer) == before
    for one in (trainer, unchanged):
        one.fit(x, y)
    assert everything(trainer) == everything(unchanged)


def test_a_folded_network_is_refused():
    folded = network().fold()
    with pytest.raises(
        ValueError, match=r"^net: expected one that can be trained, got a folded one; replace before fold"
    ):
        folded.replace(folded.layers[0], [nn.Dense(N_IN, 7)])


def test_a_network_that_no_longer_compiles_stays_what_it_was():
    trainer = made()
    net, weight = trainer.net, trainer.net.layers[-1].weight
    weight.flags.writeable = False
    for one in (net, trainer):
        with pytest.raises(ValueError, match="expected a writable array"):
            one.replace(net.layers[0], full(net.layers[0]))
    weight.flags.writeable = True
    trainer.fit(*data())
    trainer.replace(net.layers[0], full(net.layers[0]))


def test_replacing_waits_for_an_interrupted_fit(tmp_path):
    trainer, (x, y) = made(), data()
    layer, new = trainer.net.layers[0], full(trainer.net.layers[0])

    def broken():
        yield x[:10], y[:10]
        raise KeyError

    class Broken:
        def __iter__(self):
            return broken()

    with pytest.raises(KeyError):
        trainer.fit(Broken())
    before = everything(trainer)
    with pytest.raises(ValueError, match=r"^layers: expected to stay until the interrupted fit is over"):
        trainer.replace(layer, new)
    assert everything(trainer) == before
    trainer.abandon_fit()
    trainer.replace(layer, new)
    trainer.fit(x, y)


def test_replacing_waits_for_early_stopping_that_was_interrupted():
    trainer, (x, y) = made(), data()
    layer = trainer.net.layers[0]

    def stop(trainer, history):
        raise KeyError

    with pytest.raises(KeyError):
        trainer.fit(x, y, epochs=3, validation=(x, y), patience=2, callbacks=stop)
    with pytest.raises(ValueError, match=r"^layers: expected to stay until the interrupted fit is over"):
        trainer.replace(layer, full(layer))
    trainer.fit(x, y, epochs=3, validation=(x, y), patience=2)
    trainer.replace(layer, full(layer))


def test_a_callback_cannot_replace():
    trainer, (x, y) = made(), data()
    layer, found = trainer.net.layers[0], []

    def replace(trainer, history):
        before = everything(trainer)
        with pytest.raises(RuntimeError, match="is training already"):
            trainer.replace(layer, full(layer))
        found.append(everything(trainer) == before)

    trainer.fit(x, y, callbacks=replace)
    assert found == [True]


def interrupted_at(line, call):
    """Call with KeyboardInterrupt in the n-th line that it runs inside fastopt; returns how many it has run."""
    root, count, before = str(pathlib.Path(fo.__file__).parent), 0, sys.gettrace()

    def trace(frame, event, arg):
        nonlocal count
        if not frame.f_code.co_filename.startswith(root):
            return None
        count += event == "line"
        if event == "line" and count == line:
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return count


def test_an_interrupt_leaves_the_old_layer_or_the_new_ones_and_a_trainer_that_goes_on():
    trainer, (x, y) = made(), data(20)
    trainer.fit(x, y)

    def replaced(line):
        one = copy.deepcopy(trainer)
        layer = one.net.layers[1].layers[1]
        new = full(layer)
        return one, interrupted_at(line, lambda: one.replace(layer, new))

    def digest(one):
        return hash(repr(everything(one)))

    old, (whole, lines) = copy.deepcopy(trainer), replaced(0)
    outcomes = [digest(one) for one in (old, whole)]
    for one in (old, whole):
        one.step(x, y)
    stepped, found = [digest(one) for one in (old, whole)], set()
    for line in [*range(1, lines, lines // 60), *range(lines - 120, lines + 1)]:
        one, _ = replaced(line)
        which = outcomes.index(digest(one))
        one.step(x, y)
        assert digest(one) == stepped[which]
        found.add(which)
    assert found == {0, 1}


def test_an_interrupt_leaves_a_container_or_what_it_held():
    net = fo.nn.Sequential([fo.nn.Residual([fo.nn.Dense(4, 4), fo.nn.Residual([fo.nn.Dense(4, 4)])])], rng=0)

    def replaced(line):
        one = copy.deepcopy(net)
        return one, interrupted_at(line, lambda: one.replace(one.layers[0], one.layers[0].layers))

    (whole, lines), found = replaced(0), set()
    x = np.ones((1, 4))
    outcomes = [(repr(one), one.predict(x).tobytes()) for one in (net, whole)]
    for line in range(1, lines + 1, 7):
        one, _ = replaced(line)
        found.add(outcomes.index((repr(one), one.predict(x).tobytes())))
    assert found == {0, 1}


def test_an_open_block_of_the_optimizer_refuses():
    trainer, (x, y) = made(ema_decay=0.9), data()
    trainer.step(x, y)
    layer = trainer.net.layers[0]
    with trainer.optimizer.averaged(), pytest.raises(RuntimeError, match="leave that block first"):
        trainer.replace(layer, full(layer))
    assert trainer.net.layers[0] is layer
    trainer.replace(layer, full(layer))


def test_an_option_out_of_range_is_found_before_anything_changes():
    trainer, (x, y) = made(), data()
    trainer.fit(x, y)
    layer, before = trainer.net.layers[0], everything(trainer)
    trainer.optimizer.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match=r"^lr: expected a finite number"):
        trainer.replace(layer, full(layer))
    trainer.optimizer.param_groups[0]["lr"] = 0.001
    assert everything(trainer) == before
    trainer.fit(x, y)


def test_an_optimizer_that_got_more_parameters_is_refused():
    trainer = made()
    trainer.optimizer.add_param_group({"params": [np.ones(3)]})
    with pytest.raises(ValueError, match=r"^optimizer: expected one over net.parameters"):
        trainer.replace(trainer.net.layers[0], full(trainer.net.layers[0]))


# ---------------------------------------------------------------- what was bound to the old layer

STALE = "^Trainer: expected the layers that it was made for, got a network in which others have replaced some"
USES = {
    "step": lambda trainer, x, y, path: trainer.step(x, y),
    "fit": lambda trainer, x, y, path: trainer.fit(x, y),
    "fit on batches": lambda trainer, x, y, path: trainer.fit([(x, y)]),
    "save": lambda trainer, x, y, path: trainer.save(path),
    "resume": lambda trainer, x, y, path: trainer.resume(path),
    "replace": lambda trainer, x, y, path: trainer.replace(trainer.net.layers[-1], full(trainer.net.layers[-1])),
    "pickle": lambda trainer, x, y, path: pickle.dumps(trainer),
    "deepcopy": lambda trainer, x, y, path: copy.deepcopy(trainer),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("by", ["another trainer", "the network"])
@pytest.mark.parametrize("rule", [optim.Adam, optim.NewtonCG])
def test_another_trainer_of_the_network_is_refused(use, by, rule, tmp_path):
    trainer, (x, y) = made(rule), data()
    other, path = made(net=trainer.net), tmp_path / "run.safetensors"
    trainer.save(path)
    layer = trainer.net.layers[0]
    (other if by == "another trainer" else trainer.net).replace(layer, full(layer))
    before = bits(trainer.net)
    with pytest.raises(RuntimeError, match=STALE):
        USES[use](trainer, x, y, path)
    assert bits(trainer.net) == before
    if by == "another trainer":
        other.step(x, y)
    made(net=trainer.net).step(x, y)


def test_what_nobody_saw_replaced_stops_a_fit_and_leaves_the_network_whole():
    x, y = data()

    def replace(trainer, history):
        if len(history["loss"]) == 2:
            trainer.net.replace(layer, full(layer))
            found.extend(bits(trainer.net))

    for options in ({}, {"validation": (x, y), "patience": 2}):
        trainer, found = made(), []
        layer = trainer.net.layers[0]
        with pytest.raises(RuntimeError, match=STALE):
            trainer.fit(x, y, epochs=4, callbacks=replace, **options)
        assert bits(trainer.net) == found


def test_the_old_layer_may_be_read_and_copied_and_no_more():
    trainer = made()
    layer, weight = trainer.net.layers[0], trainer.net.layers[0].weight.copy()
    trainer.replace(layer, full(layer))
    np.testing.assert_array_equal(layer.weight, weight)
    with pytest.raises(ValueError, match=r"^weight: expected a layer that may change, got a read-only one"):
        layer.weight = weight
    with pytest.raises(ValueError, match="read-only"):
        layer.weight[0] = 0
    gone = r"0\]: expected a layer in use, got a Dense that others have replaced in its network; put copy.deepcopy"
    for put in (
        lambda: nn.Sequential([layer]),
        lambda: nn.Concat([[layer]]),
        lambda: nn.Residual([layer]),
        lambda: trainer.net.replace(trainer.net.layers[0], [layer]),
    ):
        with pytest.raises(ValueError, match=gone):
            put()
    with pytest.raises(ValueError, match=r"^layer: expected one of the network's"):
        trainer.replace(layer, [nn.Dense(N_IN, 7)])


@pytest.mark.parametrize("trained", [False, True])
def test_a_layer_that_another_network_has_replaced_is_replaced_too(trained):
    net = network()
    shared = net.layers[0]
    other = nn.Sequential([shared, nn.Dense(7, N_OUT)], rng=1, dtype=np.float64)
    trainer, instead = made(net=other), copy.deepcopy(shared)
    net.replace(shared, full(shared))
    (trainer if trained else other).replace(shared, [instead])
    assert other.layers[0] is instead
    made(net=other).step(*data())
    if trained:
        trainer.step(*data())


def test_layers_inside_a_replaced_one_are_replaced_with_it():
    net = network()
    inner = net.layers[1].layers[1]
    net.replace(net.layers[1], [nn.Dense(7, 7)], rng=0)
    with pytest.raises(ValueError, match="read-only"):
        inner.weight = inner.weight


@pytest.mark.parametrize(
    ("rule", "error", "match"),
    [
        (optim.SGD, ValueError, r"^params\[0\]: expected a writable array, got one that has been made read-only"),
        (optim.NewtonCG, RuntimeError, r"^NewtonCG: expected the parameters that it was given, got others; make a new"),
    ],
)
def test_compiled_steps_over_old_arrays_are_refused(rule, error, match):
    trainer, (x, y) = made(rule), data()
    training = trainer.compiled_training
    stepper = trainer.optimizer.stepper(training)
    trainer.replace(trainer.net.layers[0], full(trainer.net.layers[0]))
    before = bits(trainer.net)
    with pytest.raises(error, match=match):
        stepper.step(x, y)
    assert bits(trainer.net) == before


def test_gradients_bound_before_are_forgotten():
    trainer = made(optim.SGD)
    trainer.optimizer.bind([np.zeros_like(a) for a in trainer.net.parameters()])
    trainer.replace(trainer.net.layers[0], full(trainer.net.layers[0]))
    with pytest.raises(ValueError, match=r"^step: expected gradients, got none"):
        trainer.optimizer.step()


def test_other_threads_predict_meanwhile():
    net, (x, _) = network(), data()
    expected, wrong, done = net.predict(x), [], threading.Event()

    def predict():
        while not done.is_set():
            if abs(net.predict(x) - expected).max() > 1e-9:
                wrong.append(True)

    thread = threading.Thread(target=predict)
    thread.start()
    for _ in range(5):
        net.replace(net.layers[0], full(net.layers[0]))
    done.set()
    thread.join()
    assert not wrong


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("rule", [optim.Adam, optim.NewtonCG])
def test_a_run_is_saved_resumed_pickled_and_copied_after(rule, tmp_path):
    trainer, (x, y) = made(rule), data()
    trainer.fit(x, y)
    trainer.save(tmp_path / "before.safetensors")
    layer = trainer.net.layers[0]
    trainer.replace(layer, full(layer))
    trainer.fit(x, y)
    trainer.save(tmp_path / "after.safetensors")
    copies = [copy.deepcopy(trainer), pickle.loads(pickle.dumps(trainer)), made(rule, net=copy.deepcopy(trainer.net))]
    copies[2].resume(tmp_path / "after.safetensors")
    trainer.fit(x, y)
    for one in copies:
        one.fit(x, y)
        assert everything(one) == everything(trainer)
    before = everything(trainer)
    with pytest.raises(ValueError, match="does not fit this trainer"):
        trainer.resume(tmp_path / "before.safetensors")
    assert everything(trainer) == before
