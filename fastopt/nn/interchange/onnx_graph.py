"""What a graph of ONNX is made of on its way to layers: nodes, drafts of layers, values, and branches that meet again.

- A value is a chain of drafts from where it starts: the input, or a value that several nodes read. Branches that start
  together and meet become one layer there (`onnx_branches.py`), and once all have met, it belongs to the chain before.
- A value knows what its axes are by letters: ``nchw`` and ``nhwc`` are images, ``nc`` is a vector, ``1`` an axis of
  length 1 besides: ``nc11`` is what a global pool leaves. So a transposition, a squeezed axis, or the axis of a softmax
  is looked up and needs no case of its own.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fastopt._numbers import finite_number, whole_number
from fastopt.nn.interchange.flattening import channels_last_columns, order_matters
from fastopt.nn.interchange.holding import holding
from fastopt.nn.layers import BatchNorm, Conv2d, Dense, Flatten, GroupedDense, Layer, Standardize

MOST = 2**31 - 1  # of a size, a stride and so on
MOST_MADE = 2**18  # channels of a layer for which the file holds no array
MOST_LISTED = 2**17  # numbers in an attribute
MOST_DEPTH = 32  # of branches inside branches
PRODUCTS = (Dense, GroupedDense, Conv2d)
KINDS = {"f": "FLOAT", "i": "INT", "s": "STRING", "t": "TENSOR", "floats": "FLOATS", "ints": "INTS"}


class Node:
    """A node of a graph, whose attributes are believed after a check of their types.

    Attributes
    ----------
    op : str
    inputs, outputs : list of str
    """

    def __init__(self, proto):
        self.op = proto.op_type if proto.domain in ("", "ai.onnx") else f"{proto.domain}.{proto.op_type}"
        self.inputs, self.outputs = proto.input[:], proto.output[:]  # lists, made sooner than by list()
        self._proto = proto

    def __str__(self):
        return f"node {self._proto.name or (self.outputs or [''])[0]!r} ({self.op})"

    def attribute(self, name, kind, default=None) -> Any:
        """A value by the name of its attribute; `kind` names the field of an ``AttributeProto`` that has it."""
        found = next((attribute for attribute in self._proto.attribute if attribute.name == name), None)
        if found is None:
            return default
        if found.type != found.AttributeType.Value(KINDS[kind]):
            raise ValueError(f"{name}: expected an attribute {KINDS[kind]}, got type {found.type}")
        value = getattr(found, kind)
        if kind in ("ints", "floats"):
            if len(value) > MOST_LISTED:
                raise ValueError(f"{name}: expected at most {MOST_LISTED} numbers, got {len(value)}")
            return list(value)
        return value

    def whole(self, name, default, least=0, most=MOST) -> int:
        return whole_number(name, self.attribute(name, "i", default), least, most)

    def wholes(self, name, length, default, least=0) -> list[int]:
        """So many whole numbers; by default all `default`."""
        values = self.attribute(name, "ints")
        values = [default] * length if values is None else values
        if len(values) != length:
            raise ValueError(f"{name}: expected {length} numbers, got {len(values)}; images have two axes")
        return [whole_number(name, n, least, MOST) for n in values]

    def number(self, name, default) -> float:
        """A float by its shortest decimal: 0.9, not 0.8999999761581421."""
        return finite_number(name, float(str(np.float32(self.attribute(name, "f", default)))))

    def text(self, name, default) -> str:
        value = self.attribute(name, "s")
        return default if value is None else value.decode()


# ---------------------------------------------------------------- drafts of layers


@dataclass
class Draft:
    """A layer that is not made yet: its class, arguments and arrays, which may still change.

    A Standardize stands for any ``activation((x - mean) * scale)``, with arrays that may be missing.
    """

    kind: type[Layer]
    config: dict
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def activation(self) -> str:
        return self.config.get("activation", "identity")

    def made(self, dtype, inside=False) -> Layer:
        """The layer; `inside` another, where no Standardize may stand."""
        if self.activation in ("erf", "2 gelu"):
            raise ValueError("expected Erf as a part of gelu, x * (1 + erf(x / sqrt(2))) / 2, got it otherwise")
        if self.kind is Standardize:
            return self._elementwise(dtype, inside)
        config = dict(self.config)
        if "layers" in config:
            config["layers"] = layers_of(config["layers"], dtype, True)
        if "branches" in config:
            config["branches"] = [layers_of(branch, dtype, True) for branch in config["branches"]]
        return holding(self.kind(**config), self.arrays, dtype)

    def _elementwise(self, dtype, inside) -> Layer:
        features = self.config["features"]
        mean, scale = self.arrays.get("mean", np.zeros(features)), self.arrays.get("scale", np.ones(features))
        layer: Layer
        if not inside and self.activation == "identity":
            layer = holding(Standardize(features), {"mean": mean, "scale": scale}, dtype)
            layer.calibrated = True
            return layer
        shift = -scale * mean
        options = {"groups": features, "bias": bool(shift.any()), "activation": self.activation}
        if self.config["image"]:
            layer = Conv2d(features, features, 1, **options)
        else:
            layer = GroupedDense(features, features, **options)
        shape = layer.array_specs(dtype)["weight"].shape
        return holding(layer, {"weight": scale.reshape(shape), "bias": shift}, dtype)


def layers_of(drafts, dtype, inside=False) -> list[Layer]:
    return [draft.made(dtype, inside) for draft in drafts]


# ---------------------------------------------------------------- values


@dataclass
class Start:
    """Where branches start: the input of the network, or a value that several nodes read."""

    before: "Value | None"
    branches: int  # that have not met yet


@dataclass
class Value:
    """A chain of drafts, and what it ends in."""

    start: Start
    shape: tuple[int, ...]  # of a sample, channels last, as fastopt has it
    axes: str  # letters of the axes in the file
    dtype: np.dtype
    drafts: list[Draft] = field(default_factory=list)
    image: tuple[int, ...] | None = None  # whose channels come first in this vector of the file
    depth: int = 0  # of branches inside branches

    @property
    def channels(self) -> int:
        return self.shape[-1]

    def size(self, letter) -> int:
        """Length of an axis in the file."""
        if letter == "c" or len(self.shape) == 1:
            return {"c": self.channels}.get(letter, 1)
        return {"h": self.shape[0], "w": self.shape[1]}.get(letter, 1)

    def axis(self, number) -> str:
        """The letter of an axis, which may be counted from the end."""
        if not -len(self.axes) <= number < len(self.axes):
            raise ValueError(f"axis: expected one of {len(self.axes)} axes, got {number}")
        return self.axes[number]

    def followed(self, draft, shape=None, axes=None) -> "Value":
        """The value after one more layer."""
        if self.dtype not in (np.float32, np.float64):
            raise ValueError(f"expected values of float32 or float64, got {self.dtype}")
        self.drafts.append(draft)
        if shape is None:
            return self
        return replace(self, shape=shape, axes=axes or self.axes, image=None)

    def ours(self, array) -> np.ndarray:
        """An array whose last axis belongs to the columns of the file, for those of the network."""
        if self.image is None:
            return array
        if array.shape[-1] != self.channels:
            raise ValueError(f"expected arrays for {self.channels} columns, got {array.shape[-1]}")
        return array[..., channels_last_columns(*self.image)]

    def per_channel(self, array) -> np.ndarray:
        """A constant beside the value as an array (channels,) of float64."""
        if array.dtype != self.dtype:
            raise ValueError(f"expected a constant of {self.dtype}, as the values, got {array.dtype}")
        letters = self.axes[len(self.axes) - array.ndim :]
        fits = array.ndim <= len(self.axes) and all(
            n == 1 or (letter == "c" and n == self.channels) for letter, n in zip(letters, array.shape, strict=True)
        )
        if not fits:
            raise ValueError(f"expected a constant for each of {self.channels} channels, got one of {array.shape}")
        if array.size == 1:
            self.require_few()
            return np.full(self.channels, array.item(), np.float64)
        return self.ours(array.reshape(-1)).astype(np.float64)

    def require_few(self) -> None:
        """Refuse to make up arrays for very many channels."""
        if self.channels > MOST_MADE:
            raise ValueError(f"expected at most {MOST_MADE} channels where the file has no array, got {self.channels}")

    # --- layers that a chain gains

    def elementwise(self, **arrays) -> "Value":
        """``(x - mean) * scale``, joined to a mean or an identity before."""
        last = self.drafts[-1] if self.drafts else None
        joins = last and last.kind is Standardize and last.activation == "identity" and "scale" not in last.arrays
        if last and joins:
            if "mean" in arrays:
                arrays["mean"] = last.arrays.get("mean", 0.0) + arrays["mean"]
            last.arrays |= arrays
            return self
        config = {"features": self.channels, "image": len(self.shape) == 3, "activation": "identity"}
        return self.followed(Draft(Standardize, config, arrays))

    def shifted(self, by) -> "Value":
        """``x + by``, the bias of a product that has none."""
        last = self.drafts[-1] if self.drafts else None
        if last and last.kind in PRODUCTS and last.activation == "identity" and not last.config["bias"]:
            last.config["bias"], last.arrays["bias"] = True, by
            return self
        return self.elementwise(mean=-by)

    def scaled(self, by) -> "Value":
        """``x * by``, also the half of what `onnx_branches.multiplied` found to be twice gelu."""
        last = self.drafts[-1] if self.drafts else None
        if last and last.activation == "2 gelu" and (by == 0.5).all():
            last.config["activation"] = "gelu"
            return self
        return self.elementwise(scale=by)

    def activated(self, name) -> "Value":
        """An activation of the last layer; without one that has any, of each channel times 1."""
        last = self.drafts[-1] if self.drafts else None
        if last and last.kind in (*PRODUCTS, BatchNorm, Standardize) and last.activation == "identity":
            last.config["activation"] = name
            return self
        self.require_few()
        config = {"features": self.channels, "image": len(self.shape) == 3, "activation": name}
        return self.followed(Draft(Standardize, config))

    def flattened(self) -> "Value":
        """A vector."""
        if len(self.shape) == 1:
            if self.axes.index("n") or "c" not in self.axes:
                raise ValueError(f"expected samples along the first axis, got axes {self.axes}")
            return replace(self, axes="nc")
        if self.axes not in ("nchw", "nhwc"):
            raise ValueError(f"expected an image, channels first or last, got axes {self.axes}")
        flat = self.followed(Draft(Flatten, {}), (math.prod(self.shape),), "nc")
        return replace(flat, image=self.shape if self.axes == "nchw" and order_matters(self.shape) else None)
