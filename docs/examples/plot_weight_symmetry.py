"""
The symmetry of weight space
============================

Hidden units have no names. Two that change places, with all their weights, leave the
network what it was, and so does a tanh unit whose weights before and after it change
sign. So every minimum is one of many, and between two of them the loss can be high
although it is the same at both.
"""

# %%
# A small network that tells two moons apart. Its parameters together are a point, one
# vector of numbers.
from math import factorial

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.datasets import make_moons

import fastopt as fo

X, y = make_moons(500, noise=0.2, random_state=0)
units = 8


def network(rng=0):
    hidden = fo.nn.Dense(2, units, activation="tanh")
    net = [fo.nn.Standardize(2), hidden, fo.nn.Dense(units, 2)]
    return fo.nn.Sequential(net, rng=rng, dtype=np.float64).calibrate(X)


def as_point(arrays):
    return np.concatenate([array.ravel() for array in arrays])


def trained(rng):
    net = network(rng)
    adam = fo.optim.Adam(net.parameters(), lr=0.02)
    fo.nn.Trainer(net, "cross_entropy", adam).fit(X, y, epochs=200)
    return as_point(net.parameters())


probe = network()
ends = np.cumsum([array.size for array in probe.parameters()])


def as_arrays(point):
    """Weights and biases of the hidden layer, then of the last one."""
    shapes = [array.shape for array in probe.parameters()]
    pieces = np.split(point, ends[:-1])
    return [
        p.reshape(shape) for p, shape in zip(pieces, shapes, strict=True)
    ]


def outputs(point):
    for mine, given in zip(
        probe.parameters(), as_arrays(point), strict=True
    ):
        mine[...] = given
    return probe.predict(X)


def loss(point):
    return fo.functional.cross_entropy(outputs(point), y)[0]


here = trained(0)
print(f"loss {loss(here):.4f}", end=", ")
print(f"accuracy {fo.metrics.accuracy(y, outputs(here)):.3f}")

# %%
# Other weights, the same network
# -------------------------------
#
# An order of the units and a sign for each describe all such changes. They move the
# point far, and the outputs by rounding at most, where a sum is taken in another order.


def moved(point, order, sign):
    weight, bias, weight_out, bias_out = as_arrays(point)
    weight, bias = sign[:, None] * weight[order], sign * bias[order]
    return as_point([weight, bias, weight_out[:, order] * sign, bias_out])


order = np.random.default_rng(0).permutation(units)
copies = {
    "swapped": moved(here, order, np.ones(units)),
    "flipped": moved(here, np.arange(units), -np.ones(units)),
}
print(f"length of the point: {np.linalg.norm(here):.1f}")
for name, copy in copies.items():
    difference = np.abs(outputs(copy) - outputs(here)).max()
    print(f"{name}: {np.linalg.norm(copy - here):.1f} away", end=", ")
    print(f"outputs differ by at most {difference:.0e}")
print(f"orders and signs: {factorial(units) * 2**units:,}")

# %%
# The loss between them
# ---------------------
#
# The plane through the three points: each lies in a hollow of its own.
right, up = copies["swapped"] - here, copies["flipped"] - here
grid = np.linspace(-0.4, 1.4, 61)
surface = [[loss(here + a * right + b * up) for a in grid] for b in grid]

figure, axes = plt.subplots(figsize=(6, 4.6), layout="constrained")
filled = axes.contourf(grid, grid, np.log10(surface), 20)
figure.colorbar(filled, label="log10 of the loss")
for name, place in (
    ("trained", (0, 0)),
    ("swapped", (1, 0)),
    ("flipped", (0, 1)),
):
    axes.plot(*place, "o", color="white")
    axes.annotate(
        name, place, (6, 6), textcoords="offset points", color="white"
    )
axes.set(
    xlabel="toward the swapped units", ylabel="toward the flipped units"
)
plt.show()

# %%
# Two trained networks
# --------------------
#
# Networks from other starts find other minima, and their units stand in any order. The
# straight path from one to the other leads over a hill. Units of the second can be
# brought into the order and signs in which they are most like those of the first, by
# the Hungarian method. Then a low rise is left of the hill, or none.


def units_of(point):
    weight, bias, weight_out, _ = as_arrays(point)
    return np.column_stack([weight, bias, weight_out.T])


def matched(point, target):
    likeness = units_of(target) @ units_of(point).T
    _, order = linear_sum_assignment(-np.abs(likeness))
    return moved(point, order, np.sign(likeness[np.arange(units), order]))


steps = np.linspace(0, 1, 51)


def path(start, end):
    return [loss((1 - t) * start + t * end) for t in steps]


figure, (left, right) = plt.subplots(
    1, 2, figsize=(8, 3.6), layout="constrained", sharey=True
)
for name, copy in copies.items():
    left.plot(steps, path(here, copy), label=name)
print("highest loss on the way, and the loss at its end")
for rng in range(1, 5):
    there = trained(rng)
    plain, match = path(here, there), path(here, matched(there, here))
    right.plot(
        steps, plain, "C2", label="as they are" if rng == 1 else None
    )
    right.plot(steps, match, "C3", label="matched" if rng == 1 else None)
    print(f"units as they are {max(plain):.3f}", end=", ")
    print(f"matched {max(match):.3f}, end {loss(there):.3f}")
left.set(title="to a copy of itself", ylabel="loss")
right.set(title="to networks from other starts")
for axes in left, right:
    axes.set(yscale="log", xlabel="part of the way", ylim=(0.04, 20))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, loc="upper right")
plt.show()
