"""Numbers that change from step to step: learning rates, momenta, batch sizes.

A schedule is called with the step t, counted from 1. Its formula stands in `_at`, on one
step and with `math`; the loop over an array of steps is written once, in `Schedule`, so
an array gives the bits of the single calls. Arguments are dataclass fields whose metadata
says what they accept: checks, equality, `repr` and `config` follow from that. Optimizers
and `Trainer.fit` call what stands here; this file knows nothing of them.
"""

import math
from dataclasses import MISSING, dataclass, field, fields
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np

from fastopt._numbers import LARGEST

__all__ = [
    "Constant",
    "Cosine",
    "Exponential",
    "InverseTime",
    "LinearDecay",
    "OneCycle",
    "Power",
    "ReduceOnPlateau",
    "RobbinsMonro",
    "Schedule",
    "Step",
    "SutskeverMomentum",
    "Warmup",
    "from_config",
]

# what an argument may be
FINITE = {"kind": float, "expected": "a finite number", "fits": math.isfinite}
NUMBER = {"kind": float, "expected": "a finite number of at least 0", "fits": lambda x: 0 <= x < math.inf}
POSITIVE = {"kind": float, "expected": "a finite number above 0", "fits": lambda x: 0 < x < math.inf}
THEN = {**NUMBER, "expected": "a schedule or a finite number of at least 0"}
BEST = {"kind": float, "expected": "a number or None", "fits": lambda x: not math.isnan(x)}
SHARE = {"kind": float, "expected": "a number from 0 to 1", "fits": lambda x: 0 <= x <= 1}
SHRINKING = {"kind": float, "expected": "a number of at least 0 and below 1", "fits": lambda x: 0 <= x < 1}
STEPS = {"kind": int, "expected": "a whole number of at least 1", "fits": lambda n: 1 <= n <= LARGEST}
COUNT = {"kind": int, "expected": "a whole number of at least 0", "fits": lambda n: 0 <= n <= LARGEST}
ANNEAL = {"kind": str, "expected": "'cos' or 'linear'", "fits": ("cos", "linear").__contains__}
MODE = {"kind": str, "expected": "'min' or 'max'", "fits": ("min", "max").__contains__}
THRESHOLD_MODE = {"kind": str, "expected": "'rel' or 'abs'", "fits": ("rel", "abs").__contains__}
WIDER = {float: Real, int: Integral, str: str}  # NumPy's numbers are taken too
LEVELS = 50  # of schedules inside each other, in a description


def _checked(name, value, kind, expected, fits):
    """`value` as a plain float, int or str."""
    if isinstance(value, WIDER[kind]) and not isinstance(value, bool):
        try:
            plain = kind(value)
        except OverflowError:  # a whole number beyond the floats: it fits nowhere
            plain = math.nan
        if fits(plain):
            return plain
    raise ValueError(f"{name}: expected {expected}, got {value!r}")


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


class RobbinsMonro(NamedTuple):
    """Which conditions on the step sizes ηₜ hold, for stochastic descent to converge.

    Attributes
    ----------
    vanishes : bool
        ηₜ → 0.
    sum_diverges : bool
        Σηₜ = ∞: any distance can be covered.
    squares_converge : bool
        Σηₜ² < ∞: the noise of the gradients dies out.
    """

    vanishes: bool
    sum_diverges: bool
    squares_converge: bool

    @property
    def holds(self) -> bool:
        """Σηₜ = ∞ and Σηₜ² < ∞ (Robbins & Monro 1951)."""
        return self.sum_diverges and self.squares_converge

    @property
    def weak(self) -> bool:
        """Σηₜ = ∞ and ηₜ → 0: weaker, also taught."""
        return self.sum_diverges and self.vanishes


def _tends_to(limit) -> RobbinsMonro:
    """For a schedule that ends at its limit, or nears it at least as fast as a geometric sequence nears 0."""
    return RobbinsMonro(vanishes=limit == 0, sum_diverges=limit > 0, squares_converge=limit == 0)


