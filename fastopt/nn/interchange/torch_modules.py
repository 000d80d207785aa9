"""Modules of torch for the layers that torch.nn has none for; `to_torch` makes them, `from_torch` reads them.

Importing this file loads torch. All take samples as torch has them, (n, features) or (n, channels, height, width), and
act on axis 1, in training and in inference as the layer of their name does. What is random is drawn by torch.
"""

import torch
from torch import nn
from torch.nn import functional


class Residual(nn.Module):
    """Shortcut connection, ``x + layers(x)``."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        return self.layers(x) + x


class Branches(nn.Module):
    """Parallel branches over the same input."""

    def __init__(self, branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)


class Add(Branches):
    """Their sum."""

    def forward(self, x):
        return sum(branch(x) for branch in self.branches)


class Concat(Branches):
    """Their outputs, joined along axis 1."""

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class ChannelsLast(nn.Module):
    """Turn images (n, channels, height, width) to (n, height, width, channels), for a Flatten in this order."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1)


class GroupedLinear(nn.Module):
    """Linear layer in groups; weight (out, in / groups), each output connected to the inputs of its own group."""

    bias: torch.Tensor | None

    def __init__(self, in_features, out_features, groups, bias=True):
        super().__init__()
        self.in_features, self.out_features, self.groups = in_features, out_features, groups
        self.weight = nn.Parameter(torch.empty(out_features, in_features // groups))
        self.register_parameter("bias", nn.Parameter(torch.empty(out_features)) if bias else None)

    def forward(self, x):
        return functional.conv1d(x[..., None], self.weight[..., None], self.bias, groups=self.groups)[..., 0]

    def extra_repr(self):
        return f"{self.in_features}, {self.out_features}, groups={self.groups}, bias={self.bias is not None}"


class Maxout(nn.Module):
    """The largest of `pieces` linear functions for each output; weight (out * pieces, in)."""

    bias: torch.Tensor | None

    def __init__(self, in_features, out_features, pieces, bias=True):
        super().__init__()
        self.in_features, self.out_features, self.pieces = in_features, out_features, pieces
        self.weight = nn.Parameter(torch.empty(out_features * pieces, in_features))
        self.register_parameter("bias", nn.Parameter(torch.empty(out_features * pieces)) if bias else None)

    def forward(self, x):
        pieces = functional.linear(x.movedim(1, -1), self.weight, self.bias)
        return pieces.unflatten(-1, (self.out_features, self.pieces)).max(dim=-1).values.movedim(-1, 1)

    def extra_repr(self):
        return f"{self.in_features}, {self.out_features}, pieces={self.pieces}, bias={self.bias is not None}"


class Standardize(nn.Module):
    """Center by `mean` and multiply by `scale`, in float64 as fastopt keeps them; nothing is trained."""

    def __init__(self, mean, scale):
        super().__init__()
        self.in_features = len(mean)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, x):
        return ((x.movedim(1, -1) - self.mean) * self.scale).movedim(-1, 1).to(x.dtype)


class Whiten(nn.Module):
    """Center by `mean`, in float64, and multiply by the matrix `weight`; nothing is trained."""

    weight: torch.Tensor

    def __init__(self, mean, weight, kind, eps):
        super().__init__()
        self.in_features = len(mean)
        self.kind, self.eps = kind, eps  # how the statistics were taken, for the way back
        self.register_buffer("mean", mean)
        self.register_buffer("weight", weight)

    def forward(self, x):
        centered = (x.movedim(1, -1) - self.mean).to(self.weight.dtype)
        return functional.linear(centered, self.weight).movedim(-1, 1)


class RandomFlip(nn.Module):
    """In training, flip each image with probability 1/2 along each axis that is asked for."""

    def __init__(self, horizontal, vertical):
        super().__init__()
        self.horizontal, self.vertical = horizontal, vertical

    def forward(self, x):
        if self.training:
            for axis in [3] * self.horizontal + [2] * self.vertical:
                flipped = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
                x = torch.where(flipped, x.flip(axis), x)
        return x

    def extra_repr(self):
        return f"horizontal={self.horizontal}, vertical={self.vertical}"


class RandomShift(nn.Module):
    """In training, move each image by random numbers of pixels, up to `height` and `width`; zeros come in."""

    def __init__(self, height, width):
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x):
        if not self.training:
            return x
        n, _, height, width = x.shape
        padded = functional.pad(x, (self.width, self.width, self.height, self.height))
        first_row = torch.randint(2 * self.height + 1, (n, 1), device=x.device)
        first_column = torch.randint(2 * self.width + 1, (n, 1), device=x.device)
        rows = first_row + torch.arange(height, device=x.device)
        columns = first_column + torch.arange(width, device=x.device)
        image = torch.arange(n, device=x.device)[:, None, None]
        return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    def extra_repr(self):
        return f"height={self.height}, width={self.width}"
