"""Residual: a chain of layers with a shortcut around it."""

from fastopt.nn.layers.chain import check, lay_out, shapes, width_after, width_before
from fastopt.nn.layers.container import Container


class Residual(Container):
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
        self._require_no_statistics("shortcut")
        self.in_features = width_before(self.layers)
        self.out_features = width_after(self.layers, self.in_features)
        if None not in (self.in_features, self.out_features) and self.in_features != self.out_features:
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

    def replace_inside(self, function):
        object.__setattr__(self, "layers", tuple(function(self.layers)))

    def __setstate__(self, state):
        super().__setstate__({**state, "layers": tuple(state["layers"])})

    def lay_out(self, layout, src):
        end = lay_out(self.layers, layout, src)
        dst = layout.value(layout.shapes[src])
        layout.add("add", (end, src), dst)
        return dst
