"""Numbers and flags that come from a caller or from a file: one check each, before anything is changed.

What is an int, a float or a bool already, as most are, is done with at once.
"""

import math
from numbers import Integral, Real

import numpy as np

LARGEST = 2**53  # the largest count: float64 and JSON hold every whole number up to it


def whole_number(name, value, least=1, most=LARGEST) -> int:
    """`value` as an int from `least` to `most`; ValueError, also for a bool, for 3.0 and for "3"."""
    if type(value) is int and least <= value <= most:
        return value
    number = _scalar(value)
    if isinstance(number, Integral) and not isinstance(number, bool) and least <= number <= most:
        return int(number)
    named = most < LARGEST or (isinstance(number, Integral) and number > most)
    limit = f"from {least} to {most}" if named else f"of at least {least}"
    raise ValueError(f"{name}: expected a whole number {limit}, got {value!r}")


def whole_pair(name, value, least=1) -> tuple[int, int]:
    """A whole number for both axes of images, or a pair of them, (rows, columns), as `whole_number` has each."""
    if not isinstance(value, tuple | list):
        return (whole_number(name, value, least),) * 2
    if len(value) != 2:
        raise ValueError(f"{name}: expected a whole number or a pair, (rows, columns), got {value!r}")
    return whole_number(f"{name}[0]", value[0], least), whole_number(f"{name}[1]", value[1], least)


def finite_number(name, value, least=-math.inf, below=math.inf, *, above=-math.inf, most=math.inf, instead="") -> float:
    """`value` as a finite float within the limits that are given; ValueError, also for a bool and for "3".

    `instead` names what else the caller takes, for the message.
    """
    if type(value) is float and least <= value < below and above < value <= most:  # which no infinity is
        return value
    given = _scalar(value)
    if isinstance(given, Real) and not isinstance(given, bool):
        try:
            number = float(given)
        except OverflowError:
            number = math.inf
        if math.isfinite(number) and least <= number < below and above < number <= most:
            return number
    words = (("of at least", least), ("above", above), ("below", below), ("at most", most))
    limits = " and ".join(f"{word} {limit:g}" for word, limit in words if math.isfinite(limit))
    instead = f"{instead} or " if instead else ""
    raise ValueError(f"{name}: expected {instead}a finite number {limits}".rstrip() + f", got {value!r}")


def number_or_infinity(name, value, *, above=None) -> float:
    """`finite_number`, or an infinity above `above`; of either sign without it."""
    if isinstance(value, float) and math.isinf(value) and (above is None or value > above):
        return value
    return finite_number(name, value, above=-math.inf if above is None else above)


def _scalar(value):
    """An array without dimensions, of any library, as its number; anything else as it is."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def flag(name, value) -> bool:
    """`value` as a bool; ValueError unless it is True, False, 1 or 0: "false" and None are neither."""
    if value is True or value is False:
        return value
    if isinstance(value, np.bool_) or (isinstance(value, Integral) and value in (0, 1)):
        return bool(value)
    raise ValueError(f"{name}: expected True or False, got {value!r}")
