"""Optimizers that are not made by their class: by the name of a rule, or from the state of another."""

from fastopt import optim

NO_RULES = ("Optimizer", "PythonRule", "groups")  # bases and functions
RULES = {name: getattr(optim, name) for name in optim.__all__ if name not in NO_RULES}


def optimizer_over(params, optimizer) -> optim.Optimizer:
    """An optimizer as given, or one by the name of its rule, in any case, over these parameters."""
    if isinstance(optimizer, optim.Optimizer):
        return optimizer
    by_name = {name.lower(): rule for name, rule in RULES.items()}
    if isinstance(optimizer, str) and optimizer.lower() in by_name:
        return by_name[optimizer.lower()](params)
    got = repr(optimizer) if isinstance(optimizer, str | type) else type(optimizer).__name__
    raise TypeError(
        "optimizer: expected one of fastopt.optim over net.parameters(), like optim.Adam(net.parameters()), or a name "
        f"of {', '.join(RULES)}, got {got}"
    )


def optimizer_anew(rule, state, params) -> optim.Optimizer:
    """An optimizer of a rule with what another's ``__getstate__`` returned, over these parameters instead."""
    params = iter(params)
    groups = [{**group, "params": [next(params) for _ in group["params"]]} for group in state["param_groups"]]
    optimizer = rule.__new__(rule)
    optimizer.__setstate__({**state, "param_groups": groups})
    return optimizer