class Schedule:
    """What all schedules share; not for use by itself.

    Schedules with the same arguments (and state) are equal. `pickle` and `copy` work.

    Examples
    --------
    >>> import numpy as np
    >>> from fastopt import schedules
    >>> lr = schedules.Step(1.0, every=2, factor=0.5)
    >>> lr(3)
    0.5
    >>> lr(np.arange(1, 6))
    array([1.  , 1.  , 0.5 , 0.5 , 0.25])
    """

    def __post_init__(self):
        self._check()

    def _check(self):
        for f in fields(self):  # type: ignore[arg-type]
            if f.metadata:
                setattr(self, f.name, _checked(f.name, getattr(self, f.name), **f.metadata))

    def __call__(self, t):
        """The value at step `t`, counted from 1: a float for an int, a float64 array for an integer array."""
        if type(t) is int and t >= 1:  # asked at every step of training: no more checks than this
            return self._at(t)
        if not isinstance(t, np.ndarray):
            return self._at(_checked("t", t, **STEPS))
        if t.dtype.kind not in "iu":
            raise ValueError(f"t: expected an array of whole numbers, got dtype {t.dtype}")
        if t.size and t.min() < 1:
            raise ValueError(f"t: expected whole numbers of at least 1, got {t.min()}")
        return np.fromiter(map(self._at, t.ravel().tolist()), np.float64, t.size).reshape(t.shape)

    def _at(self, t) -> float:
        raise NotImplementedError

    def __repr__(self):
        values = [(f, getattr(self, f.name)) for f in fields(self) if f.init]  # type: ignore[arg-type]
        shown = [repr(v) if f.default is MISSING else f"{f.name}={v!r}" for f, v in values if v != f.default]
        return f"{type(self).__name__}({', '.join(shown)})"

    def update(self, metric) -> bool:
        """Tell the schedule a measurement. Returns whether it changed: never, but for `ReduceOnPlateau`."""
        return False

    def robbins_monro(self) -> RobbinsMonro:
        """Which conditions of Robbins & Monro (1951) hold for the values as step sizes.

        Examples
        --------
        >>> from fastopt import schedules
        >>> schedules.Power(0.1, 0.3).robbins_monro()
        RobbinsMonro(vanishes=True, sum_diverges=True, squares_converge=False)
        >>> schedules.InverseTime(0.1).robbins_monro().holds
        True
        """
        return _tends_to(self._at(math.inf))  # for those that end at a value

    def config(self) -> dict:
        """Name, arguments and state as plain JSON values; `from_config` makes the schedule again.

        Examples
        --------
        >>> from fastopt import schedules
        >>> schedules.Power(0.1, 0.3).config()
        {'schedule': 'Power', 'value': 0.1, 'power': 0.3}
        """
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        plain = {name: v.config() if isinstance(v, Schedule) else v for name, v in values.items()}
        return {"schedule": type(self).__name__, **plain}


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
            return _tends_to(0)
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
        return _tends_to(0 if self.rate > 0 else self.value)


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
        return _tends_to(0 if self.factor < 1 else self.value)


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
            self.then = Constant(_checked("then", self.then, **THEN))

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
class ReduceOnPlateau(Schedule):
    """Lower the value when a measurement has stopped improving.

    The value does not depend on t, only on the measurements given to `update`: the rule and the
    defaults of ``torch.optim.lr_scheduler.ReduceLROnPlateau``, whose relative margin is of use for
    positive measurements only. State is part of `config`.

    Parameters
    ----------
    value : float
        Before the first reduction.
    factor : float
        Below 1; multiplies the value.
    patience : int
        How many bad measurements in a row are put up with; the next one reduces.
    threshold : float
        A measurement is good if it is better than the best by more than a margin. The first is.
    threshold_mode : {"rel", "abs"}
        The margin is ``threshold * abs(best)``, or `threshold` itself.
    cooldown : int
        After a reduction, how many measurements cannot count as bad.
    final : float
        The value falls no lower; torch's ``min_lr``.
    eps : float
        A reduction by no more than this is left out.
    mode : {"min", "max"}
        Whether small or large measurements are good.

    Examples
    --------
    >>> from fastopt import schedules
    >>> lr = schedules.ReduceOnPlateau(0.5, patience=1)
    >>> [lr.update(loss) for loss in (1.0, 2.0, 2.0)]
    [False, False, True]
    >>> lr(1)
    0.05
    """

    value: float = field(metadata=NUMBER)
    factor: float = field(default=0.1, metadata=SHRINKING)
    patience: int = field(default=10, metadata=COUNT)
    threshold: float = field(default=1e-4, metadata=NUMBER)
    threshold_mode: str = field(default="rel", metadata=THRESHOLD_MODE)
    cooldown: int = field(default=0, metadata=COUNT)
    final: float = field(default=0.0, metadata=NUMBER)
    eps: float = field(default=1e-8, metadata=NUMBER)
    mode: str = field(default="min", metadata=MODE)
    present: float = field(init=False, metadata=NUMBER)
    best: float | None = field(init=False)  # None before the first good measurement
    bad: int = field(init=False, metadata=COUNT)  # bad measurements in a row
    cooldown_left: int = field(init=False, metadata=COUNT)

    def __post_init__(self):
        self.present, self.best, self.bad, self.cooldown_left = self.value, None, 0, 0
        self._check()

    def _check(self):
        super()._check()
        if self.best is not None:
            self.best = _checked("best", self.best, **BEST)

    def _at(self, t):
        return self.present

    def _improves(self, metric):
        sign = 1.0 if self.mode == "max" else -1.0
        best = -sign * math.inf if self.best is None else self.best
        if self.threshold_mode == "abs" or math.isinf(best):  # no share can be taken of inf
            bar = best + sign * self.threshold
        else:  # best + sign · threshold · |best|, in one product
            bar = best * (1.0 + sign * math.copysign(self.threshold, best))
        return metric > bar if self.mode == "max" else metric < bar

    def update(self, metric) -> bool:
        """Take a measurement, one per epoch; NaN counts as bad. Returns whether the value changed."""
        metric = float(metric)
        if self._improves(metric):
            self.best, self.bad = metric, 0
        else:
            self.bad += 1
        if self.cooldown_left:
            self.cooldown_left, self.bad = self.cooldown_left - 1, 0
        if self.bad <= self.patience:
            return False
        self.cooldown_left, self.bad = self.cooldown, 0
        before, reduced = self.present, max(self.present * self.factor, self.final)
        if before - reduced > self.eps:
            self.present = reduced
        return self.present != before

    def robbins_monro(self) -> RobbinsMonro:
        """Raises ValueError: the values depend on the measurements."""
        raise ValueError("robbins_monro: the values of ReduceOnPlateau depend on the measurements")


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
        return _tends_to(self.maximum)


