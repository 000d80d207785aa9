"""A network as a table: what each layer takes, gives, holds and costs."""

from fastopt.nn.layers import chain
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
        A line a layer, those inside others indented, and one of totals: shape of a sample before and
        after; trained numbers; multiply-adds of one sample in inference, those of matrix products only;
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
    shapes = chain.shapes(net.layers, net.input_shape)
    rows = [row for layer, shape in zip(net.layers, shapes[:-1], strict=True) for row in _rows(layer, shape, 0)]
    counts = [sum(row[i] for row in rows) for i in (2, 3, 4)]
    rows.append(("total", _arrow(net.input_shape, net.output_shape), *counts))
    table = [HEAD, *((name, shape, *(f"{n:,}" for n in numbers)) for name, shape, *numbers in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEAD))]
    widths = [widths[0], widths[1] + 1, *(w + 2 for w in widths[2:])]
    return "\n".join(row[0].ljust(widths[0]) + "".join(map(str.rjust, row[1:], widths[1:])) for row in table)


def _rows(layer, input_shape, depth):
    """(name, shape, parameters, multiply-adds, bytes) of a layer and of those inside it, which hold its arrays."""
    holds = not layer.layers
    yield (
        "  " * depth + " ".join([type(layer).__name__, *layer.marks()]),
        _arrow(input_shape, layer.output_shape(input_shape)),
        sum(a.size for a in layer.parameters()) if holds else 0,
        layer.multiply_adds(input_shape),
        sum(a.nbytes for a in layer.stored().values()) if holds else 0,
    )
    for inner, shape in chain.inside(layer, input_shape):
        yield from _rows(inner, shape, depth + 1)


def _arrow(before, after) -> str:
    """``8 -> 16``, or ``28x28x3 -> 28x28x8``."""
    return " -> ".join("x".join(map(str, shape)) for shape in (before, after))
