"""Optimizers against the float64 oracle and, where it is installed, torch.optim.

Pass criterion: after 100 steps every parameter is within rtol of the oracle; the
oracle sees the same parameters and gradients, in float64.
"""

import copy
import os
import warnings

import numpy as np
import pytest
from reference import RULES

import fastopt as fo

STEPS = 100
RTOL = {np.dtype(np.float32): 2e-5, np.dtype(np.float64): 1e-11}
SHAPES = [(1,), (3, 5), (0,), (16,), (2, 3, 7), (257,)]

OPTIONS = {
    "SGD": [
        {"lr": 0.1},
        {"lr": 0.1, "weight_decay": 0.03},
        {"lr": 0.1, "maximize": True},
        {"lr": 0.1, "momentum": 0.9},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.3},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.03, "maximize": True},
    ],
    "Adam": [
        {},
        {"lr": 0.1, "betas": (0.8, 0.95)},
        {"lr": 0.1, "eps": 1e-3},
        {"lr": 0.1, "weight_decay": 0.03},
        {"lr": 0.1, "maximize": True},
        {"lr": 0.1, "amsgrad": True},
        {"lr": 0.1, "amsgrad": True, "weight_decay": 0.03, "maximize": True},
        {"lr": 0.1, "eps": 1e-3, "eps_inside_sqrt": True},
        {"lr": 0.1, "eps": 1e-3, "eps_inside_sqrt": True, "amsgrad": True},
    ],
}
NOT_IN_TORCH = ("eps_inside_sqrt",)
CASES = [pytest.param(rule, o, id="-".join([rule, *o])) for rule in RULES for o in OPTIONS[rule]]
every_case = pytest.mark.parametrize(("rule", "options"), CASES)
every_rule = pytest.mark.parametrize("rule", RULES)


def data(dtype, seed=0):
    """Parameters, and the gradients of every step."""
    rng = np.random.default_rng(seed)
    params = [rng.normal(size=shape).astype(dtype) for shape in SHAPES]
    grads = [[rng.normal(0, 3, shape).astype(dtype) for shape in SHAPES] for _ in range(STEPS)]
    return params, grads


def make(rule, params, **options):
    return getattr(fo.optim, rule)(params, **options)


def assert_close(params, wanted):
    for a, b in zip(params, wanted, strict=True):
        rtol = RTOL[a.dtype]
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


def test_the_oracle_knows_every_rule():
    assert set(RULES) == set(OPTIONS) == set(fo.optim.__all__) - {"Optimizer"}


@every_case
def test_every_option_equals_the_oracle_over_100_steps(rule, options, dtype):
    params, grads = data(dtype)
    wanted, states = [a.astype(float) for a in params], [{} for _ in params]
    optimizer = make(rule, params, **options)
    for step in grads:
        optimizer.step(step)
        wanted = [RULES[rule](p, g.astype(float), s, **options) for p, g, s in zip(wanted, step, states, strict=True)]
    assert_close(params, wanted)


def import_torch():
    if "FASTOPT_SANITIZE" in os.environ:
        pytest.skip("a sanitizer run: torch is not built for it")
    if "FASTOPT_TEST_LEVEL" in os.environ:
        pytest.skip("inside the run of one level: the oracle covers it")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torch", reason="torch is not installed")


@every_case
def test_every_option_equals_torch_over_100_steps(rule, options, dtype):
    if any(name in options for name in NOT_IN_TORCH):
        pytest.skip("torch has no such option; the oracle covers it")
    torch = import_torch()
    params, grads = data(dtype)
    theirs = [torch.tensor(a, requires_grad=True) for a in params]
    optimizer, peer = make(rule, params, **options), getattr(torch.optim, rule)(theirs, foreach=False, **options)
    for step in grads:
        optimizer.step(step)
        for t, g in zip(theirs, step, strict=True):
            t.grad = torch.from_numpy(g.copy())
        peer.step()
    assert_close(params, [t.detach().numpy() for t in theirs])


