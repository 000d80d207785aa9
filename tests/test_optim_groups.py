"""`optim.groups`: weight decay by kind of parameter, in the order of a network's parameters.

Pass criterion: 1e-9 against the rule in NumPy, float64, with each parameter's own decay, 1e-12 against numbers that
torch 2.13.0 gave; bits equal wherever one run is promised to equal another.
"""

import copy
import itertools

import numpy as np
import pytest
from reference import adam, adamw, lion

import fastopt as fo
from fastopt import nn, optim, schedules

REFERENCES = {"AdamW": adamw, "Adam": adam, "Lion": lion}


def everything(dtype=np.float64, seed=0):
    """A network with every kind of parameter, layers inside layers included."""
    layers = [
        nn.BatchNorm(2, affine=False),
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
        nn.BatchNorm(4, activation="relu"),
        nn.Concat([[nn.Conv2d(4, 2, 1)], [nn.Conv2d(4, 3, 1, bias=False), nn.BatchNorm(3)]]),
        nn.Flatten(),
        nn.Residual([nn.Dense(80, 80, activation="tanh"), nn.Dropout(0.1)]),
        nn.GroupedDense(80, 20, groups=4),
        nn.Maxout(20, 6, pieces=2),
        nn.Dense(6, 3),
    ]
    return nn.Sequential(layers, rng=seed, dtype=dtype, input_shape=(4, 4, 2))


def images(n=12, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 4, 4, 2)), rng.integers(0, 3, n)


def decays(groups):
    """The decay of each parameter, in order."""
    return [group["weight_decay"] for group in groups for _ in group["params"]]


def names(net):
    """The name of each parameter in its layer, in order."""
    found = {id(a): name for layer in nn.layers.chain.walk(net.layers) for name, a in layer.arrays().items()}
    return [found[id(a)] for a in net.parameters()]


def test_groups_hold_the_parameters_in_their_order_and_neighbors_share_one():
    net = everything()
    groups = optim.groups(net, 0.5)
    assert [id(a) for group in groups for a in group["params"]] == [id(a) for a in net.parameters()]
    assert decays(groups) == [0.5 if name == "weight" else 0.0 for name in names(net)]
    assert set(names(net)) == {"weight", "bias", "gamma", "beta"}
    shares = [group["weight_decay"] for group in groups]
    assert all(a != b for a, b in itertools.pairwise(shares))


SELECTED = {
    "biases": ("bias", lambda layer, name: name in ("bias", "beta")),
    "norms": (" norm,", lambda layer, name: name in ("gamma", "beta")),
    "nothing": ("", lambda layer, name: False),
    "none of a list": ([], lambda layer, name: False),
    "a class": (nn.Maxout, lambda layer, name: isinstance(layer, nn.Maxout)),
    "several": (["bias", nn.Conv2d], lambda layer, name: name in ("bias", "beta") or isinstance(layer, nn.Conv2d)),
    "a function": (lambda layer, name: name == "gamma", lambda layer, name: name == "gamma"),
}


@pytest.mark.parametrize("what", SELECTED)
def test_what_is_spared_is_named_by_kind_layer_or_function(what):
    no_decay, spared = SELECTED[what]
    net = everything()
    owners = {id(a): layer for layer in nn.layers.chain.walk(net.layers) for a in layer.arrays().values()}
    wanted = [0.0 if spared(owners[id(a)], name) else 0.5 for a, name in zip(net.parameters(), names(net), strict=True)]
    assert decays(optim.groups(net, 0.5, no_decay)) == wanted


def test_a_layer_is_spared_with_all_that_is_inside():
    net = everything()
    concat, last = net.layers[3], net.layers[-1]
    spared = {id(a) for a in [*concat.parameters(), *last.parameters()]}
    found = decays(optim.groups(net, 0.5, [concat, last]))
    assert found == [0.0 if id(a) in spared else 0.5 for a in net.parameters()]


@pytest.mark.parametrize("rule", REFERENCES)
def test_each_parameter_shrinks_by_its_own_decay(rule):
    net, (x, y), reference = everything(), images(), REFERENCES[rule]
    twin = copy.deepcopy(net)
    trainer = nn.Trainer(net, "cross_entropy", getattr(optim, rule)(optim.groups(net, 0.3), lr=0.01))
    states = [{} for _ in twin.parameters()]
    for _ in range(5):
        _, grads = twin.value_and_grad(x, y)  # its dropout draws as a Trainer's
        for a, grad, state, name in zip(twin.parameters(), grads, states, names(twin), strict=True):
            a[...] = reference(a, grad, state, lr=0.01, weight_decay=0.3 if name == "weight" else 0.0)
        trainer.step(x, y)
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


START = (
    [[0.5, -0.25], [0.125, 0.75], [-0.5, 0.25]],
    [0.1, -0.2, 0.3],
    [[1.0, -0.5, 0.25]],
    [0.05],
)
X, Y = [[1.0, 2.0], [-1.0, 0.5], [0.25, -0.75], [2.0, -1.0]], [[1.0], [0.0], [-0.5], [2.0]]
# torch 2.13.0, float64, CPU: 20 steps of AdamW(lr=0.01), weights with weight_decay=0.5 and biases with 0
TORCH = (
    [
        [0.6067350596855405, -0.04963175332178291],
        [-0.05720692609818347, 0.49031258569692615],
        [-0.2896896623307701, 0.3834167638245606],
    ],
    [0.12256375740105796, -0.34322066077540486, 0.30515310633790754],
    [[1.0918884961106905, -0.2776275395573631, 0.10312741993419766]],
    [0.20039362946585143],
)


