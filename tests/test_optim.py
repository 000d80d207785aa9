"""Optimizers alone: every rule and option, what they share, and what they refuse.

State, files, torch, foreign arrays and the Trainer: test_optim_interop.py.

Pass criterion: parameters, moments and averages are within rtol of the float64 oracle,
relative to the largest element compared; the oracle sees the same parameters and
gradients. Wherever two runs are promised to be equal, they are so in every bit.
"""

import inspect
import itertools
import math
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pairs import pairwise
from reference import KERNELS, OPTIONS, RULES, clip_by_norm, clip_by_value, mean_of_calls

import fastopt as fo
from fastopt.optim import named

STEPS = 100
RTOL = {np.dtype(np.float32): 2e-5, np.dtype(np.float64): 1e-12}
SHAPES = [(1,), (3, 5), (0,), (16,), (2, 3, 7), (257,)]


def case_id(rule, options):
    return "-".join([rule, *(f"{name}={value}" for name, value in options.items())])


def cases(pairs):
    return pytest.mark.parametrize(("rule", "options"), [pytest.param(r, o, id=case_id(r, o)) for r, o in pairs])


every_rule = pytest.mark.parametrize("rule", RULES)
CASES = [(rule, o) for rule in RULES for o in OPTIONS[rule]]
every_case = cases(CASES)
every_kernel = cases(KERNELS)
every_interim = cases((rule, o) for rule in RULES for o in OPTIONS[rule] if o.get("nesterov") == "interim")


def data(dtype, seed=0, shapes=SHAPES, steps=STEPS):
    """Parameters, and the gradients of every step."""
    rng = np.random.default_rng(seed)
    params = [rng.normal(size=shape).astype(dtype) for shape in shapes]
    grads = [[rng.normal(0, 3, shape).astype(dtype) for shape in shapes] for _ in range(steps)]
    return params, grads


def make(rule, params, **options):
    return getattr(fo.optim, rule)(params, **options)


class Oracle:
    """What an optimizer does, by the reference: parameters in float64, states, options."""

    def __init__(self, rule, params, **options):
        self.rule, self.options = RULES[rule], options
        self.params, self.states = [a.astype(float) for a in params], [{} for _ in params]

    def step(self, grads):
        for i, (param, grad, state) in enumerate(zip(self.params, grads, self.states, strict=True)):
            if grad is not None:
                self.params[i] = self.rule(param, grad.astype(float), state, **self.options)


def assert_close(arrays, wanted):
    largest = max((np.abs(b[np.isfinite(b)]).max(initial=0) for b in wanted), default=0)
    for a, b in zip(arrays, wanted, strict=True):
        rtol = RTOL[a.dtype]
        np.testing.assert_allclose(a, b, rtol=rtol, atol=max(rtol * largest, np.finfo(a.dtype).tiny))


def assert_follows(optimizer, params, oracle):
    """Parameters, counts and moments are the oracle's."""
    assert_close(params, oracle.params)
    entries = list(optimizer.state_dict()["state"].values())
    assert [entry["step"] for entry in entries] == [state.get("step", 0) for state in oracle.states]
    for name in {name for state in oracle.states for name, value in state.items() if np.ndim(value)}:
        pairs = [(e[name], s[name]) for e, s in zip(entries, oracle.states, strict=True) if name in s]
        assert_close(*zip(*pairs, strict=True))


