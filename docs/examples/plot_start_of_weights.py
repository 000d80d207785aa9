"""
How large weights should start
==============================

Two starts before relu: that of Glorot and Bengio, the default of dense layers, and that
of He and others, which keeps the mean square through any number of layers. On tables of
some hundred rows the smaller one predicts better: a network stays near where it starts,
and what it computes there at random remains in its predictions as noise. In deep
networks the smaller one fades, and learning begins late.
"""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes, load_digits, make_friedman1
from sklearn.model_selection import KFold

import fastopt as fo

EPOCHS = (5, 10, 20, 40, 80)
STARTS = ("glorot", "he")


def network(widths, init, rng):
    hidden = [
        fo.nn.Dense(*pair, activation="relu", init=init)
        for pair in pairwise(widths[:-1])
    ]
    return fo.nn.Sequential(
        [fo.nn.Standardize(widths[0]), *hidden, fo.nn.Dense(*widths[-2:])],
        rng=rng,
    )


def scores(X, y, hidden, init, loss, seeds=2):
    """Score on the held-out rows of five folds after each of EPOCHS.

    It is R² of values, accuracy of classes.
    """
    found = []
    for seed in range(seeds):
        for train, test in KFold(5, shuffle=True, random_state=seed).split(
            X
        ):
            outputs = 1 if loss == "mse" else len(np.unique(y))
            net = network([X.shape[1], *hidden, outputs], init, seed)
            trainer, row = fo.nn.Trainer(net, loss, "adam", seed=seed), []
            for epochs in np.diff([0, *EPOCHS]):
                trainer.fit(X[train], y[train], epochs=int(epochs))
                out = net.predict(X[test])
                score = (
                    fo.metrics.r2_score(y[test], out[:, 0])
                    if loss == "mse"
                    else fo.metrics.accuracy(y[test], out)
                )
                row.append(score)
            found.append(row)
    return np.mean(found, axis=0)


def unit(y):
    return (y - y.mean()) / y.std()


# %%
# Two regressions by two layers, and digits by two layers and by twenty.

digits = load_digits(return_X_y=True)
cases = {
    "diabetes, 128-64": (*load_diabetes(return_X_y=True), (128, 64), "mse"),
    "Friedman's first function, 128-64": (
        *make_friedman1(400, noise=1.0, random_state=0),
        (128, 64),
        "mse",
    ),
    "digits, 128-64": (*digits, (128, 64), "cross_entropy"),
    "digits, 20 layers of 32": (*digits, (32,) * 20, "cross_entropy"),
}
figure, axes = plt.subplots(
    1, len(cases), figsize=(13, 3.2), layout="constrained"
)
for ax, (what, (X, y, hidden, loss)) in zip(
    axes, cases.items(), strict=True
):
    for init in STARTS:
        found = scores(
            X,
            unit(y) if loss == "mse" else y,
            hidden,
            init,
            loss,
            seeds=2 if loss == "mse" else 1,
        )
        print(f"{what:34s} {init:7s}", *(f"{score:.3f}" for score in found))
        ax.plot(EPOCHS, found, "o-", label=init)
    ax.set(
        title=what,
        xlabel="epochs",
        xscale="log",
        xticks=EPOCHS,
        xticklabels=EPOCHS,
    )
    ax.minorticks_off()
axes[0].set_ylabel("R² or accuracy, held-out rows")
axes[0].legend()
plt.show()

# %%
# At the start, the outputs of the larger one vary more than the targets do.

x = np.random.default_rng(0).standard_normal((1000, 10))


def size_of_outputs(init, rng):
    net = network([10, 128, 64, 1], init, rng).calibrate(x)
    return np.sqrt(np.mean(net.predict(x) ** 2))


print("root mean square of the outputs of 10-128-64-1 at the start")
for init in STARTS:
    sizes = [size_of_outputs(init, rng) for rng in range(100)]
    print(f"{init:7s} {np.mean(sizes):.2f}")
