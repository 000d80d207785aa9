"""Small and large batches for early and late training: the noise of a mini-batch gradient beside what its step costs.

A network for the digits of scikit-learn is measured before and after it is trained: `nn.gradient_noise` gives the
standard error of the gradients, `nn.tune` the samples a second. Late in training the gradient itself is small and most
of a small batch's gradient is noise; early even small batches point the right way, at a fraction of the work.
"""

import argparse

import numpy as np
from sklearn.datasets import load_digits

import fastopt as fo

BATCHES = (4, 16, 64, 256)


def network(X, seed=0):
    layers = [fo.nn.Standardize(64), fo.nn.Dense(64, 256, activation="relu"), fo.nn.Dense(256, 10)]
    return fo.nn.Sequential(layers, rng=seed).calibrate(X)


def table(early, late, tuning):
    """A line for each batch size, from the noise at both times and the speed of training steps."""
    lines = ["batch   error early   S/N early   error late   S/N late   samples/s"]
    for one, other, (rate,) in zip(early, late, tuning.rows_per_second, strict=True):
        lines.append(
            f"{one.batch:5d}{one.standard_error:14.4f}{one.signal_to_noise:12.2f}{other.standard_error:13.5f}"
            f"{other.signal_to_noise:11.2f}{rate:12,.0f}"
        )
    scales = early[0].noise_scale, late[0].noise_scale
    lines.append(f"signal equals noise at a batch of {scales[0]:.0f} early and {scales[1]:.0f} late in training")
    return "\n".join(lines)


def main(epochs=5):
    X, y = load_digits(return_X_y=True)
    X, net = X.astype(np.float32), network(X.astype(np.float32))

    def noise():
        return [fo.nn.gradient_noise(net, X, y, batch, batches=400) for batch in BATCHES]

    early = noise()
    fo.nn.Trainer(net, "cross_entropy", "adam").fit(X, y, epochs=epochs)
    late = noise()
    return table(early, late, fo.nn.tune(net, train=True, batch_sizes=BATCHES, threads=[1]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5, help="before the late measurement (default: 5)")
    print(main(parser.parse_args().epochs))
