"""Schedules whose value is a formula of the step: decays, warm-up, cycles, a growing momentum."""

import math
from dataclasses import dataclass, field
from typing import Any

from fastopt._numbers import finite_number
from fastopt.schedules.base import (
    ANNEAL,
    COUNT,
    FINITE,
    NUMBER,
    POSITIVE,
    SHARE,
    STEPS,
    RobbinsMonro,
    Schedule,
    tends_to,
)


def _scaled(value, function, *arguments):
    """value · function(arguments): inf where that is too large for a float, 0 where the value is 0."""
    try:
        return value * function(*arguments) if value else 0.0
    except OverflowError:
        return math.inf


def _line(first, last, share):
    return (1.0 - share) * first + share * last


def _half_cosine(first, last, share):
    # (1 + cos πx)/2 = sin²(π(1 − x)/2), which is exact at both ends
    return _line(last, first, math.sin(math.pi / 2.0 * (1.0 - share)) ** 2)


@dataclass(repr=False)
class Constant(Schedule):
    """``value`` at every step.

    Examples
    --------
    >>> from fastopt import schedules
    >>> schedules.Constant(0.1)(1000)
    0.1
    """

    value: float = field(metadata=NUMBER)

    def _at(self, t):
        return self.value


@dataclass(repr=False)
class InverseTime(Schedule):
    """``value / t`` (Robbins & Monro 1951).

    Examples
    --------
    >>> from fastopt import schedules
    >>> schedules.InverseTime(0.1)(4)
    0.025
    """

    value: float = field(metadata=NUMBER)

    def _at(self, t):
        return self.value / t

    def robbins_monro(self) -> RobbinsMonro:
        return Power(self.value, 1.0).robbins_monro()


@dataclass(repr=False)
class Power(Schedule):
    """``value / t ** power``. A negative power grows, as a batch size may.

    Examples
    --------
    >>> from fastopt import schedules
    >>> schedules.Power(0.5, 0.5)(25)
    0.1
    """

    value: float = field(metadata=NUMBER)
    power: float = field(metadata=FINITE)

    def _at(self, t):
        return _scaled(self.value, math.pow, t, -self.power)

    def robbins_monro(self) -> RobbinsMonro:
        if self.value == 0:
            return tends_to(0)
        return RobbinsMonro(vanishes=self.power > 0, sum_diverges=self.power <= 1, squares_converge=self.power > 0.5)


@dataclass(repr=False)
class Exponential(Schedule):
    """``value * exp(-rate * t)``. A negative rate grows, as a batch size may.

    Examples
    --------
    >>> from fastopt import schedules
    >>> round(schedules.Exponential(1.0, 0.5)(2), 6)
    0.367879
    """

    value: float = field(metadata=NUMBER)
    rate: float = field(metadata=FINITE)

    def _at(self, t):
        return _scaled(self.value, math.exp, -self.rate * t)

    def robbins_monro(self) -> RobbinsMonro:
        return tends_to(0 if self.rate > 0 else self.value)


@dataclass(repr=False)
class LinearDecay(Schedule):
    """``(1 - a) * value + a * final`` with ``a = min(t / steps, 1)``.

    Examples
    --------
    >>> from fastopt import schedules
    >>> lr = schedules.LinearDecay(1.0, 0.0, steps=4)
    >>> lr(1), lr(4), lr(100)
    (0.75, 0.0, 0.0)
    """

    value: float = field(metadata=NUMBER)
    final: float = field(metadata=NUMBER)
    steps: int = field(metadata=STEPS)

    def _at(self, t):
        return _line(self.value, self.final, min(t / self.steps, 1.0))


