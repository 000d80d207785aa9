"""Options of a parameter group: what each may be, and how it looks to the kernel, in a file and to torch.

An option is a number, a flag, a tuple of numbers (betas), or a schedule in place of a number.
"""

import math

import numpy as np

from fastopt._numbers import finite_number, flag, number_or_infinity, whole_number
from fastopt.schedules import ReduceOnPlateau, Schedule, from_config

# The range of each number: from the first value on, below the second.
RANGES = {
    "lr": (0, math.inf),
    "momentum": (0, math.inf),
    "dampening": (-math.inf, math.inf),
    "weight_decay": (0, math.inf),
    "beta1": (0, 1),
    "beta2": (0, 1),
    "eps": (0, math.inf),
    "lr_decay": (0, math.inf),
    "momentum_decay": (0, math.inf),
    "rectify_threshold": (4, math.inf),
    "initial_accumulator_value": (0, math.inf),
    "damping": (0, math.inf),
}
ROWS = 512  # updates a table holds
PLAIN = {float, int, bool, str, list, type(None)}  # types of options that hold no schedule, the list of parameters one
ALIASES = {"alpha": "beta2", "rho": "beta2"}  # names the kernel shares between rules
AT_THE_START = ("initial_accumulator_value", "damping")  # no schedules: the rule reads them once, or controls them


def listed(params) -> list:
    """The parameters as a list, also of a single array; a container without an order is a TypeError."""
    if _is_one_array(params):
        return [params]
    if isinstance(params, set | frozenset):
        raise TypeError(f"params: expected arrays in an order that stays, got a {type(params).__name__}; pass a list")
    if isinstance(params, dict):
        raise TypeError(
            'params: expected a list of arrays, or of groups {"params": [...]}, got a dict; '
            "pass list(params.values()) for named arrays, [params] for one group"
        )
    params = list(params)
    if not params:
        raise ValueError("params: expected at least one array, got none")
    if isinstance(params[0], tuple) and len(params[0]) == 2 and isinstance(params[0][0], str):
        raise TypeError("params: expected arrays, got (name, array) pairs; pass [array for name, array in params]")
    return params


def checked_shared(max_norm, clip_value, check_finite, accumulate, ema_decay) -> dict:
    """What all groups share, by name; ValueError for what is out of range."""
    if max_norm is not None and clip_value is not None:
        raise ValueError("max_norm, clip_value: expected one of them, got both")
    # an infinite limit has the norm measured and clips nothing
    max_norm = None if max_norm is None else number_or_infinity("max_norm", max_norm, above=0)
    clip_value = None if clip_value is None else number_or_infinity("clip_value", clip_value, above=0)
    if check_finite not in (None, "raise", "skip"):
        raise ValueError(f"check_finite: expected None, 'raise' or 'skip', got {check_finite!r}")
    return {
        "max_norm": max_norm,
        "clip_value": clip_value,
        "check_finite": check_finite,
        "accumulate": whole_number("accumulate", accumulate),
        "ema_decay": None if ema_decay is None else finite_number("ema_decay", ema_decay, 0, 1),
    }


def params_of(group, rule, defaults) -> list:
    """The parameters of a group as a list; an error for what is no group, or has options that the rule does not."""
    if not isinstance(group, dict):
        raise TypeError(f'group: expected a dict like {{"params": [...]}}, got {type(group).__name__}')
    unknown = set(group) - set(defaults) - {"params"}
    if unknown:
        raise TypeError(f"{rule}: unknown option {sorted(unknown)[0]!r}; it takes {', '.join(defaults)}")
    if "params" not in group:
        raise ValueError('group: expected its arrays under "params", got none')
    return listed(group["params"])


def require_options(group, defaults) -> None:
    """Raise ValueError unless a group has every option, and True or False where the rule's default is one."""
    missing = [name for name in defaults if name not in group]
    if missing:
        raise ValueError(f"{missing[0]}: expected in every group, got one without")
    for name, default in defaults.items():
        if isinstance(default, bool) and name != "nesterov":  # which the rule checks: it may be "interim"
            flag(name, group[name])


def _is_one_array(params) -> bool:
    try:
        return isinstance(params, np.ndarray) or hasattr(params, "__dlpack__") or bool(memoryview(params).format)
    except TypeError:
        return False


def numbers_of(group) -> dict:
    """The numbers of a group by the kernel's names, floats or schedules; ValueError for one out of range."""
    numbers: dict[str, float | Schedule] = {}
    for name, value in group.items():
        if name == "betas":
            if isinstance(value, str) or not hasattr(value, "__len__") or len(value) != 2:
                raise ValueError(f"{range_text('betas', 1)}, got {value!r}")
            numbers |= {beta: number(beta, v, value) for beta, v in zip(("beta1", "beta2"), value, strict=True)}
        elif ALIASES.get(name, name) in RANGES:
            numbers[ALIASES.get(name, name)] = number(name, value, value)
    return numbers


