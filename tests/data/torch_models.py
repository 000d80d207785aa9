"""A network that torch 2.13.0 runs and trains: `python tests/data/torch_models.py` writes what it gives.

Convolution, batch normalization, leaky relu, maxima, Flatten, batch normalization of the flattened columns, tanh,
Linear. It is recorded in inference mode before and after three steps of SGD with momentum, in float64. Weights and
images are made without a generator, whose numbers may change.

`Module` stands in for modules of torch where torch is not installed: it has their attributes, by the names and with the
values of torch 2.13.0, and the methods by which `nn.from_torch` reads them.
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
from torch_images import whole

TABLE = Path(__file__).parent / "torch_models.npz"
INPUT = (6, 5, 3)  # height, width, channels
MODULES = (
    ("Conv2d", {"in_channels": 3, "out_channels": 4, "kernel_size": (3, 2), "padding": (1, 0), "bias": False}),
    ("BatchNorm2d", {"num_features": 4, "eps": 0.01, "momentum": 0.3}),
    ("LeakyReLU", {}),
    ("MaxPool2d", {"kernel_size": 2, "padding": 1, "ceil_mode": True}),
    ("Flatten", {}),
    ("BatchNorm1d", {"num_features": 48}),
    ("Tanh", {}),
    ("Linear", {"in_features": 48, "out_features": 3}),
)
SHAPES = {
    "0.weight": (4, 3, 3, 2),
    "1.weight": (4,),
    "1.bias": (4,),
    "1.running_mean": (4,),
    "1.running_var": (4,),
    "5.weight": (48,),
    "5.bias": (48,),
    "5.running_mean": (48,),
    "5.running_var": (48,),
    "7.weight": (3, 48),
    "7.bias": (3,),
}
CLASSES = np.arange(10) * 7 % 3
STEPS, OPTIONS = 3, {"lr": 0.05, "momentum": 0.9}
# attributes that torch gives modules besides those above
DEFAULTS = {
    "Conv2d": {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1, "padding_mode": "zeros"},
    "BatchNorm1d": {"eps": 1e-05, "momentum": 0.1},
    "BatchNorm2d": {"eps": 1e-05, "momentum": 0.1},
    "MaxPool2d": {"padding": 0, "dilation": 1, "ceil_mode": False, "return_indices": False},
    "AvgPool2d": {"padding": 0, "ceil_mode": False, "count_include_pad": True, "divisor_override": None},
    "Flatten": {"start_dim": 1, "end_dim": -1},
    "LeakyReLU": {"negative_slope": 0.01},
    "GELU": {"approximate": "none"},
    "Softmax": {"dim": None},
    "Dropout": {"p": 0.5},
}


def state():
    """Parameters and running averages, as torch has them."""
    arrays = {name: whole(shape, seed) / 8 for seed, (name, shape) in enumerate(SHAPES.items())}
    return {name: abs(a) + 0.5 if name.endswith("running_var") else a for name, a in arrays.items()}


def images():
    """Ten images (n, channels, height, width)."""
    return whole((10, INPUT[2], *INPUT[:2]), 99) + whole((10, 1, 1, 1), 98) / 4


def computed():
    """What torch gives in inference mode, before and after the steps, their losses, and the state after them."""
    import torch

    net = torch.nn.Sequential(*[getattr(torch.nn, kind)(**options) for kind, options in MODULES]).double()
    net.load_state_dict({name: torch.from_numpy(a) for name, a in state().items()}, strict=False)
    x, y = torch.from_numpy(images()), torch.from_numpy(CLASSES)
    out = {"before": net.eval()(x).detach().numpy()}
    optimizer, losses = torch.optim.SGD(net.train().parameters(), **OPTIONS), []
    for _ in range(STEPS):
        loss = torch.nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    out |= {"losses": np.array(losses), "after": net.eval()(x).detach().numpy()}
    return out | {name: a.numpy() for name, a in net.state_dict().items() if name in SHAPES}


# ---------------------------------------------------------------- stand-ins


class Tensor:
    """What is read of a tensor."""

    def __init__(self, array, dtype=None, device="cpu"):
        self.array, self.dtype = array, f"torch.{dtype or array.dtype}"
        self.device, self.requires_grad = SimpleNamespace(type=device), True

    def detach(self):
        return self.array

    def is_floating_point(self):
        return self.array.dtype.kind == "f"


class Module:
    """What is read of a module: attributes, parameters, buffers, and modules inside."""

    def __init__(self, tensors=(), inside=(), **attributes):
        self.tensors, self.inside = dict(tensors), dict(inside)
        vars(self).update({**attributes, **self.tensors})

    def forward(self):
        raise NotImplementedError

    def __iter__(self):
        return iter(self.inside.values())

    def named_children(self):
        return list({id(child): (name, child) for name, child in self.inside.items()}.values())

    def named_parameters(self, recurse=True, remove_duplicate=True):
        found = [(name, t) for name, t in self.tensors.items() if "running" not in name]
        for name, child in self.inside.items() if recurse else ():
            found += [(f"{name}.{inner}", t) for inner, t in child.named_parameters(remove_duplicate=remove_duplicate)]
        return list({id(t): (name, t) for name, t in found}.values()) if remove_duplicate else found

    def parameters(self):
        return [t for _, t in self.named_parameters()]

    def buffers(self):
        mine = [t for name, t in self.tensors.items() if "running" in name]
        return mine + [t for child in self for t in child.buffers()]


def stand_in(kind, tensors=(), inside=(), library="torch.nn.modules.any", **options):
    """A stand-in for a module of torch.nn of this kind; a parameter it has not is None."""
    made = type(kind, (Module,), {"__module__": library})
    options = {"weight": None, "bias": None, "running_mean": None} | DEFAULTS.get(kind, {}) | options
    if kind.endswith("Pool2d") and "kernel_size" in options:
        options.setdefault("stride", options["kernel_size"])
    return made(tensors, inside, **options)


def chained(modules):
    """A stand-in for a Sequential."""
    named = modules if isinstance(modules, dict) else {str(i): module for i, module in enumerate(modules)}
    return stand_in("Sequential", inside=named)


def recorded(arrays, dtype=np.float64):
    """A stand-in for the recorded network, with the arrays of a state."""
    modules = []
    for i, (kind, options) in enumerate(MODULES):
        own = {name.partition(".")[2]: a for name, a in arrays.items() if name.startswith(f"{i}.") and name in SHAPES}
        tensors = {name: Tensor(a.astype(dtype)) for name, a in own.items()}
        modules.append(stand_in(kind, tensors, **{k: v for k, v in options.items() if k != "bias"}))
    return chained(modules)


def main():
    import torch

    np.savez_compressed(TABLE, **computed(), torch=torch.__version__)


if __name__ == "__main__":
    main()
