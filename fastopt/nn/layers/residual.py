"""Residual: a chain of layers with a shortcut around it."""

from fastopt.nn.layers.chain import check, inside, shapes
from fastopt.nn.layers.layer import Layer


class Residual(Layer):
    """Shortcut connection, ``x + layers(x)``.

    Parameters
    ----------
    layers : list of Layer
        Must end in the shape in which they begin.

    Examples
    --------
    >>> import fastopt as fo
    >>> block = fo.nn.Residual([fo.nn.Dense(8, 16, activation="relu"), fo.nn.Dense(16, 8)])
    >>> block.out_features
    8
    """

    def __init__(self, layers):
        self.layers = tuple(check(layers))
        for layer in self.layers:
            if layer.calibration == "required":
                name = type(layer).__name__
                raise ValueError(f"layers: expected no {name} inside a shortcut, for want of data; put it before")
        self.in_features = next((one.in_features for one in self.layers if one.in_features), None)
        self.out_features = next((one.out_features for one in reversed(self.layers) if one.out_features), None)
        if self.in_features != self.out_features:
            ends = f"{self.in_features} and {self.out_features}"
            raise ValueError(f"layers: expected the shortcut to end as wide as it begins, got {ends}")

    def output_shape(self, input_shape):
        shape = super().output_shape(input_shape)
        end = shapes(self.layers, input_shape)[-1]
        if end != shape:
            raise ValueError(f"expected the shortcut to end in the shape in which it begins, {shape}, got {end}")
        return shape

    def config(self):
        return {"layers": list(self.layers)}

    def build(self, rng, dtype, input_shape):
        for layer, shape in inside(self, input_shape):
            layer.build(rng, dtype, shape)

    def parameters(self):
        return [a for layer in self.layers for a in layer.parameters()]

    def arrays(self):
        return {f"{i}.{name}": a for i, layer in enumerate(self.layers) for name, a in layer.arrays().items()}

    def __setstate__(self, state):
        super().__setstate__({**state, "layers": tuple(state["layers"])})

    def lay_out(self, layout, src):
        end = src
        for layer in self.layers:
            end = layer.lay_out(layout, end)
        dst = layout.value(layout.shapes[src])
        layout.add("add", (end, src), dst)
        return dst
