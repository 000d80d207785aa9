"""Layers from decompositions: one layer with a product becomes several in a row that compute nearly the same.

A `Method` is a function from the weight of one group of outputs to the weights of the new layers, and which of these
move over rows and columns of an image. Groups are decomposed one by one, and their factors stand side by side in layers
with as many groups.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from fastopt._arrays import as_numbers, require_finite
from fastopt._numbers import finite_number, flag
from fastopt.lowrank.cp import cp
from fastopt.lowrank.responses import projected
from fastopt.lowrank.svd import truncated_svd
from fastopt.lowrank.tucker import tucker2
from fastopt.lowrank.two_factor import two_factor
from fastopt.nn.layers import BatchNorm, Conv2d, Dense, GroupedDense, Layer

EPS = 1e-5  # of BatchNorm


def factorize(layer, method, rank, *, batch_norm=False, seed=0, moments=None, **options) -> list[Layer]:
    """Layers of low rank in the place of a dense layer or a convolution, with the factors of its weight to start with.

    Parameters
    ----------
    layer : Dense, GroupedDense or Conv2d
        One of a network; it stays as it is.
    method : {"svd", "two_factor", "tucker2", "cp"}
        "svd": two layers, of a convolution one with its kernel to R channels, and a 1x1. The others are for
        convolutions. "two_factor": height x 1 to R channels, then 1 x width. "tucker2": 1x1, the kernel between fewer
        channels, 1x1. "cp": 1x1 to R channels, height x 1 and 1 x width of each channel by itself, 1x1.
    rank : int or (int, int)
        R, of each group; "tucker2" takes (out, in), or one number for both.
    batch_norm : bool
        Put a `BatchNorm` between each two of the layers, which in inference starts as the identity.
    seed : int
        Of what a method draws.
    moments : ndarray, optional
        Of "svd": `second_moments` of the layer's outputs on data. The new layers then lose the least of these, and not
        the least of the weight.
    **options
        Of the method's function: `cp` has a ridge, for example.

    Returns
    -------
    list of Layer
        For a network of their own, or `nn.Trainer.replace`. Stride, padding and dilation of rows go to the layer with
        the rows of the kernel, those of columns to the one with its columns. Bias and activation go to the last layer;
        the others have no bias, for zeros around an image must stay zeros. Each gets the layer's `l2`.

    Raises
    ------
    TypeError, ValueError
        Another kind of layer, or one without arrays yet; a method that does not fit it; a rank out of range; weights
        that are not finite; a layer with l1 or max_norm, which bound a weight that is no longer there.

    Warns
    -----
    RuntimeWarning
        As by `cp`.

    Examples
    --------
    >>> import fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.Dense(64, 32, activation="relu")], rng=0)
    >>> for layer in fo.lowrank.factorize(net.layers[0], "svd", rank=4):
    ...     print(layer)
    Dense(in_features=64, out_features=4, activation='identity', bias=False)
    Dense(in_features=4, out_features=32, activation='relu', bias=True)
    """
    return next(factorizations(layer, method, [rank], batch_norm=batch_norm, seed=seed, moments=moments, **options))


def factorizations(layer, method, ranks, *, batch_norm=False, seed=0, moments=None, **options) -> Iterator[list[Layer]]:
    """What `factorize` makes at each of some ranks; where ranks are nested, all are cut from the largest."""
    made = method_of(layer, method)
    if None in ranks:
        raise ValueError(
            "rank: expected a whole number from 1, got None; truncated_svd finds that of an energy or error"
        )
    normalize = flag("batch_norm", batch_norm)
    arrays = known_arrays(layer)
    for name in ("l1", "max_norm"):
        if getattr(layer, name):
            raise ValueError(
                f"layer: expected no {name}, which bounds the weight and not its factors, got {layer!r}; "
                "make the network anew without it"
            )
    parts = np.split(arrays["weight"].astype(np.float64), layer.groups)
    own = [{}] * len(parts) if moments is None else _checked_moments(moments, method, layer)

    def factors_of(rank):
        return [made.weights(part, rank, seed=seed, **also, **options) for part, also in zip(parts, own, strict=True)]

    largest = factors_of(max(ranks)) if made.nested else []
    for rank in ranks:
        factors = [_cut(of_a_group, rank) for of_a_group in largest] if made.nested else factors_of(rank)
        weights = [np.concatenate(side_by_side) for side_by_side in zip(*factors, strict=True)]
        layers = _layers(layer, [weight.shape for weight in weights], made.moves)
        for new, weight in zip(layers, weights, strict=True):
            bias = {"bias": arrays["bias"]} if new is layers[-1] and "bias" in arrays else {}
            new.start_with(weight=weight, **bias)
        yield _normalized(layers) if normalize else layers


def known_arrays(layer) -> dict[str, np.ndarray]:
    """The arrays of a layer, which has been in a network."""
    arrays = layer.arrays()
    if not arrays:
        raise ValueError(f"layer: expected one with arrays, got {layer!r} without; put it into a Sequential first")
    return arrays


def _checked_moments(moments, method, layer) -> list[dict]:
    """Options of each group: its second moments."""
    if method != "svd":
        raise ValueError(f"moments: expected none with method {method!r}, only 'svd' goes by them")
    moments, width = as_numbers("moments", moments), layer.out_features // layer.groups
    if moments.shape != (layer.groups, width, width):
        raise ValueError(f"moments: expected shape {(layer.groups, width, width)}, got {moments.shape}")
    require_finite("moments", moments)
    return [{"moments": of_a_group} for of_a_group in moments.astype(np.float64)]


def _cut(weights, rank) -> tuple[np.ndarray, ...]:
    """Two weights with fewer channels between them."""
    first, last = weights
    return first[:rank], last[..., :rank]


def rank_of(layer, method, compression) -> int | tuple[int, int]:
    """The largest rank at which a layer's factors have at most 1 / compression of its weights, or else rank 1.

    Parameters
    ----------
    layer : Dense, GroupedDense or Conv2d
        Its arrays are not needed.
    method : str
        As for `factorize`.
    compression : float
        Weights of the layer over those of the factors.

    Returns
    -------
    int or (int, int)
        Of each group; of "tucker2" (out, in), the same share of both channels.

    Raises
    ------
    TypeError, ValueError
        Another kind of layer, a method that does not fit it, or a compression that is not above 0.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.lowrank.rank_of(fo.nn.Conv2d(64, 64, 3), "two_factor", compression=3)
    32
    """
    made, limit = method_of(layer, method), finite_number("compression", compression, above=0)
    shape = shape_of_group(layer)
    ranks = made.ranks(*shape)
    fitting = bisect_right(ranks, math.prod(shape) / limit, key=lambda rank: made.size(*shape, rank))
    return ranks[max(fitting, 1) - 1]


def shape_of_group(layer) -> tuple[int, int, int, int]:
    """(out, height, width, in) of the weight of one group, that of a dense layer as of a 1x1 convolution."""
    out, *kernel, n_in = layer.array_specs(np.float32)["weight"].shape
    return (out // layer.groups, *(kernel or (1, 1)), n_in)


# ---------------------------------------------------------------- methods: weight of a group -> weights of its layers


def _svd(weight, rank, seed, moments=None, **options):
    """(out, ..., in) -> (R, ..., in) and (out, R), or (out, 1, 1, R) of a convolution; the root of S to each side."""
    if moments is None:
        U, S, Vh = truncated_svd(weight, rank, seed=seed, **options)
    elif options:
        raise TypeError(f"{next(iter(options))}: expected no options of truncated_svd with moments, got {options}")
    else:
        U, S, Vh = projected(weight.reshape(len(weight), -1), rank, moments, seed)
    root, ones = np.sqrt(S), (1,) * (weight.ndim - 2)
    return (root[:, None] * Vh).reshape(-1, *weight.shape[1:]), (U * root).reshape(len(weight), *ones, -1)


def _two_factor(weight, rank, **options):
    """(out, height, width, in) -> (R, height, 1, in) and (out, 1, width, R)."""
    return tuple(two_factor(weight, rank, **options))


def _tucker2(weight, ranks, **options):
    """(out, height, width, in) -> (R in, 1, 1, in), (R out, height, width, R in) and (out, 1, 1, R out)."""
    first, core, last = tucker2(weight, ranks, **options)
    return first[:, None, None, :], core, last[:, None, None, :]


def _cp(weight, rank, **options):
    """(out, height, width, in) -> (R, 1, 1, in), (R, height, 1, 1), (R, 1, width, 1) and (out, 1, 1, R)."""
    out, rows, columns, channels = cp(weight, rank, **options)
    return channels.T[:, None, None, :], rows.T[:, :, None, None], columns.T[:, None, :, None], out[:, None, None, :]


class Method(NamedTuple):
    """How one layer becomes several; shapes are those of a group's weight, (out, height, width, in)."""

    weights: Callable[..., tuple[np.ndarray, ...]]
    moves: tuple[tuple[bool, bool], ...]  # by new layer: whether it takes stride, padding, dilation of rows, columns
    ranks: Callable[..., Sequence]  # all there are, of a shape, in ascending order
    shapes: Callable[..., tuple[tuple[int, int, int, int], ...]]  # of the new weights, of a shape and a rank
    nested: bool = False  # two weights, of which those of a lower rank are the first channels between the two

    def size(self, *shape_and_rank) -> int:
        """Numbers in the new weights."""
        return sum(map(math.prod, self.shapes(*shape_and_rank)))