def assert_same(one, other):
    """Equal in every bit, through dicts and lists."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_same(one[name], other[name])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, np.ndarray):
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    else:
        assert one == other


def everything(optimizer):
    """Copies of all that a step may change."""
    return [np.array(a) for group in optimizer.param_groups for a in group["params"]], optimizer.state_dict()


# ---------------------------------------------------------------- every rule and option


def test_the_oracle_knows_every_rule_and_every_option_is_tried():
    assert set(RULES) == set(OPTIONS) == set(named.RULES) - {"NewtonCG"}
    for rule in RULES:
        assert set().union(*OPTIONS[rule]) == set(getattr(fo.optim, rule).defaults), rule


@every_rule
def test_defaults_are_the_oracles_and_stand_in_the_signature(rule):
    kind = getattr(fo.optim, rule)
    signature = {name: p.default for name, p in inspect.signature(kind).parameters.items() if name != "params"}
    whole = {"max_norm": None, "clip_value": None, "check_finite": None, "accumulate": 1, "ema_decay": None}
    assert signature == {**kind.defaults, **whole}
    oracle = inspect.signature(RULES[rule]).parameters
    assert kind.defaults == {name: oracle[name].default for name in kind.defaults}
    assert make(rule, [np.ones(1)]).param_groups[0].keys() == {"params", *kind.defaults}


@every_case
def test_every_option_equals_the_oracle_over_100_steps(rule, options, dtype):
    params, grads = data(dtype)
    optimizer, oracle = make(rule, params, **options), Oracle(rule, params, **options)
    for step in grads:
        optimizer.step(step)
        oracle.step(step)
    assert_follows(optimizer, params, oracle)


@every_kernel
@given(
    shapes=st.lists(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=40), min_size=1, max_size=4),
    dtypes=st.lists(st.sampled_from(list(RTOL)), min_size=5, max_size=5),
    seed=st.integers(0, 2**32 - 1),
    steps=st.integers(1, 4),
)
def test_any_shapes_and_mixed_dtypes_equal_the_oracle(rule, options, shapes, dtypes, seed, steps):
    params, grads = data(float, seed, [*shapes, (64,)], steps)  # the last: large elements to compare with
    params = [a.astype(d) for a, d in zip(params, dtypes, strict=False)]
    optimizer, oracle = make(rule, params, **options), Oracle(rule, params, **options)
    for step in grads:
        step = [g.astype(a.dtype) for g, a in zip(step, params, strict=True)]
        optimizer.step(step)
        oracle.step(step)
    assert_follows(optimizer, params, oracle)


@every_case
def test_a_parameter_without_gradient_stays_and_keeps_its_count(rule, options, dtype):
    params, grads = data(dtype, steps=20)
    optimizer, oracle = make(rule, params, **options), Oracle(rule, params, **options)
    for t, step in enumerate(grads):
        given = [g if (t + i) % 3 else None for i, g in enumerate(step)]
        before = [a.copy() for a in params]
        optimizer.step(given)
        oracle.step(given)
        assert_same([a for a, g in zip(params, given, strict=True) if g is None], before[-t % 3 :: 3])
    assert_follows(optimizer, params, oracle)
    assert optimizer.steps == 20


@every_case
def test_an_element_has_the_same_bits_wherever_it_stands(rule, options, dtype):
    start, grad = dtype.type(0.7), dtype.type(-0.3)
    params = [np.full(n, start) for n in (1, 5, 16, 77, 300)]
    optimizer = make(rule, params, **options)
    for _ in range(5):
        optimizer.step([np.full(a.shape, grad) for a in params])
    assert len({value.tobytes() for a in params for value in a}) == 1


@pairwise(case=CASES, value=[np.nan, -np.inf], dtype=RTOL)
def test_a_gradient_that_is_not_finite_spoils_its_own_element_where_the_formula_does_and_no_other(case, value, dtype):
    rule, options = case
    params, grads = data(dtype, shapes=[(19,)], steps=6)
    grads[2][0][17] = value
    optimizer, oracle = make(rule, params, **options), Oracle(rule, params, **options)
    with np.errstate(all="ignore"):
        for step in grads:
            optimizer.step(step)
            oracle.step(step)
    others, entry = np.arange(19) != 17, optimizer.state_dict()["state"][0]
    assert np.isfinite(params[0][17]) == np.isfinite(oracle.params[0][17])
    assert_close([params[0][others]], [oracle.params[0][others]])
    for name, wanted in oracle.states[0].items():
        if np.ndim(wanted):
            assert_close([entry[name][others]], [wanted[others]])


# not Lion: it goes by the sign of the smallest number, which may be flushed to zero
@cases((rule, o) for rule, o in KERNELS if rule != "Lion")
def test_moments_that_fade_below_the_normal_numbers_do_no_harm(rule, options, dtype):
    fast = {"betas": (0.3, 0.3), "alpha": 0.3, "rho": 0.3, "weight_decay": 0.0}
    options = {**options, **{name: v for name, v in fast.items() if name in getattr(fo.optim, rule).defaults}}
    params, _ = data(dtype, shapes=[(19,)], steps=0)
    optimizer, oracle = make(rule, params, **options), Oracle(rule, params, **options)
    for step in [[np.full(19, 1e-15, dtype)], *[[np.zeros(19, dtype)]] * 800]:
        optimizer.step(step)
        oracle.step(step)
    assert_follows(optimizer, params, oracle)


EXTREMES = [1e20, 1e21, 1e25, 1e30, 3e38, np.inf, np.nan, 0.0, 1e-20, 1e-22, 1e-25, 1e-30, 1e-38, 1e-40, 1e-45]
with_small_eps = [
    (rule, {**o, "eps": eps}) for rule, o in KERNELS for eps in (0.0, 1e-30) if rule not in ("SGD", "Lion")
]


# not Lion: it goes by the sign of the smallest number, which may be flushed to zero
@cases([case for case in [*KERNELS, *with_small_eps] if case[0] != "Lion"])
@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_gradients_give_what_the_formula_gives_in_float32(rule, options, sign):
    # an element a gradient: four steps of it, then ordinary ones, from parameters of 1
    optimizer = make(rule, [param := np.ones(len(EXTREMES), np.float32)], **options)
    wanted, state = param.copy(), {}
    with np.errstate(all="ignore"):
        for t in range(8):
            grad = np.array(EXTREMES if t < 4 else np.full(param.shape, 0.5), np.float32) * np.float32(sign)
            optimizer.step([grad])
            wanted = RULES[rule](wanted, grad, state, **options)
            assert wanted.dtype == np.float32
            np.testing.assert_allclose(param, wanted, rtol=2e-5, atol=2e-6, err_msg=f"step {t + 1}")
    entry = optimizer.state_dict()["state"][0]
    for name, value in state.items():
        if np.ndim(value) and name != "acc_delta":
            np.testing.assert_allclose(entry[name], value, rtol=2e-5, atol=1e-36, err_msg=name)


@pytest.mark.parametrize("rule", ["Adam", "AdamW", "NAdam"])
def test_a_gradient_whose_square_overflows_makes_no_step(rule):
    w = np.ones(20, np.float32)
    make(rule, [w], weight_decay=0.0).step([np.full(20, 3e38, np.float32)])
    np.testing.assert_array_equal(w, 1)


def test_the_steps_of_radam_that_are_not_divided_take_gradients_of_any_size(dtype):
    w = np.zeros(20, dtype)
    fo.optim.RAdam([w], lr=0.5).step([np.full(20, 1e30, dtype)])
    np.testing.assert_allclose(w, -5e29, rtol=1e-6)


def test_subnormal_moments_count_where_eps_is_too_small_to_hide_them():
    # v = 0.01 * (1e-20)**2 = 1e-42
    for eps, step in ((0.0, 10), (1e-30, 10), (1e-8, 1e-12)):
        w = np.zeros(20, np.float32)
        fo.optim.RMSprop([w], lr=1.0, eps=eps).step([np.full(20, 1e-20, np.float32)])
        np.testing.assert_allclose(w, -step, rtol=2e-3)  # 1e-42 has three digits


@pytest.mark.parametrize("rule", ["Adam", "AdamW", "NAdam"])
def test_an_eps_as_small_as_can_be_still_keeps_zero_gradients_from_dividing_zero_by_zero(rule, dtype):
    param = np.ones(20, dtype)
    smallest = float(np.finfo(dtype).smallest_subnormal)
    getattr(fo.optim, rule)([param], eps=smallest, weight_decay=0.0).step([np.zeros(20, dtype)])
    np.testing.assert_array_equal(param, np.ones(20, dtype))


def test_without_eps_zero_over_zero_is_nan_and_more_is_infinite():
    w = np.ones(2, np.float32)
    fo.optim.RMSprop([w], eps=0.0).step([np.array([0.0, 1e-30], np.float32)])
    np.testing.assert_array_equal(w, [np.nan, -np.inf])


def test_a_step_leaves_the_arithmetic_of_the_thread_as_it_was():
    smallest = np.full(100, np.finfo(np.float32).smallest_subnormal)
    for count in (100, 100_000):  # alone, and with a team
        for eps in (1e-8, 0.0):
            adam = fo.optim.Adam([np.ones(count, np.float32)], eps=eps, max_norm=1.0, ema_decay=0.5)
            adam.step([np.ones(count, np.float32)])
        assert (smallest * np.float32(1) > 0).all()
        assert (smallest + smallest > smallest).all()


# ---------------------------------------------------------------- groups, options and schedules


def test_groups_have_their_own_options(dtype):
    a, b = np.ones(5, dtype), np.ones(7, dtype)
    optimizer = fo.optim.SGD([{"params": [a], "lr": 0.5}, {"params": b, "weight_decay": 1.0}], lr=0.25)
    optimizer.step([np.ones(5, dtype), np.ones(7, dtype)])
    np.testing.assert_array_equal(a, np.full(5, 0.5))
    np.testing.assert_array_equal(b, np.full(7, 0.5))


def as_torch_counts(options):
    """Whether momentum_buffer means with these options what it means in torch."""
    return options.get("nesterov") != "interim" and not options.get("lr_in_velocity")


@every_rule
def test_groups_of_one_optimizer_may_take_every_form_of_the_rule(rule, dtype):
    params, grads = data(dtype, shapes=[(19,)] * len(OPTIONS[rule]), steps=10)
    optimizer = make(rule, [{"params": [a], **o} for a, o in zip(params, OPTIONS[rule], strict=True)])
    oracles = [Oracle(rule, [a], **o) for a, o in zip(params, OPTIONS[rule], strict=True)]
    for step in grads:
        optimizer.step(step)
        for oracle, g in zip(oracles, step, strict=True):
            oracle.step([g])
    assert_close(params, [oracle.params[0] for oracle in oracles])


@every_rule
def test_options_changed_between_steps_hold_from_the_next_step(rule, dtype):
    """All forms of the rule one after the other, twice: moments are switched on, off and on again."""
    forms = [o for o in OPTIONS[rule] if as_torch_counts(o)] * 2
    params, grads = data(dtype, steps=5 * len(forms))
    defaults = getattr(fo.optim, rule).defaults
    optimizer, oracle = make(rule, params), Oracle(rule, params)
    for t, step in enumerate(grads):
        oracle.options = {**defaults, **forms[t // 5]}
        optimizer.param_groups[0].update(oracle.options)
        optimizer.step(step)
        oracle.step(step)
    assert_follows(optimizer, params, oracle)


# initial_accumulator_value is read once, when there is no update yet
NUMBERS = [
    (rule, name)
    for rule in RULES
    for name, p in inspect.signature(RULES[rule]).parameters.items()
    if isinstance(p.default, float) and name != "initial_accumulator_value"
]


@pytest.mark.parametrize(("rule", "name"), NUMBERS)
def test_a_schedule_gives_any_option_its_value_at_every_update(rule, name):
    schedule = fo.schedules.Power(5.0 if name == "rectify_threshold" else 0.6, 0.05)
    options = {o: 0.5 for o in ("momentum", "weight_decay") if o in getattr(fo.optim, rule).defaults}
    (one, grads), (other, _) = data(np.float32, steps=12), data(np.float32, steps=12)
    scheduled, by_hand = make(rule, one, **{**options, name: schedule}), make(rule, other, **options)
    for t, step in enumerate(grads, start=1):
        by_hand.param_groups[0][name] = schedule(t)
        scheduled.step(step)
        by_hand.step(step)
        assert_same(one, other)
    assert scheduled.param_groups[0][name] == schedule


def test_a_schedule_counts_the_optimizers_updates_whatever_a_parameter_skips():
    a, b = np.zeros(1), np.zeros(1)
    schedule = fo.schedules.Power(1.0, 1.0)
    optimizer = fo.optim.SGD([a, b], lr=schedule)
    assert optimizer.steps == 0
    for step in ([np.ones(1), None], [None, np.ones(1)], [None, np.ones(1)]):
        optimizer.step(step)
    np.testing.assert_array_equal(a, [-schedule(1)])
    np.testing.assert_allclose(b, [-schedule(2) - schedule(3)])
    assert optimizer.steps == 3


def test_a_schedule_may_be_put_in_between_steps_and_taken_out_again():
    w = np.zeros(1)
    optimizer = fo.optim.SGD([w], lr=1.0)
    for lr in (1.0, fo.schedules.Power(1.0, 1.0), 0.25):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step([np.ones(1)])
    np.testing.assert_array_equal(w, [-1 - 1 / 2 - 0.25])


def test_a_schedule_is_followed_for_thousands_of_updates():
    (scheduled, by_hand), schedule = (np.zeros(1), np.zeros(1)), fo.schedules.Power(1.0, 0.5)
    one, other = fo.optim.SGD([scheduled], lr=schedule), fo.optim.SGD([by_hand])
    for t in range(1, 2001):
        other.param_groups[0]["lr"] = schedule(t)
        for optimizer in (one, other):
            optimizer.step([np.ones(1)])
        assert scheduled == by_hand


def test_a_schedule_that_was_told_a_measurement_acts_at_the_next_update():
    w, schedule = np.zeros(1), fo.schedules.ReduceOnPlateau(1.0, factor=0.5, patience=0)
    optimizer = fo.optim.SGD([w], lr=schedule)
    for loss in (3.0, 4.0, 5.0):
        schedule.update(loss)
        optimizer.step([np.ones(1)])
    np.testing.assert_array_equal(w, [-1 - 0.5 - 0.25])


def test_betas_changed_in_place_hold_from_the_next_step():
    (params, grads), (twins, _) = data(np.float32, steps=4), data(np.float32, steps=4)
    one, other = make("Adam", params, betas=[0.9, 0.999]), make("Adam", twins)
    for t, step in enumerate(grads):
        one.param_groups[0]["betas"][0] = 0.9 - 0.1 * t
        other.param_groups[0]["betas"] = (0.9 - 0.1 * t, 0.999)
        one.step(step)
        other.step(step)
    assert_same(params, twins)


@pytest.mark.parametrize("cut", [{"accumulate": 2}, {"check_finite": "skip"}], ids=str)
def test_a_schedule_does_not_count_calls_that_update_nothing(cut):
    w = np.zeros(1)
    schedule = fo.schedules.Power(1.0, 1.0)
    optimizer = fo.optim.SGD([w], lr=schedule, **cut)
    idle = [np.full(1, np.nan)] if "check_finite" in cut else [np.ones(1)]
    for _ in range(3):
        optimizer.step(idle)
        optimizer.step([np.ones(1)])
    np.testing.assert_allclose(w, [-schedule(1) - schedule(2) - schedule(3)])
    assert optimizer.steps == 3


@every_rule
def test_a_group_added_later_starts_from_nothing_and_has_its_options(rule, dtype):
    params, grads = data(dtype, steps=20)
    optimizer = make(rule, params[:4], lr=0.1)
    first, later = Oracle(rule, params[:4], lr=0.1), Oracle(rule, params[4:], lr=0.02)
    for step in grads[:10]:
        optimizer.step(step[:4])
        first.step(step[:4])
    optimizer.add_param_group({"params": params[4:], "lr": 0.02})
    for step in grads[10:]:
        optimizer.step(step)
        first.step(step[:4])
        later.step(step[4:])
    assert_close(params, first.params + later.params)
    assert [entry["step"] for entry in optimizer.state_dict()["state"].values()] == [20] * 4 + [10] * 2
    assert optimizer.steps == 20


def test_a_group_added_later_takes_the_optimizers_own_options_where_it_has_none():
    a, b = np.zeros(1), np.zeros(1)
    optimizer = fo.optim.SGD([a], lr=0.5)
    optimizer.add_param_group({"params": b})
    optimizer.step([np.ones(1), np.ones(1)])
    assert (a, b) == (-0.5, -0.5)


BAD_GROUPS = {
    "a parameter twice": lambda w: {"params": [w]},
    "a parameter twice in it": lambda w: {"params": [np.ones(2)] * 2},
    "an overlapping parameter": lambda w: {"params": [w[1:]]},
    "a read-only parameter": lambda w: {"params": [np.broadcast_to(1.0, (1,))]},
    "a parameter not contiguous": lambda w: {"params": [np.ones((3, 2)).T]},
    "integers": lambda w: {"params": [np.ones(3, int)]},
    "a list": lambda w: {"params": [[1.0]]},
    "an unknown option": lambda w: {"params": [np.ones(3)], "speed": 1},
    "an option out of range": lambda w: {"params": [np.ones(3)], "lr": -1.0},
    "no parameters": lambda w: {"lr": 0.1},
}


@every_rule
@pytest.mark.parametrize("case", BAD_GROUPS)
def test_a_group_that_is_refused_changes_nothing(rule, case):
    (w, twin), good = (np.ones(3), np.ones(3)), [np.full(3, 0.5)]
    optimizer, undisturbed = make(rule, [w], lr=0.1), make(rule, [twin], lr=0.1)
    optimizer.step(good)
    undisturbed.step(good)
    before = everything(optimizer)
    with pytest.raises((TypeError, ValueError)):
        optimizer.add_param_group(BAD_GROUPS[case](w))
    assert_same(everything(optimizer), before)
    optimizer.step(good)
    undisturbed.step(good)
    assert_same(everything(optimizer), everything(undisturbed))


# ---------------------------------------------------------------- facts


@pytest.mark.parametrize("lr_in_velocity", [False, True])
def test_a_constant_gradient_with_momentum_tends_to_its_final_speed(lr_in_velocity):
    w = np.zeros(1)
    optimizer = fo.optim.SGD([w], lr=0.01, momentum=0.9, lr_in_velocity=lr_in_velocity)
    for _ in range(400):
        before = w.copy()
        optimizer.step([np.full(1, 2.0)])
    assert before - w == pytest.approx(0.01 / (1 - 0.9) * 2.0, rel=1e-9)


def test_the_two_forms_of_momentum_differ_as_soon_as_lr_changes():
    ends = []
    for form in (False, True):
        w = np.zeros(1)
        optimizer = fo.optim.SGD([w], lr=0.1, momentum=0.5, lr_in_velocity=form)
        optimizer.step([np.ones(1)])
        optimizer.param_groups[0]["lr"] = 0.0
        optimizer.step([np.ones(1)])
        ends.append(w[0])
    assert ends == pytest.approx([-0.1, -0.15], rel=1e-12)  # lr after the sum, and inside it


def test_all_forms_of_nesterov_give_one_trajectory_after_the_change_of_variable():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(5, 5))
    H, start, options = A @ A.T, rng.normal(size=5), {"lr": 0.02, "momentum": 0.9}
    at_theta, in_velocity, interim = start.copy(), start.copy(), start.copy()
    one = fo.optim.SGD([at_theta], nesterov=True, **options)
    two = fo.optim.SGD([in_velocity], nesterov=True, lr_in_velocity=True, **options)
    three = fo.optim.SGD([interim], nesterov="interim", **options)
    for _ in range(60):
        one.step([H @ at_theta])
        two.step([H @ in_velocity])
        with three.interim_point():
            g = H @ interim
        three.step([g])
        np.testing.assert_allclose(in_velocity, at_theta, rtol=1e-9, atol=1e-12)
        with three.interim_point():  # phi = theta + mu v
            np.testing.assert_allclose(interim, at_theta, rtol=1e-9, atol=1e-12)
    assert np.abs(at_theta).max() < np.abs(start).max()


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("rule", ["Adam", "Adamax", "Lion"])
def test_the_first_step_has_size_lr_whatever_the_gradient(rule, scale):
    w = np.zeros(4)
    eps = {} if rule == "Lion" else {"eps": 0.0}
    make(rule, [w], lr=0.1, **eps).step([np.array([1.0, -2.0, 3.0, -0.5]) * scale])
    np.testing.assert_allclose(w, [-0.1, 0.1, -0.1, 0.1], rtol=1e-12)


def test_adagrad_keeps_long_steps_for_a_feature_seen_once_in_a_thousand_rows():
    w = np.zeros(2)
    optimizer = fo.optim.Adagrad([w], lr=0.1)
    for t in range(1, 1001):
        before = w.copy()
        optimizer.step([np.array([1.0, float(t == 1000)])])
    assert before - w == pytest.approx([0.1 / math.sqrt(1000), 0.1], rel=1e-6)


def test_adamw_decays_by_the_same_share_whatever_the_gradient():
    for scale in (1e-3, 1e3):
        w = np.array([4.0])
        fo.optim.AdamW([w], lr=0.1, weight_decay=0.5).step([np.full(1, scale)])
        assert w == pytest.approx(4.0 * (1 - 0.1 * 0.5) - 0.1, rel=1e-4)


def test_radam_takes_plain_momentum_steps_until_it_trusts_the_second_moment():
    """Up to rho = 5, which falls into step 6 where beta2 = 0.999: steps grow with the gradient."""
    moved = []
    for scale in (1.0, 100.0):
        w = np.zeros(1)
        optimizer = fo.optim.RAdam([w], lr=0.1)
        moved.append([])
        for _ in range(6):
            before = w.copy()
            optimizer.step([np.full(1, scale)])
            moved[-1].append((before - w)[0])
    np.testing.assert_allclose(np.divide(moved[1], moved[0]), [100] * 5 + [1], rtol=1e-6)


def test_a_dead_unit_stays_where_it_is_under_rmsprop():
    w = np.ones(3)
    optimizer = fo.optim.RMSprop([w], nesterov="interim", momentum=0.9)
    for _ in range(3):
        optimizer.step([np.zeros(3)])
    np.testing.assert_array_equal(w, 1)


# Adagrad's steps shrink, Adadelta's start at sqrt(eps)
LEARNING_RATES = {"Adagrad": 1.0, "Adadelta": 1.0}


@every_rule
def test_convex_problems_are_solved_to_within_a_step(rule):
    w, target = np.zeros(5), np.linspace(-1, 1, 5)
    optimizer = make(rule, [w], lr=LEARNING_RATES.get(rule, 0.01), weight_decay=0.0)
    for _ in range(2000):
        optimizer.step([w - target])
    np.testing.assert_allclose(w, target, atol=0.011)


# ---------------------------------------------------------------- interim points


@every_interim
def test_the_interim_point_is_mu_v_ahead_and_left_as_it_was_entered(rule, options, dtype):
    params, grads = data(dtype, steps=4)
    optimizer = make(rule, params, **options)
    for step in grads:
        before, state = everything(optimizer)
        with optimizer.interim_point():
            ahead = [
                a + options["momentum"] * e.get("momentum_buffer", 0)
                for a, e in zip(before, state["state"].values(), strict=True)
            ]
            assert_close(params, ahead)
        assert_same(everything(optimizer), (before, state))
        optimizer.step(step)
    assert any((a != b).any() for a, b in zip(ahead, before, strict=True))


def fail_within(context, params):
    with context:
        params[1][...] = 7  # what the user writes there is undone as well
        raise ZeroDivisionError


@every_interim
def test_an_exception_leaves_the_interim_point_too(rule, options, dtype):
    params, grads = data(dtype, steps=2)
    optimizer = make(rule, params, **options)
    optimizer.step(grads[0])
    before = everything(optimizer)
    with pytest.raises(ZeroDivisionError):
        fail_within(optimizer.interim_point(), params)
    assert_same(everything(optimizer), before)


def test_a_step_or_a_second_block_inside_the_interim_point_is_refused_and_nothing_is_lost():
    w = np.ones(5)
    optimizer = fo.optim.SGD([w], lr=0.1, momentum=0.9, nesterov="interim")
    optimizer.step([np.ones(5)])
    home = w.copy()
    with optimizer.interim_point():
        with pytest.raises(RuntimeError, match="interim point"):
            optimizer.step([np.ones(5)])
        with pytest.raises(RuntimeError, match="interim point"), optimizer.interim_point():
            pass
    np.testing.assert_array_equal(w, home)
    optimizer.step([np.ones(5)])
    assert optimizer.steps == 2


def test_only_groups_with_interim_points_move():
    a, b = np.ones(3), np.ones(3)
    optimizer = fo.optim.SGD([{"params": [a], "nesterov": "interim"}, {"params": [b]}], lr=0.1, momentum=0.9)
    optimizer.step([np.ones(3), np.ones(3)])
    np.testing.assert_allclose(a, 0.9)
    with optimizer.interim_point():
        np.testing.assert_allclose(a, 0.9 - 0.9 * 0.1)
        np.testing.assert_allclose(b, 0.9)


def test_the_interim_point_takes_momentum_from_the_schedule_at_the_coming_update():
    w = np.zeros(1)
    momentum = fo.schedules.Power(0.9, 1.0)
    optimizer = fo.optim.SGD([w], lr=1.0, momentum=momentum, nesterov="interim")
    optimizer.step([np.ones(1)])  # v = -1
    with optimizer.interim_point():
        np.testing.assert_allclose(w, [-1 - momentum(2)])


@pytest.mark.parametrize(
    ("rule", "options"), [("SGD", {"momentum": 0.9, "nesterov": True}), ("RMSprop", {}), ("Adam", {})]
)
def test_without_an_interim_form_there_is_no_interim_point(rule, options):
    optimizer = make(rule, [np.ones(3)], **options)
    with pytest.raises(ValueError, match="interim"), optimizer.interim_point():
        pass


# ---------------------------------------------------------------- clipping


@every_kernel
@pytest.mark.parametrize("max_norm", [5.0, 1e6])
def test_max_norm_scales_all_gradients_together_inside_the_update(rule, options, max_norm, dtype):
    params, grads = data(dtype, steps=10)
    optimizer, oracle = make(rule, params, max_norm=max_norm, **options), Oracle(rule, params, **options)
    for t, step in enumerate(grads):
        given = [None if i == t % 6 else g for i, g in enumerate(step)]
        for g in step:
            g.flags.writeable = False
        clipped, norm = clip_by_norm(given, max_norm)
        optimizer.step(given)
        oracle.step(clipped)
        assert optimizer.grad_norm == pytest.approx(norm, rel=RTOL[dtype])
    assert_follows(optimizer, params, oracle)


@every_kernel
def test_clip_value_clamps_every_element_inside_the_update(rule, options, dtype):
    params, grads = data(dtype, steps=10)
    optimizer, oracle = make(rule, params, clip_value=1.5, **options), Oracle(rule, params, **options)
    for step in grads:
        for g in step:
            g.flags.writeable = False
        optimizer.step(step)
        oracle.step(clip_by_value(step, 1.5))
    assert_follows(optimizer, params, oracle)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("clip", [{"max_norm": 1.0}, {"clip_value": 1.0}], ids=str)
def test_clipping_does_with_what_is_not_finite_what_the_formula_says(clip, value, dtype):
    params, (grads, *_) = data(dtype, steps=1)
    grads[5][100] = value
    optimizer, oracle = make("SGD", params, lr=1.0, **clip), Oracle("SGD", params, lr=1.0)
    with np.errstate(all="ignore"):
        optimizer.step(grads)
        oracle.step(clip_by_norm(grads, 1.0)[0] if "max_norm" in clip else clip_by_value(grads, 1.0))
    assert_close(params, oracle.params)
    assert np.isfinite(params[0]).all() == (value == np.inf or "clip_value" in clip)


def test_the_norm_is_measured_once_over_arrays_of_both_dtypes():
    params = [np.zeros(2, np.float32), np.zeros(1)]
    optimizer = fo.optim.SGD(params, lr=1.0, max_norm=1.0)
    optimizer.step([np.array([3, 0], np.float32), np.array([4.0])])
    assert optimizer.grad_norm == pytest.approx(5.0, rel=1e-6)
    np.testing.assert_allclose(params[0], [-0.6, 0], rtol=1e-6)
    np.testing.assert_allclose(params[1], [-0.8], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_the_norm_is_right_where_squares_of_float32_are_not(scale):
    grads = [np.full(n, scale, np.float32) for n in (3, 9001)]
    optimizer = fo.optim.SGD([np.zeros_like(g) for g in grads], max_norm=1.0)
    optimizer.step(grads)
    _, norm = clip_by_norm(grads, 1.0)
    assert optimizer.grad_norm == pytest.approx(norm, rel=RTOL[np.dtype(np.float32)])
    assert fo.functional.clip_grad_norm_(grads, 1e38) == pytest.approx(norm, rel=RTOL[np.dtype(np.float32)])


@pytest.mark.parametrize("max_norm", [3.0, 1e6])
def test_clip_grad_norm_scales_in_place_and_returns_the_norm(max_norm, dtype):
    (grads,) = data(dtype, steps=1)[1]
    want, norm = clip_by_norm(grads, max_norm)
    found = fo.functional.clip_grad_norm_(grads, max_norm)
    assert isinstance(found, float)
    assert found == pytest.approx(norm, rel=RTOL[dtype])
    assert_close(grads, want)


def test_clip_grad_value_clamps_in_place(dtype):
    (grads,) = data(dtype, steps=1)[1]
    want = clip_by_value(grads, dtype.type(1.5))
    fo.functional.clip_grad_value_(grads, 1.5)
    assert_same(grads, want)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_clip_grad_norm_raises_where_asked_before_it_writes(value):
    grads = [np.ones(3), np.array([1.0, value])]
    before = [g.copy() for g in grads]
    with pytest.raises((RuntimeError, FloatingPointError)):
        fo.functional.clip_grad_norm_(grads, 1.0, error_if_nonfinite=True)
    assert_same(grads, before)
    with np.errstate(all="ignore"):
        want, _ = clip_by_norm(before, 1.0)
    fo.functional.clip_grad_norm_(grads, 1.0)
    np.testing.assert_array_equal(grads[0], want[0])
    np.testing.assert_array_equal(grads[1], want[1])


# ---------------------------------------------------------------- gradients that are not finite

PLACES = [(0, (0,)), (1, (2, 4)), (4, (1, 2, 6)), (5, (256,))]


@pairwise(case=KERNELS, where=PLACES, value=[np.nan, np.inf, -np.inf])
def test_check_finite_raises_naming_the_place_changes_nothing_and_the_step_can_be_repeated(case, where, value):
    (rule, options), (i, place) = case, where
    (params, grads), (twins, _) = data(np.float32, steps=3), data(np.float32, steps=3)
    optimizer, undisturbed = make(rule, params, check_finite="raise", **options), make(rule, twins, **options)
    for step in grads:
        good, step[i][place] = step[i][place], value
        before = everything(optimizer)
        with pytest.raises(FloatingPointError, match=rf"grads\[{i}\].*{', '.join(map(str, place))}"):
            optimizer.step(step)
        assert_same(everything(optimizer), before)
        step[i][place] = good
        optimizer.step(step)
        undisturbed.step(step)
    assert_same(everything(optimizer), everything(undisturbed))


@pairwise(case=KERNELS, where=PLACES, dtype=RTOL)
def test_check_finite_skips_the_whole_step_and_counts_it(case, where, dtype):
    (rule, options), (i, place) = case, where
    (params, grads), (twins, _) = data(dtype, steps=6), data(dtype, steps=6)
    optimizer, undisturbed = make(rule, params, check_finite="skip", **options), make(rule, twins, **options)
    assert optimizer.skipped == 0
    for t, step in enumerate(grads):
        if t in (0, 3, 4):
            step[i][place] = np.nan if t else -np.inf
        else:
            undisturbed.step(step)
        optimizer.step(step)
    assert optimizer.skipped == 3
    assert optimizer.steps == 3
    assert_same(everything(optimizer), everything(undisturbed))


@pytest.mark.parametrize("place", [0, 4095, 4096, 99_999])
def test_check_finite_finds_the_place_in_a_long_array(place, dtype):
    grad = np.ones(100_000, dtype)
    grad[place] = np.nan
    optimizer = fo.optim.SGD([np.ones(100_000, dtype)], check_finite="raise")
    with pytest.raises(FloatingPointError, match=rf"grads\[0\].*\b{place}\b"):
        optimizer.step([grad])


def test_check_finite_passes_the_largest_numbers(dtype):
    w = np.zeros(3, dtype)
    optimizer = fo.optim.SGD([w], lr=0.5, check_finite="raise")
    optimizer.step([np.full(3, np.finfo(dtype).max)])
    np.testing.assert_array_equal(w, -np.finfo(dtype).max / 2)


# ---------------------------------------------------------------- accumulation


@every_kernel
@pytest.mark.parametrize("k", [2, 3])
def test_accumulation_updates_every_kth_call_with_the_average(rule, options, k, dtype):
    params, grads = data(dtype, steps=4 * k)
    optimizer, oracle = make(rule, params, accumulate=k, **options), Oracle(rule, params, **options)
    calls = []
    for t, step in enumerate(grads):
        # parameter 1 + t // k has no gradient in these k calls, every second one none in some
        given = [None if i == 1 + t // k or (i % 2 and (i + t) % k == 0) else g for i, g in enumerate(step)]
        calls.append([None if g is None else g.copy() for g in given])
        before = [a.copy() for a in params]
        optimizer.step(given)
        for g in step:
            g[...] = np.nan  # a gradient is the caller's again after the call
        assert (optimizer.steps, optimizer.state_dict()["accumulated"]) == divmod(t + 1, k)
        if len(calls) < k:
            assert_same(params, before)
        else:
            oracle.step(mean_of_calls(calls))
            calls = []
    assert_follows(optimizer, params, oracle)


@pytest.mark.parametrize("clip", [{"max_norm": 2.0}, {"clip_value": 0.5}], ids=str)
def test_clipping_acts_on_the_accumulated_average(clip, dtype):
    params, grads = data(dtype, steps=6)
    optimizer, oracle = make("SGD", params, lr=0.1, accumulate=2, **clip), Oracle("SGD", params, lr=0.1)
    for calls in zip(grads[::2], grads[1::2], strict=True):
        for step in calls:
            optimizer.step(step)
        mean = mean_of_calls(calls)
        oracle.step(clip_by_norm(mean, 2.0)[0] if "max_norm" in clip else clip_by_value(mean, 0.5))
    assert_follows(optimizer, params, oracle)


@pytest.mark.parametrize("check", ["raise", "skip"])
def test_a_call_that_is_not_finite_leaves_no_trace_in_the_accumulated_gradient(check):
    (params, grads), (twins, _) = data(np.float32, steps=4), data(np.float32, steps=4)
    optimizer = make("Adam", params, accumulate=2, check_finite=check)
    undisturbed = make("Adam", twins, accumulate=2)
    bad = [np.full(shape, np.nan, np.float32) for shape in SHAPES]
    for step in grads:
        optimizer.step(step)
        undisturbed.step(step)
        if check == "raise":
            with pytest.raises(FloatingPointError):
                optimizer.step(bad)
        else:
            optimizer.step(bad)
    assert_same(everything(optimizer), everything(undisturbed))


# ---------------------------------------------------------------- averaged parameters


@every_kernel
def test_averages_follow_every_update_and_stand_in_the_parameters_while_asked(rule, options, dtype):
    params, grads = data(dtype, steps=12)
    optimizer, oracle = make(rule, params, ema_decay=0.9, **options), Oracle(rule, params, **options)
    averages = [None] * len(params)
    for t, step in enumerate(grads):
        given = [g if (t + i) % 3 else None for i, g in enumerate(step)]
        optimizer.step(given)
        oracle.step(given)
        for i, (g, p) in enumerate(zip(given, oracle.params, strict=True)):
            if g is not None:
                averages[i] = p if averages[i] is None else 0.9 * averages[i] + (1 - 0.9) * p
    before = everything(optimizer)
    assert_close([entry["ema"] for entry in before[1]["state"].values()], averages)
    with optimizer.averaged():
        assert_same(params, [entry["ema"] for entry in before[1]["state"].values()])
    assert_same(everything(optimizer), before)
    assert_close(params, oracle.params)


def test_an_exception_inside_averaged_restores_the_parameters():
    params, grads = data(np.float32, steps=2)
    optimizer = make("Adam", params, ema_decay=0.5)
    for step in grads:
        optimizer.step(step)
    before = everything(optimizer)
    with pytest.raises(ZeroDivisionError):
        fail_within(optimizer.averaged(), params)
    assert_same(everything(optimizer), before)


def test_a_parameter_that_was_never_updated_is_its_own_average():
    a, b = np.ones(3), np.ones(3)
    optimizer = fo.optim.SGD([a, b], lr=0.5, ema_decay=0.5)
    optimizer.step([np.ones(3), None])
    with optimizer.averaged():
        np.testing.assert_array_equal(a, 0.5)
        np.testing.assert_array_equal(b, 1.0)


def test_without_averages_there_is_nothing_to_show():
    optimizer = fo.optim.SGD([np.ones(3)])
    with pytest.raises(ValueError, match="ema_decay"), optimizer.averaged():
        pass


# ---------------------------------------------------------------- binding, and steps that are refused


@every_case
def test_bound_gradients_give_the_bits_of_given_ones(rule, options):
    (given, grads), (bound, _) = data(np.float32, steps=5), data(np.float32, steps=5)
    arrays = [np.empty_like(a) for a in bound]
    one, other = make(rule, given, **options), make(rule, bound, **options)
    other.bind(arrays)
    for step in grads:
        one.step(step)
        for a, g in zip(arrays, step, strict=True):
            a[...] = g
        other.step()
    assert_same(everything(one), everything(other))


def test_gradients_may_come_from_any_iterable():
    a, b = np.zeros(3), np.zeros(3)
    optimizer = fo.optim.SGD((w for w in (a, b)), lr=0.5)
    optimizer.step(g for g in (np.ones(3), None))
    optimizer.bind(iter([np.ones(3), np.ones(3)]))
    optimizer.step()
    np.testing.assert_array_equal(a, -1.0)
    np.testing.assert_array_equal(b, -0.5)


BAD_GRADS = {
    "too few": lambda w: [np.ones(3)],
    "too many": lambda w: [np.ones(3), np.ones((2, 3)), np.ones(3)],
    "wrong shape": lambda w: [np.ones(3), np.ones((3, 2))],
    "wrong dtype": lambda w: [np.ones(3), np.ones((2, 3), np.float32)],
    "integers": lambda w: [np.ones(3), np.ones((2, 3), int)],
    "other byte order": lambda w: [np.ones(3), np.ones((2, 3), ">f8")],
    "not contiguous": lambda w: [np.ones(3), np.ones((3, 2)).T],
    "unaligned": lambda w: [np.ones(3), np.zeros(49, np.uint8)[1:].view(float).reshape(2, 3)],
    "the parameter itself": lambda w: [np.ones(3), w[1]],
    "overlapping another parameter": lambda w: [w[1].ravel()[1:4], np.ones((2, 3))],
    "a list": lambda w: [np.ones(3), [[1.0] * 3] * 2],
}
EXTRAS = [{}, {"max_norm": 1.0}, {"clip_value": 1.0}, {"accumulate": 2}, {"ema_decay": 0.5}, {"check_finite": "raise"}]


@every_rule
@pytest.mark.parametrize("extra", EXTRAS, ids=str)
def test_a_refused_step_changes_nothing_and_can_be_repeated(rule, extra):
    good = [np.full(3, 0.5), np.full((2, 3), -0.5)]
    params, twins = [np.ones(3), np.ones((2, 3))], [np.ones(3), np.ones((2, 3))]
    optimizer, undisturbed = make(rule, params, lr=0.1, **extra), make(rule, twins, lr=0.1, **extra)
    for bad in BAD_GRADS.values():
        before = everything(optimizer)
        with pytest.raises((TypeError, ValueError), match="grads"):
            optimizer.step(bad(params))
        assert_same(everything(optimizer), before)
        optimizer.step(good)
        undisturbed.step(good)
    assert_same(everything(optimizer), everything(undisturbed))


def test_a_refused_binding_keeps_the_one_before():
    w, g = np.zeros(3), np.ones(3)
    optimizer = fo.optim.SGD([w], lr=0.5)
    optimizer.bind([g])
    for bad in ([np.ones(4)], [g, g]):
        with pytest.raises(ValueError, match="grads"):
            optimizer.bind(bad)
    optimizer.step()
    np.testing.assert_array_equal(w, -0.5)


OUT_OF_RANGE = {
    "lr": -1.0,
    "weight_decay": math.nan,
    "eps": -1e-8,
    "momentum": -0.1,
    "lr_decay": -1.0,
    "alpha": -0.1,
    "rho": 1.5,
    "betas": (0.9, 1.0),
    "momentum_decay": -1.0,
    "initial_accumulator_value": -1.0,
    "nesterov": "sometimes",
}
RANGES = [(rule, name) for rule in RULES for name in OUT_OF_RANGE if name in inspect.signature(RULES[rule]).parameters]


@pytest.mark.parametrize(("rule", "name"), RANGES)
def test_an_option_out_of_range_is_refused_before_anything_changes(rule, name):
    params, good = [np.ones(3), np.ones(3)], [np.ones(3), np.ones(3)]
    with pytest.raises(ValueError, match=name):
        make(rule, params, **{name: OUT_OF_RANGE[name]})
    optimizer = make(rule, [{"params": [a]} for a in params])
    before = everything(optimizer)
    kept = optimizer.param_groups[1][name]
    optimizer.param_groups[1][name] = OUT_OF_RANGE[name]
    with pytest.raises(ValueError, match=name):
        optimizer.step(good)
    optimizer.param_groups[1][name] = kept
    assert_same(everything(optimizer), before)
    optimizer.step(good)
    assert optimizer.steps == 1


@pytest.mark.parametrize("rule", ["SGD", "RMSprop"])
def test_nesterovs_forms_need_momentum_and_no_dampening(rule):
    forms = ("interim", True) if rule == "SGD" else ("interim",)
    lacking = [{}, {"momentum": 0.9, "dampening": 0.1}] if rule == "SGD" else [{}]
    for form, options in itertools.product(forms, lacking):
        with pytest.raises(ValueError, match="nesterov"):
            make(rule, [np.ones(3)], nesterov=form, **options)


WHOLE = {
    "max_norm": (-1.0, math.nan),
    "clip_value": (-1.0, math.nan),
    "check_finite": ("always", True),
    "accumulate": (0, 1.5),
    "ema_decay": (-0.1, 1.5),
}


@pytest.mark.parametrize(("name", "value"), [(name, v) for name, values in WHOLE.items() for v in values])
def test_options_of_the_whole_optimizer_are_checked_and_belong_to_no_group(name, value):
    with pytest.raises(ValueError, match=name):
        fo.optim.SGD([np.ones(3)], **{name: value})
    with pytest.raises(TypeError, match=name):
        fo.optim.SGD([{"params": [np.ones(3)], name: value}])


def test_gradients_are_clipped_in_one_way_only():
    with pytest.raises(ValueError, match=r"max_norm|clip_value"):
        fo.optim.SGD([np.ones(3)], max_norm=1.0, clip_value=1.0)


@every_rule
def test_a_parameter_twice_or_one_that_cannot_be_updated_is_refused(rule):
    w = np.ones(4)
    w_read_only = np.ones(4)
    w_read_only.flags.writeable = False
    for params in ([w, w], [w, w[2:]], [{"params": [w]}, {"params": [w]}], [w_read_only], [np.ones((2, 3)).T]):
        with pytest.raises(ValueError, match=r"params\["):
            make(rule, params)
    np.testing.assert_array_equal(w, 1)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"w": np.ones(2)}, r"params: expected a list of arrays, or of groups .*, got a dict; pass list"),
        ([("w", np.ones(2))], r"params: expected arrays, got \(name, array\) pairs; pass \[array for name"),
        ({memoryview(b"")}, r"params: expected arrays in an order that stays, got a set; pass a list"),
        (frozenset(), r"params: expected arrays in an order that stays, got a frozenset; pass a list"),
    ],
)
def test_parameters_come_in_an_order_that_stays(params, message):
    for alone_or_in_a_group in (params, [{"params": params}]):
        with pytest.raises(TypeError, match=message):
            fo.optim.SGD(alone_or_in_a_group)


def test_parameters_may_come_from_a_generator():
    arrays = [np.ones(2), np.ones(3)]
    fo.optim.SGD((a for a in arrays), lr=1.0).step(a.copy() for a in arrays)
    assert not any(a.any() for a in arrays)


@pytest.mark.parametrize("grads", [{0: np.ones(2)}, set(), frozenset()])
def test_gradients_come_in_the_order_of_the_parameters(grads):
    optimizer = fo.optim.SGD([w := np.ones(2)])
    for call in (optimizer.step, optimizer.bind):
        with pytest.raises(TypeError, match=r"grads: expected a list of arrays in the order of the parameters, got a"):
            call(grads)
    np.testing.assert_array_equal(w, 1)


CHANGED = {
    "read-only": (
        lambda a: a.setflags(write=False),
        r"params\[1\]: expected a writable array, .* made read-only since",
    ),
    "longer": (
        lambda a: a.resize(50_000, refcheck=False),
        r"params\[1\]: expected the array as it was taken in, .*\(50000,\)",
    ),
    "shorter": (lambda a: a.resize(2, refcheck=False), r"params\[1\]: expected the array as it was taken in, .*\(2,\)"),
}


@pytest.mark.parametrize("change", CHANGED)
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "nesterov": "interim"}, {"ema_decay": 0.5}], ids=str)
def test_a_parameter_that_has_changed_its_memory_since_is_refused_and_nothing_is_written(change, options):
    params, grads = [np.ones(3), np.ones(40)], [np.ones(3), np.ones(40)]
    optimizer = fo.optim.SGD(params, **options)
    optimizer.bind(grads)
    make_change, message = CHANGED[change]
    make_change(params[1])
    before = [a.copy() for a in params]
    calls = [lambda: optimizer.step(), lambda: optimizer.step([np.ones(3), np.ones(40)])]
    calls += [optimizer.interim_point().__enter__] if "nesterov" in options else []
    calls += [optimizer.averaged().__enter__] if "ema_decay" in options else []
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()
        assert_same(params, before)
    assert optimizer.steps == 0
    optimizer.require_idle()  # no block is left open


def test_a_bound_gradient_that_has_moved_is_checked_again():
    w, grad = np.ones(3), np.ones(3)
    optimizer = fo.optim.SGD([w], lr=1.0)
    optimizer.bind([grad])
    optimizer.step()
    grad.resize(60_000, refcheck=False)
    with pytest.raises(ValueError, match=r"grads\[0\]: expected shape \(3,\) .* got \(60000,\)"):
        optimizer.step()
    grad.resize(3, refcheck=False)
    optimizer.step()
    np.testing.assert_array_equal(w, -1)


@pytest.mark.parametrize("make_optimizer", [fo.optim.SGD, fo.optim.Adam, fo.optim.NewtonCG])
@pytest.mark.parametrize("name", ["weight", "running_mean"])
def test_a_trainer_refuses_a_layer_made_read_only_since(make_optimizer, name):
    net = fo.nn.Sequential([fo.nn.BatchNorm(3), fo.nn.Dense(3, 2)], rng=0)
    trainer = fo.nn.Trainer(net, "cross_entropy", make_optimizer(net.parameters()))
    x, y = np.random.default_rng(0).normal(size=(8, 3)), np.arange(8) % 2
    getattr(net.layers[name == "weight"], name).flags.writeable = False
    before = [a.copy() for layer in net.layers for a in layer.arrays().values() if a is not None]
    for call in (lambda: trainer.step(x, y), lambda: trainer.fit(x, y)):
        with pytest.raises(ValueError, match=r"expected a writable array, got one that has been made read-only since"):
            call()
    assert_same([a for layer in net.layers for a in layer.arrays().values() if a is not None], before)
    getattr(net.layers[name == "weight"], name).flags.writeable = True
    trainer.step(x, y)


def test_a_second_thread_is_refused_while_a_step_runs():
    w, grads = np.ones(4_000_000, np.float32), [np.ones(4_000_000, np.float32)]
    optimizer = fo.optim.SGD([w], lr=1.0)
    errors = []

    def work():
        for _ in range(100):
            try:
                optimizer.step(grads)
            except RuntimeError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors
    assert all("another thread" in error for error in errors)
    assert optimizer.steps == 200 - len(errors)
    assert (w == 1 - optimizer.steps).all()


def test_groups_that_trade_their_parameters_are_refused():
    a, b, c = np.ones(3), np.ones(4), np.ones(5)
    optimizer = fo.optim.SGD([{"params": [a], "momentum": 0.9}, {"params": [b, c]}], lr=0.1)
    grads = [np.ones(3), np.ones(4), np.ones(5)]
    optimizer.step(grads)
    optimizer.param_groups.reverse()
    with pytest.raises(ValueError, match="param_groups"):
        optimizer.step(grads)
    optimizer.param_groups.reverse()
    optimizer.param_groups[1]["params"].pop()
    optimizer.param_groups[1]["lr"] = 0.2
    with pytest.raises(ValueError, match="param_groups"):
        optimizer.step(grads)


def test_options_a_rule_does_not_have_do_nothing():
    w, twin = np.ones(3), np.ones(3)
    optimizer, plain = fo.optim.Adam([w], lr=0.1), fo.optim.Adam([twin], lr=0.1)
    optimizer.param_groups[0] |= {"nesterov": True, "beta1": 0.1, "alpha": 0.2, "initial_lr": 3.0}
    optimizer.step([np.full(3, 0.5)])
    plain.step([np.full(3, 0.5)])
    np.testing.assert_array_equal(w, twin)


def test_an_option_that_is_gone_is_missed():
    w = np.ones(3)
    optimizer = fo.optim.Adam([w], lr=0.1)
    del optimizer.param_groups[0]["lr"]
    with pytest.raises(ValueError, match="lr: expected in every group"):
        optimizer.step([np.ones(3)])
    np.testing.assert_array_equal(w, 1)


def test_a_number_used_once_takes_no_schedule():
    with pytest.raises(ValueError, match="initial_accumulator_value"):
        fo.optim.Adagrad([np.ones(3)], initial_accumulator_value=fo.schedules.Constant(0.1))


def test_lr_in_velocity_without_momentum_is_plain_descent():
    w = np.ones(3)
    fo.optim.SGD([w], lr=0.25, lr_in_velocity=True).step([np.ones(3)])
    np.testing.assert_array_equal(w, 0.75)


@pytest.mark.parametrize("value", [1, "yes", None])
def test_nesterov_is_one_of_its_three_values(value):
    with pytest.raises(ValueError, match="nesterov"):
        fo.optim.SGD([np.ones(3)], momentum=0.9, nesterov=value)


def test_nothing_changes_while_parameters_are_not_at_home():
    w = np.ones(3)
    optimizer = fo.optim.SGD([w], lr=0.5, momentum=0.5, nesterov="interim", ema_decay=0.5)
    optimizer.step([np.ones(3)])
    home, state = w.copy(), optimizer.state_dict()
    for block in (optimizer.interim_point, optimizer.averaged):
        with block():
            for change in (
                lambda: optimizer.step([np.ones(3)]),
                lambda: optimizer.bind([np.ones(3)]),
                lambda: optimizer.add_param_group({"params": [np.ones(2)]}),
                lambda: optimizer.load_state_dict(state),
            ):
                with pytest.raises(RuntimeError, match="leave that block first"):
                    change()
        np.testing.assert_array_equal(w, home)


def test_numbers_that_change_inside_a_tuple_are_noticed():
    beta = np.array(0.9)
    w, twin = np.ones(3), np.ones(3)
    optimizer, plain = fo.optim.Adam([w], betas=(beta, 0.999)), fo.optim.Adam([twin])
    for step in range(2):
        if step:
            beta[...] = 0.5
            plain.param_groups[0]["betas"] = (0.5, 0.999)
        for each in (optimizer, plain):
            each.step([np.full(3, 0.5)])
    np.testing.assert_array_equal(w, twin)


def test_a_plateau_told_outside_of_fit_holds_from_the_next_step():
    w = np.zeros(1)
    lr = fo.schedules.ReduceOnPlateau(1.0, factor=0.5, patience=0)
    optimizer = fo.optim.SGD([w], lr=lr)
    for loss in (1.0, 1.0, 1.0):
        optimizer.step([np.ones(1)])
        lr.update(loss)
    np.testing.assert_array_equal(w, -2.5)


def test_max_norm_infinity_measures_and_leaves_the_gradient():
    w = np.zeros(2)
    optimizer = fo.optim.SGD([w], lr=1.0, max_norm=math.inf)
    optimizer.step([np.array([3.0, 4.0])])
    assert optimizer.grad_norm == 5.0
    np.testing.assert_array_equal(w, [-3.0, -4.0])


def test_a_parameter_resized_while_its_average_stands_in_it_is_not_written_past_its_end():
    params = [np.ones(40_000), np.ones(3)]
    optimizer = fo.optim.SGD(params, lr=0.1, ema_decay=0.9)
    optimizer.step([np.ones_like(a) for a in params])
    with pytest.raises(ValueError, match=r"params\[0\]: expected the array as it was taken in"), optimizer.averaged():
        params[0].resize(2, refcheck=False)
