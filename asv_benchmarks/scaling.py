"""What docs/scaling.md says: steps predicted for up to 1 024 ranks, and what larger batches cost in accuracy.

    python asv_benchmarks/scaling.py predict --page docs/scaling.md
    python asv_benchmarks/scaling.py accuracy --page docs/scaling.md

Without a page they print. `predict` measures on one thread. `accuracy` needs scikit-learn: its digits, of which each
seed holds out a fifth. M ranks with batches of B rows make the steps of one process with batches of M·B rows, so one
process measures it.
"""

import argparse
import re
from pathlib import Path

import numpy as np

import fastopt as fo
from fastopt.parallel.scaling import Network, Scaling, measure_work, predictions

RANKS = [2**k for k in range(11)]
BATCH = 128
NETWORKS = {
    "10 Gbit/s Ethernet": Network(latency=25e-6, bandwidth=1.17e9),
    "100 Gbit/s InfiniBand": Network(latency=2e-6, bandwidth=11.6e9),
}
EPOCHS, SEEDS = 20, 3
GROWTH = [2**k for k in range(6)]
RATES = {"fixed": lambda m: 1.0, "square root": np.sqrt, "linear": float}
RULES = {"SGD, momentum 0.9": ("SGD", {"lr": 0.02, "momentum": 0.9}), "Adam": ("Adam", {"lr": 1e-3})}


def predict() -> list[str]:
    """A table of each network on each interconnect, and where each way stops paying."""
    widths = [(784, 1024, "relu"), (1024, 1024, "relu"), (1024, 10)]
    dense = fo.nn.Sequential([fo.nn.Dense(*pair) for pair in widths], rng=0)
    lines = []
    for name, net in (("784-1024-1024-10", dense), ("LeNet", fo.nn.models.lenet())):
        with fo.num_threads(1):
            work = measure_work(net, BATCH, "adam", seconds=0.1, repeats=15)
        for interconnect, network in NETWORKS.items():
            scaling = Scaling(BATCH, work, network, predictions(work, network, BATCH, RANKS))
            lines += table_of(f"**{name}, {interconnect}**", scaling)
    return lines


def table_of(title, scaling) -> list[str]:
    """Rows per second and efficiency by ranks and way, and what they come to."""
    work, ways = scaling.work, dict.fromkeys(p.way for p in scaling.predictions)
    ways.pop("shared memory")
    measured = f"{1e3 * work.alone:.1f} ms a step alone, {work.n_bytes / 1e6:.1f} MB of gradients"
    lines = [f"{title}: {measured}.", "", f"| ranks | {' | '.join(ways)} |", f"| ---{' | ---' * len(ways)} |"]
    for ranks in RANKS:
        found = [next(p for p in scaling.of(way) if p.ranks == ranks) for way in ways]
        cells = [f"{p.rows_per_second:,.0f} ({p.efficiency:.0%})" for p in found]
        lines.append(f"| {ranks} | {' | '.join(cells)} |".replace(",", " "))
    half = ", ".join(f"{way} {scaling.most_ranks(way)}" for way in ways)
    served = [p for p in scaling.of("asynchronous server") if p.ranks > 1]  # one alone has no server
    most = max(p.rows_per_second for p in served)
    busy = next(p.ranks for p in served if p.rows_per_second > 0.99 * most)
    lines += ["", f"Half of what the ranks would make apart, or more, up to this many: {half}."]
    lines += [f"The asynchronous server is busy all the time from {busy} ranks on.", ""]
    return lines


def accuracy() -> list[str]:
    """Test accuracy by batch size, a table for each rule."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    n, lines = len(fold(X, y, 0)[0]), []
    for name, (rule, options) in RULES.items():
        lines += [f"**{name}, learning rate {options['lr']:g} at batch 32**", ""]
        lines += [f"| batch | updates | {' | '.join(RATES)} |", "| --- | --- | --- | --- | --- |"]
        for m in GROWTH:
            cells = []
            for scale in RATES.values():
                scaled = {**options, "lr": options["lr"] * scale(m)}
                found = [100 * trained(X, y, 32 * m, rule, scaled, seed) for seed in range(SEEDS)]
                cells.append(f"{np.mean(found):.1f} ± {np.std(found, ddof=1):.1f}")
            lines.append(f"| {32 * m} | {EPOCHS * -(-n // (32 * m))} | {' | '.join(cells)} |")
        lines.append("")
    return lines


def fold(X, y, seed):
    """Rows for training and for the test."""
    order = np.random.default_rng(seed).permutation(len(X))
    train, test = order[len(X) // 5 :], order[: len(X) // 5]
    return X[train], y[train], X[test], y[test]


def trained(X, y, batch_size, rule, options, seed) -> float:
    """Accuracy on the rows held out."""
    X, y, X_test, y_test = fold(X, y, seed)
    layers = [fo.nn.Standardize(64), fo.nn.Dense(64, 128, "relu"), fo.nn.Dense(128, 64, "relu"), fo.nn.Dense(64, 10)]
    net = fo.nn.Sequential(layers, rng=seed)
    optimizer = getattr(fo.optim, rule)(net.parameters(), **options)
    fo.nn.Trainer(net, "cross_entropy", optimizer, seed=seed).fit(X, y, epochs=EPOCHS, batch_size=batch_size)
    return fo.metrics.accuracy(y_test, net.predict(X_test))


def put(path, what, lines) -> None:
    """Put lines between the marks of a page."""
    page, marks = Path(path), re.compile(rf"(<!-- scaling: {what} -->\n).*?(<!-- end of scaling -->)", re.DOTALL)
    text, n = marks.subn(lambda m: f"{m[1]}\n" + "\n".join(lines) + f"\n{m[2]}", page.read_text())
    if n != 1:
        raise SystemExit(f"--page: expected <!-- scaling: {what} --> and <!-- end of scaling --> once in {path}")
    page.write_text(text)


def main():
    """Print one of the two, or put it into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("predict", "accuracy"))
    parser.add_argument("--page", metavar="FILE")
    args = parser.parse_args()
    lines = predict() if args.what == "predict" else accuracy()
    put(args.page, args.what, lines) if args.page else print("\n".join(lines))


if __name__ == "__main__":
    main()
