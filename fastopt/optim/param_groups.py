"""Parameter groups by kind of parameter, in the order of a network's parameters.

A Trainer's optimizer takes the parameters in the order of their gradients, so a group cannot hold all biases: each run
of neighbors that are treated alike is a group. Groups cost no pass over memory; a step checks the options of each.
"""

from itertools import groupby

KINDS = {"bias": ("bias", "beta"), "norm": ("gamma", "beta")}  # names of parameters: beta is the bias of BatchNorm


def groups(net, decay, no_decay="bias,norm") -> list[dict]:
    """Parameter groups of a network for any optimizer, with weight decay for some parameters and none for the others.

    Weights are shrunk; biases, and the scales of normalization, which have no reason to be small, mostly are not.

    Parameters
    ----------
    net : Sequential
    decay : float or Schedule
        ``weight_decay`` of what is not in `no_decay`.
    no_decay : str, layer, class of layers, callable, or list of these
        What has none: "bias" (with beta of `BatchNorm`), "norm" (gamma and beta of `BatchNorm`), or both with a comma
        between; all parameters of a layer, or of layers of a class; what ``no_decay(layer, name)`` is true of, the name
        being "weight", "bias", "gamma" or "beta".

    Returns
    -------
    list of dict
        ``{"params": [...], "weight_decay": ...}``, together in the order of ``net.parameters()``: neighbors that are
        treated alike share one.

    Raises
    ------
    TypeError, ValueError
        What is no network, a kind that is unknown, or a layer that the network does not have.

    Examples
    --------
    >>> import fastopt as fo
    >>> layers = [fo.nn.Dense(4, 8, bias=False), fo.nn.BatchNorm(8), fo.nn.Dense(8, 3)]
    >>> net = fo.nn.Sequential(layers, rng=0)
    >>> adamw = fo.optim.AdamW(fo.optim.groups(net, decay=0.01), lr=1e-3)
    >>> [([a.shape for a in g["params"]], g["weight_decay"]) for g in adamw.param_groups]
    [([(8, 4)], 0.01), ([(8,), (8,)], 0.0), ([(3, 8)], 0.01), ([(3,)], 0.0)]
    >>> trainer = fo.nn.Trainer(net, "cross_entropy", adamw)
    """
    if not (hasattr(net, "layers") and hasattr(net, "parameters")):
        raise TypeError(f"net: expected a Sequential, got {type(net).__name__}")
    layers, params = list(_without_others(net.layers)), net.parameters()
    several = isinstance(no_decay, list | tuple | set | frozenset)
    spared = [_selector(one, net.layers, layers) for one in (no_decay if several else [no_decay])]
    owners = {id(a): (layer, name) for layer in layers for name, a in layer.arrays().items()}
    if not all(id(a) in owners for a in params):
        raise ValueError("net: expected one that can be trained, got a folded one")

    def decay_of(a):
        return 0.0 if any(selects(*owners[id(a)]) for selects in spared) else decay

    return [{"params": list(run), "weight_decay": value} for value, run in groupby(params, key=decay_of)]


def _without_others(layers):
    """Every layer that holds no others, those inside others included: the parameters are theirs."""
    for layer in layers:
        if layer.layers:
            yield from _without_others(layer.layers)
        else:
            yield layer


def _of_class(kind, layers):
    """The layers of a class, at any depth, and all inside them; those that hold no others."""
    for layer in layers:
        yield from _without_others([layer]) if isinstance(layer, kind) else _of_class(kind, layer.layers)


def _selector(one, top, layers):
    """What `no_decay` names, as a function of a layer and the name of one of its parameters.

    `layers` are those that hold no others, inside those at the `top`.
    """
    if isinstance(one, str):
        kinds = [kind.strip() for kind in one.split(",") if kind.strip()]
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown:
            raise ValueError(
                f"no_decay: expected {' or '.join(KINDS)}, layers or a function of (layer, name), got {unknown[0]!r}"
            )
        names = {name for kind in kinds for name in KINDS[kind]}
        return lambda layer, name: name in names
    if isinstance(one, type) and hasattr(one, "parameters"):
        chosen = {id(layer) for layer in _of_class(one, top)}
        return lambda layer, name: id(layer) in chosen
    if hasattr(one, "parameters"):
        inside = {id(layer) for layer in _without_others([one])}
        if not inside <= {id(layer) for layer in layers}:
            raise ValueError(f"no_decay: expected layers of the network, got {one!r}")
        return lambda layer, name: id(layer) in inside
    if callable(one) and not isinstance(one, type):
        return one
    raise TypeError(f"no_decay: expected bias, norm, layers or a function of (layer, name), got {one!r}")