def number(name, value, option):
    """A number in its range, or a schedule; `option` is what the caller wrote."""
    if isinstance(value, Schedule) and name not in AT_THE_START:
        return value
    low, high = RANGES[ALIASES.get(name, name)]
    try:
        return finite_number(name, value, low, high)
    except ValueError:
        one_of_two = name in ("beta1", "beta2")
        expected = range_text("betas" if one_of_two else name, high)
        instead = "" if one_of_two or name in AT_THE_START else " or a schedule"
        raise ValueError(f"{expected}{instead}, got {option!r}") from None


def table_of(groups, first) -> list[tuple[int, str, np.ndarray]]:
    """(group, name, values at the coming updates) of every schedule, as far as all values are in range.

    `groups` holds what `numbers_of` returned; the updates are counted from `first`.
    """
    t = np.arange(first, first + ROWS)
    columns, good = [], ROWS
    for i, numbers in enumerate(groups):
        for name, schedule in numbers.items():
            if isinstance(schedule, Schedule):
                values = np.asarray(schedule(t), np.float64)
                low, high = RANGES[name]
                bad = np.flatnonzero(~((low <= values) & (values < high)))
                if bad.size and bad[0] == 0:
                    value = float(values[0])
                    raise ValueError(f"{range_text(name, high)}, got {value!r} from {schedule!r} at update {first}")
                good = min(good, bad[0]) if bad.size else good
                columns.append((i, name, values))
    return [(i, name, values[:good]) for i, name, values in columns]


def range_text(name, high) -> str:
    if name == "betas":
        return "betas: expected two numbers in [0, 1)"
    low = RANGES[ALIASES.get(name, name)][0]
    return f"{name}: expected a finite number " + (f"in [{low}, {high})" if high < math.inf else f"of at least {low}")


def is_zero(value) -> bool:
    """Whether an option is the number 0; a schedule is not."""
    return not isinstance(value, Schedule) and value == 0


def parts(value):
    """An option's values, one by one."""
    return value if isinstance(value, tuple) else (value,)


def plateaus(group) -> list[ReduceOnPlateau]:
    """The schedules among the options that listen to measurements."""
    found = []
    for option in group.values():
        if type(option) in PLAIN:  # most of them, in every epoch
            continue
        for value in parts(option):
            while hasattr(value, "then"):
                value = value.then
            if isinstance(value, ReduceOnPlateau):
                found.append(value)
    return found


def seen(group):
    """Keys and values as `Update.settled` compares them; None if one of them can change inside, unnoticed."""
    fixed = bool | int | float | str | np.generic | None | Schedule
    for name, value in group.items():
        if name != "params" and not all(isinstance(part, fixed) for part in parts(value)):
            return None
    return tuple(part for item in group.items() for part in item)


def plain(value):
    """An option as a plain value: schedules by their configuration."""
    if isinstance(value, tuple | list):
        return tuple(plain(v) for v in value)
    if isinstance(value, Schedule):
        return value.config()
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def plain_groups(groups) -> list[dict]:
    """Groups as plain values, with the numbers of their parameters for these."""
    plain_ones: list[dict] = []
    first = 0
    for group in groups:
        last = first + len(group["params"])
        options = {name: plain(value) for name, value in group.items() if name != "params"}
        plain_ones.append({"params": list(range(first, last)), **options})
        first = last
    return plain_ones


def restored(value):
    """An option again, from what `plain` returned or from torch's tensors."""
    if isinstance(value, dict):
        return from_config(value)
    if isinstance(value, tuple | list):
        return tuple(restored(v) for v in value)
    return scalar(value)


def scalar(value):
    """NumPy's and torch's numbers as Python's; what is no number as it is."""
    try:
        return value.item() if hasattr(value, "item") else value
    except (RuntimeError, ValueError):
        raise ValueError(f"expected one number, got {value!r}") from None


def now(value, steps):
    """An option as the coming update will have it."""
    if isinstance(value, tuple):
        return tuple(now(v, steps) for v in value)
    return value(steps + 1) if isinstance(value, Schedule) else value


def check_nesterov(value, allowed) -> None:
    """Raise ValueError unless the option `nesterov` is one of the allowed: True itself, and not 1."""
    if not any(value is one or (isinstance(value, str) and value == one) for one in allowed):
        raise ValueError(f"nesterov: expected one of {', '.join(map(repr, allowed))}, got {value!r}")
