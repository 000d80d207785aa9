"""Numbers that come from a caller or from a file: one check each, before anything is changed."""

import math
from numbers import Integral, Real

LARGEST = 2**53  # the largest count: float64 and JSON hold every whole number up to it


def whole_number(name, value, least=1, most=LARGEST) -> int:
    """`value` as an int from `least` to `most`; ValueError, also for a bool, for 3.0 and for "3"."""
    if isinstance(value, Integral) and not isinstance(value, bool) and least <= value <= most:
        return int(value)
    limit = f"of at least {least}" if most >= LARGEST else f"from {least} to {most}"
    raise ValueError(f"{name}: expected a whole number {limit}, got {value!r}")


def finite_number(name, value, least=-math.inf, below=math.inf) -> float:
    """`value` as a finite float of at least `least` and below `below`; ValueError, also for a bool and for "3"."""
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number) and least <= number < below:
            return number
    limits = [f"of at least {least:g}"] * (least > -math.inf) + [f"below {below:g}"] * (below < math.inf)
    raise ValueError(f"{name}: expected a finite number {' and '.join(limits)}".rstrip() + f", got {value!r}")
