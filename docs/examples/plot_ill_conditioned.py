"""
An ill-conditioned problem
==========================

Where a loss is steep along one direction and shallow along another, gradient descent
crawls. Here is the spectrum of such a problem, and what momentum, Adam, batch
normalization, whitening and Newton's method each do to it.
"""

# %%
# The data: eight inputs, as different measurements of one thing are. Neighbors are
# correlated by 0.9, no column is centered, and standard deviations range from 0.3 to 10.
import matplotlib.pyplot as plt
import numpy as np

import fastopt as fo

rng = np.random.default_rng(0)
n, c, units = 500, 8, 3
distance = np.abs(np.subtract.outer(np.arange(c), np.arange(c)))
Z = rng.multivariate_normal(np.zeros(c), 0.9**distance, n)
X = (Z + 0.5) * np.logspace(-0.5, 1, c)
hidden = np.tanh(Z @ rng.normal(size=(c, units)) / 2)
y = hidden @ [[1.0], [1.0], [-2.0]] + 0.1 * rng.normal(size=(n, 1))

# %%
# A linear model
# --------------
#
# Under squared error, the Hessian of a linear layer is ``2/n XᵀX``, with a column of
# ones for the bias. It is the same everywhere, so it tells all. ``BatchNorm`` centers
# the columns and gives them variance 1; their correlations stay. ``Whiten`` removes
# these too: what is left is the identity, times 2.


def linear_hessian(inputs):
    inputs = np.column_stack([inputs, np.ones(n)])
    return 2 / n * inputs.T @ inputs


whitening = fo.nn.Sequential([fo.nn.Whiten(c)], dtype=np.float64)
INPUTS = {
    "as they are": X,
    "batch norm": fo.functional.batch_norm(X)[0],
    "whitened": whitening.calibrate(X).predict(X),
}
MARKERS = {"as they are": "o", "batch norm": "s", "whitened": "^"}
COLORS = {
    "as they are": "#000000",
    "gradient descent": "#000000",
    "momentum": "#E69F00",
    "Adam": "#56B4E9",
    "batch norm": "#009E73",
    "whitened": "#CC79A7",
    "Newton": "#D55E00",
}


def plot_spectra(hessians, title):
    """Magnitudes of the eigenvalues; markers of negative ones are hollow."""
    _, axes = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
    for name, H in hessians.items():
        values = np.linalg.eigvalsh(H)
        values = values[np.argsort(-np.abs(values))]
        position, color = np.arange(1, len(values) + 1), COLORS[name]
        number = fo.newton.condition_number(H)
        label = f"{name}: condition number {number:,.0f}"
        axes.semilogy(position, np.abs(values), color=color, lw=0.8)
        for chosen, face in (values > 0, color), (values < 0, "white"):
            axes.semilogy(
                position[chosen],
                np.abs(values[chosen]),
                MARKERS[name],
                color=color,
                markerfacecolor=face,
                label=label if face == color else None,
            )
    axes.set(
        title=title,
        xlabel="eigenvalue, largest magnitude first",
        ylabel="magnitude of the curvature",
    )
    axes.grid(alpha=0.3)
    axes.legend(title="inputs", fontsize=9)
    plt.show()


plot_spectra(
    {name: linear_hessian(inputs) for name, inputs in INPUTS.items()},
    "Hessian of a linear model",
)

# %%
# Six ways to train it, each on all rows at once and from the same weights. Five of them
# take the best of ten learning rates. Newton's method has none. It needs a Hessian
# instead, from a Hessian-vector product for each parameter; each counts as two gradients.


class Loss:
    """The loss of a network as a function of one vector of all parameters."""

    def __init__(self, net):
        self.net, self.gradients = net, 0

    def point(self):
        return np.concatenate([p.ravel() for p in self.net.parameters()])

    def move(self, point):
        start = 0
        for p in self.net.parameters():
            p[...] = point[start : start + p.size].reshape(p.shape)
            start += p.size

    def value_and_gradient(self, point):
        self.move(point)
        loss, grads = self.net.value_and_grad(X, y, "mse")
        self.gradients += 1
        return loss, np.concatenate([g.ravel() for g in grads])

    def value(self, point):
        return self.value_and_gradient(point)[0]

    def gradient(self, point):
        return self.value_and_gradient(point)[1]

    def hessian(self, point):
        self.move(point)
        self.gradients += 2 * len(point)
        return fo.newton.hessian(self.net, X, y, "mse")


