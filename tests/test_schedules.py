"""Schedules against their formulas and, where it is installed, torch.optim.lr_scheduler.

Pass criterion: every value is within RTOL of the formula written with NumPy; within
TORCH_RTOL of torch, whose schedulers multiply step by step and gather rounding.
"""

import copy
import json
import math
import os
import pickle
import re
import warnings

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastopt import schedules
from fastopt.schedules import (
    Constant,
    Cosine,
    Exponential,
    InverseTime,
    LinearDecay,
    OneCycle,
    Power,
    ReduceOnPlateau,
    Schedule,
    Step,
    SutskeverMomentum,
    Warmup,
)

RTOL = 1e-13
TORCH_RTOL = 1e-10
T = np.arange(1, 2001)


def alpha(t, steps):
    return np.minimum(t / steps, 1)


def one_cycle(t):
    """OneCycle(0.2, 1000, 0.25, "linear", 10, 100): straight lines through three points."""
    return np.interp(t, [1, 250, 1000], [0.02, 0.2, 0.0002])


def cosine(t, first, last, steps):
    return last + (first - last) * (1 + np.cos(np.pi * np.minimum(t - 1, steps) / steps)) / 2


# schedule -> its formula
FORMULAS = [
    (Constant(0.3), lambda t: 0.3 + 0 * t),
    (InverseTime(0.3), lambda t: 0.3 / t),
    (Power(0.1, 0.3), lambda t: 0.1 / t**0.3),
    (Power(32, -0.5), lambda t: 32 * np.sqrt(t)),
    (Exponential(0.5, 0.01), lambda t: 0.5 * np.exp(-0.01 * t)),
    (Exponential(32, -0.001), lambda t: 32 * np.exp(0.001 * t)),
    (LinearDecay(0.5, 0.005, 300), lambda t: (1 - alpha(t, 300)) * 0.5 + alpha(t, 300) * 0.005),
    (Step(0.5, 30), lambda t: 0.5 * 0.1 ** ((t - 1) // 30)),
    (Step(32, 500, 2), lambda t: 32.0 * 2 ** ((t - 1) // 500)),
    (Cosine(0.5, 777), lambda t: cosine(t, 0.5, 0, 777)),
    (Cosine(0.5, 100, final=0.1), lambda t: cosine(t, 0.5, 0.1, 100)),
    (
        Warmup(10, Power(0.1, 0.5), start=0.01),
        lambda t: np.where(t <= 10, 0.01 + 0.09 * t / 10, 0.1 / np.sqrt(np.maximum(t - 10, 1))),
    ),
    (Warmup(10, 0.25), lambda t: 0.25 * alpha(t, 10)),
    (OneCycle(0.2, 1000, 0.25, "linear", 10, 100), one_cycle),
    (
        OneCycle(0.2, 1000, 0.5, div_factor=10, final_div_factor=1),
        lambda t: (
            0.11 + 0.09 * np.cos(np.pi * np.where(t <= 500, 1 - (t - 1) / 499, (np.minimum(t, 1000) - 500) / 500))
        ),
    ),
    (ReduceOnPlateau(0.4, 0.5, 3), lambda t: 0.4 + 0 * t),
    (SutskeverMomentum(), lambda t: np.minimum(1 - 2 ** (-1 - np.log2(t // 250 + 1)), 0.99)),
    (SutskeverMomentum(0.7), lambda t: np.minimum(1 - 2 ** (-1 - np.log2(t // 250 + 1)), 0.7)),
]
SCHEDULES = [schedule for schedule, _ in FORMULAS]
every = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


def test_the_table_has_every_schedule():
    kinds = {name for name in schedules.__all__ if isinstance(getattr(schedules, name), type)}
    assert {type(schedule).__name__ for schedule in SCHEDULES} == kinds - {"Schedule", "RobbinsMonro"}


@pytest.mark.parametrize(("schedule", "formula"), FORMULAS, ids=lambda x: repr(x) if isinstance(x, Schedule) else "")
def test_values_equal_the_formula(schedule, formula):
    np.testing.assert_allclose(schedule(T), formula(T), rtol=RTOL, atol=1e-16)


@every
def test_an_array_of_steps_gives_the_bits_of_single_calls(schedule):
    values = schedule(T)
    assert values.dtype == np.float64
    singles = [schedule(int(t)) for t in T]
    assert {type(value) for value in singles} == {float}
    np.testing.assert_array_equal(values, singles)


@pytest.mark.parametrize("integer", [np.uint8, np.int16, np.int64, np.uint64])
def test_steps_may_be_of_any_integer_type_and_shape(integer):
    schedule = InverseTime(1.0)
    t = np.arange(1, 13, dtype=integer).reshape(3, 4)
    np.testing.assert_array_equal(schedule(t.T), 1 / t.T)
    np.testing.assert_array_equal(schedule(t[:, ::2]), 1 / t[:, ::2])
    assert schedule(t[:0]).shape == (0, 4)
    assert schedule(np.array(2, integer)).shape == ()
    assert type(schedule(integer(2))) is float


def test_ends_are_exact():
    assert LinearDecay(0.3, 0.07, 9)(9) == 0.07
    assert [Cosine(0.3, 9, 0.07)(t) for t in (1, 10, 11)] == [0.3, 0.07, 0.07]
    assert Warmup(7, 0.3, start=0.1)(7) == 0.3
    assert Warmup(7, InverseTime(0.3))(8) == 0.3
    for anneal in ("cos", "linear"):
        cycle = OneCycle(0.3, 20, 0.5, anneal, div_factor=3.0, final_div_factor=7.0)
        assert [cycle(t) for t in (1, 10, 20, 21)] == [0.3 / 3, 0.3, 0.3 / 3 / 7, 0.3 / 3 / 7]


def test_a_cosine_keeps_its_digits_near_the_end():
    steps = 10**6
    assert Cosine(1.0, steps)(steps) == pytest.approx((math.pi / steps / 2) ** 2, rel=1e-9, abs=0)


@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize("pct_start", [0.0, 0.1, 0.3, 1.0])
def test_one_cycle_of_few_steps_is_finite_and_within_its_bounds(pct_start, anneal):
    for steps in (1, 2, 3, 10):  # 0.1 of 10 steps: a rise of a single step, where torch divides by zero
        values = OneCycle(1.0, steps, pct_start, anneal)(np.arange(1, steps + 3))
        assert (values >= 1 / 25 / 1e4).all()
        assert (values <= 1).all()
    assert OneCycle(1.0, 10, 0.1, anneal)(1) == 1 / 25


@pytest.mark.parametrize(
    ("schedule", "t", "value"),
    [
        (Exponential(1.0, -1.0), 1000, math.inf),
        (Exponential(0.0, -1.0), 1000, 0.0),
        (Exponential(1.0, 1.0), 1000, 0.0),
        (Step(32, 1, 2), 5000, math.inf),
        (Step(0, 1, 2), 5000, 0.0),
        (Step(1.0, 2, 0.0), 2, 1.0),
        (Step(1.0, 2, 0.0), 3, 0.0),
        (Power(1.0, 400.0), 10, 0.0),
        (Power(1.0, -400.0), 10, math.inf),
    ],
    ids=repr,
)
def test_values_too_large_or_too_small_for_a_float_are_inf_or_0(schedule, t, value):
    assert schedule(t) == value
    np.testing.assert_array_equal(schedule(np.array([t])), [value])


# torch


def import_torch():
    if "FASTOPT_SANITIZE" in os.environ:
        pytest.skip("a sanitizer run: torch is not built for it")
    if "FASTOPT_TEST_LEVEL" in os.environ:
        pytest.skip("inside the run of one level: the formulas cover it")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torch", reason="torch is not installed")


CASES = [
    (Cosine(0.1, 50), 51, "CosineAnnealingLR", {"T_max": 50}),
    (Cosine(0.1, 50, final=0.01), 51, "CosineAnnealingLR", {"T_max": 50, "eta_min": 0.01}),
    (Step(0.1, 7), 60, "StepLR", {"step_size": 7}),
    (Step(0.1, 7, 0.5), 60, "StepLR", {"step_size": 7, "gamma": 0.5}),
    (OneCycle(0.1, 100), 100, "OneCycleLR", {"total_steps": 100}),
    (OneCycle(0.1, 97, 0.37), 97, "OneCycleLR", {"total_steps": 97, "pct_start": 0.37}),
    (OneCycle(0.1, 10, 0.0), 10, "OneCycleLR", {"total_steps": 10, "pct_start": 0.0}),
    (OneCycle(0.1, 10, 0.05), 10, "OneCycleLR", {"total_steps": 10, "pct_start": 0.05}),
    (OneCycle(0.1, 10, 1.0), 10, "OneCycleLR", {"total_steps": 10, "pct_start": 1.0}),
    (OneCycle(0.1, 1), 1, "OneCycleLR", {"total_steps": 1}),
    (
        OneCycle(0.1, 60, 0.4, "linear", 5.0, 30.0),
        60,
        "OneCycleLR",
        {"total_steps": 60, "pct_start": 0.4, "anneal_strategy": "linear", "div_factor": 5.0, "final_div_factor": 30.0},
    ),
]


@pytest.mark.parametrize(("schedule", "steps", "name", "options"), CASES, ids=lambda x: repr(x).replace(" ", ""))
def test_values_equal_the_lr_of_torch_at_every_optimizer_step(schedule, steps, name, options):
    torch = import_torch()
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    if name == "OneCycleLR":
        options = {"max_lr": 0.1, "cycle_momentum": False, **options}
    peer, theirs = getattr(torch.optim.lr_scheduler, name)(optimizer, **options), []
    for _ in range(steps):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(theirs) < steps:
            peer.step()
    np.testing.assert_allclose(schedule(np.arange(1, steps + 1)), theirs, rtol=TORCH_RTOL, atol=1e-16)


PLATEAU = {
    "factor": st.sampled_from([0.0, 0.1, 0.5]),
    "patience": st.integers(0, 3),
    "threshold": st.sampled_from([0.0, 1e-4, 0.2, 0.9]),
    "threshold_mode": st.sampled_from(["rel", "abs"]),
    "cooldown": st.integers(0, 3),
    "final": st.sampled_from([0.0, 0.03, 1.0]),
    "eps": st.sampled_from([0.0, 1e-8, 0.05]),
    "mode": st.sampled_from(["min", "max"]),
}
positive = st.lists(st.sampled_from([0.0, 0.5, 0.6, 1.0, 1.1, 3.0, math.nan, math.inf, -math.inf]), max_size=30)


@given(st.fixed_dictionaries(PLATEAU), positive)
@example({}, [1.0] * 40)
@example({"patience": 0, "cooldown": 2}, [1.0] * 12)
@example({"patience": 0, "factor": 0.5, "eps": 0.05}, [1.0] * 3)
def test_reduce_on_plateau_equals_torch_bit_for_bit_where_no_measurement_is_negative(options, metrics):
    torch = import_torch()
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    renamed = {"min_lr" if name == "final" else name: value for name, value in options.items()}
    peer = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **renamed)
    schedule = ReduceOnPlateau(0.1, **options)
    for metric in metrics:
        before = schedule(1)
        changed = schedule.update(metric)
        peer.step(metric)
        assert schedule(1) == optimizer.param_groups[0]["lr"]
        assert changed is (schedule(1) != before)
        assert (schedule.bad, schedule.cooldown_left) == (peer.num_bad_epochs, peer.cooldown_counter)


def test_defaults_of_reduce_on_plateau_are_those_of_torch():
    torch = import_torch()
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    peer, ours = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer), ReduceOnPlateau(0.1)
    for name in ("factor", "patience", "threshold", "threshold_mode", "cooldown", "eps", "mode"):
        assert getattr(ours, name) == getattr(peer, name)
    assert [ours.final] == peer.min_lrs


# measurements


def test_reduce_on_plateau_waits_reduces_and_cools_down():
    lr = ReduceOnPlateau(1.0, factor=0.5, patience=1, cooldown=1)
    assert [lr.update(m) for m in (5, 4, 4, 4, 4, 4, 4, 3)] == [False, False, False, True, False, False, True, False]
    assert lr(1) == lr(10**6) == 0.25
    np.testing.assert_array_equal(lr(np.arange(1, 4)), 0.25)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("measurement", [-5.0, -1e-300, -1e300, 0.0, -0.0, 5.0])
def test_a_constant_measurement_is_no_improvement_whatever_its_sign(measurement, mode):
    lr = ReduceOnPlateau(1.0, patience=2, mode=mode)
    assert [lr.update(measurement) for _ in range(4)] == [False, False, False, True]
    assert lr.best == measurement


# sums of few bits: the margin is exact in floats
eighths = st.integers(-40, 40).map(lambda n: n / 8) | st.sampled_from([math.inf, -math.inf, math.nan])


@given(
    st.lists(eighths, max_size=20),
    st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5]),
    st.sampled_from(["rel", "abs"]),
    st.sampled_from([1, -1]),
)
def test_a_measurement_is_good_if_it_is_better_by_more_than_the_margin(metrics, threshold, threshold_mode, sign):
    schedule = ReduceOnPlateau(
        1.0, patience=99, threshold=threshold, threshold_mode=threshold_mode, mode="max" if sign == 1 else "min"
    )
    best, bad = None, 0
    for metric in metrics:
        if best is None:
            good = sign * metric > -math.inf
        elif math.isinf(best):
            good = sign * metric > sign * best
        else:
            good = sign * (metric - best) > (threshold * abs(best) if threshold_mode == "rel" else threshold)
        best, bad = (metric, 0) if good else (best, bad + 1)
        schedule.update(metric)
        assert (schedule.best, schedule.bad) == (best, bad)


@given(st.fixed_dictionaries({**PLATEAU, "mode": st.just("min")}), st.lists(st.floats(), max_size=20))
def test_the_largest_is_sought_as_the_smallest_of_the_opposite(options, metrics):
    small, large = ReduceOnPlateau(1.0, **options), ReduceOnPlateau(1.0, **{**options, "mode": "max"})
    for metric in metrics:
        assert small.update(metric) is large.update(-metric)
        assert small.bad == large.bad


def test_a_measurement_of_nan_is_bad_and_never_the_best():
    lr = ReduceOnPlateau(1.0, patience=1)
    assert [lr.update(m) for m in (math.nan, math.nan)] == [False, True]
    assert lr.best is None
    lr.update(np.float32(2.0))
    assert (lr.best, lr.bad) == (2.0, 0)


def test_no_warmup_is_the_schedule_itself():
    then = Cosine(0.3, 50)
    for lr in (Warmup(0, then), Warmup(0, then, start=0.2), Warmup(0, Warmup(0, then))):
        np.testing.assert_array_equal(lr(T), then(T))
        assert lr.robbins_monro() == then.robbins_monro()
        assert schedules.from_config(lr.config()) == lr
    assert Warmup(0, 0.1)(1) == 0.1


def test_warmup_passes_measurements_on():
    lr = Warmup(4, ReduceOnPlateau(1.0, patience=0))
    assert [lr.update(m) for m in (1.0, 2.0)] == [False, True]
    assert (lr(2), lr(5)) == (0.05, 0.1)


@pytest.mark.parametrize("schedule", [s for s in SCHEDULES if not isinstance(s, ReduceOnPlateau)], ids=repr)
def test_other_schedules_ignore_measurements(schedule):
    before = schedule.config()
    assert schedule.update(1.0) is False
    assert schedule.config() == before


# configuration

COPIES = {
    "config": lambda s: schedules.from_config(s.config()),
    "json": lambda s: schedules.from_config(json.loads(json.dumps(s.config(), allow_nan=False))),
    "pickle": lambda s: pickle.loads(pickle.dumps(s)),
    "deepcopy": copy.deepcopy,
}
every_copy = pytest.mark.parametrize("way", COPIES)


@every
@every_copy
def test_a_copy_is_equal_and_gives_the_same_bits(schedule, way):
    again = COPIES[way](schedule)
    assert again is not schedule
    assert again == schedule
    np.testing.assert_array_equal(again(T), schedule(T))


@every
def test_repr_is_the_call_that_makes_the_schedule(schedule):
    assert eval(repr(schedule), vars(schedules)) == schedule


def test_repr_shows_what_differs_from_the_defaults():
    assert repr(Power(np.float32(0.5), 0.3)) == "Power(0.5, 0.3)"
    assert repr(Step(1, 5)) == "Step(1.0, 5)"
    assert repr(Warmup(5, Step(1, 5, factor=0.2))) == "Warmup(5, Step(1.0, 5, factor=0.2))"


def test_schedules_are_equal_by_kind_and_arguments():
    assert Power(1, 0.5) == Power(1.0, 0.5)
    assert Power(1, 0.5) != Power(1, 0.25)
    assert Power(1, 0.5) != Exponential(1, 0.5)
    assert Constant(1) != 1
    assert Warmup(3, 1.0) == Warmup(3, Constant(1))
    assert Warmup(3, Power(1, 1)) != Warmup(3, InverseTime(1))


def test_config_is_the_name_and_the_arguments():
    assert Power(0.1, 0.3).config() == {"schedule": "Power", "value": 0.1, "power": 0.3}
    nested = Warmup(2, Warmup(3, Constant(1))).config()
    assert nested["then"]["then"] == {"schedule": "Constant", "value": 1.0}
    assert {type(value) for value in Step(np.float32(1), np.int64(5)).config().values()} == {str, float, int}


@every_copy
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: Warmup(5, s)], ids=["alone", "in a warm-up"])
def test_a_copy_of_reduce_on_plateau_continues_where_it_stood(wrap, way):
    measurements = [3.0, 2.0, 2.5, 2.5, 2.0, 1.0, 2.0, 2.0, 2.0, 2.0, 0.5, 2.0, 2.0, 2.0, 2.0]
    for stop in range(len(measurements) + 1):
        lr = wrap(ReduceOnPlateau(1.0, factor=0.5, patience=1, cooldown=1))
        for m in measurements[:stop]:
            lr.update(m)
        again = COPIES[way](lr)
        assert again == lr
        for m in measurements[stop:]:
            assert again.update(m) == lr.update(m)
            assert again(99) == lr(99)
        assert again == lr
        assert lr(99) == 0.125


def test_schedules_with_different_state_differ():
    a, b = ReduceOnPlateau(1.0), ReduceOnPlateau(1.0)
    a.update(5.0)
    assert a != b
    b.update(5.0)
    assert a == b


# Robbins & Monro

ROBBINS_MONRO = [
    # vanishes, sum diverges, squares converge
    (Constant(0.1), (False, True, False)),
    (Constant(0), (True, False, True)),
    (InverseTime(0.1), (True, True, True)),
    (InverseTime(0), (True, False, True)),
    (Power(0.1, -0.5), (False, True, False)),
    (Power(0.1, 0), (False, True, False)),
    (Power(0.1, 0.3), (True, True, False)),
    (Power(0.1, 0.5), (True, True, False)),
    (Power(0.1, 0.6), (True, True, True)),
    (Power(0.1, 1), (True, True, True)),
    (Power(0.1, 1.1), (True, False, True)),
    (Power(0, 0), (True, False, True)),
    (Power(0, 0.5), (True, False, True)),
    (Exponential(0.1, 1e-3), (True, False, True)),
    (Exponential(0.1, 0), (False, True, False)),
    (Exponential(0.1, -1e-6), (False, True, False)),
    (Exponential(0, -1e-6), (True, False, True)),
    (LinearDecay(0.1, 0.001, 100), (False, True, False)),
    (LinearDecay(0.1, 0, 100), (True, False, True)),
    (LinearDecay(0, 0.1, 100), (False, True, False)),
    (Step(0.1, 1000), (True, False, True)),
    (Step(0.1, 1000, 0), (True, False, True)),
    (Step(0.1, 1000, 1), (False, True, False)),
    (Step(0.1, 10_000, 1.1), (False, True, False)),
    (Step(0, 10_000, 1.1), (True, False, True)),
    (Cosine(0.1, 100), (True, False, True)),
    (Cosine(0.1, 100, 0.01), (False, True, False)),
    (Cosine(0, 100, 0.01), (False, True, False)),
    (OneCycle(0.1, 100), (False, True, False)),
    (OneCycle(0.1, 100, 1.0), (False, True, False)),
    (OneCycle(0, 100), (True, False, True)),
    (Warmup(10, 0.1), (False, True, False)),
    (Warmup(10, 0, start=0.1), (True, False, True)),
    (Warmup(10, InverseTime(0.1)), (True, True, True)),
    (Warmup(10, Warmup(10, Power(0.1, 0.5))), (True, True, False)),
    (Warmup(10, Exponential(0.1, 1e-3)), (True, False, True)),
    (SutskeverMomentum(), (False, True, False)),
    (SutskeverMomentum(1), (False, True, False)),
    (SutskeverMomentum(0), (True, False, True)),
]
every_answer = pytest.mark.parametrize(("schedule", "answer"), ROBBINS_MONRO, ids=lambda x: repr(x).replace(" ", ""))


@every_answer
def test_robbins_monro_conditions_are_those_of_the_table(schedule, answer):
    conditions = schedule.robbins_monro()
    vanishes, sum_diverges, squares_converge = answer
    assert conditions == answer
    assert all(type(condition) is bool for condition in conditions)
    assert conditions.holds is (sum_diverges and squares_converge)
    assert conditions.weak is (sum_diverges and vanishes)


LAST = 2**17
STEPS = np.arange(1, LAST)


@every_answer
def test_the_table_agrees_with_sums_over_blocks_that_double(schedule, answer):
    # a sum of powers converges when its blocks [n, 2n) shrink geometrically, and diverges when they do not
    values = schedule(STEPS)
    halves = [values[LAST // 4 - 1 : LAST // 2 - 1], values[LAST // 2 - 1 :]]

    def shrinks(before, after):
        return bool(after < 0.999 * before or after == 0)

    assert shrinks(halves[0][-1], halves[1][-1]) is answer[0]
    assert shrinks(halves[0].sum(), halves[1].sum()) is not answer[1]
    assert shrinks((halves[0] ** 2).sum(), (halves[1] ** 2).sum()) is answer[2]


@pytest.mark.parametrize("schedule", [ReduceOnPlateau(0.1), Warmup(10, ReduceOnPlateau(0.1))], ids=repr)
def test_reduce_on_plateau_cannot_answer_robbins_monro(schedule):
    with pytest.raises(ValueError, match="depend on the measurements"):
        schedule.robbins_monro()


# errors

ERRORS = [
    (lambda: Constant(-1), "value: expected a finite number of at least 0, got -1"),
    (lambda: Constant(math.nan), "value: expected a finite number of at least 0, got nan"),
    (lambda: Constant(math.inf), "value: expected a finite number of at least 0, got inf"),
    (lambda: Constant("0.1"), "value: expected a finite number of at least 0, got '0.1'"),
    (lambda: Constant(True), "value: expected a finite number of at least 0, got True"),
    (lambda: Constant(None), "value: expected a finite number of at least 0, got None"),
    (lambda: Constant(Constant(1)), "value: expected a finite number of at least 0, got Constant(1.0)"),
    (lambda: Constant(np.ones(1)), "value: expected a finite number of at least 0, got array([1.])"),
    (lambda: Power(1, math.inf), "power: expected a finite number, got inf"),
    (lambda: Exponential(1, math.nan), "rate: expected a finite number, got nan"),
    (lambda: LinearDecay(1, -0.1, 10), "final: expected a finite number of at least 0, got -0.1"),
    (lambda: LinearDecay(1, 0, 0), "steps: expected a whole number of at least 1, got 0"),
    (lambda: LinearDecay(1, 0, 10.0), "steps: expected a whole number of at least 1, got 10.0"),
    (lambda: LinearDecay(1, 0, True), "steps: expected a whole number of at least 1, got True"),
    (lambda: Step(1, 0), "every: expected a whole number of at least 1, got 0"),
    (lambda: Step(1, 5, -0.1), "factor: expected a finite number of at least 0, got -0.1"),
    (lambda: Cosine(1, 0), "steps: expected a whole number of at least 1, got 0"),
    (lambda: LinearDecay(1, 0, 2**53 + 1), f"steps: expected a whole number from 1 to {2**53}, got {2**53 + 1}"),
    (lambda: Constant(10**400), f"value: expected a finite number of at least 0, got {10**400}"),
    (lambda: Power(1, -(10**400)), f"power: expected a finite number, got {-(10**400)}"),
    (lambda: Warmup(-1, 1), "steps: expected a whole number of at least 0, got -1"),
    (lambda: Warmup(5, -1), "then: expected a schedule or a finite number of at least 0, got -1"),
    (lambda: Warmup(5, "cosine"), "then: expected a schedule or a finite number of at least 0, got 'cosine'"),
    (lambda: Warmup(5, 1, start=-1), "start: expected a finite number of at least 0, got -1"),
    (lambda: OneCycle(1, 5, 1.5), "pct_start: expected a finite number of at least 0 and at most 1, got 1.5"),
    (lambda: OneCycle(1, 5, anneal="sine"), "anneal: expected 'cos' or 'linear', got 'sine'"),
    (lambda: OneCycle(1, 5, div_factor=0), "div_factor: expected a finite number above 0, got 0"),
    (lambda: ReduceOnPlateau(1, factor=1), "factor: expected a finite number of at least 0 and below 1, got 1"),
    (lambda: ReduceOnPlateau(1, patience=-1), "patience: expected a whole number of at least 0, got -1"),
    (lambda: ReduceOnPlateau(1, cooldown=0.5), "cooldown: expected a whole number of at least 0, got 0.5"),
    (lambda: ReduceOnPlateau(1, mode="best"), "mode: expected 'min' or 'max', got 'best'"),
    (lambda: ReduceOnPlateau(1, threshold_mode=["rel"]), "threshold_mode: expected 'rel' or 'abs', got ['rel']"),
    (lambda: SutskeverMomentum(1.1), "maximum: expected a finite number of at least 0 and at most 1, got 1.1"),
    (lambda: Constant(1)(0), "t: expected a whole number of at least 1, got 0"),
    (lambda: Constant(1)(1.0), "t: expected a whole number of at least 1, got 1.0"),
    (lambda: Constant(1)(True), "t: expected a whole number of at least 1, got True"),
    (lambda: Constant(1)([1, 2]), "t: expected a whole number of at least 1, got [1, 2]"),
    (lambda: Constant(1)(np.array([3, 0])), "t: expected whole numbers of at least 1, got 0"),
    (lambda: Constant(1)(np.ones(2)), "t: expected an array of whole numbers, got dtype float64"),
]


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[message[:80] for _, message in ERRORS])
def test_an_error_names_the_argument_and_what_was_expected(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


POWER = {"schedule": "Power", "value": 0.1, "power": 0.3}
PLATEAU_CONFIG = ReduceOnPlateau(1.0).config()
BAD_CONFIGS = [
    (None, "config: expected a dict, got NoneType"),
    ({}, "config: expected 'schedule' to be one of Constant, "),
    ({**POWER, "schedule": "Powr"}, "config: expected 'schedule' to be one of Constant, "),
    ({**POWER, "schedule": "Schedule"}, "config: expected 'schedule' to be one of Constant, "),
    ({**POWER, "schedule": ["Power"]}, "config: expected 'schedule' to be one of Constant, "),
    ({"schedule": "Power"}, "config: Power takes value, power, got nothing"),
    ({"schedule": "Power", "value": 1}, "config: Power takes value, power, got value"),
    ({**POWER, "rate": 1}, "config: Power takes value, power, got value, power, rate"),
    ({**POWER, "value": -1}, "value: expected a finite number of at least 0, got -1"),
    ({**POWER, "value": POWER}, "value: expected a finite number of at least 0, got Power(0.1, 0.3)"),
    ({"schedule": "Warmup", "steps": 5, "then": {**POWER, "power": None}}, "power: expected a finite number, got None"),
    ({"schedule": "ReduceOnPlateau", "value": 1}, "config: ReduceOnPlateau takes value, factor, "),
    ({**PLATEAU_CONFIG, "present": 10**400}, "present: expected a finite number of at least 0, got 1000"),
    ({**PLATEAU_CONFIG, "bad": 10**400}, f"bad: expected a whole number from 0 to {2**53}, got 1000"),
    ({**PLATEAU_CONFIG, "present": -1}, "present: expected a finite number of at least 0, got -1"),
    ({**PLATEAU_CONFIG, "best": "low"}, "best: expected a finite number, got 'low'"),
    ({**PLATEAU_CONFIG, "best": math.nan}, "best: expected a finite number, got nan"),
    ({**PLATEAU_CONFIG, "bad": 0.5}, "bad: expected a whole number of at least 0, got 0.5"),
    ({**PLATEAU_CONFIG, "cooldown_left": -1}, "cooldown_left: expected a whole number of at least 0, got -1"),
]


@pytest.mark.parametrize(("config", "message"), BAD_CONFIGS)
def test_a_config_that_describes_no_schedule_is_refused(config, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        schedules.from_config(config)


def test_a_config_may_leave_out_options_that_have_a_default():
    assert schedules.from_config({"schedule": "Cosine", "value": 1, "steps": 5}) == Cosine(1, 5)
