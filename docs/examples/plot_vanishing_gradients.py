"""
Vanishing gradients
===================

Backward multiplies by the weights and the slope of the activation of each layer it
passes. Where that makes gradients smaller, the first layers of a deep network hardly
move. Here are the gradients of every layer, over activations and depths, and what
comes of them in training.
"""

# %%
# Networks for the 8×8 digits of scikit-learn. They differ in their hidden layers only:
# the activation, the size of the weights at the start, and in the last of them a
# shortcut around each layer.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import fastopt as fo

X, y = load_digits(return_X_y=True)
width, depth = 64, 20


def hidden(activation, init="glorot"):
    return lambda: fo.nn.Dense(width, width, activation, init=init)


LAYERS = {
    "sigmoid": hidden("sigmoid"),
    "relu": hidden("relu"),
    "relu, init he": hidden("relu", "he"),
    "tanh": hidden("tanh"),
    "tanh, shortcuts": lambda: fo.nn.Residual([hidden("tanh")()]),
}
COLORS = ("#D55E00", "#E69F00", "#009E73", "#0072B2", "#CC79A7")


def network(layer, layers=depth, rng=0, dtype=np.float64):
    net = [fo.nn.Standardize(64), *(layer() for _ in range(layers))]
    net = [*net, fo.nn.Dense(width, 10)]
    return fo.nn.Sequential(net, rng=rng, dtype=dtype).calibrate(X)


def draw(axes, curves, **labels):
    """A line for each kind of layer, on a logarithmic axis."""
    for (name, values), color in zip(curves.items(), COLORS, strict=True):
        axes.semilogy(*values, ".-", color=color, label=name)
    axes.set(**labels)
    axes.grid(alpha=0.3)


# %%
# Layer by layer
# --------------
#
# ``value_and_grad`` gives gradients in the order of ``net.parameters()``. Those with two
# axes belong to weights, one for each layer. The norms are geometric means over five
# starts.


def gradient_norms(layer, layers=depth):
    norms = []
    for rng in range(5):
        net = network(layer, layers, rng)
        _, grads = net.value_and_grad(
            X[:300], y[:300], loss="cross_entropy"
        )
        norms.append([np.linalg.norm(g) for g in grads if g.ndim == 2])
    return np.exp(np.mean(np.log(norms), axis=0))


norms = {name: gradient_norms(layer) for name, layer in LAYERS.items()}
figure, axes = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
draw(
    axes,
    {name: (range(1, depth + 2), values) for name, values in norms.items()},
    title=f"{depth} hidden layers and the output, at their start",
    xlabel="layer, from the input",
    ylabel="norm of the weights' gradient",
    xticks=[1, 5, 10, 15, 20],
)
axes.legend(fontsize=9)
plt.show()

print("hidden layer:      first    last  factor a layer")
for name, values in norms.items():
    begin, end = values[0], values[depth - 1]
    factor = (begin / end) ** (1 / (depth - 1))
    print(f"{name:16s}{begin:8.0e}{end:8.0e}{factor:8.2f}")

# %%
# Sigmoid's slope is a quarter at most, and the gradient falls by about as much from layer
# to layer. With relu it is small, but nearly the same in all layers: a weight's gradient
# is a product of what forward brings, which fades toward the output, and of what
# backward brings, which fades toward the input. With tanh, or with relu and the larger
# weights of ``init="he"``, little is lost on either way.
#
# Over depth
# ----------
#
# The gradient of the first layer shows what relu loses: it becomes smaller with every
# layer that the network has, though far slower than with sigmoid.
depths = [1, 2, 5, 10, 20, 40]
first = {
    name: [gradient_norms(layer, layers)[0] for layers in depths]
    for name, layer in LAYERS.items()
}
figure, axes = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
draw(
    axes,
    {name: (depths, values) for name, values in first.items()},
    title="The first layer of networks of any depth",
    xlabel="hidden layers",
    ylabel="norm of the weights' gradient",
)
axes.legend(fontsize=9)
plt.show()

# %%
# In training
# -----------
#
# Twenty epochs with twenty hidden layers, by plain gradient descent and by Adam.
order = np.random.default_rng(0).permutation(len(X))
train, test = order[:1400], order[1400:]


def fit(layer, optimizer, lr):
    net = network(layer, dtype=np.float32)
    rule = optimizer(net.parameters(), lr=lr)
    trainer = fo.nn.Trainer(net, loss="cross_entropy", optimizer=rule)
    history = trainer.fit(X[train], y[train], epochs=20)
    return history["loss"], fo.metrics.accuracy(
        y[test], net.predict(X[test])
    )


OPTIMIZERS = {"SGD": (fo.optim.SGD, 0.05), "Adam": (fo.optim.Adam, 1e-3)}
figure, grid = plt.subplots(
    1, 2, figsize=(8, 3.8), layout="constrained", sharey=True
)
for axes, (rule, options) in zip(grid, OPTIMIZERS.items(), strict=True):
    fits = {name: fit(layer, *options) for name, layer in LAYERS.items()}
    draw(
        axes,
        {
            name: (range(1, 21), losses)
            for name, (losses, _) in fits.items()
        },
        title=f"{rule}, lr={options[1]}",
        xlabel="epoch",
        xticks=[1, 5, 10, 15, 20],
    )
    for name, (_, accuracy) in fits.items():
        print(f"{rule:4s} {name:16s} test accuracy {accuracy:.3f}")
grid[0].set_ylabel("loss of training")
figure.legend(
    *grid[0].get_legend_handles_labels(),
    loc="outside lower center",
    ncols=5,
    fontsize=9,
)
plt.show()

# %%
# Sigmoid learns nothing in either way: what its first layers get is far below the ``eps``
# of 1e-8 that Adam adds to the size of a gradient before it divides by it. Where
# gradients are small but above that, as with relu, the division makes up for it: Adam
# trains what gradient descent hardly moves. The fastest to fit have shortcuts, over which
# gradients reach every layer without passing the others. That says nothing about images
# they have not seen, where plain tanh is ahead here.
