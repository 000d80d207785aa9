"""An optimizer by the name of its rule."""

from fastopt import optim


def optimizer_over(params, optimizer) -> optim.Optimizer:
    """An optimizer as given, or one by the name of its rule, in any case, over these parameters."""
    if isinstance(optimizer, optim.Optimizer):
        return optimizer
    rules = {name.lower(): name for name in optim.__all__ if name != "Optimizer"}
    if isinstance(optimizer, str) and optimizer.lower() in rules:
        return getattr(optim, rules[optimizer.lower()])(params)
    got = repr(optimizer) if isinstance(optimizer, str | type) else type(optimizer).__name__
    raise TypeError(
        "optimizer: expected one of fastopt.optim over net.parameters(), like optim.Adam(net.parameters()), or a name "
        f"of {', '.join(rules.values())}, got {got}"
    )