@every_rule
def test_defaults_are_those_of_torch(rule):
    torch = import_torch()
    peer = getattr(torch.optim, rule)([torch.zeros(1)]).defaults
    for name, value in getattr(fo.optim, rule).defaults.items():
        assert name in NOT_IN_TORCH or peer[name] == value


@every_case
def test_a_parameter_without_gradient_stays_and_keeps_its_count(rule, options, dtype):
    params, grads = data(dtype)
    wanted, states = [a.astype(float) for a in params], [{} for _ in params]
    optimizer = make(rule, params, **options)
    steps = [0] * len(params)
    for t, step in enumerate(grads[:20]):
        given = [g if (t + i) % 3 else None for i, g in enumerate(step)]
        optimizer.step(given)
        for i, g in enumerate(given):
            if g is not None:
                wanted[i] = RULES[rule](wanted[i], g.astype(float), states[i], **options)
                steps[i] += 1
    assert_close(params, wanted)
    assert [entry["step"] for entry in optimizer.state_dict()["state"].values()] == steps


def test_groups_have_their_own_options(dtype):
    a, b = np.ones(5, dtype), np.ones(7, dtype)
    optimizer = fo.optim.SGD([{"params": [a], "lr": 0.5}, {"params": b, "weight_decay": 1.0}], lr=0.25)
    optimizer.step([np.ones(5, dtype), np.ones(7, dtype)])
    np.testing.assert_array_equal(a, np.full(5, 0.5))
    np.testing.assert_array_equal(b, np.full(7, 0.5))


@every_rule
def test_options_changed_between_steps_hold_from_the_next_step(rule):
    w = np.ones(3)
    optimizer = make(rule, [w], lr=0.1)
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step([np.ones(3)])
    np.testing.assert_array_equal(w, 1)


def test_float32_and_float64_parameters_live_in_one_optimizer():
    a, b = np.ones(5, np.float32), np.ones(5)
    fo.optim.SGD([a, b], lr=0.5).step([np.ones(5, np.float32), np.ones(5)])
    np.testing.assert_array_equal(a, 0.5)
    np.testing.assert_array_equal(b, 0.5)


@every_case
def test_an_element_has_the_same_bits_wherever_it_stands(rule, options, dtype):
    start, grad = dtype.type(0.7), dtype.type(-0.3)
    params = [np.full(n, start) for n in (1, 5, 16, 77, 300)]
    optimizer = make(rule, params, **options)
    for _ in range(5):
        optimizer.step([np.full(a.shape, grad) for a in params])
    assert len({value.tobytes() for a in params for value in a}) == 1


@every_case
def test_bound_gradients_give_the_bits_of_given_ones(rule, options):
    (given, grads), (bound, _) = data(np.float32), data(np.float32)
    arrays = [np.empty_like(a) for a in bound]
    one, other = make(rule, given, **options), make(rule, bound, **options)
    other.bind(arrays)
    for step in grads[:5]:
        one.step(step)
        for a, g in zip(arrays, step, strict=True):
            a[...] = g
        other.step()
    for a, b in zip(given, bound, strict=True):
        np.testing.assert_array_equal(a, b)


@every_case
def test_state_dict_round_trip_continues_bit_for_bit(rule, options, dtype):
    params, grads = data(dtype)
    optimizer = make(rule, params, **options)
    for step in grads[:10]:
        optimizer.step(step)
    twins = [a.copy() for a in params]
    twin = make(rule, twins, **options)
    state = copy.deepcopy(optimizer.state_dict())
    twin.load_state_dict(optimizer.state_dict())
    for step in grads[10:20]:
        optimizer.step(step)
        twin.step(step)
    for a, b in zip(params, twins, strict=True):
        np.testing.assert_array_equal(a, b)
    make(rule, [a.copy() for a in params], **options).load_state_dict(state)


