"""ReduceOnPlateau: the schedule whose value depends on measurements, and not on the step."""

import math
from dataclasses import dataclass, field

from fastopt._numbers import number_or_infinity
from fastopt.schedules.base import (
    COUNT,
    MODE,
    NUMBER,
    SHRINKING,
    THRESHOLD_MODE,
    RobbinsMonro,
    Schedule,
)


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
            self.best = number_or_infinity("best", self.best)

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
