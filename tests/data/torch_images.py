"""A convolutional network of torch 2.13.0 and what it gives: `python tests/data/torch_images.py` writes the table.

Convolution in two groups, relu, Flatten, Linear, over images whose height, width and channels differ before and after.
All arrays hold small whole numbers, so whoever computes the same gives the same bits.
"""

from pathlib import Path

import numpy as np

TABLE = Path(__file__).parent / "torch_images.npz"
CONV = {
    "in_channels": 4,
    "out_channels": 6,
    "kernel_size": (3, 2),
    "stride": (2, 1),
    "padding": (1, 0),
    "dilation": (1, 2),
    "groups": 2,
}
IMAGE = (4, 3, 6)  # height, width, channels after the convolution
SHAPES = {
    "conv.weight": (6, 2, 3, 2),
    "conv.bias": (6,),
    "linear.weight": (5, 72),
    "linear.bias": (5,),
    "x": (3, 4, 7, 5),
}


def whole(shape, seed):
    """Whole numbers from -3 to 3, without a generator, whose numbers may change: Knuth's multiplicative hash."""
    t = np.arange(np.prod(shape), dtype=np.uint64) + np.uint64(1000 * seed)
    return ((t * np.uint64(2654435761) % 2**32 >> 20) % 7).astype(np.float64).reshape(shape) - 3


def arrays():
    """Weights as torch has them, and images (n, channels, height, width)."""
    return {name: whole(shape, seed) for seed, (name, shape) in enumerate(SHAPES.items())}


def main():
    import torch

    given = arrays()
    conv = torch.nn.Conv2d(**CONV, dtype=torch.float64)
    linear = torch.nn.Linear(72, 5, dtype=torch.float64)
    net = torch.nn.Sequential(conv, torch.nn.ReLU(), torch.nn.Flatten(), linear)
    with torch.no_grad():
        for name, module in (("conv", conv), ("linear", linear)):
            module.weight[...] = torch.from_numpy(given[f"{name}.weight"])
            module.bias[...] = torch.from_numpy(given[f"{name}.bias"])
        x = torch.from_numpy(given["x"])
        assert conv(x).shape == (3, IMAGE[2], *IMAGE[:2])
        np.savez_compressed(TABLE, y=net(x).numpy(), torch=torch.__version__)


if __name__ == "__main__":
    main()
