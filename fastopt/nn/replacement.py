"""Other layers in the place of one: whether they fit there, and which group of an optimizer their parameters join."""

from itertools import takewhile

from fastopt.nn.layers import chain


def checked(net, layer, layers) -> tuple[list, list[tuple[int, ...]]]:
    """New layers for the place of one in a network, and the shapes before and after each; ValueError where they do not
    fit. Nothing is changed."""
    before = _shape_before(net.layers, layer, net.input_shape)
    if before is None:
        raise ValueError(f"layer: expected one of the network's, got {layer!r}")
    layers = chain.check_each("layers", layers) if layer.training_only else chain.check(layers)
    if not layers:
        raise ValueError("layers: expected at least one layer, got none")
    shapes, expected = chain.shapes(layers, before), layer.output_shape(before)
    if shapes[-1] != expected:
        raise ValueError(f"layers: expected to end in the shape {expected}, as {layer!r} does, got {shapes[-1]}")
    new = list(chain.walk(layers))
    gone = {id(one) for one in chain.walk([layer])}
    stay = {id(one) for one in chain.walk(net.layers)} - gone
    if len({id(one) for one in new} - stay) < len(new):
        raise ValueError("layers: expected each layer once, got one twice, or one that the network has elsewhere")
    waiting = next((one for one in new if one.calibration == "required"), None)
    if waiting is not None and layer not in net.layers:
        name = type(waiting).__name__
        raise ValueError(f"layers: expected no {name} inside another layer, for want of data; put it before")
    return layers, shapes


def _shape_before(layers, layer, input_shape):
    """Shape of a sample before this layer, one of the chain or inside others; None where it is not among them."""
    for one, shape in zip(layers, chain.shapes(layers, input_shape)[:-1], strict=True):
        if one is layer:
            return shape
        for inner in one.chains():
            found = _shape_before(inner, layer, shape)
            if found is not None:
                return found
    return None


def regrouped(net, groups, layer, layers) -> list[list]:
    """The parameters of each group of an optimizer over a network, now that `layers` stand where `layer` was.

    New parameters join the group of the old ones. Where the old weight and bias were in different groups, the new last
    bias joins that of the bias and all else that of the weight.
    """
    owners = [k for k, group in enumerate(groups) for _ in group["params"]]
    old, new = layer.parameters(), [a for one in layers for a in one.parameters()]
    _, start = next(chain.named(layers))
    places = takewhile(lambda one: one is not start, (one for _, one in chain.named(net.layers)))
    first = sum(len(one.parameters()) for one in places)
    last = first + len(old)
    theirs = owners[first:last] or owners[max(first - 1, 0) : first + 1]  # the neighbors' where it had none
    kept = dict(zip(map(id, old), theirs, strict=False))
    joined = [kept.get(id(a), -1) for a in new]
    if joined == sorted(joined) and -1 not in joined:
        pass  # all of them are old ones, in their order
    elif len(set(theirs)) == 1:
        joined = theirs[:1] * len(new)
    elif len(old) == 2 and _ends_in_bias(layer, old) and _ends_in_bias(layers[-1], new):
        joined = [theirs[0]] * (len(new) - 1) + [theirs[1]]
    else:
        raise ValueError(
            f"layers: expected the parameters of {layer!r} in one group of the optimizer, or its weight and bias in "
            "two and layers that end in a bias, got others"
        )
    owners[first:last] = joined
    params = net.parameters()
    found = [[a for a, owner in zip(params, owners, strict=True) if owner == k] for k in range(len(groups))]
    if [] in found:
        raise ValueError(
            f"layers: expected parameters for group {found.index([])} of the optimizer, which has no others"
        )
    return found


def require_parameters(optimizer, net) -> None:
    """Raise ValueError unless an optimizer is over exactly the parameters of a network."""
    if [id(a) for a in net.parameters()] != [id(a) for a in optimizer.parameters()]:
        raise ValueError("optimizer: expected one over net.parameters(), in that order, got other arrays")


def _ends_in_bias(layer, params) -> bool:
    return bool(params) and params[-1] is getattr(layer, "bias", None)