def from_config(config) -> Schedule:
    """The schedule that `Schedule.config` described, with its state.

    Raises
    ------
    ValueError
        An unknown schedule, unknown or missing arguments, or one out of range.

    Examples
    --------
    >>> from fastopt import schedules
    >>> schedules.from_config({"schedule": "Power", "value": 0.1, "power": 0.3})
    Power(0.1, 0.3)
    """
    return _from_config(config, LEVELS)


def _from_config(config, levels) -> Schedule:
    if not isinstance(config, dict) or not levels:
        found = f"{LEVELS} of them inside each other" if isinstance(config, dict) else type(config).__name__
        raise ValueError(f"config: expected a dict, got {found}")
    values = {
        k: _from_config(v, levels - 1) if isinstance(v, dict) else v for k, v in config.items() if k != "schedule"
    }
    known: dict[str, Any] = {kind.__name__: kind for kind in Schedule.__subclasses__()}
    name = config.get("schedule")
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"config: expected 'schedule' to be one of {', '.join(known)}, got {name!r}")
    kind = known[name]
    options = {f.name: f for f in fields(kind)}
    required = {n for n, f in options.items() if f.default is MISSING}
    if not required <= values.keys() <= options.keys():
        raise ValueError(f"config: {kind.__name__} takes {', '.join(options)}, got {', '.join(values) or 'nothing'}")
    schedule = kind(**{name: v for name, v in values.items() if options[name].init})
    for name in values:
        if not options[name].init:  # state
            setattr(schedule, name, values[name])
    schedule._check()
    return schedule
