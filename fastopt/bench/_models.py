"""Our networks as torch modules: one small function a kind of layer.

- Torch gets our weights and computes what we do, dropout aside, but for the order in which `Flatten` reads an image.
- Its images lie channels first.
- Batch norm is not among the kinds: networks come folded, and so are those that torch is timed with.
"""

from collections.abc import Callable


def torch_module(layers):
    """The layers of a network as one torch module."""
    import torch

    return torch.nn.Sequential(*(part for layer in layers for part in TORCH[type(layer).__name__](layer)))


def torch_weighted(layer):
    import torch

    return [layer.to_torch(), *([torch.nn.ReLU(inplace=True)] if layer.activation == "relu" else [])]


def torch_max_pool2d(layer):
    import torch

    return [torch.nn.MaxPool2d(layer.kernel_size, layer.stride, layer.padding, ceil_mode=layer.ceil_mode)]


def torch_global_avg_pool2d(layer):
    import torch

    return [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]


def torch_flatten(layer):
    import torch

    return [torch.nn.Flatten()]


def torch_concat(layer):
    import torch

    class Branches(torch.nn.ModuleList):
        def forward(self, x):
            return torch.cat([branch(x) for branch in self], 1)

    return [Branches(torch_module(branch) for branch in layer.chains())]


TORCH: dict[str, Callable] = {
    "Dense": torch_weighted,
    "Conv2d": torch_weighted,
    "MaxPool2d": torch_max_pool2d,
    "GlobalAvgPool2d": torch_global_avg_pool2d,
    "Flatten": torch_flatten,
    "Dropout": lambda layer: [],
    "Concat": torch_concat,
}