@dataclass(repr=False)
class Step(Schedule):
    """``value * factor ** ((t - 1) // every)``. A factor above 1 grows, as a batch size may.

    Examples
    --------
    >>> from fastopt import schedules
    >>> batch_size = schedules.Step(32, every=500, factor=2)
    >>> batch_size(500), batch_size(501)
    (32.0, 64.0)
    """

    value: float = field(metadata=NUMBER)
    every: int = field(metadata=STEPS)
    factor: float = field(default=0.1, metadata=NUMBER)

    def _at(self, t):
        return _scaled(self.value, math.pow, self.factor, (t - 1) // self.every)

    def robbins_monro(self) -> RobbinsMonro:
        return tends_to(0 if self.factor < 1 else self.value)


@dataclass(repr=False)
class Cosine(Schedule):
    """Half a cosine from ``value`` at step 1 to ``final`` at step ``steps + 1`` and after.

    ``final + (value - final) * (1 + cos(pi * (t - 1) / steps)) / 2`` (Loshchilov & Hutter 2017,
    without restarts).

    Examples
    --------
    >>> from fastopt import schedules
    >>> lr = schedules.Cosine(0.1, steps=10)
    >>> lr(1), round(lr(6), 6), lr(11)
    (0.1, 0.05, 0.0)
    """

    value: float = field(metadata=NUMBER)
    steps: int = field(metadata=STEPS)
    final: float = field(default=0.0, metadata=NUMBER)

    def _at(self, t):
        return _half_cosine(self.value, self.final, min((t - 1) / self.steps, 1.0))


@dataclass(repr=False)
class Warmup(Schedule):
    """A straight line from ``start`` up to ``then``, and ``then`` from there on.

    ``start + (then(1) - start) * t / steps`` for ``t <= steps``, afterwards ``then(t - steps)``.

    Parameters
    ----------
    steps : int
        0 for no warm-up: ``then`` from the first step on.
    then : Schedule or float
        A number becomes a `Constant`.
    start : float

    Examples
    --------
    >>> from fastopt import schedules
    >>> lr = schedules.Warmup(4, then=schedules.InverseTime(1.0))
    >>> lr(1), lr(4), lr(5), lr(6)
    (0.25, 1.0, 1.0, 0.5)
    """

    steps: int = field(metadata=COUNT)
    then: Any
    start: float = field(default=0.0, metadata=NUMBER)

    def _check(self):
        super()._check()
        if not isinstance(self.then, Schedule):
            self.then = Constant(finite_number("then", self.then, 0, instead="a schedule"))

    def _at(self, t):
        if t > self.steps:
            return self.then._at(t - self.steps)
        return _line(self.start, self.then._at(1), t / self.steps)

    def update(self, metric) -> bool:
        """Tell ``then`` a measurement; see `ReduceOnPlateau.update`."""
        return self.then.update(metric)

    def robbins_monro(self) -> RobbinsMonro:
        return self.then.robbins_monro()


@dataclass(repr=False)
class OneCycle(Schedule):
    """Up to ``value`` and down to nearly nothing, once (Smith & Topin 2018).

    Rises from ``value / div_factor`` over the first ``pct_start`` of the steps, then falls to
    ``value / div_factor / final_div_factor`` at step ``steps``, and stays there. The values are
    those of ``torch.optim.lr_scheduler.OneCycleLR``, its momentum cycle left out.

    Parameters
    ----------
    value : float
        The largest value.
    steps : int
    pct_start : float
        Share of the steps spent rising, from 0 to 1.
    anneal : {"cos", "linear"}
    div_factor, final_div_factor : float

    Examples
    --------
    >>> from fastopt import schedules
    >>> lr = schedules.OneCycle(1.0, steps=10)
    >>> lr(1), lr(3), round(lr(10), 9)
    (0.04, 1.0, 4e-06)
    """

    value: float = field(metadata=NUMBER)
    steps: int = field(metadata=STEPS)
    pct_start: float = field(default=0.3, metadata=SHARE)
    anneal: str = field(default="cos", metadata=ANNEAL)
    div_factor: float = field(default=25.0, metadata=POSITIVE)
    final_div_factor: float = field(default=1e4, metadata=POSITIVE)

    def _at(self, t):
        curve = _half_cosine if self.anneal == "cos" else _line
        first = self.value / self.div_factor
        elapsed, peak = min(t, self.steps) - 1, self.pct_start * self.steps - 1  # peak may fall between steps
        if elapsed <= peak:
            return curve(first, self.value, elapsed / peak if peak else 0.0)
        return curve(self.value, first / self.final_div_factor, (elapsed - peak) / (self.steps - 1 - peak))


@dataclass(repr=False)
class SutskeverMomentum(Schedule):
    """A momentum that grows from 0.5 to ``maximum`` (Sutskever et al. 2013).

    ``min(1 - 2 ** (-1 - log2(t // 250 + 1)), maximum)``; `maximum` from 0 to 1.

    Examples
    --------
    >>> from fastopt import schedules
    >>> momentum = schedules.SutskeverMomentum()
    >>> momentum(1), momentum(250), momentum(100_000)
    (0.5, 0.75, 0.99)
    """

    maximum: float = field(default=0.99, metadata=SHARE)

    def _at(self, t):
        return min(1.0 - 0.5 / (t // 250 + 1), self.maximum)  # 2^(−1−log₂ k) = 1/(2k)

    def robbins_monro(self) -> RobbinsMonro:
        return tends_to(self.maximum)
