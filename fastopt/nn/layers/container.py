"""What layers share that hold others: chains, each of which starts from the input of the layer."""

from fastopt.nn.layers.chain import inside
from fastopt.nn.layers.layer import Layer


class Container(Layer):
    """Base of the layers that hold others."""

    def _require_no_statistics(self, place) -> None:
        """Refuse a layer inside that waits for statistics of data; `place` is what it stands in."""
        for layer in self.layers:
            if layer.calibration == "required":
                name = type(layer).__name__
                raise ValueError(f"layers: expected no {name} inside a {place}, for want of data; put it before")

    def build(self, rng, dtype, input_shape):
        for layer, shape in inside(self, input_shape):
            layer.build(rng, dtype, shape)

    def parameters(self):
        return [a for layer in self.layers for a in layer.parameters()]

    def arrays(self):
        return {f"{i}.{name}": a for i, layer in enumerate(self.layers) for name, a in layer.arrays().items()}