def two_layers():
    net = nn.Sequential([nn.Dense(2, 3, "tanh"), nn.Dense(3, 1)], rng=0, dtype=np.float64)
    for a, start in zip(net.parameters(), START, strict=True):
        a[...] = start
    return net


def test_adamw_makes_the_steps_that_torch_made_with_two_groups():
    net = two_layers()
    trainer = nn.Trainer(net, "mse", optim.AdamW(optim.groups(net, decay=0.5), lr=0.01))
    for _ in range(20):
        trainer.step(X, Y)
    for a, b in zip(net.parameters(), TORCH, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_adamw_makes_the_steps_of_the_torch_that_is_installed():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    net = two_layers()
    params = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in START]
    w1, b1, w2, b2 = params
    groups = [{"params": [w1, w2], "weight_decay": 0.5}, {"params": [b1, b2], "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, lr=0.01)
    trainer = nn.Trainer(net, "mse", optim.AdamW(optim.groups(net, decay=0.5), lr=0.01))
    x, y = (torch.tensor(a, dtype=torch.float64) for a in (X, Y))
    for _ in range(50):
        theirs.zero_grad()
        ((torch.tanh(x @ w1.T + b1) @ w2.T + b2 - y) ** 2).mean().backward()
        theirs.step()
        trainer.step(X, Y)
    for a, b in zip(net.parameters(), params, strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_groups_of_one_decay_have_the_bits_of_no_groups(dtype):
    (x, y), made = images(), []
    for no_decay in (None, "bias,norm"):
        net = everything(dtype)
        params = net.parameters() if no_decay is None else optim.groups(net, schedules.Constant(0.1), no_decay)
        adamw = optim.AdamW(params, weight_decay=0.1)
        for group in adamw.param_groups:
            group["weight_decay"] = 0.1
        nn.Trainer(net, "cross_entropy", adamw).fit(x, y, epochs=3, batch_size=5)
        made.append([a.tobytes() for a in net.parameters()])
    assert made[0] == made[1]


def test_decay_and_rate_may_be_schedules_and_a_run_goes_on_from_its_file(tmp_path):
    (x, y), path = images(), tmp_path / "run.safetensors"

    def make():
        net = everything()
        groups = optim.groups(net, schedules.LinearDecay(0.5, 0.1, 9))
        return nn.Trainer(net, "cross_entropy", optim.AdamW(groups, lr=schedules.Cosine(0.01, 20)), seed=1)

    whole, first, second = make(), make(), make()
    whole.fit(x, y, epochs=4, batch_size=5)
    first.fit(x, y, epochs=2, batch_size=5)
    first.save(path)
    second.resume(path)
    second.fit(x, y, epochs=2, batch_size=5)
    for a, b in zip(whole.net.parameters(), second.net.parameters(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_replaced_layer_keeps_its_decay():
    net = nn.Sequential([nn.Dense(8, 6, "relu"), nn.Dense(6, 3)], rng=0)
    trainer = nn.Trainer(net, "cross_entropy", optim.AdamW(optim.groups(net, 0.5)))
    trainer.replace(net.layers[0], fo.lowrank.factorize(net.layers[0], "svd", rank=2))
    assert decays(trainer.optimizer.param_groups) == [0.5, 0.5, 0.0, 0.5, 0.0]
    assert [a.ndim for a in trainer.optimizer.parameters()] == [2, 2, 1, 2, 1]


REFUSED = {
    "a kind": (
        "biases",
        ValueError,
        "^no_decay: expected bias or norm, layers or a function of .layer, name., got 'bi",
    ),
    "a layer of another network": (nn.Dense(2, 3), ValueError, "^no_decay: expected layers of the network, got Dense"),
    "a number": (3, TypeError, "^no_decay: expected bias, norm, layers or a function .* got 3"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_spared_is_refused(what):
    no_decay, error, match = REFUSED[what]
    with pytest.raises(error, match=match):
        optim.groups(two_layers(), 0.5, no_decay)


def test_a_decay_out_of_range_is_the_error_of_the_optimizer():
    with pytest.raises(ValueError, match=r"^weight_decay: expected a finite number of at least 0"):
        optim.AdamW(optim.groups(two_layers(), -1))


def test_a_class_of_layers_that_hold_others_spares_all_inside():
    net = nn.Sequential([nn.Dense(4, 4), nn.Residual([nn.Residual([nn.Dense(4, 4)]), nn.Dense(4, 4)]), nn.Dense(4, 3)])
    assert decays(optim.groups(net, 0.5, nn.Residual)) == decays(optim.groups(net, 0.5, net.layers[1]))
    assert [len(g["params"]) for g in optim.groups(net, 0.5, nn.Residual)] == [2, 4, 2]


def test_groups_are_of_a_network_that_can_be_trained():
    with pytest.raises(TypeError, match=r"^net: expected a Sequential, got list"):
        optim.groups([nn.Dense(2, 3)], 0.5)
    with pytest.raises(ValueError, match=r"^net: expected one that can be trained, got a folded one"):
        optim.groups(two_layers().fold(), 0.5)
    with pytest.raises(TypeError, match=r"^no_decay: expected bias, norm, layers .* got <class 'int'>"):
        optim.groups(two_layers(), 0.5, int)
