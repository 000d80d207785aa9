"""Branches of an ONNX graph that meet: as a layer of branches, or as an activation that was written in parts.

x + f(x) is a `Residual`, another sum an `Add`, values side by side are a `Concat`, and the largest of several products
is a `Maxout`; x sigmoid(x) is silu, and x (1 + erf(x / sqrt 2)) / 2 is gelu.
"""

import math
from dataclasses import replace

import numpy as np

from fastopt.nn.interchange.onnx_graph import MOST_DEPTH, Draft, Value
from fastopt.nn.layers import Add, Concat, Conv2d, Dense, Maxout, Residual, Standardize


def meet(operator, values) -> Value:
    """What an operator makes of several values; ValueError where fastopt has no layer for it."""
    start, axes, dtype = values[0].start, values[0].axes, values[0].dtype
    if any(value.start is not start for value in values):
        raise ValueError("expected branches that part from one value and meet in one, as in Residual, Add and Concat")
    if any((value.axes, value.dtype) != (axes, dtype) or value.image for value in values):
        raise ValueError(f"expected branches with the same axes, got {', '.join(value.axes for value in values)}")
    if len({value.shape[:-1] if operator == "Concat" else value.shape for value in values}) > 1:
        raise ValueError(f"expected branches of one size, got {', '.join(str(value.shape) for value in values)}")
    joined = JOINS[operator](values)
    depth = max(value.depth for value in values) + 1
    if depth > MOST_DEPTH:
        raise ValueError(f"expected at most {MOST_DEPTH} branches inside each other, got more")
    start.branches -= len(values) - 1
    before = start.before
    met = replace(values[0], drafts=[], depth=depth)
    if start.branches == 1 and before is not None:  # all have met: the chain before goes on
        met = replace(met, start=before.start, drafts=before.drafts, depth=max(depth, before.depth))
    if isinstance(joined, str):
        return met.activated(joined)
    channels = sum(value.channels for value in values) if operator == "Concat" else values[0].channels
    return met.followed(joined, (*values[0].shape[:-1], channels))


def added(values) -> Draft:
    if len(values) == 2:
        plain, other = _by_length(values)
        if not plain.drafts and other.drafts:
            return Draft(Residual, {"layers": other.drafts})
    return summed(values)


def summed(values) -> Draft:
    return Draft(Add, {"branches": [value.drafts for value in values]})


def side_by_side(values) -> Draft:
    return Draft(Concat, {"branches": [value.drafts for value in values]})


def multiplied(values) -> str:
    """The activation that a product of branches is; "2 gelu" waits for the half of it."""
    plain, other = (value.drafts for value in _by_length(values))
    if not plain and len(other) == 1 and _is(other[0], "sigmoid"):
        return "silu"
    if len(plain) < 2 and len(other) == 2 and _is(other[0], "erf", scale=math.sqrt(0.5)):
        factors = [plain[0].arrays.get("scale", 1.0)] if plain and _is(plain[0], scale=0.5) else [1.0] * (not plain)
        factors += [other[1].arrays.get("scale", 1.0)] if _is(other[1], mean=-1.0, scale=None) else []
        if len(factors) == 2:
            product = np.asarray(factors[0] * factors[1])
            name = {0.5: "gelu", 1.0: "2 gelu"}.get(float(product.flat[0]))
            if name and (product == product.flat[0]).all():
                return name
    raise ValueError("expected x * sigmoid(x) or gelu by erf, got a product of other branches")


def largest(values) -> Draft:
    """Maxout, of products of one draft each: piece j of output o is row o * pieces + j."""
    drafts = [value.drafts[0] for value in values if len(value.drafts) == 1]
    if len(drafts) < len(values) or not all(map(_is_linear, drafts)):
        raise ValueError("expected the largest of dense layers, as in nn.Maxout, got other branches")
    weights = [draft.arrays["weight"].reshape(values[0].channels, -1) for draft in drafts]
    biases = [draft.arrays.get("bias", np.zeros(1)) for draft in drafts]
    bias = any(draft.config["bias"] for draft in drafts)
    arrays: dict[str, np.ndarray] = {"weight": np.stack(weights, 1).reshape(-1, weights[0].shape[1])}
    if bias:
        arrays["bias"] = np.stack([np.broadcast_to(b, values[0].channels) for b in biases], 1).reshape(-1)
    sizes = {"in_features": weights[0].shape[1], "out_features": values[0].channels}
    return Draft(Maxout, sizes | {"pieces": len(values), "bias": bias}, arrays)


JOINS = {"Add": added, "Concat": side_by_side, "Max": largest, "Mul": multiplied, "Sum": summed}


def _by_length(values) -> list[Value]:
    if len(values) != 2:
        raise ValueError(f"expected two inputs, got {len(values)}")
    return sorted(values, key=lambda value: len(value.drafts))


def _is(draft, activation="identity", **constants) -> bool:
    """Whether a draft is an elementwise one with these constants, None for any, and no others."""
    if draft.kind is not Standardize or draft.activation != activation or draft.arrays.keys() - constants.keys():
        return False
    return all(
        wanted is None or np.allclose(draft.arrays.get(name, np.nan), wanted, rtol=1e-6)
        for name, wanted in constants.items()
    )


def _is_linear(draft) -> bool:
    """Whether a draft is a dense layer without activation, also as a convolution of single pixels."""
    if draft.kind not in (Dense, Conv2d) or draft.activation != "identity":
        return False
    window = [draft.config.get(name) for name in ("kernel_size", "stride", "padding", "groups")]
    return draft.kind is Dense or window == [(1, 1), (1, 1), (0, 0), 1]
