"""What all schedules share: calls, arguments that check themselves, equality, descriptions.

- A schedule is called with the step t, counted from 1. Its formula stands in `_at`, on one
  step and with `math`; the loop over an array of steps is written once, in `Schedule`, so
  an array gives the bits of the single calls.
- Arguments are dataclass fields whose metadata name their check (NUMBER, STEPS, ...): equality,
  `repr` and `config` follow from the fields as well.
"""

import math
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastopt._numbers import finite_number, whole_number

LEVELS = 50  # of schedules inside each other, in a description


# ---------------------------------------------------------------- what an argument may be


def _one_of(*words) -> Callable:
    def check(name, value):
        if isinstance(value, str) and value in words:
            return str(value)
        raise ValueError(f"{name}: expected {' or '.join(map(repr, words))}, got {value!r}")

    return check


FINITE = {"check": finite_number}
NUMBER = {"check": partial(finite_number, least=0)}
POSITIVE = {"check": partial(finite_number, above=0)}
SHARE = {"check": partial(finite_number, least=0, most=1)}
SHRINKING = {"check": partial(finite_number, least=0, below=1)}
STEPS = {"check": whole_number}
COUNT = {"check": partial(whole_number, least=0)}
ANNEAL = {"check": _one_of("cos", "linear")}
MODE = {"check": _one_of("min", "max")}
THRESHOLD_MODE = {"check": _one_of("rel", "abs")}


# ---------------------------------------------------------------- the conditions of Robbins & Monro


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


def tends_to(limit) -> RobbinsMonro:
    """For a schedule that ends at its limit, or nears it at least as fast as a geometric sequence nears 0."""
    return RobbinsMonro(vanishes=limit == 0, sum_diverges=limit > 0, squares_converge=limit == 0)


# ---------------------------------------------------------------- the base


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
                setattr(self, f.name, f.metadata["check"](f.name, getattr(self, f.name)))

    def __call__(self, t):
        """The value at step `t`, counted from 1: a float for an int, a float64 array for an integer array."""
        if type(t) is int and t >= 1:  # asked at every step of training: no more checks than this
            return self._at(t)
        if not isinstance(t, np.ndarray):
            return self._at(whole_number("t", t))
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
        return tends_to(self._at(math.inf))  # for those that end at a value

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