def network(*layers):
    """A function that makes the same network anew at each call."""

    def make():
        net = [layer() for layer in layers]
        net = fo.nn.Sequential(net, rng=1, dtype=np.float64)
        return net.calibrate(X)

    return make


def descend(make, optimizer, steps, **options):
    """Gradients taken, and the losses there, for the best learning rate."""
    runs = []
    for lr in np.logspace(-4, 0.5, 10):
        net = make()
        rule = optimizer(net.parameters(), lr=lr, **options)
        trainer = fo.nn.Trainer(net, loss="mse", optimizer=rule)
        try:
            runs.append([trainer.step(X, y) for _ in range(steps)])
        except FloatingPointError:  # diverged
            continue
    runs = [run for run in runs if np.isfinite(run).all()]
    best = min(runs, key=lambda run: np.median(run[steps // 2 :]))
    return np.arange(1, steps + 1), best


def newton(make):
    """Gradients taken, the losses there, and the result."""
    loss = Loss(make())
    counts, losses = [1], [loss.value(loss.point())]

    def note(state):
        counts.append(loss.gradients)
        losses.append(state.fun)

    found = fo.newton.minimize(loss, loss.point(), callback=note)
    return (counts, losses), found


def compare(plain, batch_norm, whitened, steps, title):
    """Trains in all ways, draws the losses, returns what Newton found."""
    SGD = fo.optim.SGD
    last, found = newton(plain)
    curves = {
        "gradient descent": descend(plain, SGD, steps),
        "momentum": descend(plain, SGD, steps, momentum=0.9),
        "Adam": descend(plain, fo.optim.Adam, steps),
        "batch norm": descend(batch_norm, SGD, steps),
        "whitened": descend(whitened, SGD, steps),
        "Newton": last,
    }
    _, axes = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
    for name, (counts, losses) in curves.items():
        above = np.minimum.accumulate(losses) - found.fun
        axes.loglog(
            counts,
            np.maximum(above, 1e-14),
            marker="D" if name == "Newton" else None,
            markersize=4,
            color=COLORS[name],
            label=name,
        )
    axes.set(
        title=title,
        xlabel="gradients taken",
        ylabel="mean squared error\nabove the minimum, lowest so far",
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", fontsize=9)
    plt.show()
    return found


def linear():
    return fo.nn.Dense(c, 1)


found = compare(
    network(linear),
    network(lambda: fo.nn.BatchNorm(c, affine=False), linear),
    network(lambda: fo.nn.Whiten(c), linear),
    steps=300,
    title="Training a linear model",
)
print(f"Newton: {found.nit} iteration")

# %%
# Momentum and Adam go the same way as gradient descent, faster. Batch normalization
# and whitening change the way itself. Newton's method does not see the condition
# number at all: one step, and it is there.
#
# A network
# ---------
#
# One hidden layer of three tanh units. Its Hessian changes from point to point, and
# where training starts, a good part of the eigenvalues is negative (hollow markers).
# Normalizing or whitening the inputs helps here too, but leaves a condition number of
# thousands: the hidden layer has a conditioning of its own.


def hidden_layer():
    return fo.nn.Dense(c, units, activation="tanh")


def output_layer():
    return fo.nn.Dense(units, 1)


plain = network(hidden_layer, output_layer)
normalized = network(
    lambda: fo.nn.BatchNorm(c, affine=False), hidden_layer, output_layer
)
whitened = network(lambda: fo.nn.Whiten(c), hidden_layer, output_layer)


def start(make):
    loss = Loss(make())
    return loss.hessian(loss.point())


plot_spectra(
    {
        "as they are": start(plain),
        "batch norm": start(normalized),
        "whitened": start(whitened),
    },
    "Hessian of a network at its start",
)

# %%
# Newton's method leaves the region of negative curvature within its trust region, and
# ends in a minimum to the last digit.
found = compare(
    plain, normalized, whitened, steps=3000, title="Training a network"
)
print("start:", fo.newton.critical_point(start(plain)))
print("end:", fo.newton.critical_point(found.hess))
print(f"condition number: {fo.newton.condition_number(found.hess):,.0f}")
print(f"Newton: {found.nit} iterations, {found.nhev} Hessians")

# %%
# Each of its steps costs a Hessian, so that it pays where parameters are few or
# precision is wanted. Where they are many, ``method="newton_cg"`` asks for products with
# the Hessian only.
