"""State of optimizers, away from them: what a state dict may hold, and its forms in a file and in torch.

An optimizer writes and takes over its state itself (optimizer.py); here stand the checks of one part each, which know
the state dict and no optimizer. Errors are those of the part: whoever reads the whole names its source.
"""

from typing import Any, NamedTuple

import numpy as np

from fastopt._arrays import as_array
from fastopt._numbers import finite_number, whole_number
from fastopt.optim import options as opt

# What a state may hold for a parameter, beside its counts.
KEPT = (
    *("momentum_buffer", "sum", "square_avg", "grad_avg", "acc_delta"),
    *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf"),
    *("ema", "accumulated", "direction"),
)
SQUARES = {"sum", "square_avg", "acc_delta", "exp_avg_sq", "max_exp_avg_sq", "exp_inf"}  # never below 0


class Counts(NamedTuple):
    """The counts of a parameter, as the kernel keeps them."""

    steps: int
    started: bool  # whether there is a velocity
    product: float  # of NAdam's momenta
    summed: bool  # whether a sum of gradients is under way


# ---------------------------------------------------------------- what comes in


def count(name, value) -> int:
    """A count of a state dict as an int; torch's are float32 tensors."""
    number = opt.scalar(value)
    if number is not value and isinstance(number, float) and number.is_integer():
        number = int(number)
    return whole_number(name, number, 0)


def require_rule(state_dict, rule, decoupled, rules) -> None:
    """Raise ValueError for the state of another rule: by its name or, where it has none, by its options.

    `rule` is the class of the optimizer that would take it over, `rules` are all that there are; `decoupled`: its
    weight decay is, always.
    """
    name, flag = rule.__name__, "decoupled_weight_decay"
    if state_dict.get("rule", name) != name:
        raise ValueError(f"expected state of {name}, got state of {state_dict['rule']}")
    every = {option for other in rules for option in other.defaults}
    needed = set(rule.positional)
    if "steps" in state_dict:  # ours, which has always had the flag; torch's may be too old for it
        needed |= {flag} & rule.defaults.keys()
    else:
        needed -= {flag}
    for group in state_dict["param_groups"]:
        options = every & group.keys()
        if group.get(flag) is True and decoupled:
            options.discard(flag)  # torch's AdamW says so of itself
        foreign, missing = sorted(options - rule.defaults.keys()), sorted(needed - options)
        others = [other for other in rules if other.positional - {flag} <= options <= other.defaults.keys()]
        if foreign or (missing and others):
            what = f"with {foreign[0]}" if foreign else f"without {missing[0]}"
            raise ValueError(f"expected state of {name}, got state of another rule, {what}; load it into its own")


def numbers_of(state_dict, sizes) -> list[int]:
    """The numbers that a state dict has for the parameters, those of groups of these sizes."""
    groups, state = state_dict["param_groups"], state_dict["state"]
    numbers = [whole_number("params", number, 0) for group in groups for number in group["params"]]
    found = [len(group["params"]) for group in groups]
    if found != sizes:
        raise ValueError(f"expected groups of {sizes} parameters, got {found}")
    if len(set(numbers)) < len(numbers) or not state.keys() <= set(numbers):
        raise ValueError(f"expected state of the parameters {numbers}, each once, got that of {list(state)}")
    return numbers


def entry_of(theirs, k, shape, more=()) -> tuple[dict[str, np.ndarray], Counts]:
    """The moments of parameter k, of this shape, in its entry of a state dict, and its counts; `more` names others."""
    theirs = dict(theirs or {})
    product = finite_number("mu_product", opt.scalar(theirs.pop("mu_product", 1.0)), 0, most=1)
    moments = {
        name: as_moment(name, value, k, shape)
        for name, value in theirs.items()
        if name in (*KEPT, *more) and value is not None
    }
    # torch's SGD does not count its steps, and its buffer says that there has been one
    started = "momentum_buffer" in moments
    return moments, Counts(count("step", theirs.get("step", int(started))), started, product, "accumulated" in moments)


def as_moment(name, value, k, shape) -> np.ndarray:
    """A moment of parameter k as an array; ValueError where it does not fit the parameter's shape."""
    value = as_array(name, value.detach() if hasattr(value, "detach") else value)
    if value.shape != shape or value.dtype.kind not in "fiu":
        raise ValueError(
            f"expected {name} of shape {shape} and real numbers for params[{k}], got {value.dtype} {value.shape}"
        )
    if name in SQUARES and (value < 0).any():
        raise ValueError(f"expected {name} of at least 0 for params[{k}], got {value.min()}")
    return value


def accumulated_in(state_dict, accumulate, summed) -> int:
    """Steps since the last update, by a state dict for an optimizer that updates at every `accumulate`-th step.

    `summed`: the state dict holds sums of gradients.
    """
    accumulated = count("accumulated", state_dict.get("accumulated", 0))
    theirs = whole_number("accumulate", state_dict.get("accumulate", 1))
    if accumulated and theirs != accumulate:
        raise ValueError(f"expected sums of {accumulate} gradients, got sums of {theirs}")
    if accumulated >= accumulate or (summed and not accumulated):
        raise ValueError(f"accumulated: expected fewer than {accumulate} and sums of them, got {accumulated}")
    return accumulated


# ---------------------------------------------------------------- files


def pack_state(state_dict) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays of a state dict by name, and the rest of it as JSON values."""
    arrays = {
        f"optimizer.{k}.{name}": value
        for k, entry in state_dict["state"].items()
        for name, value in entry.items()
        if isinstance(value, np.ndarray)
    }
    numbers = {
        str(k): {name: value for name, value in entry.items() if not isinstance(value, np.ndarray)}
        for k, entry in state_dict["state"].items()
    }
    return arrays, {**state_dict, "state": numbers}


def unpack_state(arrays, document) -> dict:
    """What `pack_state` packed."""
    state = {k: dict(numbers) for k, numbers in document["state"].items()}
    for key, value in arrays.items():
        _, k, name = key.split(".")
        state[k][name] = value
    return {**document, "state": {int(k): entry for k, entry in state.items()}}


# ---------------------------------------------------------------- torch


def torch_state_dict(optimizer) -> dict:
    """The state of an optimizer as the same rule of ``torch.optim`` takes it; see `Optimizer.torch_state_dict`."""
    import torch

    rule = type(optimizer)
    peer = getattr(torch.optim, rule.__name__, None)
    if peer is None:
        raise ValueError(f"torch_state_dict: expected a rule that torch has, got {rule.__name__}")
    theirs, state_dict = peer([torch.zeros(1)]).defaults, optimizer.state_dict()
    groups = []
    for group, mine in zip(state_dict["param_groups"], optimizer.param_groups, strict=True):
        options = {name: opt.plain(opt.now(mine[name], optimizer.steps)) for name in optimizer.defaults}
        for name, value in options.items():
            if value != rule.defaults[name] and (name not in theirs or value == "interim"):
                raise ValueError(f"{name}: expected an option that torch has, got {value!r}")
        known = {name: value for name, value in options.items() if name in theirs}
        groups.append({**theirs, **known, "params": group["params"]})
    left_out = {"ema", "accumulated"} | ({"step"} if rule.__name__ == "SGD" else set())
    state: dict[int, dict[str, Any]] = {}
    for k, entry in state_dict["state"].items():
        if entry["step"]:
            state[k] = {
                name: torch.from_numpy(v) if isinstance(v, np.ndarray) else torch.tensor(float(v))
                for name, v in entry.items()
                if name not in left_out
            }
    return {"state": state, "param_groups": groups}