def _pairs(out, height, width, n_in):
    """Ranks of Tucker-2, (out, in): about the same share of both channels, as far as the kernel can tell them apart."""
    steps, taps = max(out, n_in), height * width
    pairs = [(-(-out * i // steps), -(-n_in * i // steps)) for i in range(1, steps + 1)]
    return [(min(after, taps * before), min(before, taps * after)) for after, before in pairs]


NEITHER, ROWS, COLUMNS, BOTH = (False, False), (True, False), (False, True), (True, True)
SVD = Method(
    _svd,
    (BOTH, NEITHER),
    lambda out, h, w, n_in: range(1, min(out, h * w * n_in) + 1),
    lambda out, h, w, n_in, rank: ((rank, h, w, n_in), (out, 1, 1, rank)),
    nested=True,
)
TWO_FACTOR = Method(
    _two_factor,
    (ROWS, COLUMNS),
    lambda out, h, w, n_in: range(1, min(h * n_in, w * out) + 1),
    lambda out, h, w, n_in, rank: ((rank, h, 1, n_in), (out, 1, w, rank)),
    nested=True,
)
TUCKER2 = Method(
    _tucker2,
    (NEITHER, BOTH, NEITHER),
    _pairs,
    lambda out, h, w, n_in, ranks: ((ranks[1], 1, 1, n_in), (ranks[0], h, w, ranks[1]), (out, 1, 1, ranks[0])),
)
CP = Method(
    _cp,
    (NEITHER, ROWS, COLUMNS, NEITHER),
    lambda *shape: range(1, math.prod(shape) // max(shape) + 1),
    lambda out, h, w, n_in, rank: ((rank, 1, 1, n_in), (rank, h, 1, 1), (rank, 1, w, 1), (out, 1, 1, rank)),
)
METHODS = {
    Dense: {"svd": SVD},
    GroupedDense: {"svd": SVD},
    Conv2d: {"svd": SVD, "two_factor": TWO_FACTOR, "tucker2": TUCKER2, "cp": CP},
}
NAMES = tuple(dict.fromkeys(name for methods in METHODS.values() for name in methods))


def method_of(layer, name) -> Method:
    """The method of this name for a layer."""
    methods = METHODS.get(type(layer))
    if methods is None:
        kinds = ", ".join(kind.__name__ for kind in METHODS)
        raise TypeError(f"layer: expected one of {kinds}, got {type(layer).__name__}")
    if name not in methods:
        names = " or ".join(repr(other) for other in methods)
        raise ValueError(f"method: expected {names} for a {type(layer).__name__}, got {name!r}")
    return methods[name]


# ---------------------------------------------------------------- layers from weights


def unfilled(layer, method, rank, batch_norm) -> list[Layer]:
    """What `factorize` makes, without the factors to start with: they take as long."""
    made = method_of(layer, method)
    shapes = [(layer.groups * n_out, *rest) for n_out, *rest in made.shapes(*shape_of_group(layer), rank)]
    layers = _layers(layer, shapes, made.moves)
    return _normalized(layers) if batch_norm else layers


def _layers(layer, shapes, moves) -> list[Layer]:
    """New layers with weights of these shapes; the last one has bias and activation."""
    made: list[Layer] = []
    for i, shape in enumerate(shapes):
        last = i == len(shapes) - 1
        activation, bias = (layer.activation, layer.config()["bias"]) if last else ("identity", False)
        width = made[-1].out_features if made else layer.in_features
        options = {"bias": bias, "activation": activation, "l2": layer.l2}
        groups = width // shape[-1]
        if type(layer) is Conv2d:
            made.append(Conv2d(width, shape[0], shape[1:3], groups=groups, **_moving(layer, moves[i]), **options))
        elif type(layer) is GroupedDense:
            made.append(GroupedDense(width, shape[0], groups, **options))
        else:
            made.append(Dense(width, shape[0], **options))
    return made


def _moving(conv, axes) -> dict:
    """Stride, padding and dilation of a convolution, along these axes."""

    def along(pair, otherwise):
        return tuple(n if moves else otherwise for n, moves in zip(pair, axes, strict=True))

    padding = conv.padding if any(axes) else 0
    if not isinstance(conv.padding, str):
        padding = along(conv.padding, 0)
    return {"stride": along(conv.stride, 1), "dilation": along(conv.dilation, 1), "padding": padding}


def _normalized(layers) -> list[Layer]:
    """The layers with a BatchNorm between each two, which in inference is the identity: gamma is sqrt(1 + eps)."""
    made = [layers[0]]
    for layer in layers[1:]:
        norm = BatchNorm(layer.in_features, eps=EPS)
        norm.start_with(gamma=np.full(layer.in_features, math.sqrt(1 + norm.eps)))
        made += [norm, layer]
    return made
