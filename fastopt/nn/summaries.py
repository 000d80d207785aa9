"""A network as a table: what each layer takes, gives, holds and costs."""

from fastopt.nn.sequential import Sequential

HEAD = ("layer", "shape", "parameters", "multiply-adds", "bytes")


def summary(net) -> str:
    """A table of the layers of a network, for printing.

    Parameters
    ----------
    net : Sequential

    Returns
    -------
    str
        A line a layer, those inside others indented, and one of totals: features of a row before and
        after; trained numbers; multiply-adds of one row in inference, those of matrix products only;
        bytes of all arrays a model file keeps.

    Raises
    ------
    TypeError
        `net` is not a network.

    Examples
    --------
    >>> import fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.Dense(8, 16, activation="relu"), fo.nn.Dropout(0.2), fo.nn.Dense(16, 3)], rng=0)
    >>> print(fo.nn.summary(net))
    layer          shape  parameters  multiply-adds  bytes
    Dense relu   8 -> 16         144            128    576
    Dropout 0.2 16 -> 16           0              0      8
    Dense        16 -> 3          51             48    204
    total         8 -> 3         195            176    788
    """
    if not isinstance(net, Sequential):
        raise TypeError(f"net: expected a Sequential, got {type(net).__name__}")
    rows = [row for layer in net.layers for row in _rows(layer, 0)]
    counts = [sum(row[i] for row in rows) for i in (2, 3, 4)]
    rows.append(("total", _shape(net), *counts))
    table = [HEAD, *((name, shape, *(f"{n:,}" for n in numbers)) for name, shape, *numbers in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEAD))]
    widths = [widths[0], widths[1] + 1, *(w + 2 for w in widths[2:])]
    return "\n".join(row[0].ljust(widths[0]) + "".join(map(str.rjust, row[1:], widths[1:])) for row in table)


def _rows(layer, depth):
    """(name, shape, parameters, multiply-adds, bytes) of a layer and of those inside it, which hold its arrays."""
    inside = getattr(layer, "layers", ())
    own = [] if inside else layer.stored().values()
    parameters = 0 if inside else sum(a.size for a in layer.parameters())
    products = getattr(layer, "weight", None)
    yield (
        "  " * depth + _name(layer),
        _shape(layer),
        parameters,
        0 if products is None else products.size,
        sum(a.nbytes for a in own),
    )
    for one in inside:
        yield from _rows(one, depth + 1)


def _name(layer) -> str:
    """The type, and what distinguishes it from others of its kind."""
    config = layer.config()
    marks = [str(config[key]) for key in ("activation", "kind", "rate") if config.get(key, "identity") != "identity"]
    marks += [f"{config[key]} {key}" for key in ("groups", "pieces") if key in config]
    return " ".join([type(layer).__name__, *marks])


def _shape(layer) -> str:
    return f"{layer.in_features} -> {layer.out_features}"