def test_state_dict_holds_copies_in_torchs_layout():
    w = np.ones(3)
    optimizer = fo.optim.Adam([w], lr=0.1)
    optimizer.step([np.ones(3)])
    state = optimizer.state_dict()
    kept = state["state"][0]["exp_avg"].copy()
    optimizer.step([np.full(3, 5.0)])
    np.testing.assert_array_equal(state["state"][0]["exp_avg"], kept)
    assert state["state"][0].keys() == {"step", "exp_avg", "exp_avg_sq"}
    assert state["param_groups"][0]["params"] == [0]


BAD_GRADS = {
    "too few": lambda w: [np.ones(3)],
    "wrong shape": lambda w: [np.ones(3), np.ones((3, 2))],
    "wrong dtype": lambda w: [np.ones(3), np.ones((2, 3), np.float32)],
    "not contiguous": lambda w: [np.ones(3), np.ones((3, 2)).T],
    "overlapping": lambda w: [np.ones(3), w[1]],
    "a list": lambda w: [np.ones(3), [[1.0] * 3] * 2],
}


@every_rule
@pytest.mark.parametrize("case", BAD_GRADS)
def test_a_refused_step_changes_nothing(rule, case):
    params = [np.ones(3), np.ones((2, 3))]
    optimizer = make(rule, params, lr=0.1)
    optimizer.step([np.ones(3), np.ones((2, 3))])
    before, state = [a.copy() for a in params], copy.deepcopy(optimizer.state_dict())
    with pytest.raises((TypeError, ValueError), match=r"grads"):
        optimizer.step(BAD_GRADS[case](params))
    for a, b in zip(params, before, strict=True):
        np.testing.assert_array_equal(a, b)
    after = optimizer.state_dict()
    for i, entry in state["state"].items():
        for name, value in entry.items():
            np.testing.assert_array_equal(after["state"][i][name], value)


@every_rule
def test_an_option_out_of_range_is_refused_before_anything_changes(rule):
    w, other = np.ones(3), np.ones(3)
    optimizer = make(rule, [{"params": [w]}, {"params": [other]}], lr=0.1)
    optimizer.param_groups[1]["lr"] = -1.0
    with pytest.raises(ValueError, match="lr"):
        optimizer.step([np.ones(3), np.ones(3)])
    np.testing.assert_array_equal(w, 1)
    assert optimizer.state_dict()["state"][0]["step"] == 0


def test_a_refused_state_dict_changes_nothing():
    w = np.ones(3)
    optimizer = fo.optim.Adam([w], lr=0.1)
    optimizer.step([np.ones(3)])
    before = copy.deepcopy(optimizer.state_dict())
    bad = copy.deepcopy(before)
    bad["state"][0]["exp_avg_sq"] = np.zeros(4)
    bad["param_groups"][0]["lr"] = 0.7
    with pytest.raises(ValueError, match="exp_avg_sq"):
        optimizer.load_state_dict(bad)
    assert optimizer.param_groups[0]["lr"] == 0.1
    np.testing.assert_array_equal(optimizer.state_dict()["state"][0]["exp_avg"], before["state"][0]["exp_avg"])


def test_a_constant_gradient_with_momentum_tends_to_its_final_speed():
    w = np.zeros(1)
    optimizer = fo.optim.SGD([w], lr=0.01, momentum=0.9)
    for _ in range(400):
        before = w.copy()
        optimizer.step([np.full(1, 2.0)])
    assert before - w == pytest.approx(0.01 / (1 - 0.9) * 2.0, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_adams_first_step_has_size_lr_whatever_the_gradient(scale):
    w = np.zeros(4)
    fo.optim.Adam([w], lr=0.1, eps=0.0).step([np.array([1.0, -2.0, 3.0, -0.5]) * scale])
    np.testing.assert_allclose(w, [-0.1, 0.1, -0.1, 0.1], rtol=1e-12)


@every_rule
def test_convex_problems_are_solved(rule):
    w, target = np.zeros(5), np.arange(5.0)
    optimizer = make(rule, [w], lr=0.1)
    for _ in range(2000):
        optimizer.step([w - target])
    np.testing.assert_allclose(w, target, atol=1e-6)
