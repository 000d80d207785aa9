"""A small convolutional network that torch 2.13.0 trains: `python tests/data/torch_training.py` writes its losses.

Convolution, relu, maxima, convolution in two groups, relu, Flatten, Linear; five steps of SGD with momentum on the
cross entropy of one batch, in float64. Weights and images are made without a generator, whose numbers may change.
"""

from pathlib import Path

import numpy as np
from torch_images import whole

TABLE = Path(__file__).parent / "torch_training.npz"
CONVS = (
    {"in_channels": 3, "out_channels": 8, "kernel_size": 3, "padding": 1},
    {"in_channels": 8, "out_channels": 6, "kernel_size": (2, 3), "stride": (1, 2), "groups": 2},
)
POOL = {"kernel_size": 3, "stride": 2, "padding": 1}
IMAGE = (4, 2, 6)  # height, width, channels before Flatten
SHAPES = {
    "0.weight": (8, 3, 3, 3),
    "0.bias": (8,),
    "3.weight": (6, 4, 2, 3),
    "3.bias": (6,),
    "6.weight": (4, 48),
    "6.bias": (4,),
    "x": (12, 3, 9, 10),
}
CLASSES = np.arange(12) * 7 % 4
STEPS, OPTIONS = 5, {"lr": 0.1, "momentum": 0.9}


def arrays():
    """Weights as torch has them, and images (n, channels, height, width)."""
    return {name: whole(shape, seed) / (1 if name == "x" else 16) for seed, (name, shape) in enumerate(SHAPES.items())}


def computed():
    """Of each step the loss before it, and the weights after all, by torch's names."""
    import torch

    nn, given = torch.nn, {name: torch.from_numpy(a) for name, a in arrays().items()}
    first, second = (nn.Conv2d(**conv) for conv in CONVS)
    linear = nn.Linear(int(np.prod(IMAGE)), 4)
    net = nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(**POOL), second, nn.ReLU(), nn.Flatten(), linear).double()
    x = given.pop("x")
    net.load_state_dict(given)
    optimizer, losses = torch.optim.SGD(net.parameters(), **OPTIONS), []
    for _ in range(STEPS):
        loss = nn.functional.cross_entropy(net(x), torch.from_numpy(CLASSES))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {"losses": np.array(losses), **{name: a.numpy() for name, a in net.state_dict().items()}}


def main():
    import torch

    np.savez_compressed(TABLE, **computed(), torch=torch.__version__)


if __name__ == "__main__":
    main()
